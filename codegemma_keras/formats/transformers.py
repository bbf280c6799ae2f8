"""Transformers' folders: config.json in both directions, and writing safetensors.

Reading tensors is in weights.py, which has the name table. Left out: Transformers'
`tokenizer.json` (the SentencePiece file beside it says the same), generation settings.
"""

import json
import math
import os
import struct

import ml_dtypes
import numpy as np
from keras import ops

from codegemma_keras.formats import weights

TOKENIZER_FILE = "tokenizer.model"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

# ours -> Transformers'; the rest of GemmaConfig is fixed in Gemma 1 or has no effect.
_SIZES = {
    "vocabulary_size": "vocab_size",
    "num_layers": "num_hidden_layers",
    "num_query_heads": "num_attention_heads",
    "num_key_value_heads": "num_key_value_heads",
    "hidden_dim": "hidden_size",
    "head_dim": "head_dim",
}


def to_backbone_config(config: dict, where: str) -> dict:
    """Transformers' `GemmaConfig` as a dictionary -> arguments of `CodeGemmaBackbone`.

    Raises:
        ValueError: another architecture, a size is missing, or an option that this
            network does not have.
    """
    if config.get("model_type") != "gemma":
        raise ValueError(
            f"{where} holds a model of type {config.get('model_type')!r}. Supported "
            "are CodeGemma and Gemma 1 (model_type 'gemma'); for other architectures "
            "use keras_hub."
        )
    _check_options(config, where)
    names = {**_SIZES, "intermediate_dim": "intermediate_size"}
    missing = sorted(name for name in names.values() if name not in config)
    if missing:
        raise ValueError(
            f"config.json of {where} lacks {', '.join(missing)}. Take config.json "
            "from where the weights came from."
        )
    return {
        **{ours: config[theirs] for ours, theirs in _SIZES.items()},
        "intermediate_dim": 2 * config["intermediate_size"],
        "layer_norm_epsilon": config.get("rms_norm_eps", 1e-6),
        "rope_max_wavelength": _rope_theta(config),
    }


def _rope_theta(config: dict) -> float:
    # Transformers 5 keeps it in `rope_parameters`, older versions at the top.
    rope = config.get("rope_parameters") or {}
    return rope.get("rope_theta", config.get("rope_theta", 10_000.0))


def _check_options(config: dict, where: str):
    rope = config.get("rope_parameters") or {}
    scaling = config.get("rope_scaling") or {}
    rope_type = rope.get("rope_type") or scaling.get("rope_type", scaling.get("type"))
    # Early Gemma configs say "gelu" and mean the approximation by tanh.
    activation = config.get("hidden_activation") or config.get("hidden_act") or "gelu"
    unsupported = {
        "rope_scaling": None if rope_type in (None, "default") else rope_type,
        "hidden_activation": (
            None if activation in ("gelu", "gelu_pytorch_tanh") else activation
        ),
        "attention_bias": config.get("attention_bias") or None,
        "tie_word_embeddings": (
            None if config.get("tie_word_embeddings", True) else "false"
        ),
        "use_bidirectional_attention": config.get("use_bidirectional_attention")
        or None,
        "quantization_config": (
            (config.get("quantization_config") or {}).get("quant_method")
        ),
    }
    unsupported = {k: v for k, v in unsupported.items() if v is not None}
    if unsupported:
        options = ", ".join(f"{name}={value}" for name, value in unsupported.items())
        raise ValueError(
            f"config.json of {where} asks for {options}, which CodeGemma's network "
            "does not have: loading it would give wrong results. Load this model with "
            "Transformers instead."
        )


def from_backbone(backbone, dtype: str) -> dict:
    """Transformers' config of a backbone whose weights are stored as `dtype`."""
    return {
        "architectures": ["GemmaForCausalLM"],
        "model_type": "gemma",
        **{theirs: getattr(backbone, ours) for ours, theirs in _SIZES.items()},
        "intermediate_size": backbone.intermediate_dim // 2,
        "rms_norm_eps": backbone.layer_norm_epsilon,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 8192,
        "rope_theta": backbone.rope_max_wavelength,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": True,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
        "torch_dtype": dtype,
    }


def tensor_shapes(backbone) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a backbone in Transformers' format."""
    variables = {variable.path: variable for variable in backbone.variables}
    return {
        row.transformers: weights.transformers_shape(
            row.layout, tuple(variables[row.keras].shape)
        )
        for row in weights.table(backbone.num_layers)
    }


