"""KerasHub's folders: class names, configs and weights, in both directions.

Folders saved here name KerasHub's own classes, so that they open there; KerasHub's
Gemma 1 classes, under that name or their old one (KerasNLP), open here. Left out: the
options that only Gemma 2 has, and float8 and GPTQ weights; all are refused.
"""

import datetime
import glob
import json
import math
import os

import keras
import keras_hub

from codegemma_keras.files import unlink, updated_folder
from codegemma_keras.formats import checks, h5, hub, weights

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
PREPROCESSOR = "preprocessor.json"
TASK = "task.json"
METADATA = "metadata.json"
WEIGHTS = "model.weights.h5"
SHARDED_WEIGHTS = "model.weights.json"
VOCABULARY = "assets/tokenizer/vocabulary.spm"
JSON_VOCABULARY = "assets/tokenizer/tokenizer.json"

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

# Options of our tokenizer and preprocessor that KerasHub's do not have.
_OURS = {"chat_format": "gemma", "infill_mode": "psm"}

_NO_TOKENIZER = (
    "The preset holds no tokenizer: save one there with "
    "`tokenizer.save_to_preset(...)`, or pass `preprocessor=None` to load the network "
    "alone."
)


# --- Reading ------------------------------------------------------------------------


class Folder:
    """A preset in KerasHub's format.

    Args:
        files: where its files are.
        config: its config.json; None where it holds a tokenizer alone.
    """

    def __init__(self, files: hub.Files, config: dict | None):
        self.files = files
        self.name = files.name
        self._config = config

    def backbone_config(self) -> dict:
        """Arguments of `CodeGemmaBackbone`; `dtype` is None, a name or a policy.

        Raises:
            ValueError: another class, Gemma 2, or a damaged config.
        """
        if self._config is None:
            raise FileNotFoundError(
                f"{self.name} has no {CONFIG}. It holds a tokenizer alone: load it "
                "with CodeGemmaTokenizer.from_preset."
            )
        return to_backbone_config(self._config, self.name)

    def weights(self, config: dict) -> weights.Checkpoint:
        """The weights, whose headers fit `config`.

        Raises:
            ValueError: they do not fit. FileNotFoundError: there are none.
        """
        paths = self._weight_files()
        return _checkpoint(h5.tensors(paths), config, _name_of(paths))

    def _weight_files(self):
        if single := self.files.find(WEIGHTS):
            return [single]
        mend = (
            f"The preset holds no weights: neither {WEIGHTS} nor {SHARDED_WEIGHTS}. "
            "Download or save it again, or pass `load_weights=False`."
        )
        index = self.files.get(SHARDED_WEIGHTS, mend)
        return self.files.shards(index, ".weights.h5")

    def tokenizer_config(self) -> dict:
        """Arguments of `CodeGemmaTokenizer`; `proto` is the vocabulary's bytes.

        Raises:
            FileNotFoundError: there is no tokenizer. ValueError: it is another's.
        """
        path = self.files.get(TOKENIZER, _NO_TOKENIZER)
        saved = checks.read_json(path, self.name)
        if (kind := our_name(saved)) != "CodeGemmaTokenizer":
            raise ValueError(
                f"{TOKENIZER} of {self.name} is of a {kind}; expected is CodeGemma's "
                "or Gemma's (CodeGemmaTokenizer). For other models use keras_hub."
            )
        config = _options(saved, f"{TOKENIZER} of {self.name}", _TOKENIZER_OPTIONS)
        json_file = self.files.is_local and self.files.find(JSON_VOCABULARY)
        vocabulary = JSON_VOCABULARY if json_file else VOCABULARY
        config["proto"] = self.files.read(vocabulary, _NO_TOKENIZER)
        return config

    def preprocessor_config(self) -> tuple[str, dict] | None:
        """Name of our class and its arguments, as saved; None where there is none."""
        path = self.files.find(PREPROCESSOR)
        if path is None:
            return None
        saved = checks.read_json(path, self.name)
        file = f"{PREPROCESSOR} of {self.name}"
        return our_name(saved), _options(saved, file, _PREPROCESSOR_OPTIONS)

    def context(self) -> int | None:
        """Tokens that the model is made for, where the files say it."""
        saved = self.preprocessor_config()
        return saved[1].get("sequence_length") if saved else None

    def token_ids(self) -> dict[str, int]:
        """Ids of control tokens that the model's own config names: none here."""
        return {}


