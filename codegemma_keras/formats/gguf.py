"""GGUF files of Gemma (llama.cpp, Ollama, LM Studio): config, weights, vocabulary.

Tensors are dequantised by the `gguf` package, one at a time. The header is read here:
the package's reader believes every length in it. Norms are stored as 1 + w; the rest is
laid out as in Transformers (llama.cpp's converter reorders nothing for Gemma).

Left out: other architectures, files in several parts, big-endian files. `export.gguf`
writes.
"""

import functools
import math
import mmap
import os
import struct

import ml_dtypes
import numpy as np

from codegemma_keras import chat, fim
from codegemma_keras.formats import (
    checks,
    hub,
    sentencepiece_model,
    tokenizer_json,
    weights,
)

ENDING = ".gguf"
_HEAD = "output.weight"
# Types of values in the header: number -> struct's letter.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?"}
_SCALARS |= {10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
# What a header may have in all: bytes, entries of arrays, fields. A vocabulary of 256,000
# pieces has three arrays of so many entries, 600,000 merges at most, and 15 MB.
LARGEST_HEADER, MOST_ENTRIES, MOST_FIELDS = 1 << 27, 1 << 21, 1 << 16
_PLAIN = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
_QUANTIZED = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K")
# Control pieces that SentencePiece finds in raw prompts, as in the original model.
_FOUND_IN_TEXT = {
    str(name)
    for name in (
        *(fim.PREFIX, fim.MIDDLE, fim.SUFFIX, fim.FILE_SEPARATOR),
        *(chat.START_OF_TURN, chat.END_OF_TURN),
    )
}


class File:
    """A model in one GGUF file; methods as of `keras_hub.Folder`."""

    architecture = "gemma"

    def __init__(self, files: hub.Files):
        self.name = files.name
        self._path = files.location
        self._fields, self._tensors = read_header(self._path)
        kind = self._fields.get("general.architecture")
        if kind != self.architecture:
            raise ValueError(
                f"{self.name} holds a model of architecture {kind!r:.60}. Supported are "
                "CodeGemma and Gemma 1 ('gemma')."
            )

    def backbone_config(self) -> dict:
        """Arguments of `CodeGemmaBackbone`, without a dtype."""
        embedding = self._tensors.get("token_embd.weight")
        if embedding is None or len(embedding.shape) != 2:
            raise ValueError(f"{self.name} has no matrix token_embd.weight.")
        width = self._integer("embedding_length")
        heads = self._integer("attention.head_count")
        size = self._integer("attention.key_length", width // heads)
        same = {"attention.value_length": size, "rope.dimension_count": size}
        for key, expected in same.items():
            if (value := self._field(key, expected)) != expected:
                raise ValueError(
                    f"{self._key(key)} of {self.name} is {value!r:.60}, and the head size "
                    f"{size}: CodeGemma's network does not have that."
                )
        self._check_options()
        config = {
            "vocabulary_size": embedding.shape[0],
            "num_layers": self._integer("block_count"),
            "num_query_heads": heads,
            "num_key_value_heads": self._integer("attention.head_count_kv", heads),
            "hidden_dim": width,
            "intermediate_dim": 2 * self._integer("feed_forward_length"),
            "head_dim": size,
            "layer_norm_epsilon": self._field("attention.layer_norm_rms_epsilon", 1e-6),
            "rope_max_wavelength": self._field("rope.freq_base", 10_000.0),
        }
        # 1e-6 as a float32 is 9.99999997e-07.
        config["layer_norm_epsilon"] = _shortest(config["layer_norm_epsilon"])
        return checks.backbone_config(config, self.name)

    def _check_options(self):
        """Refuse what would change the results and this network does not have."""
        scaling = self._field("rope.scaling.type")
        unread = {"rope.scaling.type": (None, "none"), "rope.scale_linear": (None, 1)}
        if scaling is None:  # llama.cpp then takes a factor for a linear scaling
            unread["rope.scaling.factor"] = (None, 0, 1)
        unread |= dict.fromkeys(
            ("attn_logit_softcapping", "final_logit_softcapping"), (None, 0)
        )
        for key, allowed in unread.items():
            if (value := self._field(key)) not in allowed:
                raise ValueError(
                    f"{self.name} has {self._key(key)}={value!r:.60}, which CodeGemma's "
                    "network does not have: loading it would give wrong results."
                )
        if (parts := self._fields.get("split.count", 1)) not in (0, 1):
            raise ValueError(
                f"{self.name} is one of {parts!r:.60} parts, which are not read. Join them "
                "with `llama-gguf-split --merge`."
            )

    def _key(self, key):
        return f"{self.architecture}.{key}"

    def _field(self, key, default=None):
        return self._fields.get(self._key(key), default)

    def _integer(self, key, default=None):
        value = self._field(key, default)
        return checks.integer(value, f"{self._key(key)} of {self.name}")

    def checked_tensors(self, config: dict) -> tuple[dict, dict]:
        """Rows of the name table and tensors, by GGUF's names.

        Raises:
            ValueError: the tensors do not fit `config`.
        """
        tensors = dict(self._tensors)
        weights.check_layers(config, tensors, self.name)
        rows = {row.gguf: row for row in weights.table(config["num_layers"])}
        shapes = {name: weights.shape_of(row, config) for name, row in rows.items()}
        head = tensors.pop(_HEAD, None)
        weights.check(
            {n: weights.transformers_shape(rows[n].layout, shapes[n]) for n in rows},
            tensors,
            self.name,
        )
        if head is not None and not (
            head.dtype in checks.FLOAT_DTYPES
            and np.array_equal(head.read(), tensors["token_embd.weight"].read())
        ):
            raise ValueError(
                f"{self.name}: {_HEAD} ({head.dtype}) differs from token_embd.weight, and "
                "this network's head is its embedding."
            )
        return rows, tensors

    def weights(self, config: dict) -> weights.Checkpoint:
        """The weights, whose headers fit `config`."""
        rows, tensors = self.checked_tensors(config)
        shapes = {name: weights.shape_of(row, config) for name, row in rows.items()}

        def convert(name):
            row, shape = rows[name], shapes[name]
            if row.axes == "D":
                return lambda value: value.astype("float32") - 1
            return lambda value: weights.from_transformers(value, row.layout, shape)

        variables = {name: (row.keras, convert(name)) for name, row in rows.items()}
        dtype = weights.stored_dtype(tensors)
        if tensors["token_embd.weight"].reader.keywords["kind"] in _QUANTIZED:
            dtype = "bfloat16"  # More than any of these types can tell apart.
        return weights.Checkpoint(
            dtype, lambda backbone: weights.stream(tensors, variables)
        )

    def tokenizer_config(self) -> dict:
        """Arguments of `CodeGemmaTokenizer`: a vocabulary file made of the fields."""
        if self._fields.get("tokenizer.ggml.add_space_prefix", False) is not False:
            raise ValueError(
                f"tokenizer.ggml.add_space_prefix of {self.name} asks for a space before "
                "every text, which would change it. Convert the original model again."
            )
        kind = self._fields.get("tokenizer.ggml.model")
        if kind == "gpt2":
            return {"proto": self._byte_level()}
        if kind != "llama":
            raise ValueError(
                f"{self.name} has a tokenizer of kind {kind!r:.60}; SentencePiece's "
                "('llama') and byte-level BPE ('gpt2') are read."
            )
        columns = [
            self._column(key, of)
            for key, of in (("tokens", str), ("scores", float), ("token_type", int))
        ]
        if len({len(column) for column in columns}) != 1:
            raise ValueError(f"{self.name}: tokens, scores and types differ in number.")
        control, user = sentencepiece_model.CONTROL, sentencepiece_model.USER_DEFINED
        pieces = []
        for name, score, kind in zip(*columns, strict=True):
            if kind == control and name in _FOUND_IN_TEXT:
                kind = user
            if kind == user:  # llama.cpp looks for these before it marks spaces
                name = name.replace(" ", sentencepiece_model.SPACE)
            pieces.append((name, score, kind))
        if any(not 1 <= kind <= 6 for _, _, kind in pieces):
            raise ValueError(f"tokenizer.ggml.token_type of {self.name} is damaged.")
        return {
            "proto": sentencepiece_model.make(
                pieces, {i: self._id(i) for i in ("unknown", "bos", "eos", "padding")}
            )
        }

    def _byte_level(self):
        """A tokenizer.json of the fields."""
        tokens, types = self._column("tokens", str), self._column("token_type", int)
        if len(tokens) != len(types):
            raise ValueError(f"{self.name}: tokens and types differ in number.")
        control = sentencepiece_model.CONTROL
        split = self._fields.get("tokenizer.ggml.pre", "gpt-2")
        checks.instance(split, str, f"tokenizer.ggml.pre of {self.name}")
        try:
            return tokenizer_json.make(
                tokens,
                self._column("merges", str),
                [i for i, kind in enumerate(types) if kind == control],
                split,
            )
        except ValueError as error:
            raise ValueError(f"Vocabulary of {self.name}: {error}") from None

    def _column(self, key, of):
        column = self._fields.get(f"tokenizer.ggml.{key}")
        if not isinstance(column, list) or any(type(v) is not of for v in column):
            raise ValueError(f"tokenizer.ggml.{key} of {self.name} is damaged.")
        return column

    def _id(self, name):
        value = self._fields.get(f"tokenizer.ggml.{name}_token_id", -1)
        if value == -1:
            return value
        return checks.integer(value, f"id of {name} in {self.name}", 0)

    def preprocessor_config(self) -> None:
        """GGUF has none."""

    def context(self) -> int | None:
        """Tokens that the model is made for."""
        length = self._field("context_length")
        if length is not None:
            what = f"{self._key('context_length')} of {self.name}"
            checks.integer(length, what, 1, checks.LONGEST_CONTEXT)
        return length

    def token_ids(self) -> dict[str, int]:
        """Ids of control tokens that the fields name."""
        start = self._id("bos")
        return {} if start == -1 else {"start_token_id": start}


def _shortest(value):
    """The float of fewest digits that has the same float32."""
    if type(value) is not float or not math.isfinite(value):
        return value
    return float(str(np.float32(value)))


# --- The file -----------------------------------------------------------------------


def read_header(path: str) -> tuple[dict, dict[str, weights.Tensor]]:
    """The fields of a GGUF file, and its tensors by name.

    Every length is compared with what is left of the file before it is used.

    Raises:
        ValueError: no GGUF file, cut short, or damaged.
    """
    if os.path.getsize(path) < 24:
        raise checks.damaged(path, "fewer than 24 bytes")
    with (
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        try:
            return _Header(path, data).read()
        except (
            IndexError,
            KeyError,
            OverflowError,
            RecursionError,
            UnicodeDecodeError,
            struct.error,
        ) as error:
            raise checks.damaged(path, f"{type(error).__name__}: {error}") from None


class _Header:
    """The header of a GGUF file, read from its beginning to its end."""

    def __init__(self, path, data):
        self._path, self._data, self._place = path, data, 0
        self._entries = 0

    def read(self):
        magic, version = self._take(4), self._number("I")
        if magic != b"GGUF" or version not in (2, 3):
            raise checks.damaged(
                self._path, f"no little-endian GGUF file of version 2 or 3: {magic!r}"
            )
        count, fields = self._few(self._number("Q"), "tensors"), {}
        for _ in range(self._few(self._number("Q"), "fields")):
            name = self._text()
            if name in fields:
                raise KeyError(f"field {name[:60]} twice")
            fields[name] = self._value(self._number("I"))
        headers = [self._tensor() for _ in range(self._limited(count, 24))]
        alignment = fields.get("general.alignment", 32)
        if type(alignment) is not int or alignment < 1:
            raise KeyError("general.alignment")
        start = -(-self._place // alignment) * alignment
        tensors = {}
        for name, shape, kind, offset in headers:
            if name in tensors:
                raise KeyError(f"tensor {name[:60]} twice")
            tensors[name] = self._located(name, shape, kind, start + offset)
        return fields, tensors

    def _take(self, count):
        if count > min(len(self._data), LARGEST_HEADER) - self._place:
            raise IndexError(
                f"{count} bytes at {self._place} of a header; it may have "
                f"{LARGEST_HEADER >> 20} MB"
            )
        self._place += count
        return self._data[self._place - count : self._place]

    def _limited(self, count, each):
        """`count`, if so many things of at least `each` bytes can follow."""
        if count * each > len(self._data) - self._place:
            raise IndexError(f"{count} entries at {self._place}")
        return count

    def _few(self, count, what):
        if count > MOST_FIELDS:
            raise IndexError(f"{count} {what}; {MOST_FIELDS:,} are read")
        return count

    def _counted(self, count):
        """The number of entries of an array, so few that they can be in memory."""
        self._entries += count
        if self._entries > MOST_ENTRIES:
            raise IndexError(
                f"{count} entries of an array; {MOST_ENTRIES:,} are read in all"
            )
        return count

    def _number(self, code):
        return struct.unpack(f"<{code}", self._take(struct.calcsize(f"<{code}")))[0]

    def _text(self):
        return self._take(self._number("Q")).decode()

    def _value(self, kind, depth=0):
        if kind == _STRING:
            return self._text()
        if kind != _ARRAY:
            return self._number(_SCALARS[kind])
        if depth > 2:
            raise RecursionError("arrays in arrays")
        kind, count = self._number("I"), self._counted(self._number("Q"))
        if kind in _SCALARS:
            code = _SCALARS[kind]
            count = self._limited(count, struct.calcsize(f"<{code}"))
            return list(
                struct.unpack(
                    f"<{count}{code}", self._take(struct.calcsize(f"<{count}{code}"))
                )
            )
        return [self._value(kind, depth + 1) for _ in range(self._limited(count, 8))]

    def _tensor(self):
        name, axes = self._text(), self._number("I")
        if axes > 4:
            raise IndexError(f"{axes} axes of {name[:60]}")
        shape = tuple(self._number("Q") for _ in range(axes))[::-1]
        return name, shape, self._number("I"), self._number("Q")

    def _located(self, name, shape, kind, offset):
        import gguf

        try:
            quantization = gguf.GGMLQuantizationType(kind)
        except ValueError:
            raise KeyError(f"type {kind} of {name[:60]}") from None
        block, nbytes = gguf.GGML_QUANT_SIZES[quantization]
        if shape and shape[-1] % block:
            raise IndexError(f"shape {shape} of {name[:60]}")
        total = math.prod(shape) // block * nbytes
        if offset + total > len(self._data):
            raise IndexError(f"{total} bytes of {name[:60]} at {offset}")
        dtype = _PLAIN.get(quantization.name, quantization.name)
        if quantization.name in _QUANTIZED:
            dtype = "float32"  # when it has been read
        reader = functools.partial(
            _read, kind=quantization.name, offset=offset, nbytes=total
        )
        return weights.Tensor(self._path, name, shape, dtype, reader)


def _read(tensor, kind, offset, nbytes):
    import gguf

    with open(tensor.file, "rb") as file:
        file.seek(offset)
        data = np.frombuffer(file.read(nbytes), np.uint8)
    if data.size != nbytes:
        raise checks.damaged(tensor.file, f"'{tensor.name}' is cut short")
    if kind in _PLAIN:
        dtype = ml_dtypes.bfloat16 if kind == "BF16" else _PLAIN[kind]
        return data.view(dtype).reshape(tensor.shape)
    rows = data.reshape(math.prod(tensor.shape[:-1]), -1)
    with np.errstate(all="ignore"):  # Damaged scales: `finite` refuses what they give.
        values = gguf.dequantize(rows, gguf.GGMLQuantizationType[kind])
    return values.reshape(tensor.shape)
