"""What a file says is checked before it is believed: JSON, options, dtypes, numbers.

Every check here ends in one ValueError that names the file, so that a damaged or
hostile folder gives neither a library's traceback nor an allocation of the size it
asks for. Whether tensors fit a config is checked in `weights`.
"""

import json
import math
import os
import re

import keras
import ml_dtypes
import numpy as np

# The largest that is known is the tokenizer.json of a vocabulary of 256,000: 34 MB.
LARGEST_JSON = 1 << 27
# A network of CodeGemma's kind with more is not known; the 7B has 28 layers.
LARGEST_SIZE = 1 << 24
MOST_PARAMETERS = 10**11
# Longest context that a file may ask for; CodeGemma's is 8,192.
LONGEST_CONTEXT = 1 << 22

FLOAT_DTYPES = ("float16", "bfloat16", "float32", "float64")
_POLICIES = ("DTypePolicy", "FloatDTypePolicy", "QuantizedDTypePolicy")
_INTEGER_POLICIES = ("Int4DTypePolicy",)


def read_json(path: str, name: str) -> dict:
    """A JSON object.

    Args:
        path: of the file.
        name: of the preset, for messages.

    Raises:
        ValueError: too large, not valid JSON, or not an object.
    """
    file = f"{os.path.basename(path)} of {name}"
    if os.path.getsize(path) > LARGEST_JSON:
        raise ValueError(f"{file} is larger than {LARGEST_JSON >> 20} MB: not read.")
    try:
        with open(path, encoding="utf-8") as stream:
            value = json.load(stream)
    # A ValueError without a class of its own: a number of thousands of digits.
    except (ValueError, RecursionError) as error:
        reason = str(error)[:200] or "nested too deeply"
        raise ValueError(
            f"{file} is not valid JSON ({reason}). Download or save it again."
        ) from None
    if not isinstance(value, dict):
        raise ValueError(f"{file} is not a JSON object.")
    return value


def integer(value, what: str, least=1, most=LARGEST_SIZE) -> int:
    """`value` if it is a whole number in a range; `what` names it and its file."""
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{what} is {_shown(value)}; it must be {least} to {most:,}.")
    return value


def number(value, what: str, least=0.0, most=math.inf, above=False) -> float:
    """`value` if it is a finite number in `[least, most]` (`above`: over `least`)."""
    good = type(value) in (int, float) and math.isfinite(value)
    if not good or not least <= value <= most or (above and value == least):
        bounds = f"over {least}" if above else f"from {least}"
        raise ValueError(
            f"{what} is {_shown(value)}; it must be a finite number {bounds}"
            + (f" to {most}." if most < math.inf else ".")
        )
    return value


def instance(value, kind: type, what: str):
    """`value` if it is of a type."""
    if type(value) is not kind:
        raise ValueError(f"{what} is {_shown(value)}; it must be a {kind.__name__}.")
    return value


def _shown(value) -> str:
    try:
        text = repr(value)
    except ValueError:  # An int of more digits than Python prints.
        return "a number of thousands of digits"
    return text if len(text) <= 60 else text[:60] + "..."


_SIZES = (
    "vocabulary_size",
    "num_layers",
    "num_query_heads",
    "num_key_value_heads",
    "hidden_dim",
    "intermediate_dim",
    "head_dim",
)


def backbone_config(config: dict, file: str) -> dict:
    """Arguments of `CodeGemmaBackbone` out of a file, each checked.

    Args:
        config: the arguments; `dtype` has been through `dtype_policy`.
        file: "config.json of NAME", for messages.

    Raises:
        ValueError: an argument is missing, unknown, of a wrong type or impossible.
    """
    missing = [name for name in _SIZES if name not in config]
    if missing:
        raise ValueError(
            f"{file} lacks {', '.join(missing)}. Take it from where the weights came "
            "from."
        )
    floats = {"layer_norm_epsilon": {}, "rope_max_wavelength": {}, "dropout": {}}
    flags = ("trainable", "float_activations")
    known = {*_SIZES, *floats, *flags, "name", "dtype"}
    if unknown := sorted(config.keys() - known):
        raise ValueError(
            f"{file} has the options {_shown(unknown)}, which CodeGemma's network does "
            "not have: leaving them out could give wrong results."
        )
    for name in _SIZES:
        integer(config[name], f"{name} in {file}")
    if "layer_norm_epsilon" in config:
        epsilon = config["layer_norm_epsilon"]
        number(epsilon, f"layer_norm_epsilon in {file}", 0.0, 1.0, above=True)
    if "rope_max_wavelength" in config:
        base = config["rope_max_wavelength"]
        number(base, f"rope_max_wavelength in {file}", 1.0, 1e12, above=True)
    if "dropout" in config and number(config["dropout"], f"dropout in {file}") >= 1:
        raise ValueError(
            f"dropout in {file} is {config['dropout']}: it must be below 1."
        )
    if config.get("name") is not None:
        if "/" in instance(config["name"], str, f"name in {file}"):
            raise ValueError(f"name in {file} holds a '/', which Keras does not allow.")
    for name in flags:
        if name in config:
            instance(config[name], bool, f"{name} in {file}")
    _check_network(config, file)
    return config


