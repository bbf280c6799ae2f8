"""Transformers' folders: config, weights and vocabulary; `export` writes them.

Left out: another architecture, pickled weights (reading one runs code), code from a
model's repository (never run), generation settings.
"""

import itertools
import os
import re

import numpy as np

from codegemma_keras.formats import (
    checks,
    hub,
    safetensors,
    sentencepiece_model,
    tokenizer_json,
    weights,
)

CONFIG = "config.json"
TOKENIZER_FILE = "tokenizer.model"
ADDED_TOKENS = "added_tokens.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
HEAD = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"

_UNUSED = re.compile(rb"<unused\d+>$")
# Under this name tokenizer_config.json says how the model is asked; Transformers keeps it.
_WAYS = "codegemma_keras"
# ours -> Transformers'; the rest of GemmaConfig is fixed in Gemma 1 or has no effect.
SIZES = {
    "vocabulary_size": "vocab_size",
    "num_layers": "num_hidden_layers",
    "num_query_heads": "num_attention_heads",
    "num_key_value_heads": "num_key_value_heads",
    "hidden_dim": "hidden_size",
    "head_dim": "head_dim",
}


class Folder:
    """A model in Transformers' format; methods as of `keras_hub.Folder`."""

    def __init__(self, files: hub.Files, config: dict):
        self.files = files
        self.name = files.name
        self._config = config

    def backbone_config(self) -> dict:
        """Arguments of `CodeGemmaBackbone`, without a dtype."""
        return to_backbone_config(self._config, self.name)

    def weights(self, config: dict) -> weights.Checkpoint:
        """The weights, whose headers fit `config`."""
        if index := self.files.find(INDEX_FILE):
            paths = self.files.shards(index, ".safetensors")
            where = os.path.dirname(paths[0])
        else:
            mend = (
                "Only safetensors are read, as pickled weights (.bin, .pt) can run "
                "code: save the model with Transformers' `save_pretrained`, or pass "
                "`load_weights=False`."
            )
            where = self.files.get(WEIGHTS_FILE, mend)
            paths = [where]
        tied = self._config.get("tie_word_embeddings", True)
        return _checkpoint(safetensors.tensors(paths), config, where, tied)

    def tokenizer_config(self) -> dict:
        """Arguments of `CodeGemmaTokenizer`; `proto` is the vocabulary's bytes.

        Raises:
            FileNotFoundError: there is no vocabulary. ValueError: it is damaged, or two
                disagree.
        """
        ways = self._ways()
        chat = {name: ways[name] for name in ("chat_format",) if name in ways}
        return {"proto": self._vocabulary(), **chat}

    def _vocabulary(self):
        mend = "It is the vocabulary, a SentencePiece model: copy it from the original model."
        if self.files.find(TOKENIZER_FILE) is None:
            if self.files.find(tokenizer_json.FILE) is None:
                mend = f"Nor has it a {tokenizer_json.FILE}. {mend}"
                self.files.get(TOKENIZER_FILE, mend)
            proto = self.files.read(tokenizer_json.FILE, mend)
            self._check_json(proto, *self._added_tokens())
            self._check_json(proto, *self._listed_tokens())
            return proto
        proto = self.files.read(TOKENIZER_FILE, mend)
        for added, file in (self._added_tokens(), self._listed_tokens()):
            if added:
                proto = sentencepiece_model.with_added_tokens(proto, added, file)
        # Of a download, the second file is not fetched: a repository is of one piece.
        if self.files.is_local and self.files.find(tokenizer_json.FILE):
            self._compare_tokenizers(proto)
        return proto

    def _check_json(self, proto, added, file):
        """Refuse added tokens that tokenizer.json calls otherwise."""
        names = tokenizer_json.names(tokenizer_json.read(proto))
        for i, token in added.items():
            found = names[i] if i < len(names) else None
            if found != token:
                raise ValueError(
                    f"{file} calls id {i} {token!r:.60}, and {tokenizer_json.FILE} calls "
                    f"it {found!r:.60}. They are of two models."
                )

    def _compare_tokenizers(self, proto):
        """Refuse a tokenizer.json of other pieces or merges than tokenizer.model's."""
        settings = tokenizer_json.read(self.files.read(tokenizer_json.FILE, ""))
        of_json = tokenizer_json.bytes_of(settings)
        of_model = sentencepiece_model.bytes_of(proto)
        pairs = itertools.zip_longest(of_model, of_json)
        places = (i for i, (a, b) in enumerate(pairs) if a != b)
        # One of the two may have the sentinels under their names already.
        unused = {i for i, name in enumerate(of_model) if _UNUSED.match(name)}
        place = next((i for i in places if i not in unused), None)
        if place is None:
            merges = tokenizer_json.pairs(settings)
            other = sentencepiece_model.misplaced_merge(proto, merges)
            if other is not None:
                raise ValueError(
                    f"{self.name} has two tokenizers that disagree: {tokenizer_json.FILE} "
                    f"merges {other!r:.60} at another time than {TOKENIZER_FILE}, so some "
                    "text has other tokens. Remove the one that is not the model's."
                )
            return
        shown = [
            repr(found[place])[:60] if place < len(found) else "nothing"
            for found in (of_model, of_json)
        ]
        raise ValueError(
            f"{self.name} has two tokenizers that disagree: id {place} is {shown[0]} in "
            f"{TOKENIZER_FILE} and {shown[1]} in {tokenizer_json.FILE}. Remove the one "
            "that is not the model's."
        )

    def _added_tokens(self):
        file = f"{ADDED_TOKENS} of {self.name}"
        path = self.files.find(ADDED_TOKENS)
        added = {}
        for token, i in (checks.read_json(path, self.name) if path else {}).items():
            added[checks.integer(i, f"id of {token!r:.60} in {file}", 0)] = token
        return added, file

    def _listed_tokens(self):
        file = f"added_tokens_decoder in {TOKENIZER_CONFIG} of {self.name}"
        added = {}
        listed = self._tokenizer_settings().get("added_tokens_decoder", {})
        for i, token in checks.instance(listed, dict, file).items():
            if not (i.isascii() and i.isdigit() and len(i) < 10):
                raise ValueError(f"{file}: {i!r:.60} is no token id.")
            content = token.get("content") if isinstance(token, dict) else None
            added[int(i)] = checks.instance(content, str, f"token {i} in {file}")
        return added, file

    def _tokenizer_settings(self):
        path = self.files.find(TOKENIZER_CONFIG)
        return checks.read_json(path, self.name) if path else {}

    def _ways(self):
        """How the model is asked, where a folder of ours says it; see `ways`."""
        file = f"{_WAYS} in {TOKENIZER_CONFIG} of {self.name}"
        given = checks.instance(self._tokenizer_settings().get(_WAYS, {}), dict, file)
        return {
            name: checks.instance(value, str, f"{name} of {file}")
            for name, value in given.items()
            if name in ("chat_format", "infill_mode")
        }

    def preprocessor_config(self) -> tuple[str, dict] | None:
        """What a folder of ours says; Transformers itself saves none."""
        mode = self._ways().get("infill_mode")
        return mode and ("CodeGemmaCausalLMPreprocessor", {"infill_mode": mode})

    def context(self) -> int | None:
        """Tokens that the model is made for."""
        length = self._config.get("max_position_embeddings")
        if length is not None:
            what = f"max_position_embeddings in {CONFIG} of {self.name}"
            checks.integer(length, what, 1, checks.LONGEST_CONTEXT)
        return length

    def token_ids(self) -> dict[str, int]:
        """Ids of control tokens that config.json names."""
        start = self._config.get("bos_token_id")
        return {} if start is None else {"start_token_id": start}


