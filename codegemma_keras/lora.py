"""LoRA: low-rank adapters by name, in PEFT's file format in both directions.

    from codegemma_keras import lora

    lora.add(lm, "style", rank=8)        # freezes the model; only the adapter trains
    lm.compile(...); lm.fit(...)
    lora.save(lm, "style-adapter", "style")      # what PEFT loads too
    lora.merge(lm, "style")                      # for deployment; unmerge() undoes it

An adapter adds `(alpha / rank) * B @ A` to the matrix of a linear layer, in PEFT's
orientation: A `[rank, in]`, B `[out, rank]`, heads flattened. Keras's own `enable_lora`
factors a kernel `[N, D, H]` along its last axis instead, which no other library can
read; that is why it is not used here.

The model may be quantized (`lora.quantize_base(lm, "int8")` or `"int4"`) before adapters
are added: the adapter is float, and gradients pass the integer product. Adapters are
float32 whatever the model is, as Adam's small steps vanish in bfloat16.

Left out: adapters of the embedding and the norms, DoRA, training of biases (Gemma has
none). A file that holds such things is refused, by name.
"""

import json
import math
import os
import re

import keras
import numpy as np
import safetensors.numpy
from keras import ops

from codegemma_keras.formats import weights

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
PREFIX = "base_model.model."  # PEFT's, before Transformers' name

# name in Transformers -> row of the name table, for the seven linear layers of a block
_ROWS = {
    row.transformers.split(".")[-2]: row
    for row in weights.BLOCK
    if row.layout != "same"
}
TARGETS = tuple(_ROWS)
# The settings of PEFT that change what an adapter computes and are not supported.
_UNSUPPORTED = ("use_dora", "fan_in_fan_out", "modules_to_save", "layer_replication")