def our_name(saved: dict) -> str:
    """Name of our class for a serialised object; KerasHub's own where we have none."""
    name = str(saved.get("registered_name") or saved.get("class_name"))
    name = name.rsplit(">", 1)[-1][:60]
    for ours, theirs in CLASSES.items():
        if name == theirs.__name__:
            return ours
    return name


def to_backbone_config(saved: dict, name: str) -> dict:
    """A serialised GemmaBackbone -> arguments of `CodeGemmaBackbone`.

    Raises:
        ValueError: another class, Gemma 2, or a damaged config.
    """
    file = f"{CONFIG} of {name}"
    kind = our_name(saved)
    config = dict(checks.instance(saved.get("config"), dict, f"'config' in {file}"))
    gemma2 = {
        option: config[option]
        for option, value in _GEMMA2_OPTIONS.items()
        if config.get(option, value) != value
    }
    if kind != "CodeGemmaBackbone" or gemma2:
        kind = f"a Gemma 2 model ({str(gemma2)[:200]})" if gemma2 else f"a {kind}"
        raise ValueError(
            f"{name} holds {kind}. Supported are CodeGemma and Gemma 1 (GemmaBackbone "
            "without Gemma 2's options); for other architectures use keras_hub."
        )
    for option in (*_GEMMA2_OPTIONS, "sliding_window_size"):
        config.pop(option, None)
    policy = checks.dtype_policy(config.get("dtype"), file)
    config["dtype"] = checks.float_policy(policy, file)
    return checks.backbone_config(config, file)


def _flag(value, what):
    checks.instance(value, bool, what)


def _name(value, what):
    checks.instance(value, str, what)


def _rate(value, what):
    checks.number(value, what, 0.0, 1.0)


def _weight(value, what):
    checks.number(value, what, 0.0, 1e6)


def _length(value, what):
    checks.integer(value, what, 1, checks.LONGEST_CONTEXT)


def _maybe_length(value, what):
    if value is not None:
        _length(value, what)


def _seed(value, what):
    checks.integer(value, what, 0, 2**63)


_LAYER_OPTIONS = {"name": _name, "trainable": _flag, "dtype": None}
_TOKENIZER_OPTIONS = {
    **_LAYER_OPTIONS,
    "sequence_length": _maybe_length,
    "add_bos": _flag,
    "add_eos": _flag,
    "chat_format": _name,
}
_PREPROCESSOR_OPTIONS = {
    **_LAYER_OPTIONS,
    "sequence_length": _length,
    "add_start_token": _flag,
    "add_end_token": _flag,
    "fim_rate": _rate,
    "spm_rate": _rate,
    "span_lengths": _name,
    "infill_mode": _name,
    "middle_only": _flag,
    "middle_weight": _weight,
    "seed": _seed,
}
# Written by KerasHub, and nothing to build an object from.
_IGNORED = ("config_file", "proto", "tokenizer")


def _options(saved, file, known):
    """The arguments in a serialised tokenizer or preprocessor, each checked."""
    config = dict(checks.instance(saved.get("config"), dict, f"'config' in {file}"))
    for name in _IGNORED:
        config.pop(name, None)
    if unknown := sorted(config.keys() - known.keys()):
        raise ValueError(f"{file} has unknown options: {', '.join(unknown)[:200]}.")
    for name, value in config.items():
        if name == "dtype":
            config[name] = checks.dtype_policy(value, file)
        else:
            known[name](value, f"{name} in {file}")
    if "/" in config.get("name", ""):
        raise ValueError(f"name in {file} holds a '/', which Keras does not allow.")
    return config


