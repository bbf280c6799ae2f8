"""KerasHub's folders: class names and configs, in both directions.

Folders saved here name KerasHub's own classes, so that they open there; KerasHub's
Gemma 1 classes, under that name or their old one (KerasNLP), open here. Left out: the
options that only Gemma 2 has, which are refused.
"""

import keras
import keras_hub

# Our class -> the KerasHub class that folders name.
CLASSES = {
    "CodeGemmaBackbone": keras_hub.models.GemmaBackbone,
    "CodeGemmaTokenizer": keras_hub.models.GemmaTokenizer,
    "CodeGemmaCausalLM": keras_hub.models.GemmaCausalLM,
    "CodeGemmaCausalLMPreprocessor": keras_hub.models.GemmaCausalLMPreprocessor,
}

# What KerasHub's GemmaBackbone also has, for Gemma 2, and its value in Gemma 1.
_GEMMA2_OPTIONS = {
    "query_head_dim_normalize": True,
    "use_post_ffw_norm": False,
    "use_post_attention_norm": False,
    "attention_logit_soft_cap": None,
    "final_logit_soft_cap": None,
    "use_sliding_window_attention": False,
}

# What KerasHub's Gemma has in its code; its epsilon option reaches the last norm only.
_CONSTANTS = {"rope_max_wavelength": 10_000.0, "layer_norm_epsilon": 1e-6}


def our_name(saved: dict) -> str:
    """Name of our class for a serialised object; KerasHub's own where we have none."""
    name = str(saved.get("registered_name") or saved.get("class_name"))
    name = name.rsplit(">", 1)[-1]
    for ours, theirs in CLASSES.items():
        if name == theirs.__name__:
            return ours
    return name


def plain(config: dict) -> dict:
    """A saved config whose dtype is a name, or a policy where a name cannot say it."""
    config = dict(config)
    if isinstance(config.get("dtype"), dict):
        policy = keras.dtype_policies.get(config["dtype"])
        # Tokenizers take names only; quantized policies are more than theirs.
        config["dtype"] = policy.name if type(policy) is keras.DTypePolicy else policy
    return config


def to_backbone_config(saved: dict, name: str) -> dict:
    """A serialised GemmaBackbone -> arguments of `CodeGemmaBackbone`.

    Raises:
        ValueError: another class, or Gemma 2.
    """
    kind = our_name(saved)
    config = plain(saved.get("config", {}))
    gemma2 = {
        option: config[option]
        for option, value in _GEMMA2_OPTIONS.items()
        if config.get(option, value) != value
    }
    if kind != "CodeGemmaBackbone" or gemma2:
        kind = f"a Gemma 2 model ({gemma2})" if gemma2 else f"a {kind}"
        raise ValueError(
            f"{name} holds {kind}. Supported are CodeGemma and Gemma 1 (GemmaBackbone "
            "without Gemma 2's options); for other architectures use keras_hub."
        )
    for option in (*_GEMMA2_OPTIONS, "sliding_window_size"):
        config.pop(option, None)
    return config


def as_keras_hub(value):
    """A serialised object with KerasHub's class names, through every level."""
    if not isinstance(value, dict):
        return value
    dropped = ("build_config", "compile_config")
    value = {k: as_keras_hub(v) for k, v in value.items() if k not in dropped}
    theirs = CLASSES.get(value.get("class_name"))
    if theirs is keras_hub.models.GemmaBackbone:
        config = value["config"]
        # KerasHub ignores what it does not know, so it would compute such a network
        # with its own constants: our class name makes it refuse the folder.
        if any(config[name] != constant for name, constant in _CONSTANTS.items()):
            return value
        del config["rope_max_wavelength"]
    if theirs is not None:
        value["module"] = theirs.__module__
        value["class_name"] = theirs.__name__
        value["registered_name"] = keras.saving.get_registered_name(theirs)
    return value