def to_backbone_config(config: dict, where: str) -> dict:
    """Transformers' `GemmaConfig` as a dictionary -> arguments of `CodeGemmaBackbone`.

    Raises:
        ValueError: another architecture, a size is missing, or an option that this
            network does not have.
    """
    file = f"{CONFIG} of {where}"
    if config.get("model_type") != "gemma":
        raise ValueError(
            f"{where} holds a model of type {config.get('model_type')!r:.60}. Supported "
            "are CodeGemma and Gemma 1 (model_type 'gemma'); for other architectures "
            "use keras_hub."
        )
    rope = _rope(config, file)
    _check_options(config, rope, where)
    names = {**SIZES, "intermediate_dim": "intermediate_size"}
    missing = sorted(name for name in names.values() if name not in config)
    if missing:
        raise ValueError(
            f"{file} lacks {', '.join(missing)}. Take config.json from where the "
            "weights came from."
        )
    for name in names.values():
        checks.integer(config[name], f"{name} in {file}")
    return checks.backbone_config(
        {
            **{ours: config[theirs] for ours, theirs in SIZES.items()},
            "intermediate_dim": 2 * config["intermediate_size"],
            "layer_norm_epsilon": config.get("rms_norm_eps", 1e-6),
            "rope_max_wavelength": rope["rope_theta"],
        },
        file,
    )


def ways(chat_format: str, infill_mode: str) -> dict:
    """What tokenizer_config.json says of how the model is asked, where it is unusual.

    Args:
        chat_format: of the tokenizer.
        infill_mode: of the preprocessor.
    """
    said = {"chat_format": chat_format, "infill_mode": infill_mode}
    usual = {"chat_format": "gemma", "infill_mode": "psm"}
    return {} if said == usual else {_WAYS: said}