# --- Weights ------------------------------------------------------------------------


def _checkpoint(tensors, config, where):
    weights.check_layers(config, tensors, where)
    rows = {row.h5: row for row in weights.table(config["num_layers"])}
    shapes = {group: weights.shape_of(row, config) for group, row in rows.items()}
    modes = {group: _mode(config.get("dtype"), row) for group, row in rows.items()}
    quantized = {group for group in rows if modes[group]}
    plain = {f"{g}/0": shape for g, shape in shapes.items() if g not in quantized}
    of_quantized = {n: t for n, t in tensors.items() if _group(n) in quantized}
    weights.check(plain, {n: tensors[n] for n in tensors.keys() - of_quantized}, where)
    for group in quantized:
        kernel = of_quantized.get(f"{group}/0")
        # int4 packs two numbers in a byte; more is checked by Keras's own layers.
        if kernel is None or 2 * math.prod(kernel.shape) < math.prod(shapes[group]):
            raise _unfit(where, group, modes[group], "its values are missing or few.")

    def stream(backbone):
        for group in sorted(quantized, key=lambda g: -math.prod(shapes[g])):
            names = [name for name in of_quantized if _group(name) == group]
            yield from _own_variables(
                weights.layer_of(backbone, rows[group]),
                {name.rsplit("/", 1)[1]: of_quantized[name].read() for name in names},
                group,
                where,
            )
        yield from weights.stream(
            tensors,
            {name: (rows[_group(name)].keras, lambda value: value) for name in plain},
        )

    return weights.Checkpoint(weights.stored_dtype(tensors), stream)


def _mode(policy, row):
    """How the layer of a row is quantized: "int8", "int4" or None."""
    if isinstance(policy, keras.dtype_policies.DTypePolicyMap):
        policy = policy[row.keras.rsplit("/", 1)[0]]
    return getattr(policy, "quantization_mode", None)


def _own_variables(layer, store, group, where):
    """What `layer.load_own_variables(store)` would assign, without assigning it."""
    with keras.StatelessScope(initialize_variables=False) as scope:
        try:
            layer.load_own_variables(store)
        except Exception as error:  # Of the many kinds that Keras raises here.
            reason = str(error)[:200]
            raise _unfit(where, group, layer.quantization_mode, reason) from None
    for variable in layer.variables:
        value = scope.get_current_value(variable)
        if value is not None:
            if "float" in keras.backend.standardize_dtype(value.dtype):
                array = keras.ops.convert_to_numpy(value)
                checks.finite(array, f"layers/{group}", where)
            yield variable.path, value


def _unfit(where, group, mode, reason):
    return ValueError(
        f"{where}: group 'layers/{group}' does not fit a layer quantized to {mode}: "
        f"{reason} Load the preset at the dtype it was saved with (leave `dtype` out)."
    )


def _group(name: str) -> str:
    return name.rsplit("/", 1)[0]


def _name_of(paths: list[str]) -> str:
    return paths[0] if len(paths) == 1 else os.path.dirname(paths[0])


# --- Writing ------------------------------------------------------------------------


def save_backbone(backbone, folder, max_shard_size=10):
    """Write config.json, metadata.json and the weights (LoRA merged in).

    Args:
        backbone: a built backbone; quantized ones are saved as they are.
        folder: created where it does not exist; what else it holds stays. Weights of
            an earlier save are removed, as they would be loaded instead.
        max_shard_size: GB (2^30 bytes) of one file; None for one file always.
    """
    weights.refuse_active_adapter(backbone)
    with updated_folder(folder) as new:
        _write_backbone(backbone, new, max_shard_size)


def save_tokenizer(tokenizer, folder):
    """Write tokenizer.json and the vocabulary."""
    with updated_folder(folder) as new:
        _write_tokenizer(tokenizer, new)