@keras.saving.register_keras_serializable(package="codegemma_keras")
class Adapters(keras.layers.Layer):
    """The adapters of one linear layer; at most one is active.

    Args:
        in_size: int, the flattened input size.
        out_shape: the output's shape after `[B, T]`.
    """

    def __init__(self, in_size, out_shape, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.in_size = in_size
        self.out_shape = tuple(out_shape)
        self.active = None
        self.pairs, self.scales, self.dropouts = {}, {}, {}
        self.built = True

    def add(self, name, rank, scale, dropout=0.0, seed=None):
        """Create adapter `name`: A random, B zero, so that it changes nothing yet."""
        bound = 1 / math.sqrt(self.in_size)
        start = keras.initializers.RandomUniform(-bound, bound, seed=seed)
        self._tracker.unlock()  # as Keras's own enable_lora does on a built layer
        self.pairs[name] = [
            self.add_weight(
                name=f"{name}_a", shape=(rank, self.in_size), initializer=start
            ),
            self.add_weight(
                name=f"{name}_b",
                shape=(math.prod(self.out_shape), rank),
                initializer="zeros",
            ),
        ]
        self.scales[name] = scale
        if dropout:
            self.dropouts[name] = keras.layers.Dropout(
                dropout, seed=seed, dtype=self.dtype_policy
            )
        self._tracker.lock()

    def call(self, y, x, training=None):
        """`y`, the layer's output for `x`, plus what the active adapter adds."""
        if self.active is None:
            return y
        a, b = self.pairs[self.active]
        shape = ops.shape(y)
        x = ops.reshape(x, (*shape[:2], self.in_size))
        x = ops.cast(x, self.compute_dtype)
        if self.active in self.dropouts:
            x = self.dropouts[self.active](x, training=training)
        low = ops.matmul(x, ops.transpose(ops.cast(a, x.dtype)))  # [B, T, rank]
        delta = ops.matmul(low, ops.transpose(ops.cast(b, x.dtype)))
        delta = delta * ops.cast(self.scales[self.active], x.dtype)
        return y + ops.cast(ops.reshape(delta, shape), y.dtype)

    def delta(self, name):
        """What adapter `name` adds to the matrix `[out, in]`, float32 numpy."""
        a, b = (ops.convert_to_numpy(v).astype("float32") for v in self.pairs[name])
        return self.scales[name] * (b @ a)


def quantize_base(lm, mode):
    """The matrices that adapters stand on as integers, for QLoRA; activations stay float.

    So does the embedding: the loss multiplies by it as floats, since an integer product
    has no gradient; quantized, it would be there twice.

    Args:
        lm: the model or its backbone.
        mode: `"int8"` or `"int4"`.
    """
    backbone = _backbone(lm)
    backbone.quantize(mode, filters=lambda layer: layer.name != "token_embedding")
    keep_activations_float(backbone)


def keep_activations_float(backbone):
    """Of a quantized backbone: multiply float activations by what the integers stand for.

    Keras's int8 layers round activations to integers as well; in training that costs
    accuracy, and int32 and float32 results of the size of the activations.
    """
    for _, layer, _ in _sites(backbone):
        layer.inputs_quantizer = None


def add(lm, name="default", *, rank=8, alpha=16, dropout=0.0, targets=None, seed=0):
    """Add adapter `name` to linear layers, make it the active one, and freeze the rest.

    Compile (again) afterwards: an optimizer knows the variables it was built for.

    Args:
        lm: a `CodeGemmaCausalLM` or `CodeGemmaBackbone`, quantized or not.
        name: str; letters, digits, `-` and `_`.
        rank: int.
        alpha: number; the adapter's output is scaled by `alpha / rank`.
        dropout: rate on the adapter's input, in training.
        targets: names of `TARGETS`; default: all seven linear layers of each block.
        seed: int, of the start values and of dropout.

    Raises:
        ValueError: the name is taken or malformed; an unknown target; rank below 1.
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
    sites = [s for s in _sites(backbone) if s[0].rsplit(".", 1)[1] in targets]
    specs = {path: (rank, alpha / rank) for path, _, _ in sites}
    _create(lm, name, specs, dropout, seed)


def _create(lm, name, specs, dropout, seed):
    """Adapter `name` at the layers of `specs` {path: (rank, scale)}."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ValueError(f"Adapter name {name!r}: use letters, digits, '-' and '_'.")
    if name in names(lm):
        raise ValueError(
            f"There is an adapter {name!r} already. Choose another name, or "
            f"lora.remove(lm, {name!r}) first."
        )
    backbone = _backbone(lm)
    if not names(lm):
        frozen = [v for v in backbone.weights if v.trainable]
        backbone._frozen_by_lora = [v.path for v in frozen]
        for variable in frozen:
            variable.trainable = False
    for number, (path, layer, _) in enumerate(_sites(backbone)):
        if path in specs:
            rank, scale = specs[path]
            _adapters_of(layer).add(name, rank, scale, dropout, seed + number)
    select(lm, name)


def names(lm) -> list[str]:
    """The adapters of a model."""
    found = {}
    for _, layer, _ in _sites(_backbone(lm)):
        found.update(
            dict.fromkeys(getattr(layer, "adapter", None).pairs)
            if getattr(layer, "adapter", None)
            else {}
        )
    return list(found)


def select(lm, name):
    """Make adapter `name` the active one; None: none is, and the model is the base.

    Only the active adapter trains. Compile again before `fit()`.
    """
    if name is not None:
        _check_known(lm, name)
    for _, layer, _ in _sites(_backbone(lm)):
        adapters = getattr(layer, "adapter", None)
        if adapters is None:
            continue
        adapters.active = name if name in adapters.pairs else None
        for other, pair in adapters.pairs.items():
            for variable in pair:
                variable.trainable = other == name
    _forget_programs(lm)


def merge(lm, name=None):
    """Add adapter `name` (default: the active one) into the matrices themselves.

    The model then is as fast as one without adapters; `unmerge` undoes it, up to
    rounding at the matrices' dtype.

    Raises:
        ValueError: a quantized model: its steps are coarser than what an adapter adds.
    """
    name = _name_or_active(lm, name)
    if name in _merged(lm):
        raise ValueError(f"Adapter {name!r} is merged already; unmerge it first.")
    _add_to_kernels(lm, name, 1.0)
    _merged(lm).append(name)
    select(lm, None)


def unmerge(lm, name):
    """Take a merged adapter out of the matrices again and make it the active one."""
    if name not in _merged(lm):
        raise ValueError(f"Adapter {name!r} is not merged; merged are {_merged(lm)}.")
    _add_to_kernels(lm, name, -1.0)
    _merged(lm).remove(name)
    select(lm, name)


def remove(lm, name):
    """Drop adapter `name`. With the last one, the model becomes trainable again.

    A merged adapter is only forgotten: what it added stays.
    """
    _check_known(lm, name)
    backbone = _backbone(lm)
    for _, layer, _ in _sites(backbone):
        adapters = getattr(layer, "adapter", None)
        if adapters is None or name not in adapters.pairs:
            continue
        adapters._tracker.unlock()
        for variable in adapters.pairs.pop(name):
            adapters._untrack_variable(variable)
        adapters.scales.pop(name)
        adapters.dropouts.pop(name, None)
        adapters._tracker.lock()
        if adapters.active == name:
            adapters.active = None
    if name in _merged(lm):
        _merged(lm).remove(name)
    if not names(lm):
        was_trainable = set(backbone._frozen_by_lora)
        for variable in backbone.weights:
            if variable.path in was_trainable:
                variable.trainable = True
    _forget_programs(lm)


def save(lm, folder, name=None, base_model=None):
    """Write adapter `name` (default: the active one) as PEFT does.

    Args:
        lm: the model.
        folder: gets `adapter_model.safetensors` and `adapter_config.json`; both are
            complete or not there.
        name: of the adapter.
        base_model: name of the base model for PEFT, for example
            `"google/codegemma-2b"`.
    """
    name = _name_or_active(lm, name)
    tensors, ranks, alphas, rate = {}, {}, {}, 0.0
    for path, layer, _ in _sites(_backbone(lm)):
        adapters = getattr(layer, "adapter", None)
        if adapters is None or name not in adapters.pairs:
            continue
        a, b = adapters.pairs[name]
        tensors[f"{PREFIX}{path}.lora_A.weight"] = ops.convert_to_numpy(a)
        tensors[f"{PREFIX}{path}.lora_B.weight"] = ops.convert_to_numpy(b)
        ranks[path] = int(a.shape[0])
        alphas[path] = adapters.scales[name] * ranks[path]
        if name in adapters.dropouts:
            rate = adapters.dropouts[name].rate
    rank, alpha = _most_common(ranks.values()), _most_common(alphas.values())
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": rate,
        "target_modules": sorted({path.rsplit(".", 1)[1] for path in ranks}),
        "rank_pattern": {p: r for p, r in ranks.items() if r != rank},
        "alpha_pattern": {p: v for p, v in alphas.items() if v != alpha},
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
    }
    os.makedirs(folder, exist_ok=True)
    new = os.path.join(folder, f"new.{WEIGHTS_FILE}")
    tensors = {key: np.ascontiguousarray(value) for key, value in tensors.items()}
    safetensors.numpy.save_file(tensors, new, metadata={"format": "pt"})
    os.replace(new, os.path.join(folder, WEIGHTS_FILE))
    new = os.path.join(folder, f"new.{CONFIG_FILE}")
    with open(new, "w", encoding="utf-8") as file:
        json.dump(config, file, indent=2)
    os.replace(new, os.path.join(folder, CONFIG_FILE))


