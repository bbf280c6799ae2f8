"""LoRA: low-rank adapters by name, in PEFT's file format in both directions.

    from codegemma_keras import lora

    lora.add(lm, "style", rank=8)        # freezes the model; only the adapter trains
    lm.compile(...); lm.fit(...)
    lora.save(lm, "style-adapter", "style")      # what PEFT loads too
    lora.merge(lm, "style")                      # for deployment; unmerge() undoes it

An adapter adds `(alpha / rank) * B @ A` to the matrix of a linear layer, in PEFT's
orientation: A `[rank, in]`, B `[out, rank]`, heads flattened. It may have its own values
for some rows of the embedding, too. Keras's own `enable_lora` factors a kernel
`[N, D, H]` along its last axis instead, which no other library can read; that is why it
is not used here.

Which adapters there are, and which is active, belongs to the backbone: it is in its
config, so `.keras` files, pickles and copies keep it, and `backbone.version` counts the
changes, so that no compiled program outlives one. The values are in the layers.

The model may be quantized (`lora.quantize_base(lm, "int8")` or `"int4"`) before adapters
are added: the adapter is float, and gradients pass the integer product. Adapters are
float32 whatever the model is, as Adam's small steps vanish in bfloat16.

Left out: adapters of the norms, DoRA, training of biases (Gemma has none).
"""

import pathlib

import numpy as np
from keras import ops

from codegemma_keras import adapters, hosts
from codegemma_keras.adapters import TARGETS, Adapter, keep_activations_float
from codegemma_keras.formats import peft


def add(
    lm,
    name="default",
    *,
    rank=8,
    alpha=16,
    dropout=0.0,
    targets=None,
    token_rows=(),
    seed=0,
):
    """Add adapter `name`, make it the active one, and freeze all other weights.

    Compile the model afterwards, even if it was compiled before, because an optimizer
    only knows the variables that it was built for.

    Args:
        lm: a `CodeGemmaCausalLM` or `CodeGemmaBackbone`, quantized or not.
        name: str; letters, digits, `-` and `_`.
        rank: int.
        alpha: number; the adapter's output is scaled by `alpha / rank`.
        dropout: rate on the adapter's input, in training.
        targets: names of `TARGETS`. The default is all seven linear layers of each block.
        token_rows: token ids whose rows of the embedding train with it. A token whose
            row has twins (`rows_with_twins`) can be learned in no other way, as the
            frozen head cannot tell it from them.
        seed: int, of the start values and of dropout.

    Raises:
        ValueError: the name is taken or malformed, a target is unknown, the rank is below
            1, or a token id is invalid or given twice.

    Examples:
        >>> lora.add(lm, "style", rank=8, targets=["q_proj", "v_proj"])
        >>> lora.names(lm)
        ['style']
    """
    backbone = _backbone(lm)
    if rank < 1:
        raise ValueError(f"rank={rank} must be at least 1; 8 to 64 are usual.")
    targets = TARGETS if targets is None else tuple(targets)
    for target in targets:
        if target not in TARGETS:
            raise ValueError(
                f"targets has {target!r}; the linear layers are {', '.join(TARGETS)}."
            )
    specs = {
        path: (rank, alpha / rank)
        for path, _ in adapters.sites(backbone)
        if path.rsplit(".", 1)[1] in targets
    }
    token_rows = tuple(int(token) for token in token_rows)
    adapters.check_new(backbone, name, token_rows)
    adapter = Adapter(
        specs, dropout, seed, token_rows, base=adapters.fingerprint(backbone)
    )
    adapters.create(backbone, name, adapter)
    select(lm, name)


def names(lm) -> list[str]:
    """List the names of a model's adapters.

    Examples:
        >>> lora.names(lm)
        []
    """
    return list(_backbone(lm).adapters)


def select(lm, name):
    """Make adapter `name` the active one. With None, the model works without adapters.

    A merged adapter is first taken out of the matrices, as `unmerge` does, because it
    would count twice. Only the active adapter trains. Compile again before `fit()`.

    Examples:
        >>> lora.add(lm, "style")
        >>> lora.add(lm, "tests")
        >>> lora.select(lm, "style")
        >>> lm.backbone.active_adapter
        'style'
    """
    backbone = _backbone(lm)
    if name is not None:
        _check_known(backbone, name)
        if backbone.adapters[name].merged:
            unmerge(lm, name)
            return
    adapters.activate(backbone, name)


def merge(lm, name=None):
    """Add adapter `name` (default: the active one) into the matrices themselves.

    The model is then as fast as one without adapters. `unmerge` undoes it, up to
    rounding in the dtype of the matrices.

    Raises:
        ValueError: the model is quantized, so its steps are coarser than what an adapter
            adds; or another merged adapter has the same rows of the embedding.

    Examples:
        >>> lora.add(lm, "style")
        >>> lora.merge(lm, "style")
        >>> lm.backbone.adapters["style"].merged
        True
    """
    backbone = _backbone(lm)
    name = _name_or_active(backbone, name)
    adapter = backbone.adapters[name]
    if adapter.merged:
        raise ValueError(f"Adapter {name!r} is merged already; unmerge it first.")
    others = [a.token_rows for a in backbone.adapters.values() if a.merged]
    twice = set(adapter.token_rows).intersection(*others) if others else ()
    if twice:
        raise ValueError(
            f"Adapter {name!r} has rows of the tokens {sorted(twice)}, as a merged "
            "adapter has; only one can be in the matrix. Unmerge the other first."
        )
    _into_matrices(backbone, name, 1.0)
    adapter.merged = True
    select(lm, None)


