"""Presets: names, and folders in KerasHub's or Transformers' format, to objects.

`from_preset` and `save_to_preset` of the backbone, tokenizer, preprocessor and task
delegate to the `load_*` and `save_*` functions here. A preset is any of

* a name in `PRESETS`: the official models, and the embedded `code_gemma_tiny_py`;
* `kaggle://owner/model/keras/variant[/version]`, `hf://owner/model`;
* a local folder.

Keras and Transformers folders are told apart by what config.json says. Folders saved
here carry KerasHub's own class names, so they open there; KerasHub's Gemma 1 classes
open here. Left out: other architectures, pickled weights, and code from a model's
repository (never run).
"""

import dataclasses
import datetime
import difflib
import glob
import json
import math
import os

import keras
import keras_hub

from codegemma_keras.formats import hub, weights
from codegemma_keras.formats import keras_hub as keras_hub_format
from codegemma_keras.formats import transformers as transformers_format

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
PREPROCESSOR = "preprocessor.json"
TASK = "task.json"
METADATA = "metadata.json"
WEIGHTS = "model.weights.h5"
SHARDED_WEIGHTS = "model.weights.json"
VOCABULARY = "assets/tokenizer/vocabulary.spm"
ASSETS = os.path.join(os.path.dirname(__file__), "assets")


@dataclasses.dataclass(frozen=True)
class Preset:
    """One named preset.

    Attributes:
        description: one sentence.
        parameters: their number; None for the embedded preset, whose folder says.
        config: arguments of `CodeGemmaBackbone`; None for the embedded preset.
        location: where it is downloaded from, or the folder it is embedded in.
        transformers: the same model on Hugging Face, in Transformers' format.
        licence: page where the licence is read and accepted.
    """

    description: str
    location: str
    licence: str
    parameters: int | None = None
    config: dict | None = None
    transformers: str | None = None


_2B = {
    "vocabulary_size": 256_000,
    "num_layers": 18,
    "num_query_heads": 8,
    "num_key_value_heads": 1,
    "hidden_dim": 2048,
    "intermediate_dim": 32_768,
    "head_dim": 256,
}
_7B = {
    "vocabulary_size": 256_000,
    "num_layers": 28,
    "num_query_heads": 16,
    "num_key_value_heads": 16,
    "hidden_dim": 3072,
    "intermediate_dim": 49_152,
    "head_dim": 256,
}


def _official(name, version, size, transformers, description):
    config, parameters = {"2B": (_2B, 2_506_172_416), "7B": (_7B, 8_537_680_896)}[size]
    return Preset(
        description=f"CodeGemma {size}: {description}",
        location=f"kaggle://keras/codegemma/keras/{name}/{version}",
        licence="https://www.kaggle.com/models/keras/codegemma",
        parameters=parameters,
        config=config,
        transformers=f"hf://google/{transformers}",
    )


PRESETS = {
    name: _official(name, *rest)
    for name, *rest in (
        ("code_gemma_2b_en", 2, "2B", "codegemma-2b", "code completion."),
        ("code_gemma_1.1_2b_en", 2, "2B", "codegemma-1.1-2b", "completion, 1.1."),
        ("code_gemma_7b_en", 3, "7B", "codegemma-7b", "completion and generation."),
        ("code_gemma_instruct_7b_en", 3, "7B", "codegemma-7b-it", "chat."),
        ("code_gemma_1.1_instruct_7b_en", 3, "7B", "codegemma-1.1-7b-it", "chat, 1.1."),
    )
}
for _name, _what in (
    ("code_gemma_tiny_py", "A small CodeGemma for Python, trained by this project"),
    ("code_gemma_tiny_instruct_py", "The same, tuned to answer small questions"),
):
    PRESETS[_name] = Preset(
        description=f"{_what}; embedded.",
        location=os.path.join(ASSETS, _name),
        licence="https://www.apache.org/licenses/LICENSE-2.0",
    )


# --- Loading ------------------------------------------------------------------------