def load(lm, folder, name="default"):
    """Add the adapter in a folder that `save` or PEFT wrote, as the active one.

    Raises:
        FileNotFoundError: the folder holds no adapter.
        ValueError: it is for another model, or uses what this package does not.
    """
    config_path = os.path.join(folder, CONFIG_FILE)
    weights_path = os.path.join(folder, WEIGHTS_FILE)
    for path in (config_path, weights_path):
        if not os.path.exists(path):
            raise FileNotFoundError(
                f"{folder} holds no {os.path.basename(path)}: it is no adapter in PEFT's "
                "safetensors format. Pickled adapters (.bin) are not read; save again "
                "with safe_serialization=True."
            )
    with open(config_path, encoding="utf-8") as file:
        config = json.load(file)
    _check_config(config, folder)
    pairs = _read_pairs(lm, safetensors.numpy.load_file(weights_path), folder)
    specs = {}
    for path, (a, _) in pairs.items():
        rank = a.shape[0]
        alpha = _of_pattern(config.get("alpha_pattern"), path, config["lora_alpha"])
        root = math.sqrt(rank) if config.get("use_rslora") else rank
        specs[path] = rank, alpha / root
    _create(lm, name, specs, config.get("lora_dropout", 0.0), 0)
    for path, layer, _ in _sites(_backbone(lm)):
        if path in pairs:
            for variable, value in zip(
                layer.adapter.pairs[name], pairs[path], strict=True
            ):
                variable.assign(value.astype("float32"))


def _check_config(config, folder):
    kind = config.get("peft_type")
    if kind != "LORA":
        raise ValueError(f"{folder} holds an adapter of type {kind!r}; LORA is read.")
    for option in _UNSUPPORTED:
        if config.get(option):
            raise ValueError(
                f"The adapter in {folder} has {option}={config[option]!r}, which is not "
                "supported. Merge it with PEFT and load the merged model."
            )
    if config.get("bias", "none") != "none":
        raise ValueError(
            f"The adapter in {folder} trains biases; Gemma's layers have none."
        )


