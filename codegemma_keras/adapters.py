"""Which adapters a backbone has: its state, which config and files carry.

`lora` is the interface to people; here is what it and backbone.py share. The backbone
holds an `Adapter` for each name, the name of the active one, and a version; the values
are variables of the layers in layers.py.
"""

import base64
import dataclasses
import re

import numpy as np
from keras import ops

from codegemma_keras import hosts
from codegemma_keras.formats import peft, weights
from codegemma_keras.layers import sample_places

# name in Transformers -> row of the name table, for the seven linear layers of a block
_ROWS = {
    row.transformers.split(".")[-2]: row
    for row in weights.BLOCK
    if row.layout != "same"
}
TARGETS = tuple(_ROWS)
_SAMPLES = 64  # numbers of each matrix in the fingerprint of a base
# How far such numbers may move by being stored in another way, relative to their norm.
_ROUNDING = {"float": 0.003, "int8": 0.03, "int4": 0.4}


@dataclasses.dataclass
class Adapter:
    """What a backbone knows of an adapter; the values are in its layers.

    Attributes:
        specs: path of a linear layer (Transformers' name) -> (rank, scale).
        dropout: rate on the adapter's input, in training.
        seed: of its start values.
        token_rows: token ids whose rows of the embedding it has.
        merged: whether it is added into the matrices now.
        base: fingerprint of the matrices that it stands on; None if there were none.
    """

    specs: dict
    dropout: float = 0.0
    seed: int = 0
    token_rows: tuple = ()
    merged: bool = False
    base: str | None = None


def config_of(backbone) -> dict:
    """The adapters of a backbone as its config holds them, JSON; values are weights."""
    return {
        "active": backbone.active_adapter,
        "adapters": {
            name: dataclasses.asdict(adapter)
            for name, adapter in backbone.adapters.items()
        },
    }


def restore(backbone, config):
    """Give a new backbone the adapters of `config_of`; their values are to be loaded."""
    for name, settings in config["adapters"].items():
        specs = {path: tuple(spec) for path, spec in settings["specs"].items()}
        rows = tuple(settings["token_rows"])
        check_new(backbone, name, rows)
        settings = {**settings, "specs": specs, "token_rows": rows}
        merged = settings.pop("merged")
        create(backbone, name, Adapter(**settings))
        backbone.adapters[name].merged = merged  # their matrices come merged, too
    activate(backbone, config["active"])


def activate(backbone, name):
    """Make adapter `name` (None: none) the one that computes and trains."""
    backbone.active_adapter = name
    for layer in layers(backbone):
        layer.active_adapter = name if name in layer.adapters else None
        for other, adapter in layer.adapters.items():
            for variable in adapter.variables:
                variable.trainable = other == name
    backbone.changed()


def without_adapters(backbone):
    """The same network over the same values, merged adapters in them, others not.

    For formats of whole models, which hold no adapters. No value is copied.

    Raises:
        ValueError: an adapter is active and would be left out.
    """
    weights.refuse_active_adapter(backbone)
    if not backbone.adapters:
        return backbone
    config = backbone.get_config()
    config.pop("adapters")
    plain = weights.build_empty(lambda: type(backbone).from_config(config))
    values = {variable.path: variable for variable in backbone.variables}
    for variable in plain.variables:
        variable._value = values[variable.path]._value
        variable._initializer = None
    return plain


def create(backbone, name, adapter):
    """The variables of an adapter, and its entry; all else is frozen."""
    if not backbone.adapters:
        frozen = [v for v in backbone.weights if v.trainable]
        backbone.frozen_by_adapters = [v.path for v in frozen]
        for variable in frozen:
            variable.trainable = False
    for number, (path, layer) in enumerate(sites(backbone)):
        if path in adapter.specs:
            rank, scale = adapter.specs[path]
            layer.add_adapter(name, rank, scale, adapter.dropout, adapter.seed + number)
    if adapter.token_rows:
        backbone.token_embedding.add_adapter(name, adapter.token_rows)
    backbone.adapters[name] = adapter


def check_new(backbone, name, token_rows):
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ValueError(f"Adapter name {name!r}: use letters, digits, '-' and '_'.")
    if name in backbone.adapters:
        raise ValueError(
            f"There is an adapter {name!r} already. Choose another name, or "
            f"lora.remove(lm, {name!r}) first."
        )
    if getattr(backbone, "_lora_enabled_layers", None):
        raise ValueError(
            "The model has Keras's own adapters (enable_lora), beside which these cannot "
            "stand. Load it anew."
        )
    check_rows(backbone.vocabulary_size, token_rows)


