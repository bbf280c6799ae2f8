"""PEFT's folder of an adapter: `adapter_config.json` and `adapter_model.safetensors`.

Read and written in both directions: low-rank pairs of linear layers, and rows of the
embedding (`trainable_token_indices`). Whatever else changes what an adapter computes is
refused by name: a wrong number is worse than none. Pickled adapters (`.bin`) are not
read, as reading one runs code.

A fingerprint of the base's weights lies in the metadata of the tensors' file, where PEFT
does not look.
"""

import dataclasses
import json
import math
import os
import pathlib
import re

import numpy as np
import safetensors
import safetensors.numpy

from codegemma_keras import files
from codegemma_keras.formats.safetensors import to_bytes

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
PREFIX = "base_model.model."  # PEFT's, before Transformers' name
ROWS = f"{PREFIX}model.embed_tokens.token_adapter.trainable_tokens_delta"
FINGERPRINT = "codegemma_keras_base"

# Ways to start that leave the base as it is. After the others (pissa, olora, corda,
# loftq, lora_ga) an adapter belongs to a base that was changed when training began.
_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
# What says how an adapter came about, or is read below; all else that is set is refused.
_KNOWN = {
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias",
    "ensure_weight_tying", "eva_config", "exclude_modules", "inference_mode",
    "init_lora_weights", "layers_pattern", "layers_to_transform", "lora_alpha",
    "lora_dropout", "megatron_core", "modules_to_save", "peft_type", "peft_version",
    "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config",
    "target_modules", "task_type", "trainable_token_indices", "use_rslora",
}  # fmt: skip


@dataclasses.dataclass
class Adapter:
    """An adapter as a folder holds it.

    Attributes:
        pairs: Transformers' path of a linear layer -> `(A [rank, in], B [out, rank])`.
        scales: the same paths -> factor of `B @ A`.
        dropout: rate on the adapter's input, in training.
        rows: None, or `(token ids, values [R, D])`.
        base: None, or the fingerprint of the base's weights, a string.
    """

    pairs: dict
    scales: dict
    dropout: float = 0.0
    rows: tuple | None = None
    base: str | None = None


def read(folder) -> Adapter:
    """The adapter in a folder.

    Raises:
        FileNotFoundError: the folder holds no adapter.
        ValueError: a damaged file, or an adapter that computes what this package does
            not.
    """
    config_path, weights_path = (
        os.path.join(folder, name) for name in (CONFIG_FILE, WEIGHTS_FILE)
    )
    for path in (config_path, weights_path):
        if not os.path.exists(path):
            raise FileNotFoundError(
                f"{folder} holds no {os.path.basename(path)}: it is no adapter in PEFT's "
                "safetensors format. Pickled adapters (.bin) are not read; save again "
                "with safe_serialization=True."
            )
    try:
        with open(config_path, encoding="utf-8") as file:
            config = dict(json.load(file))
        with safetensors.safe_open(weights_path, framework="np") as file:
            base = (file.metadata() or {}).get(FINGERPRINT)
        tensors = safetensors.numpy.load_file(weights_path)
    except (ValueError, TypeError, safetensors.SafetensorError) as error:
        raise ValueError(
            f"The adapter in {folder} is damaged ({error}). Download or save it again."
        ) from None
    _check_config(config, folder)
    pairs, rows = _sort(tensors, config, folder)
    scales = {path: _scale(config, path, a.shape[0]) for path, (a, _) in pairs.items()}
    return Adapter(pairs, scales, config.get("lora_dropout") or 0.0, rows, base)


def _check_config(config, folder):
    kind = config.get("peft_type")
    if kind != "LORA":
        raise ValueError(f"{folder} holds an adapter of type {kind!r}; LORA is read.")
    if config.get("task_type") not in (None, "CAUSAL_LM"):
        raise ValueError(
            f"The adapter in {folder} is for {config['task_type']}; CAUSAL_LM is read."
        )
    if config.get("bias", "none") != "none":
        raise ValueError(
            f"The adapter in {folder} trains biases; Gemma's layers have none."
        )
    start = config.get("init_lora_weights", True)
    if start not in _STARTS:
        raise ValueError(
            f"The adapter in {folder} began with init_lora_weights={start!r}, which "
            "changes the base as well: on the plain base it computes something else. "
            "Save it with PEFT's path_initial_model_for_weight_conversion, or merge it "
            "there and load the merged model."
        )
    unread = {k: v for k, v in config.items() if v and k not in _KNOWN}
    if config.get("modules_to_save"):
        unread["modules_to_save"] = config["modules_to_save"]
    if unread:
        options = ", ".join(f"{key}={value!r}" for key, value in unread.items())
        raise ValueError(
            f"The adapter in {folder} has {options}, which is not supported. Merge it "
            "with PEFT and load the merged model."
        )