def load_backbone(cls, preset, load_weights=True, dtype=None, **kwargs):
    """Build `cls` (`CodeGemmaBackbone`) from a preset.

    Args:
        cls: the class to build.
        preset: string or path; see the module docstring.
        load_weights: bool. False gives freshly initialised weights, and for an
            official name downloads nothing.
        dtype: dtype or policy. Default: Keras's own; a quantized preset keeps its own.
            For a quantized preset this is the float dtype around the integers.
        **kwargs: arguments of `cls` that replace the preset's, such as `dropout`.

    Raises:
        ValueError: unknown name, another architecture, a damaged or misshapen file.
        FileNotFoundError, PermissionError, ConnectionError, OSError: the files
            cannot be had; the message says what to do.
    """
    named = PRESETS.get(preset) if isinstance(preset, str) else None
    if named is not None and named.config is not None and not load_weights:
        return cls(**{**named.config, "dtype": dtype, **kwargs})
    files = resolve(preset)
    config, is_keras = read_config(files)
    if is_keras:
        config = keras_hub_format.to_backbone_config(config, files.name)
    else:
        config = transformers_format.to_backbone_config(config, files.name)
    config["dtype"] = _resolve_dtype(config.get("dtype"), dtype, files.name)
    config.update(kwargs)
    if not load_weights:
        return cls(**config)
    if is_keras:
        paths, stream = _keras_weights(files), weights.stream_keras
    else:
        paths, stream = _transformers_weights(files), weights.stream_transformers
    backbone = weights.build_empty(lambda: cls(**config))
    weights.fill(backbone, stream(backbone, paths))
    return backbone


def load_tokenizer(cls, preset, **kwargs):
    """Build `cls` (`CodeGemmaTokenizer`) from a preset; `kwargs` replace its config.

    `cls` takes `proto`, the path of a SentencePiece model. The preset may be a folder
    that holds a tokenizer alone. Raises: as `load_backbone`.
    """
    files = resolve(preset)
    if not _is_keras(files):
        proto = files.get(
            transformers_format.TOKENIZER_FILE,
            "It is the SentencePiece vocabulary, which this package reads instead of "
            "tokenizer.json: copy it from the original model.",
        )
        return _make_tokenizer(cls, {"proto": proto, **kwargs}, files.name)
    mend = (
        "The preset holds no tokenizer: save one there with "
        "`tokenizer.save_to_preset(...)`, or pass `preprocessor=None` to load the "
        "network alone."
    )
    config = _keras_config(files, TOKENIZER, "CodeGemmaTokenizer", mend)
    config["proto"] = files.get(VOCABULARY, mend)
    return _make_tokenizer(cls, {**config, **kwargs}, files.name)


def _make_tokenizer(cls, config, name):
    if isinstance(config["proto"], str):  # KerasHub would leave the file open.
        with open(config["proto"], "rb") as file:
            config["proto"] = file.read()
    try:
        return cls(**config)
    except ValueError as error:  # A damaged vocabulary, or not CodeGemma's: say whose.
        raise ValueError(f"Vocabulary of {name}: {error}") from None


def load_preprocessor(cls, preset, **kwargs):
    """Build `cls` (a preprocessor) from a preset.

    A preprocessor saved in the preset is restored if it is a `cls` (or of a subclass,
    as the one for FIM); otherwise `cls` with its defaults. `kwargs` replace either.
    Raises: as `load_backbone`.
    """
    files = resolve(preset)
    config = {}
    if _is_keras(files) and (path := files.find(PREPROCESSOR)):
        saved = _read_json(path, files.name)
        saved_cls = keras.saving.get_registered_object(
            f"codegemma_keras>{keras_hub_format.our_name(saved)}"
        )
        if saved_cls is not None and issubclass(saved_cls, cls):
            cls = saved_cls
            config = keras_hub_format.plain(saved["config"])
    config = {**config, **kwargs}
    if config.get("tokenizer") is None or isinstance(config["tokenizer"], dict):
        config["tokenizer"] = load_tokenizer(cls.tokenizer_cls, preset)
    return cls(**config)


def load_task(cls, preset, load_weights=True, dtype=None, **kwargs):
    """Build `cls` (`CodeGemmaCausalLM`) from a preset.

    Args:
        cls: has `backbone_cls` and `preprocessor_cls`.
        preset, load_weights, dtype: as `load_backbone`.
        **kwargs: arguments of `cls`. A `backbone` or a `preprocessor` given here
            (None too) is used instead of the preset's.
    """
    # First what is quick and most often amiss: a missing tokenizer before 5 GB.
    if "preprocessor" not in kwargs:
        kwargs["preprocessor"] = load_preprocessor(cls.preprocessor_cls, preset)
    if "backbone" not in kwargs:
        kwargs["backbone"] = load_backbone(
            cls.backbone_cls, preset, load_weights, dtype
        )
    return cls(**kwargs)


