"""GGUF files, for llama.cpp, Ollama and LM Studio: a model, or an adapter.

What llama.cpp's own converter leaves out is written: the ids of the sentinels, by which
`/infill` makes its prompt, and ids that end a completion. Norms are stored as 1 + w.

Left out: files in several parts, and adapters with rows of the embedding, which the
format does not have.
"""

import contextlib
import os

import numpy as np

from codegemma_keras import files, fim
from codegemma_keras.export import quantization as types
from codegemma_keras.export import vocabulary as vocabularies
from codegemma_keras.export.model import Model, check_room, parameters
from codegemma_keras.formats import peft, weights
from codegemma_keras.formats.chat_templates import CHAT_TEMPLATES

_ARCHITECTURE = "gemma"
# Role in llama.cpp -> our token, as `tokenizer.ggml.<role>_token_id`.
_ROLES = {
    "bos": fim.START,
    "eos": fim.END,
    "padding": fim.PAD,
    "fim_pre": fim.PREFIX,
    "fim_suf": fim.SUFFIX,
    "fim_mid": fim.MIDDLE,
}


def write(model: Model, path, quantization=None, track=iter):
    """Write a model's file, whole or not at all.

    Args:
        model: what to write; it must have a tokenizer.
        path: ends with `.gguf`; nothing may stand there.
        quantization: one of `quantization.TYPES`; default: as stored.
        track: function of the iterator of tensors, such as a progress bar.

    Raises:
        ValueError: no tokenizer, another type. FileExistsError: the file is there.
        OSError: the disk has no room.
    """
    if model.tokenizer is None or model.config is None:
        raise ValueError(
            "A GGUF file holds a network and its vocabulary; one is missing."
        )
    stored = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[model.dtype]
    quantization = types.check(quantization or stored)
    kinds = {
        row.gguf: types.type_of(quantization, row.axes, model.shape(row))
        for row in model.rows
    }
    shapes = {row.gguf: model.shape(row) for row in model.rows}
    check_room(path, sum(types.nbytes(kinds[name], shapes[name]) for name in kinds))
    with new_gguf(path) as temporary:
        writer = _writer(temporary, model, quantization)
        with _Tensors(writer, temporary, shapes, kinds) as tensors:
            for row, matrix in track(model.tensors()):
                if row.axes == "D":
                    matrix = matrix.astype("float32") + 1
                tensors.put(row.gguf, matrix)


@contextlib.contextmanager
def new_gguf(path):
    """As `files.new_file`, for a file that is not there yet.

    Raises:
        FileExistsError: something stands there. ValueError: another ending.
    """
    if not os.fspath(path).endswith(".gguf"):
        raise ValueError(f"{path}: the name of a GGUF file ends with .gguf.")
    if os.path.exists(os.path.expanduser(path)):
        raise FileExistsError(
            f"{path} is there already, and it is not overwritten. Name a new file, or "
            "remove this one first."
        )
    with files.new_file(path) as temporary:
        yield temporary


class _Tensors:
    """The tensors of a GGUF file whose fields are set, filled in any order."""

    def __init__(self, writer, path, shapes, kinds):
        import gguf

        self._kinds, self._missing, offsets, end = kinds, set(shapes), {}, 0
        for name, shape in shapes.items():
            number = gguf.GGMLQuantizationType[kinds[name]]
            size = types.nbytes(kinds[name], shape)
            writer.add_tensor_info(name, shape, np.float32, size, raw_dtype=number)
            offsets[name] = end
            end += writer.ggml_pad(size, writer.data_alignment)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        start = writer.ggml_pad(os.path.getsize(path), writer.data_alignment)
        os.truncate(path, start + end)
        self._offsets = {name: start + place for name, place in offsets.items()}
        self._file = open(path, "r+b")  # noqa: SIM115 (closed by __exit__)

    def __enter__(self):
        return self

    def put(self, name, value):
        self._file.seek(self._offsets[name])
        for part in types.encoded(value, self._kinds[name]):
            self._file.write(part.data)
        self._missing.discard(name)

    def __exit__(self, kind, error, trace):
        self._file.close()
        if kind is None and self._missing:
            raise ValueError(f"Tensors were not given: {sorted(self._missing)[:3]}.")