def save_preprocessor(preprocessor, folder):
    """Write preprocessor.json and the tokenizer.

    The causal LM preprocessor opens in KerasHub; those for FIM and chat, which KerasHub
    does not have, open here only.
    """
    with updated_folder(folder) as new:
        _write_preprocessor(preprocessor, new)


def save_task(task, folder, max_shard_size=10):
    """Write a task: task.json, its backbone, its preprocessor if it has one."""
    weights.refuse_active_adapter(task.backbone)
    with updated_folder(folder) as new:
        _write_backbone(task.backbone, new, max_shard_size)
        _write_config(task, new, TASK)
        if task.preprocessor is not None:
            _write_preprocessor(task.preprocessor, new)


def _write_backbone(backbone, folder, max_shard_size):
    backbone = backbone.without_adapters()
    for name in (WEIGHTS, SHARDED_WEIGHTS, "model_[0-9]*.weights.h5"):
        for stale in glob.glob(os.path.join(glob.escape(str(folder)), name)):
            os.remove(stale)
    _write_config(backbone, folder, CONFIG)
    metadata = {
        "keras_version": keras.version(),
        "keras_hub_version": keras_hub.__version__,
        "parameter_count": backbone.count_params(),
        "date_saved": datetime.datetime.now().strftime("%Y-%m-%d@%H:%M:%S"),
        "tasks": ["CausalLM"],
    }
    _write_json(os.path.join(folder, METADATA), metadata)
    nbytes = sum(
        math.prod(v.shape) * weights.numpy_dtype(v.dtype).itemsize
        for v in backbone.weights
    )
    if max_shard_size is not None and nbytes > max_shard_size * 2**30:
        index = os.path.join(folder, SHARDED_WEIGHTS)
        backbone.save_weights(index, max_shard_size=max_shard_size)
    else:
        backbone.save_weights(os.path.join(folder, WEIGHTS))


def _write_tokenizer(tokenizer, folder):
    assets = os.path.join(folder, os.path.dirname(VOCABULARY))
    os.makedirs(assets, exist_ok=True)
    _write_config(tokenizer, folder, TOKENIZER)
    for name in (VOCABULARY, JSON_VOCABULARY):  # They may be links to another's.
        unlink(os.path.join(folder, name))
    tokenizer.save_assets(assets)


def _write_preprocessor(preprocessor, folder):
    _write_config(preprocessor, folder, PREPROCESSOR)
    _write_tokenizer(preprocessor.tokenizer, folder)


def _write_config(instance, folder, file):
    config = as_keras_hub(keras.saving.serialize_keras_object(instance))
    _write_json(os.path.join(folder, file), config)


def _write_json(path, value):
    unlink(path)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=4)
        file.write("\n")


def as_keras_hub(value):
    """A serialised object with KerasHub's class names, through every level."""
    if not isinstance(value, dict):
        return value
    dropped = ("build_config", "compile_config")
    value = {k: as_keras_hub(v) for k, v in value.items() if k not in dropped}
    theirs = CLASSES.get(value.get("class_name"))
    if theirs is keras_hub.models.GemmaBackbone:
        config = value["config"]
        config.pop("adapters", None)  # a preset is a whole model
        # KerasHub ignores what it does not know, so it would compute such a network
        # with its own constants: our class name makes it refuse the folder.
        if any(config[name] != constant for name, constant in _CONSTANTS.items()):
            return value
        del config["rope_max_wavelength"]
    if theirs is not None:
        # What KerasHub has no option for; its own meaning is left out, which it is.
        for name, meaning in _OURS.items():
            if value["config"].get(name, meaning) != meaning:
                return value
            value["config"].pop(name, None)
    if theirs is not None:
        value["module"] = theirs.__module__
        value["class_name"] = theirs.__name__
        value["registered_name"] = keras.saving.get_registered_name(theirs)
    return value