def _check_network(config, file):
    heads, groups = config["num_query_heads"], config["num_key_value_heads"]
    if heads % groups:
        raise ValueError(
            f"{file}: num_key_value_heads={groups} does not divide "
            f"num_query_heads={heads}."
        )
    for name in ("head_dim", "intermediate_dim"):
        if config[name] % 2:
            raise ValueError(f"{file}: {name}={config[name]} must be even.")
    width, layers = config["hidden_dim"], config["num_layers"]
    block = (2 * heads + 2 * groups) * config["head_dim"] + 3 * (
        config["intermediate_dim"] // 2
    )
    parameters = width * (config["vocabulary_size"] + layers * block)
    if parameters > MOST_PARAMETERS:
        raise ValueError(
            f"{file} asks for {parameters:.0e} parameters; more than "
            f"{MOST_PARAMETERS:.0e} is no CodeGemma. The file is damaged."
        )


def dtype_policy(saved, file: str):
    """A saved dtype: a name, or a Keras policy where a name cannot say it.

    Only policies of Keras itself are made: a config may name any registered class.

    Raises:
        ValueError: anything else, or a quantization that is not int8 or int4.
    """
    if saved is None:
        return None
    _check_policy(saved, file)
    try:
        policy = keras.dtype_policies.get(saved)
    except Exception as error:  # Keras raises of every kind here.
        raise ValueError(
            f"dtype in {file} is no dtype policy ({str(error)[:100]})."
        ) from None
    if type(policy) is keras.DTypePolicy:
        return policy.name  # Tokenizers take names only.
    return policy


def _check_policy(saved, file, in_map=False):
    wrong = ValueError(
        f"dtype in {file} is {_shown(saved)}. Supported are the names and the policies "
        "of Keras, float or quantized to int8 or int4."
    )
    if isinstance(saved, str):
        saved = {"class_name": "DTypePolicy", "config": {"name": saved}}
    if not isinstance(saved, dict) or not isinstance(saved.get("config"), dict):
        raise wrong
    kind, config = saved.get("class_name"), saved["config"]
    if saved.get("module") not in (None, "keras", "keras.dtype_policies"):
        raise wrong
    if saved.get("registered_name") not in (None, kind):
        raise wrong
    if kind == "DTypePolicyMap" and not in_map:
        entries = config.get("policy_map")
        if not isinstance(entries, dict) or set(config) - {
            "default_policy",
            "policy_map",
        }:
            raise wrong
        for path, entry in entries.items():
            # Keras reads the path as a pattern: leave it no way to be one.
            if not re.fullmatch(r"[\w/]+", path):
                raise wrong
            _check_policy(entry, file, in_map=True)
        if config.get("default_policy") is not None:
            _check_policy(config["default_policy"], file, in_map=True)
        return
    if kind not in (*_POLICIES, *_INTEGER_POLICIES):
        raise wrong
    mode = config.get("mode")
    # int4 names the size of its blocks, too.
    if mode is not None and not _matches(r"int8|int4(/-?\d{1,6})?", mode):
        raise wrong
    for name in (config.get("name"), config.get("source_name")):
        if name is not None and not _matches(r"\w{1,60}", name):
            raise wrong


def _matches(pattern, value):
    return isinstance(value, str) and re.fullmatch(pattern, value, re.ASCII)


def float_policy(policy, file: str):
    """`policy` if its variables and its arithmetic are of floating point.

    Raises:
        ValueError: an integer, complex or unknown dtype.
    """
    if policy is None:
        return None
    try:
        policy_of = keras.dtype_policies.get(policy)
        # What Keras writes for a quantized model: a policy for each layer.
        if isinstance(policy_of, keras.dtype_policies.DTypePolicyMap):
            policy_of = policy_of.default_policy
        dtypes = policy_of.variable_dtype, policy_of.compute_dtype
        mode = getattr(policy_of, "quantization_mode", None)
    except Exception as error:
        raise ValueError(f"dtype in {file}: {str(error)[:100]}") from None
    if any(dtype not in FLOAT_DTYPES for dtype in dtypes) or mode is not None:
        raise ValueError(
            f"dtype in {file} is {policy_of.name}: weights are of floating point."
        )
    return policy


def finite(value: np.ndarray, tensor: str, file: str) -> np.ndarray:
    """`value` if no number in it is NaN or infinite.

    Raises:
        ValueError: there is one; it would spread to every logit.
    """
    flat = value.reshape(-1)
    for start in range(0, flat.size, 1 << 20):  # Bounds the memory of the test.
        part = flat[start : start + (1 << 20)]
        if part.dtype == ml_dtypes.bfloat16:  # By bits: its arithmetic is slow.
            good = (part.view(np.uint16) & 0x7FFF).max() < 0x7F80
        else:
            good = np.isfinite(part).all()
        if not good:
            raise ValueError(
                f"{file}: tensor '{tensor}' holds NaN or infinity. The file is damaged, "
                "or the training that wrote it diverged."
            )
    return value


def damaged(file: str, reason) -> ValueError:
    """The error for a file that its library cannot read."""
    reason = " ".join(str(reason).split())[:200]
    return ValueError(
        f"{file} is cut short or damaged ({reason}). Delete it and download or copy it "
        "again."
    )