def _writer(path, model, quantization):
    """A `GGUFWriter` with all fields of a model."""
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(path, _ARCHITECTURE)
    writer.add_name(model.name)
    writer.add_size_label(f"{parameters(model) / 1e6:.0f}M")
    if model.licence:
        writer.add_license(model.licence)
    writer.add_file_type(_file_type(quantization))
    if quantization not in types.PLAIN:
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(model.context)
    writer.add_embedding_length(config["hidden_dim"])
    writer.add_block_count(config["num_layers"])
    writer.add_feed_forward_length(config["intermediate_dim"] // 2)
    writer.add_head_count(config["num_query_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["layer_norm_epsilon"])
    writer.add_rope_freq_base(float(config["rope_max_wavelength"]))
    _add_vocabulary(writer, model)
    return writer


def _file_type(quantization):
    import gguf

    names = {"F32": "ALL_F32", "Q4_K": "MOSTLY_Q4_K_S", "Q5_K": "MOSTLY_Q5_K_S"}
    return gguf.LlamaFileType[names.get(quantization, f"MOSTLY_{quantization}")]


def _add_vocabulary(writer, model):
    vocabulary = vocabularies.read(model.tokenizer.proto)
    fields = vocabulary.gguf(model.config["vocabulary_size"])
    writer.add_tokenizer_model(fields["model"])
    writer.add_tokenizer_pre(fields["pre"])
    writer.add_token_list(fields["tokens"])
    writer.add_token_types(fields["token_type"])
    if "scores" in fields:
        writer.add_token_scores(fields["scores"])
    if "merges" in fields:
        writer.add_token_merges(fields["merges"])
    for role, control in _ROLES.items():
        writer.add_uint32(f"tokenizer.ggml.{role}_token_id", vocabulary.id(control))
    if vocabulary.unknown is not None:
        writer.add_unk_token_id(vocabulary.ids[vocabulary.unknown])
    # `<end_of_turn>` ends a generation by its name, so this field is free for the
    # separator, which a model writes after a good completion.
    writer.add_eot_token_id(vocabulary.id(fim.FILE_SEPARATOR))
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATES[model.tokenizer.chat_format])


def write_adapter(adapter: peft.Adapter, path, name="adapter"):
    """Write an adapter for llama.cpp's `--lora` and for `ADAPTER` in a Modelfile.

    Args:
        adapter: as `peft.read` gives it.
        path: ends with `.gguf`; nothing may stand there.
        name: for its field of that name.

    Raises:
        ValueError: it has rows of the embedding, or scales that differ.
    """
    import gguf

    if adapter.rows is not None:
        raise ValueError(
            "The adapter has rows of the embedding, for which GGUF adapters have no "
            "place. Merge it into its model: codegemma export PRESET OUT --adapter "
            "FOLDER."
        )
    alphas = {
        round(adapter.scales[path] * a.shape[0], 6)
        for path, (a, _) in adapter.pairs.items()
    }
    if len(alphas) > 1:
        raise ValueError(
            f"The adapter's matrices have several values of alpha ({sorted(alphas)}), and "
            "a GGUF adapter one. Merge it into its model: codegemma export PRESET OUT "
            "--adapter FOLDER."
        )
    with new_gguf(path) as temporary:
        writer = gguf.GGUFWriter(temporary, _ARCHITECTURE)
        writer.add_type("adapter")
        writer.add_name(name)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alphas.pop())
        values = dict(_adapter_tensors(adapter))
        shapes = {tensor: value.shape for tensor, value in values.items()}
        kinds = dict.fromkeys(shapes, "F32")
        with _Tensors(writer, temporary, shapes, kinds) as tensors:
            for tensor, value in values.items():
                tensors.put(tensor, value)


def _adapter_tensors(adapter):
    blocks = 1 + max(int(path.split(".")[2]) for path in adapter.pairs)
    names = {
        row.transformers.removesuffix(".weight"): row.gguf
        for row in weights.table(blocks)
    }
    for path, (a, b) in adapter.pairs.items():
        yield f"{names[path]}.lora_a", a
        yield f"{names[path]}.lora_b", b
