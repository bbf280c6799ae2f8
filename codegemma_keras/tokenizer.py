"""`CodeGemmaTokenizer`: SentencePiece, with control tokens that text cannot forge.

Two ways in, over one vocabulary:

* `tokenizer(text)`, `tokenize`, `detokenize` mean what they mean in KerasHub: batched,
  usable in `tf.data`, and *raw*: `<|fim_prefix|>` in the text becomes the control token.
* `encode(text_or_parts)`, `decode*` are plain Python, with no TensorFlow, for any text a
  user may have. Only a `fim.Control` becomes a control token, and every byte comes back:
  NULs, CRLF, runs of spaces, `▁` (which SentencePiece itself takes for a space), bytes
  that are not UTF-8 (as the surrogates of `errors="surrogateescape"`).

The second way runs a copy of the model in which the control pieces have SentencePiece's
type CONTROL, which it never finds in text. On text with none of the above both ways give
the same ids.

Left out: sampling of segmentations and the unigram model, which Gemma does not use.
"""

import codecs
import contextlib
import os
import re
from collections.abc import Iterable, Sequence

import keras
import keras_hub
import numpy as np
import sentencepiece
from keras.src.saving import serialization_lib

from codegemma_keras import chat, fim, presets, sentencepiece_model
from codegemma_keras.fim import Control
from codegemma_keras.sentencepiece_model import SPACE

# Attribute of the tokenizer -> the piece; `<attribute>_id` is its id.
SPECIAL_TOKENS = {
    "pad_token": fim.PAD,
    "end_token": fim.END,
    "start_token": fim.START,
    "fim_prefix": fim.PREFIX,
    "fim_middle": fim.MIDDLE,
    "fim_suffix": fim.SUFFIX,
    "file_separator": fim.FILE_SEPARATOR,
    "start_of_turn": chat.START_OF_TURN,
    "end_of_turn": chat.END_OF_TURN,
}
# What some checkpoints still call the sentinels, ids 67 to 70.
OLD_NAMES = {
    "<unused60>": str(fim.PREFIX),
    "<unused61>": str(fim.MIDDLE),
    "<unused62>": str(fim.SUFFIX),
    "<unused63>": str(fim.FILE_SEPARATOR),
}
_BY_BYTES = re.compile(f"[{SPACE}\ud800-\udfff]+")