def _sort(tensors, config, folder):
    """`(pairs, rows)` out of the tensors; each is used, or it is an error."""
    tensors = dict(tensors)
    rows = _rows(tensors.pop(ROWS, None), config, folder)
    pairs = {}
    for key, value in tensors.items():
        match = re.fullmatch(rf"{re.escape(PREFIX)}(.+)\.lora_([AB])\.weight", key)
        if not match or "lm_head" in key or "embed_tokens" in key:
            what = "the embedding or the head" if "layers" not in key else key
            raise ValueError(
                f"The adapter in {folder} holds {key}. Of {what} this package reads rows "
                "alone (trainable_token_indices). Merge it with PEFT and load the merged "
                "model."
            )
        if value.ndim != 2:
            raise ValueError(f"The adapter in {folder}: {key} is no matrix.")
        pairs.setdefault(match[1], [None, None])["AB".index(match[2])] = value
    for path, (a, b) in pairs.items():
        if a is None or b is None:
            raise ValueError(f"The adapter in {folder} has half a pair for {path}.")
    if not pairs and rows is None:
        raise ValueError(f"{folder} holds an adapter without matrices.")
    return pairs, rows


def _rows(values, config, folder):
    """`(token ids, values)` of the embedding, or None."""
    asked = config.get("trainable_token_indices")
    if isinstance(asked, dict):
        # With tied weights the embedding's rows are the head's as well.
        both = asked.get("embed_tokens")
        if (
            set(asked) - {"embed_tokens", "lm_head"}
            or asked.get("lm_head", both) != both
        ):
            raise ValueError(
                f"The adapter in {folder} has trainable_token_indices={asked!r}; in "
                "CodeGemma the embedding and the head are one matrix, so only "
                "'embed_tokens' can be trained."
            )
        asked = both
    if not asked and values is None:
        return None
    ids = [int(token) for token in asked or ()]
    if values is None or len(ids) != len(values) or len(set(ids)) != len(ids):
        raise ValueError(
            f"The adapter in {folder} names {len(ids)} trainable_token_indices, each of "
            f"which must be there once, and holds {0 if values is None else len(values)} "
            "rows for them."
        )
    return ids, values


def _scale(config, path, rank):
    alpha = config.get("lora_alpha", 8)
    for key, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({key})$", path):  # PEFT's rule: the first that fits
            alpha = value
            break
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def write(folder, adapter: Adapter, base_model=None):
    """Write an adapter as PEFT does. Both files are complete or not there.

    Args:
        folder: created where it does not exist.
        adapter: an `Adapter`.
        base_model: name or folder of the base in Transformers' format, which PEFT's
            `AutoPeftModel` loads; None leaves it open.
    """
    ranks = {path: int(a.shape[0]) for path, (a, _) in adapter.pairs.items()}
    alphas = {path: adapter.scales[path] * rank for path, rank in ranks.items()}
    rank, alpha = _most_common(ranks.values(), 1), _most_common(alphas.values(), 1)
    tensors = {}
    for path, (a, b) in adapter.pairs.items():
        tensors[f"{PREFIX}{path}.lora_A.weight"] = a
        tensors[f"{PREFIX}{path}.lora_B.weight"] = b
    if adapter.rows is not None:
        tensors[ROWS] = adapter.rows[1]
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        # Not null: of that, PEFT's AutoPeftModel makes the name "None" and asks for it.
        "base_model_name_or_path": base_model or "",
        "r": rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": adapter.dropout,
        "target_modules": sorted({path.rsplit(".", 1)[1] for path in ranks}),
        "rank_pattern": {_exactly(p): r for p, r in ranks.items() if r != rank},
        "alpha_pattern": {_exactly(p): v for p, v in alphas.items() if v != alpha},
        "trainable_token_indices": adapter.rows and [int(i) for i in adapter.rows[0]],
        "init_lora_weights": True,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
    }
    metadata = {"format": "pt"}
    if adapter.base is not None:
        metadata[FINGERPRINT] = adapter.base
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: np.ascontiguousarray(value) for key, value in tensors.items()}
    files.put(folder / WEIGHTS_FILE, to_bytes(tensors, metadata))
    files.put(folder / CONFIG_FILE, json.dumps(config, indent=2).encode())


def _exactly(path):
    """The path as a pattern: its dots are dots."""
    return path.replace(".", r"\.")


def _most_common(values, default):
    values = list(values)
    return max(set(values), key=values.count) if values else default