def unmerge(lm, name):
    """Take a merged adapter out of the matrices again and make it the active one.

    Examples:
        >>> lora.add(lm, "style")
        >>> lora.merge(lm)
        >>> lora.unmerge(lm, "style")
        >>> lm.backbone.adapters["style"].merged
        False
    """
    backbone = _backbone(lm)
    merged = [each for each, adapter in backbone.adapters.items() if adapter.merged]
    if name not in merged:
        raise ValueError(f"Adapter {name!r} is not merged; merged are {merged}.")
    _into_matrices(backbone, name, -1.0)
    backbone.adapters[name].merged = False
    select(lm, name)


def remove(lm, name):
    """Drop adapter `name`. With the last one, the model becomes trainable again.

    If the adapter is merged, what it added to the matrices stays.

    Examples:
        >>> lora.add(lm, "style")
        >>> lora.remove(lm, "style")
        >>> lora.names(lm)
        []
    """
    backbone = _backbone(lm)
    _check_known(backbone, name)
    for layer in adapters.layers(backbone):
        layer.remove_adapter(name)
    del backbone.adapters[name]
    if backbone.active_adapter == name:
        backbone.active_adapter = None
    if not backbone.adapters:
        for variable in backbone.weights:
            if variable.path in backbone.frozen_by_adapters:
                variable.trainable = True
    backbone.changed()


def quantize_base(lm, mode):
    """Convert the matrices under adapters to integers, for QLoRA.

    Activations and the embedding stay floats. The loss multiplies by the embedding as
    floats, because an integer product has no gradient, so a quantized embedding would be
    stored twice.

    Args:
        lm: the model or its backbone.
        mode: `"int8"` or `"int4"`.

    Examples:
        >>> lora.quantize_base(lm, "int8")
        >>> lora.add(lm, "style")
    """
    backbone = _backbone(lm)
    backbone.quantize(mode, filters=lambda layer: layer.name != "token_embedding")
    keep_activations_float(backbone)


def rows_with_twins(lm, ids, similarity=0.999) -> dict[int, int]:
    """Tokens whose row of the embedding is nearly that of other tokens.

    The tied head gives such a token and its twins nearly the same logit, whatever the
    hidden state is: with n twins its probability cannot pass 1 / (n + 1). Tokens that
    the pretraining never saw, often the control tokens of chat, have many.

    Args:
        lm: the model or its backbone.
        ids: token ids to look at, for example the targets of a training set.
        similarity: cosine from which two rows count as twins.

    Returns:
        `{token id: how many twins}` of those that have any; for `add(token_rows=...)`.

    Examples:
        >>> twins = lora.rows_with_twins(lm, lm.tokenizer.encode("def f(x):"))
        >>> isinstance(twins, dict)
        True
    """
    layer = _backbone(lm).token_embedding
    ids = sorted({int(token) for token in ids})
    adapters.check_rows(layer.input_dim, ids)
    found, part = {}, 8192
    wanted = _unit(layer.vectors(np.array(ids, "int32")))  # [R, D]
    counts = np.full(len(ids), -1)  # without the token itself
    for start in range(0, layer.input_dim, part):
        stop = min(start + part, layer.input_dim)
        others = _unit(layer.vectors(np.arange(start, stop, dtype="int32")))
        counts += (wanted @ others.T >= similarity).sum(axis=1)
    for token, count in zip(ids, counts.tolist(), strict=True):
        if count > 0:
            found[token] = count
    return found


def _unit(rows):
    rows = hosts.to_host(ops.cast(rows, "float32"))
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


# --- Files --------------------------------------------------------------------------


def save(lm, folder, name=None, base_model=None):
    """Write adapter `name` (default: the active one) as PEFT does.

    Args:
        lm: the model.
        folder: gets `adapter_model.safetensors` and `adapter_config.json`; both are
            complete or not there.
        name: of the adapter.
        base_model: name or folder of the base model for PEFT's `AutoPeftModel`, for
            example `"google/codegemma-2b"`; default: where the model was loaded from,
            if that is known. `PeftModel.from_pretrained(model, folder)` needs none.

    Examples:
        >>> lora.add(lm, "style")
        >>> lora.save(lm, "style-adapter", base_model="google/codegemma-2b")
        >>> lora.remove(lm, "style")
        >>> lora.load(lm, "style-adapter", name="style")
        >>> lora.names(lm)
        ['style']
    """
    backbone = _backbone(lm)
    name = _name_or_active(backbone, name)
    adapter = adapters.as_peft(backbone, name)
    if hosts.is_first():
        peft.write(folder, adapter, base_model or backbone.transformers_name)
    hosts.wait("adapter saved")