def resolve(preset) -> hub.Files:
    """Where the files of a preset are. Raises ValueError for an unknown name."""
    try:
        name = os.fspath(preset)
    except TypeError:
        raise ValueError(
            f"A preset is a name, a handle or a path, not {preset!r}."
        ) from None
    if name in PRESETS:
        return hub.Files(name, PRESETS[name].location, PRESETS[name].licence)
    if name.startswith((hub.KAGGLE, hub.HUGGING_FACE)):
        return hub.Files(name, name)
    folder = os.path.expanduser(name)
    if os.path.isdir(folder):
        return hub.Files(name, folder)
    close = difflib.get_close_matches(name, PRESETS, n=1)
    raise ValueError(
        f"Unknown preset {name!r}."
        + (f" Did you mean {close[0]!r}?" if close else "")
        + f" Known names: {', '.join(PRESETS)}. Or give 'kaggle://...', 'hf://...', or "
        "the path of an existing folder."
    )


def read_config(files: hub.Files) -> tuple[dict, bool]:
    """config.json, and whether it is Keras's (True) or Transformers' (False)."""
    path = files.find(CONFIG)
    if path is None:
        raise FileNotFoundError(f"{files.name} has no {CONFIG}. {_what_else(files)}")
    config = _read_json(path, files.name)
    if "registered_name" in config or "class_name" in config:
        return config, True
    if "model_type" in config:
        return config, False
    raise ValueError(
        f"{CONFIG} of {files.name} is neither a Keras preset's (no 'class_name') nor "
        "a Transformers model's (no 'model_type')."
    )


def _what_else(files):
    if _has_tokenizer(files):
        return (
            "It holds a tokenizer alone: load it with CodeGemmaTokenizer.from_preset."
        )
    if files.find("adapter_config.json"):
        return (
            "It holds an adapter, not a model: merge it into its base model first "
            "(PEFT's `merge_and_unload`), and save that."
        )
    return "A preset is a folder with config.json, weights and a tokenizer."


def _has_tokenizer(files) -> bool:
    """Whether tokenizer.json is there and Keras's (Transformers has one too)."""
    path = files.find(TOKENIZER)
    return path is not None and "class_name" in _read_json(path, files.name)


def _is_keras(files) -> bool:
    if files.find(CONFIG) is None and _has_tokenizer(files):
        return True  # A tokenizer may be saved alone.
    return read_config(files)[1]


def _read_json(path, name) -> dict:
    try:
        with open(path, encoding="utf-8") as file:
            value = json.load(file)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{os.path.basename(path)} of {name} is not valid JSON ({error}). "
            "Download or save it again."
        ) from None
    if not isinstance(value, dict):
        raise ValueError(f"{os.path.basename(path)} of {name} is not a JSON object.")
    return value


def _keras_config(files, file, expected, mend) -> dict:
    """Constructor arguments out of one JSON file, of the expected class."""
    saved = _read_json(files.get(file, mend), files.name)
    name = keras_hub_format.our_name(saved)
    if name != expected:
        raise ValueError(
            f"{file} of {files.name} is of a {name}; expected is CodeGemma's or "
            f"Gemma's ({expected}). For other models use keras_hub."
        )
    return keras_hub_format.plain(saved["config"])


def _resolve_dtype(saved, asked, name):
    """The dtype to build at: see `load_backbone`.

    A quantized preset says so by a `DTypePolicyMap` (or one quantized policy).
    """
    is_map = isinstance(saved, keras.dtype_policies.DTypePolicyMap)
    quantized = is_map or getattr(saved, "quantization_mode", None)
    if asked is None:
        return saved if quantized else None
    policy = keras.dtype_policies.get(asked)
    if getattr(policy, "quantization_mode", None):
        raise ValueError(
            f"dtype={asked!r}: {name} is loaded at a float dtype. Load it at, say, "
            "'bfloat16', then call `quantize('int8')`."
        )
    if not is_map:
        return policy
    config = keras.dtype_policies.serialize(saved)
    config["config"]["default_policy"] = policy.name
    for entry in config["config"]["policy_map"].values():
        entry["config"]["source_name"] = policy.name
    return keras.dtype_policies.get(config)


def _keras_weights(files) -> list[str]:
    """Local paths of every `.weights.h5` of a preset."""
    if single := files.find(WEIGHTS):
        return [single]
    mend = (
        f"The preset holds no weights: neither {WEIGHTS} nor {SHARDED_WEIGHTS}. "
        "Download or save it again, or pass `load_weights=False`."
    )
    return _shards(files, files.get(SHARDED_WEIGHTS, mend))