def _read_pairs(lm, tensors, folder):
    """`{path: (A, B)}`; every tensor of the file is used, or it is an error."""
    sites = {path: (layer, row) for path, layer, row in _sites(_backbone(lm))}
    pairs = {}
    for key, value in tensors.items():
        match = re.fullmatch(rf"{re.escape(PREFIX)}(.+)\.lora_([AB])\.weight", key)
        if not match or match[1] not in sites:
            raise ValueError(
                f"The adapter in {folder} has {key}, but this model has no such linear "
                f"layer (it has {len(_backbone(lm).transformer_layers)} blocks). The "
                "adapter is for another model."
            )
        pairs.setdefault(match[1], [None, None])["AB".index(match[2])] = value
    for path, (a, b) in pairs.items():
        out_size, in_size = _matrix_shape(*sites[path])
        if a is None or b is None:
            raise ValueError(f"The adapter in {folder} has half a pair for {path}.")
        wanted = ((a.shape[0], in_size), (out_size, a.shape[0]))
        if (a.shape, b.shape) != wanted:
            raise ValueError(
                f"The adapter in {folder} has matrices of {a.shape} and {b.shape} for "
                f"{path}; this model needs {wanted[0]} and {wanted[1]}. The adapter is "
                "for another model."
            )
    if not pairs:
        raise ValueError(f"{folder} holds an adapter without matrices.")
    return pairs


def _of_pattern(pattern, path, default):
    """The value of the first key that is the end of `path` (PEFT's rule)."""
    for key, value in (pattern or {}).items():
        if re.fullmatch(rf"(.*\.)?{key}", path):
            return value
    return default


def _most_common(values):
    values = list(values)
    return max(set(values), key=values.count)


def _backbone(lm):
    return getattr(lm, "backbone", lm)


def _sites(backbone):
    """`(Transformers' path, layer, row)` of every linear layer."""
    for i, block in enumerate(backbone.transformer_layers):
        for row in _ROWS.values():
            layer = block
            for attribute in row.attribute.split("."):
                layer = getattr(layer, attribute)
            path = row.transformers.format(i=i).removesuffix(".weight")
            yield path, layer, row


def _kernel_shape(layer):
    """Shape of the float kernel, whatever it is stored as."""
    return tuple(getattr(layer, "original_kernel_shape", None) or layer.kernel.shape)


def _matrix_shape(layer, row):
    return weights.transformers_shape(row.layout, _kernel_shape(layer))


def _adapters_of(layer):
    """The layer's `Adapters`, made if there are none."""
    if getattr(layer, "adapter", None) is None:
        row = next(r for r in _ROWS.values() if r.keras.split("/")[-2] == layer.name)
        shape = _kernel_shape(layer)
        _, in_size = _matrix_shape(layer, row)
        out_shape = {
            "heads_out": (shape[0], shape[-1]),
            "heads_in": shape[-1:],
            "transposed": shape[-1:],
        }[row.layout]
        compute = layer.compute_dtype
        policy = compute if compute == "float32" else f"mixed_{compute}"
        layer._tracker.unlock()
        layer.adapter = Adapters(in_size, out_shape, dtype=policy, name="adapter")
        layer._tracker.lock()
    return layer.adapter


def _add_to_kernels(lm, name, sign):
    sites = [s for s in _sites(_backbone(lm)) if getattr(s[1], "adapter", None)]
    for path, layer, _ in sites:
        if layer.quantization_mode:
            raise ValueError(
                f"{path} is quantized to {layer.quantization_mode}: its steps are "
                "coarser than what an adapter adds. Merge into the float model: load "
                "it, lora.load() the adapter, merge, then quantize."
            )
    for _, layer, row in sites:
        if name in layer.adapter.pairs:
            kernel = layer.kernel
            delta = weights.from_transformers(
                layer.adapter.delta(name), row.layout, kernel.shape
            )
            value = ops.convert_to_numpy(ops.cast(kernel.value, "float32"))
            kernel.assign(value + sign * delta)


def _merged(lm):
    backbone = _backbone(lm)
    if not hasattr(backbone, "_merged_adapters"):
        backbone._merged_adapters = []
    return backbone._merged_adapters


def _name_or_active(lm, name):
    if name is None:
        active = {
            layer.adapter.active
            for _, layer, _ in _sites(_backbone(lm))
            if getattr(layer, "adapter", None) and layer.adapter.active
        }
        if not active:
            raise ValueError(f"No adapter is active. Name one of {names(lm)}.")
        (name,) = active
    _check_known(lm, name)
    return name


def _check_known(lm, name):
    if name not in names(lm):
        raise ValueError(f"There is no adapter {name!r}; there are {names(lm)}.")


def _forget_programs(lm):
    """Compiled steps hold the old choice of adapter."""
    for attribute in ("train_function", "test_function", "predict_function", "_engine"):
        if hasattr(lm, attribute):
            setattr(lm, attribute, None)