def save_transformers(backbone, tokenizer, folder, max_shard_size=5.0, dtype=None):
    """Write a folder that Transformers, vLLM and llama.cpp's converter read.

    Memory: one tensor at a time beyond the model itself. LoRA is merged in.

    Args:
        backbone: a `CodeGemmaBackbone` (or KerasHub's), not quantized.
        tokenizer: a tokenizer with a `proto`, or None to leave it out.
        folder: created where it does not exist.
        max_shard_size: GB (10^9 bytes) of one file.
        dtype: `"float32"`, `"bfloat16"` or `"float16"`; default: the variables' own.

    Raises:
        ValueError: the backbone is quantized.
    """
    weights.refuse_active_adapter(backbone)
    rows = weights.table(backbone.num_layers)
    layers = {row.transformers: weights.layer_of(backbone, row) for row in rows}
    modes = {layer.quantization_mode for layer in layers.values()} - {None}
    if modes:
        raise ValueError(
            f"This model is quantized ({', '.join(sorted(modes))}), and Transformers' "
            "format has no equal of it. Export the model before `quantize()`."
        )
    dtype = dtype or backbone.dtype_policy.variable_dtype
    by_name = {row.transformers: row for row in rows}

    def read(name):
        row = by_name[name]
        # The layer's property, not the variable: it has LoRA merged in.
        value = getattr(layers[name], row.keras.rsplit("/", 1)[1])
        return weights.to_transformers(ops.convert_to_numpy(value), row.layout)

    config, shapes = from_backbone(backbone, dtype), tensor_shapes(backbone)
    write_folder(folder, config, shapes, read, max_shard_size)
    if tokenizer is not None:
        _write_tokenizer(tokenizer, folder)


def _write_tokenizer(tokenizer, folder):
    with open(os.path.join(folder, TOKENIZER_FILE), "wb") as file:
        file.write(tokenizer.proto)
    config = {
        "tokenizer_class": "GemmaTokenizer",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 8192,
    }
    _write_json(os.path.join(folder, "tokenizer_config.json"), config)


def write_folder(folder, config: dict, shapes: dict, read, max_shard_size: float):
    """Write config.json and the tensors, in one file or in shards with an index.

    Args:
        folder: created where it does not exist.
        config: Transformers' config; its `torch_dtype` is the dtype written.
        shapes: name -> shape of every tensor.
        read: `name -> ndarray` of that shape, called once for each, in order.
        max_shard_size: GB (10^9 bytes).
    """
    os.makedirs(folder, exist_ok=True)
    dtype = config["torch_dtype"]
    shards, size = [{}], 0
    for name, shape in shapes.items():
        nbytes = math.prod(shape) * _FORMATS[dtype][1].itemsize
        if shards[-1] and size + nbytes > max_shard_size * 1e9:
            shards.append({})
            size = 0
        shards[-1][name] = shape
        size += nbytes
    files = [WEIGHTS_FILE]
    if len(shards) > 1:
        files = [
            f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
            for i in range(len(shards))
        ]
    total = 0
    for file, shard in zip(files, shards, strict=True):
        total += write_safetensors(os.path.join(folder, file), shard, dtype, read)
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": total},
            "weight_map": {
                name: file
                for file, shard in zip(files, shards, strict=True)
                for name in shard
            },
        }
        _write_json(os.path.join(folder, INDEX_FILE), index)
    _write_json(os.path.join(folder, "config.json"), config)


_FORMATS = {
    "float32": ("F32", np.dtype("float32")),
    "float16": ("F16", np.dtype("float16")),
    "bfloat16": ("BF16", np.dtype(ml_dtypes.bfloat16)),
}


def write_safetensors(path, shapes: dict, dtype: str, read) -> int:
    """Write one safetensors file, a tensor at a time; returns the bytes of tensors.

    The library's own writer takes all tensors of a file at once. The format is a
    little-endian 64-bit length, that much JSON, then the tensors in that order.
    """
    code, numpy_dtype = _FORMATS[dtype]
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        end = offset + math.prod(shape) * numpy_dtype.itemsize
        header[name] = {
            "dtype": code,
            "shape": list(shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # The tensors start on a multiple of 8 bytes.
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            value = np.ascontiguousarray(read(name), dtype=numpy_dtype)
            if value.shape != tuple(shape):
                raise ValueError(f"{name}: expected shape {shape}, got {value.shape}.")
            file.write(value.view(np.uint8).data if value.ndim else value.tobytes())
    return offset


def _write_json(path, value):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2)
        file.write("\n")