def _transformers_weights(files) -> list[str]:
    """Local paths of every safetensors file of a preset."""
    if index := files.find(transformers_format.INDEX_FILE):
        return _shards(files, index)
    mend = (
        "Only safetensors are read, as pickled weights (.bin, .pt) can run code: save "
        "the model with Transformers' `save_pretrained`, or pass `load_weights=False`."
    )
    return [files.get(transformers_format.WEIGHTS_FILE, mend)]


def _shards(files, index) -> list[str]:
    names = _shard_names(index)
    outside = [name for name in names if os.path.basename(name) != name]
    if outside or not names:
        raise ValueError(
            f"{os.path.basename(index)} of {files.name} "
            + (f"points outside the preset: {outside}." if outside else "is empty.")
        )
    mend = f"{os.path.basename(index)} lists it: download or copy the missing file."
    return [files.get(name, mend) for name in sorted(names)]


def _shard_names(index) -> set[str]:
    weight_map = _read_json(index, os.path.dirname(index)).get("weight_map", {})
    names = set()
    for value in weight_map.values():  # Keras lists several where a layer is split.
        names.update(value if isinstance(value, list) else [value])
    return names


# --- Saving -------------------------------------------------------------------------


def save_backbone(backbone, folder, max_shard_size=10):
    """Write config.json, metadata.json and the weights (LoRA merged in).

    Args:
        backbone: a built backbone; quantized ones are saved as they are.
        folder: created where it does not exist. Weights that an earlier save left
            under other file names are removed, as they would be loaded instead.
        max_shard_size: GB (2^30 bytes) of one file; None for one file always.
    """
    weights.refuse_active_adapter(backbone)
    os.makedirs(folder, exist_ok=True)
    _write_config(backbone, folder, CONFIG)
    metadata = {
        "keras_version": keras.version(),
        "keras_hub_version": keras_hub.__version__,
        "parameter_count": backbone.count_params(),
        "date_saved": datetime.datetime.now().strftime("%Y-%m-%d@%H:%M:%S"),
        "tasks": ["CausalLM"],
    }
    _write_json(os.path.join(folder, METADATA), metadata)
    before = _weight_files(folder)
    nbytes = sum(
        math.prod(v.shape) * weights.numpy_dtype(v.dtype).itemsize
        for v in backbone.weights
    )
    if max_shard_size is not None and nbytes > max_shard_size * 2**30:
        index = os.path.join(folder, SHARDED_WEIGHTS)
        backbone.save_weights(index, max_shard_size=max_shard_size)
        written = {index, *(os.path.join(folder, name) for name in _shard_names(index))}
    else:
        written = {os.path.join(folder, WEIGHTS)}
        backbone.save_weights(*written)
    for stale in before - written:
        os.remove(stale)


def save_tokenizer(tokenizer, folder):
    """Write tokenizer.json and the vocabulary."""
    assets = os.path.join(folder, os.path.dirname(VOCABULARY))
    os.makedirs(assets, exist_ok=True)
    _write_config(tokenizer, folder, TOKENIZER)
    tokenizer.save_assets(assets)


def save_preprocessor(preprocessor, folder):
    """Write preprocessor.json and the tokenizer.

    The causal LM preprocessor opens in KerasHub; those for FIM and chat, which KerasHub
    does not have, open here only.
    """
    os.makedirs(folder, exist_ok=True)
    _write_config(preprocessor, folder, PREPROCESSOR)
    save_tokenizer(preprocessor.tokenizer, folder)


def save_task(task, folder, max_shard_size=10):
    """Write a task: task.json, its backbone, its preprocessor if it has one."""
    save_backbone(task.backbone, folder, max_shard_size)
    _write_config(task, folder, TASK)
    if task.preprocessor is not None:
        save_preprocessor(task.preprocessor, folder)


def _write_config(instance, folder, file):
    config = keras_hub_format.as_keras_hub(
        keras.saving.serialize_keras_object(instance)
    )
    _write_json(os.path.join(folder, file), config)


def _write_json(path, value):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=4)
        file.write("\n")


def _weight_files(folder) -> set[str]:
    names = (WEIGHTS, SHARDED_WEIGHTS, "model_[0-9]*.weights.h5")
    return {path for name in names for path in glob.glob(os.path.join(folder, name))}