def load(lm, folder, name="default", check_base=True):
    """Add the adapter in a folder that `save` or PEFT wrote, as the active one.

    Args:
        lm: the model.
        folder: with `adapter_config.json` and `adapter_model.safetensors`.
        name: for the adapter here.
        check_base: refuse an adapter that `save` wrote over other weights. PEFT records
            nothing of its base, so there is nothing to check.

    Raises:
        FileNotFoundError: the folder holds no adapter.
        ValueError: it is for another model or for other weights, or uses what this
            package does not.

    Examples:
        >>> lora.add(lm, "style", rank=4)
        >>> lora.save(lm, "style-adapter", base_model="google/codegemma-2b")
        >>> lora.remove(lm, "style")
        >>> lora.load(lm, "style-adapter")
        >>> lora.names(lm)
        ['default']
    """
    backbone = _backbone(lm)
    theirs = peft.read(folder)
    _check_shapes(backbone, theirs, folder)
    if check_base:
        adapters.check_base(backbone, theirs.base, folder)
    specs = {
        path: (int(a.shape[0]), theirs.scales[path])
        for path, (a, _) in theirs.pairs.items()
    }
    ids = tuple(theirs.rows[0]) if theirs.rows else ()
    adapters.check_new(backbone, name, ids)
    base = theirs.base or adapters.fingerprint(backbone)
    adapters.create(backbone, name, Adapter(specs, theirs.dropout, 0, ids, base=base))
    for path, layer in adapters.sites(backbone):
        for variable, value in zip(
            layer.adapters[name].variables if path in specs else (),
            theirs.pairs.get(path, ()),
            strict=True,
        ):
            variable.assign(value.astype("float32"))
    if ids:
        values = backbone.token_embedding.adapters[name].values
        values.assign(theirs.rows[1].astype("float32"))
    select(lm, name)


def use(lm, folder):
    """Load an adapter to write text with it, and not to train it.

    Matrices in float32 take it up (`merge`), so the model is as fast as without it.
    Beside narrower or integer ones it stays as it is, because they could not hold the sum
    exactly.

    Args:
        lm: the model.
        folder: as of `load`.

    Raises:
        FileNotFoundError, ValueError: as `load` does.

    Examples:
        >>> lora.add(lm, "style", rank=4)
        >>> lora.save(lm, "used-adapter")
        >>> lora.remove(lm, "style")
        >>> lora.use(lm, "used-adapter")
        >>> lm.backbone.adapters["default"].merged
        True
    """
    load(lm, pathlib.Path(folder).expanduser())
    layers = [layer for _, layer in adapters.sites(_backbone(lm))]
    if all(x.compute_dtype == "float32" and not x.quantization_mode for x in layers):
        merge(lm)


def _check_shapes(backbone, theirs, folder):
    sites = dict(adapters.sites(backbone))
    for path, (a, b) in theirs.pairs.items():
        if path not in sites:
            raise ValueError(
                f"The adapter in {folder} has {path}, but this model has no such linear "
                f"layer (it has {backbone.num_layers} blocks). The adapter is for "
                "another model."
            )
        layer = sites[path]
        wanted = ((a.shape[0], layer.in_size), (layer.out_size, a.shape[0]))
        if (a.shape, b.shape) != wanted:
            raise ValueError(
                f"The adapter in {folder} has matrices of {a.shape} and {b.shape} for "
                f"{path}; this model needs {wanted[0]} and {wanted[1]}. The adapter is "
                "for another model."
            )
    if theirs.rows and theirs.rows[1].shape[1:] != (backbone.hidden_dim,):
        raise ValueError(
            f"The adapter in {folder} has rows of shape {theirs.rows[1].shape[1:]}; this "
            f"model's embedding is {backbone.hidden_dim} wide. The adapter is for "
            "another model."
        )


# --- Helpers -----------------------------------------------------------------------


def _into_matrices(backbone, name, sign):
    """Add what an adapter adds to the matrices (sign 1.0), or take it out (-1.0)."""
    layers = [layer for layer in adapters.layers(backbone) if name in layer.adapters]
    for layer in layers:
        if layer.quantization_mode:
            raise ValueError(
                f"{layer.path} is quantized to {layer.quantization_mode}: its steps are "
                "coarser than what an adapter adds. Merge into the float model: load "
                "it, lora.load() the adapter, merge, then quantize."
            )
    for layer in layers:
        layer.merge_adapter(name, sign)


def _backbone(lm):
    return getattr(lm, "backbone", lm)


def _name_or_active(backbone, name):
    name = backbone.active_adapter if name is None else name
    if name is None:
        raise ValueError(f"No adapter is active. Name one of {names(backbone)}.")
    _check_known(backbone, name)
    return name


def _check_known(backbone, name):
    if name not in backbone.adapters:
        raise ValueError(f"There is no adapter {name!r}; there are {names(backbone)}.")