class PlainCodec:
    """Parts to ids and back over a SentencePiece model; plain Python.

    Args:
        proto: a serialised SentencePiece model whose sentinels have their names.

    Raises:
        ValueError: the vocabulary lacks a control token or a byte token, or changes
            text on the way.
    """

    def __init__(self, proto: bytes):
        model = sentencepiece.SentencePieceProcessor(model_proto=proto)
        size = model.vocab_size()
        pieces = model.id_to_piece(list(range(size)))
        ids = {piece: i for i, piece in enumerate(pieces)}
        missing = [
            str(name) for name in SPECIAL_TOKENS.values() if str(name) not in ids
        ]
        if missing:
            raise ValueError(
                f"The vocabulary of {size} pieces lacks the control tokens {missing}, so "
                "prompts would silently turn into unknown tokens. Load a CodeGemma "
                "vocabulary, or make one with "
                "`codegemma_keras.tokenizer_training.train_tokenizer`."
            )
        self.control_ids = {name: ids[str(name)] for name in SPECIAL_TOKENS.values()}
        unknown = model.unk_id()
        for i, is_control in enumerate(model.is_control(list(range(size)))):
            if is_control or i == unknown:
                self.control_ids[Control(pieces[i])] = i
        self.controls = {i: name for name, i in self.control_ids.items()}
        self._read_pieces(model, pieces)
        types = dict.fromkeys(self.controls, sentencepiece_model.CONTROL)
        types.pop(unknown)  # Never found in text as it is.
        self._model = sentencepiece.SentencePieceProcessor(
            model_proto=sentencepiece_model.rewrite(proto, types=types)
        )
        probe = " \t  x\u00a0ﬁ①\r\n\n\0  "
        if self.decode_bytes(self.encode(probe)) != probe.encode():
            raise ValueError(
                "This vocabulary normalises text, so text would not come back from its "
                "tokens. CodeGemma's has the identity normaliser, no dummy prefix, and "
                "keeps white space; see `tokenizer_training`."
            )

    def _read_pieces(self, model, pieces):
        self.bytes_of = [piece.replace(SPACE, " ").encode() for piece in pieces]
        byte_ids = {}
        for i, is_byte in enumerate(model.is_byte(list(range(len(pieces))))):
            if is_byte:
                value = int(pieces[i][3:5], 16)  # <0x0A>
                self.bytes_of[i] = bytes([value])
                byte_ids[value] = i
        for i in self.controls:
            self.bytes_of[i] = b""
        if len(byte_ids) != 256:
            raise ValueError(
                f"The vocabulary has {len(byte_ids)} of the 256 byte tokens, so some text "
                "cannot be encoded. Train it with byte_fallback."
            )
        self._byte_ids = [byte_ids[value] for value in range(256)]

    def encode(self, parts: str | Iterable[str | Control]) -> list[int]:
        """See `CodeGemmaTokenizer.encode`."""
        if isinstance(parts, (str, bytes)) or not isinstance(parts, Iterable):
            parts = [parts]
        ids = []
        for part in parts:
            if isinstance(part, Control):
                ids.append(self._control_id(part))
            elif isinstance(part, str):
                ids += self._encode_text(part)
            else:
                raise TypeError(
                    f"A part must be text or a Control, not {type(part).__name__}"
                    f" ({part!r:.60})."
                )
        return ids

    def _control_id(self, control):
        if control not in self.control_ids:
            raise ValueError(
                f"{control!r} is no control token of this vocabulary; it has "
                f"{[str(name) for name in self.control_ids]}."
            )
        return self.control_ids[control]

    def _encode_text(self, text):
        ids, done = [], 0
        for match in _BY_BYTES.finditer(text):
            ids += self._model.encode(text[done : match.start()])
            ids += [self._byte_ids[byte] for byte in _raw_bytes(text, match)]
            done = match.end()
        return ids + self._model.encode(text[done:])

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """See `CodeGemmaTokenizer.decode_bytes`."""
        bytes_of = self.bytes_of
        return b"".join([bytes_of[i] for i in self.check(ids)])

    def decode_parts(self, ids: Iterable[int]) -> list[str | Control]:
        """See `CodeGemmaTokenizer.decode_parts`."""
        parts, run = [], []
        for i in [*self.check(ids), None]:
            control = self.controls.get(i)
            if i is not None and control is None:
                run.append(self.bytes_of[i])
                continue
            if run:
                parts.append(b"".join(run).decode("utf-8", "surrogateescape"))
                run = []
            if control is not None:
                parts.append(control)
        return parts

    def check(self, ids: Iterable[int]) -> list[int]:
        """`ids` as a list of ints in [0, V).

        Raises:
            TypeError: not whole numbers in one dimension. ValueError: out of range.
        """
        if not isinstance(ids, (list, tuple, np.ndarray)) and hasattr(ids, "__array__"):
            ids = np.asarray(ids)
        ids = ids.tolist() if isinstance(ids, np.ndarray) else ids
        if isinstance(ids, (str, bytes)) or not isinstance(ids, Iterable):
            raise TypeError(
                f"Token ids must be a list of integers, but are {ids!r:.60}. "
                "For one id write [id]."
            )
        ids = [i.item() if isinstance(i, np.integer) else i for i in ids]
        for place, i in enumerate(ids):
            if type(i) is not int:
                raise TypeError(
                    f"Token id {i!r:.60} at place {place} is {type(i).__name__}, not an "
                    "integer. Decode one row of ids at a time."
                )
            if not 0 <= i < len(self.bytes_of):
                raise ValueError(
                    f"Token id {i} at place {place} is out of range: the vocabulary has "
                    f"ids 0 to {len(self.bytes_of) - 1}. Ids from a model with a larger "
                    "vocabulary need that model's tokenizer."
                )
        return ids