def config_json(config: dict, dtype: str, context: int = 8192) -> dict:
    """Transformers' config of a network whose weights are stored as `dtype`.

    Args:
        config: arguments of `CodeGemmaBackbone`.
        dtype: of the weights.
        context: tokens that the model is made for.
    """
    return {
        "architectures": ["GemmaForCausalLM"],
        "model_type": "gemma",
        **{theirs: config[ours] for ours, theirs in SIZES.items()},
        "intermediate_size": config["intermediate_dim"] // 2,
        "rms_norm_eps": config["layer_norm_epsilon"],
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": context,
        "rope_theta": config["rope_max_wavelength"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "use_cache": True,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
        # Of these two, old programs read the first and new ones the second.
        "torch_dtype": dtype,
        "dtype": dtype,
    }


def _rope(config, file) -> dict:
    """Options of the rotary angles, wherever a version of Transformers wrote them."""
    rope = {"rope_theta": config.get("rope_theta", 10_000.0)}
    for name in ("rope_scaling", "rope_parameters"):
        if (given := config.get(name)) is not None:
            rope.update(checks.instance(given, dict, f"{name} in {file}"))
    return rope


def _check_options(config: dict, rope: dict, where: str):
    rope_type = rope.get("rope_type", rope.get("type"))
    quantization = config.get("quantization_config")
    unsupported = {
        "rope_scaling": None if rope_type in (None, "default") else rope_type,
        "partial_rotary_factor": (
            None if rope.get("partial_rotary_factor", 1.0) == 1.0 else "not 1"
        ),
        # Early configs say hidden_act="gelu" and mean the approximation by tanh.
        "hidden_act": _unless(
            config.get("hidden_act"), (None, "gelu", "gelu_pytorch_tanh")
        ),
        "hidden_activation": _unless(
            config.get("hidden_activation"), (None, "gelu_pytorch_tanh")
        ),
        "attention_bias": _unless(config.get("attention_bias"), (None, False)),
        "tie_word_embeddings": _unless(
            config.get("tie_word_embeddings"), (None, True, False)
        ),
        "use_bidirectional_attention": _unless(
            config.get("use_bidirectional_attention"), (None, False)
        ),
        "quantization_config": _unless(quantization, (None,)),
    }
    unsupported = {k: v for k, v in unsupported.items() if v is not None}
    if unsupported:
        options = ", ".join(f"{name}={v!s:.60}" for name, v in unsupported.items())
        raise ValueError(
            f"config.json of {where} asks for {options}, which CodeGemma's network "
            "does not have: loading it would give wrong results. Load this model with "
            "Transformers instead."
        )


def _unless(value, allowed):
    known = any(value is a or (type(value) is str and value == a) for a in allowed)
    return None if known else str(value)


def _checkpoint(found, config, where, tied):
    tensors = {}
    for name, tensor in found.items():
        canonical = _canonical(name)
        if canonical in tensors:
            raise ValueError(
                f"{where} holds {canonical} twice, with and without model."
            )
        tensors[canonical] = tensor
    weights.check_layers(config, tensors, where)
    rows = {row.transformers: row for row in weights.table(config["num_layers"])}
    shapes = {name: weights.shape_of(row, config) for name, row in rows.items()}
    weights.check(
        {n: weights.transformers_shape(rows[n].layout, shapes[n]) for n in rows},
        {name: t for name, t in tensors.items() if not _is_derived(name)},
        where,
    )
    _check_head(tensors, where, tied)

    def convert(name):
        layout, shape = rows[name].layout, shapes[name]
        return lambda value: weights.from_transformers(value, layout, shape)

    variables = {name: (row.keras, convert(name)) for name, row in rows.items()}
    return weights.Checkpoint(
        weights.stored_dtype({name: tensors[name] for name in rows}),
        lambda backbone: weights.stream(tensors, variables),
    )


def _check_head(tensors, where, tied):
    """Refuse a head of its own: CodeGemma's head is the embedding."""
    head, embedding = tensors.get(HEAD), tensors[EMBEDDING]
    if head is None and tied is not False:
        return
    mend = "This network's head is its embedding; load this model with Transformers."
    if head is None:
        raise ValueError(
            f"{where}: config.json says tie_word_embeddings=false, and there is no "
            f"{HEAD}. {mend}"
        )
    same = (head.shape, head.dtype) == (embedding.shape, embedding.dtype)
    if not same or not np.array_equal(head.read(), embedding.read()):
        raise ValueError(f"{where}: {HEAD} differs from {EMBEDDING}. {mend}")


def _canonical(name: str) -> str:
    """Names of a saved `GemmaModel` lack the `model.` of a `GemmaForCausalLM`."""
    if name.startswith(("model.", "lm_head.")):
        return name
    return f"model.{name}"


def _is_derived(name: str) -> bool:
    """Tensors that repeat others: the tied head, rotary buffers of old versions."""
    return name == HEAD or name.endswith(".rotary_emb.inv_freq")