def check_rows(size, ids):
    wrong = [token for token in ids if not 0 <= token < size]
    if wrong:
        raise ValueError(f"Token id {wrong[0]}: ids go from 0 to {size - 1}.")
    if len(set(ids)) != len(ids):
        raise ValueError(f"token_rows={list(ids)} names a token twice.")


def keep_activations_float(backbone):
    """Of a quantized backbone: multiply float activations by what the integers stand for.

    Keras's int8 layers round activations to integers as well; in training that costs
    accuracy, and int32 and float32 results of the size of the activations.
    """
    backbone.float_activations = True
    for _, layer in sites(backbone):
        layer.inputs_quantizer = None
    backbone.changed()


def fingerprint(backbone) -> str | None:
    """Some numbers of each matrix of the middle block, as text.

    Numbers, not a hash: a base that was rounded or quantized since is still known.
    None where there are no values (a model to plan with), or where one process does
    not see them all.
    """
    if any(v._value is None for v in backbone.weights) or hosts.several():
        return None
    numbers, mode = _samples(backbone)
    return f"{mode}:{base64.b64encode(numbers.tobytes()).decode()}"


def check_base(backbone, base, folder):
    """Raise ValueError if `base` is the fingerprint of other weights."""
    if base is None or hosts.several():
        return
    here, mode = _samples(backbone)
    if not _is_of(base, here, mode):
        raise _other_base(folder)


def check_base_matrix(base, path, matrix, num_layers, folder):
    """As `check_base`, of one matrix `[out, in]` at a time; `path` is Transformers'.

    Only matrices of the middle block are in a fingerprint; others pass.
    """
    name = path.rsplit(".", 1)[1]
    if base is None or f".{num_layers // 2}." not in path or name not in TARGETS:
        return
    rows, columns = sample_places(matrix.shape[1], matrix.shape[0], _SAMPLES)
    here = matrix[columns][:, rows].T.astype("float32").ravel()
    start = TARGETS.index(name) * _SAMPLES
    if not _is_of(base, here, "float", slice(start, start + _SAMPLES)):
        raise _other_base(folder)


def _is_of(base, here, mode, part=slice(None)):
    """Whether numbers of matrices are those of a fingerprint, up to rounding."""
    mode_then, _, text = base.partition(":")
    try:
        then = np.frombuffer(base64.b64decode(text), "<f4")[part]
    except ValueError:
        return False
    if then.shape != here.shape:
        return False
    difference = np.linalg.norm(then - here) / np.linalg.norm(then)
    # What rounding may do, to bfloat16 or to the steps of an integer.
    return difference <= max(_ROUNDING.get(mode_then, 0), _ROUNDING.get(mode, 0))


def _other_base(folder):
    return ValueError(
        f"The adapter in {folder} was trained on other weights than this model's, of the "
        "same shapes: with these it computes something else. Load the model that it was "
        "made for, or lora.load(..., check_base=False) to use it all the same."
    )


def as_peft(backbone, name) -> peft.Adapter:
    """Adapter `name` of a backbone, as PEFT's files hold it."""
    ours = backbone.adapters[name]
    pairs = {
        path: [hosts.to_host(v.value) for v in layer.adapters[name].variables]
        for path, layer in sites(backbone)
        if name in layer.adapters
    }
    rows = None
    if ours.token_rows:
        layer = backbone.token_embedding
        values = layer.adapters[name].values
        if ours.merged:  # then they are in the table
            values = layer.vectors(np.array(ours.token_rows, "int32"))
        rows = ours.token_rows, hosts.to_host(ops.cast(values, "float32"))
    scales = {path: scale for path, (_, scale) in ours.specs.items()}
    return peft.Adapter(pairs, scales, ours.dropout, rows, ours.base)


def _samples(backbone):
    """Numbers `[7 * _SAMPLES]` of the middle block, and how they are stored."""
    middle = f".{backbone.num_layers // 2}."
    chosen = [layer for path, layer in sites(backbone) if middle in path]
    numbers = np.concatenate([layer.samples(_SAMPLES) for layer in chosen])
    return numbers.astype("<f4"), chosen[0].quantization_mode or "float"


def sites(backbone):
    """`(Transformers' path, layer)` of every linear layer."""
    for i, block in enumerate(backbone.transformer_layers):
        for row in _ROWS.values():
            layer = block
            for attribute in row.attribute.split("."):
                layer = getattr(layer, attribute)
            yield row.transformers.format(i=i).removesuffix(".weight"), layer


def layers(backbone):
    """Every layer that may have an adapter."""
    return [backbone.token_embedding, *(layer for _, layer in sites(backbone))]