def _raw_bytes(text, match):
    try:
        return match[0].encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        place = match.start() + error.start
        raise ValueError(
            f"Character {text[place]!r} at place {place} is half of a surrogate pair, so "
            "the text is no Unicode text. Decode files with encoding='utf-8' and "
            "errors='surrogateescape', which keeps bytes that are not UTF-8."
        ) from None


class IncrementalDecoder:
    """Text of a growing row of ids, each character as soon as it is whole.

    `"".join(decoder.push(i) for i in ids) + decoder.finish()` is `decode(ids)`.

    Args:
        tokenizer: a `CodeGemmaTokenizer`.
        errors: what becomes of bytes that are not UTF-8, as in `bytes.decode`.
    """

    def __init__(self, tokenizer, errors: str = "replace"):
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors)

    def push(self, ids: int | Iterable[int]) -> str:
        """Text completed by one more id, or by several; may be empty."""
        ids = [ids] if isinstance(ids, (int, np.integer)) else ids
        return self._decoder.decode(self._tokenizer.decode_bytes(ids))

    def finish(self) -> str:
        """What is left: a character whose bytes stopped coming."""
        return self._decoder.decode(b"", final=True)


@keras.saving.register_keras_serializable(package="codegemma_keras")
class CodeGemmaTokenizer(keras_hub.tokenizers.SentencePieceTokenizer):
    """SentencePiece tokenizer of CodeGemma.

    Args:
        proto: path or bytes of a SentencePiece model, or None to load it later
            (`load_assets`). Models that call ids 67 to 70 `<unused60>` to `<unused63>`
            get the sentinels' names.
        **kwargs: as `keras_hub.tokenizers.SentencePieceTokenizer`; `sequence_length`,
            `add_bos` and `add_eos` concern `tokenize` alone.

    Attributes:
        start_token_id, end_token_id, pad_token_id: bos 2, eos 1, padding 0.
        fim_prefix_id, fim_middle_id, fim_suffix_id, file_separator_id: 67 to 70.
        start_of_turn_id, end_of_turn_id: 106, 107.

    Raises:
        ValueError: the vocabulary lacks a control token or a byte, or changes text.

    Example:
    ```python
    from codegemma_keras import CodeGemmaTokenizer, fim

    tokenizer = CodeGemmaTokenizer.from_preset("code_gemma_tiny_py")
    ids = tokenizer.encode(fim.render("def f(", "):\\n", path="f.py"))
    assert fim.parse(tokenizer.decode_parts(ids)).suffix == "):\\n"
    ```
    """

    backbone_cls = None  # set where the backbone is known

    def __init__(self, proto=None, **kwargs):
        self._codec = None
        for attribute, name in SPECIAL_TOKENS.items():
            self._add_special_token(str(name), attribute)
        super().__init__(proto=proto, **kwargs)

    def set_proto(self, proto):
        """Set the vocabulary: a path, bytes, or None."""
        self._codec = None
        # KerasHub would leave the file open. In safe mode it refuses paths: let it.
        if (
            isinstance(proto, (str, os.PathLike))
            and not serialization_lib.in_safe_mode()
        ):
            proto = os.fspath(proto)
            if os.path.isfile(proto):
                with open(proto, "rb") as file:
                    proto = file.read()
        super().set_proto(proto)

    # KerasHub's `set_proto` calls these three in turn, with the bytes of the model.

    def _set_proto_tf(self, proto):
        with _loading(proto):
            super()._set_proto_tf(with_sentinel_names(proto))

    def _set_proto_spm(self, proto):
        with _loading(proto):
            super()._set_proto_spm(with_sentinel_names(proto))

    def _update_special_token_ids(self):
        self.proto = with_sentinel_names(self.proto)
        self._codec = PlainCodec(self.proto)
        super()._update_special_token_ids()

    @property
    def codec(self) -> PlainCodec:
        """The plain Python way in and out."""
        if self._codec is None:
            raise ValueError(
                "The tokenizer has no vocabulary yet. Pass `proto=`, a SentencePiece "
                "model, or use `from_preset`."
            )
        return self._codec

    @property
    def special_token_ids(self) -> list[int]:
        """Ids of all control tokens, ascending; text never encodes to one."""
        return sorted(self.codec.controls)

    @property
    def stop_token_ids(self) -> tuple[int, ...]:
        """Ids that end a completion: eos, the sentinels, the end of a turn."""
        return tuple(sorted(self.codec.control_ids[name] for name in fim.STOP))

    def encode(self, parts: str | Iterable[str | Control]) -> list[int]:
        """Ids of a text, or of rendered parts; no bos is added.

        Args:
            parts: a string, or a list of strings and `Control`. Each string is encoded
                by itself, never to a control token.

        Returns:
            A list of ints.

        Raises:
            TypeError: a part that is no string.
            ValueError: a `Control` that the vocabulary lacks; half a surrogate pair.
        """
        return self.codec.encode(parts)

    def encode_batch(self, rows: Iterable[str | Sequence]) -> list[list[int]]:
        """`encode` of each row."""
        return [self.codec.encode(row) for row in rows]

    def decode(self, ids: Iterable[int], errors: str = "replace") -> str:
        """The text of ids; control tokens have none.

        Args:
            ids: one row of ints, as a list, array or tensor.
            errors: what becomes of bytes that are not UTF-8, as in `bytes.decode`;
                `"surrogateescape"` keeps them.

        Raises:
            TypeError: not whole numbers. ValueError: an id out of range.
        """
        return self.codec.decode_bytes(ids).decode("utf-8", errors)

    def decode_batch(self, rows: Iterable, errors: str = "replace") -> list[str]:
        """`decode` of each row."""
        return [self.decode(row, errors) for row in rows]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of ids; `decode_bytes(encode(text))` are those of the text.

        Raises: as `decode`.
        """
        return self.codec.decode_bytes(ids)

    def decode_parts(self, ids: Iterable[int]) -> list[str | Control]:
        """Ids as parts: text as strings, a `Control` for each control token.

        Bytes that are not UTF-8 become surrogates (`errors="surrogateescape"`), so
        `encode` gives the same bytes again. `fim.parse` reads the result.

        Raises: as `decode`.
        """
        return self.codec.decode_parts(ids)

    @classmethod
    def from_preset(cls, preset, **kwargs):
        """Load the tokenizer of a preset; see `CodeGemmaCausalLM.from_preset`."""
        return presets.load_tokenizer(cls, preset, **kwargs)

    def save_to_preset(self, preset_dir):
        """Save configuration and vocabulary into a preset folder."""
        presets.save_tokenizer(self, preset_dir)


@contextlib.contextmanager
def _loading(proto):
    try:
        yield
    except (ImportError, ValueError):
        raise  # No TensorFlow, which KerasHub catches; or said clearly already.
    except Exception as error:  # TensorFlow's classes cannot be named without it.
        raise ValueError(
            f"These {len(proto)} bytes are no valid SentencePiece model; they may be "
            "truncated. Fetch the file again."
        ) from error


def with_sentinel_names(proto: bytes) -> bytes:
    """A SentencePiece model in which ids 67 to 70 have the sentinels' names.

    Models that have the names already come back as they are.
    """
    names = {}
    for place, (name, _, _) in enumerate(sentencepiece_model.pieces(proto)):
        if name == str(fim.PREFIX):
            return proto
        if name in OLD_NAMES:
            names[place] = OLD_NAMES[name]
        if len(names) == len(OLD_NAMES):
            break
    return sentencepiece_model.rewrite(proto, names=names)
