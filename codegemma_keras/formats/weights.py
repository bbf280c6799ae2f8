"""Weights: one name table for every file format, and tensors that stream.

Files are read one tensor at a time, biggest first, into variables that were created
without memory; the only copies that ever exist are the model and the tensor under way.
Everything that can be known without reading a tensor (missing, unexpected, misshapen)
is checked from the headers first.

Formats: safetensors in Transformers' layout, single or sharded, read and written;
Keras's `.weights.h5`, single or sharded, read here (Keras itself writes it). The GGUF
names are in the table for exporters. Left out: pickled checkpoints (`.bin`, `.pt`), on
purpose, as reading one runs code.

Shape letters: D width, F ffn width, V vocabulary, N heads, H head size.
"""

import contextlib
import dataclasses
import functools
import math
import operator
import os

import keras
import ml_dtypes
import numpy as np
from keras import ops

# Not public API, and used for one thing only: Keras lists each variable that was
# created without memory, to fill them all later. Ours are filled here, so they must
# leave that list (see `build_empty`).
from keras.src.backend.common import global_state


@dataclasses.dataclass(frozen=True)
class Row:
    """One kind of tensor under its name in each format.

    Attributes:
        keras: path of the variable; its last part is the layer's attribute too.
        attribute: path of the owning layer from the block (or from the backbone).
        h5: group in a `.weights.h5` file, below `layers/`.
        transformers: name in a safetensors file.
        gguf: name in a GGUF file (which stores norms as 1 + w).
        layout: how Transformers lays the same numbers out, a key of `LAYOUTS`.
    """

    keras: str
    attribute: str
    h5: str
    transformers: str
    gguf: str
    layout: str


OUTER = (
    Row(
        keras="token_embedding/embeddings",
        attribute="token_embedding",
        h5="reversible_embedding",
        transformers="model.embed_tokens.weight",
        gguf="token_embd.weight",
        layout="same",
    ),
    Row(
        keras="final_normalization/scale",
        attribute="layer_norm",
        h5="rms_normalization",
        transformers="model.norm.weight",
        gguf="output_norm.weight",
        layout="same",
    ),
)

# The group in a .weights.h5 file is the path of the attribute.
BLOCK = tuple(
    Row(
        keras=f"decoder_block_{{i}}/{keras_name}",
        attribute=attribute,
        h5=f"gemma_decoder_block{{_i}}/{attribute.replace('.', '/')}",
        transformers=f"model.layers.{{i}}.{transformers}.weight",
        gguf=f"blk.{{i}}.{gguf}.weight",
        layout=layout,
    )
    for keras_name, attribute, transformers, gguf, layout in (
        (
            "pre_attention_norm/scale",
            "pre_attention_norm",
            "input_layernorm",
            "attn_norm",
            "same",
        ),
        (
            "attention/query/kernel",
            "attention.query_dense",
            "self_attn.q_proj",
            "attn_q",
            "heads_out",
        ),
        (
            "attention/key/kernel",
            "attention.key_dense",
            "self_attn.k_proj",
            "attn_k",
            "heads_out",
        ),
        (
            "attention/value/kernel",
            "attention.value_dense",
            "self_attn.v_proj",
            "attn_v",
            "heads_out",
        ),
        (
            "attention/attention_output/kernel",
            "attention.output_dense",
            "self_attn.o_proj",
            "attn_output",
            "heads_in",
        ),
        (
            "pre_ffw_norm/scale",
            "pre_ffw_norm",
            "post_attention_layernorm",
            "ffn_norm",
            "same",
        ),
        ("ffw_gating/kernel", "gating_ffw", "mlp.gate_proj", "ffn_gate", "transposed"),
        ("ffw_gating_2/kernel", "gating_ffw_2", "mlp.up_proj", "ffn_up", "transposed"),
        ("ffw_linear/kernel", "ffw_linear", "mlp.down_proj", "ffn_down", "transposed"),
    )
)


def table(num_layers: int) -> list[Row]:
    """The name table written out for `num_layers` blocks."""
    rows = list(OUTER)
    for i in range(num_layers):
        # Keras numbers the blocks of a file from the second on: "", "_1", "_2".
        names = {"i": i, "_i": f"_{i}" if i else ""}
        for row in BLOCK:
            fields = {
                field.name: getattr(row, field.name).format(**names)
                for field in dataclasses.fields(row)
            }
            rows.append(Row(**fields))
    return rows


def to_transformers(value, layout: str):
    """A tensor of ours -> Transformers' matrix (`[out, in]`); numpy views, no copy."""
    if layout == "transposed":  # [D, F] -> [F, D]
        return value.transpose(1, 0)
    if layout == "heads_out":  # [N, D, H] -> [N, H, D] -> [N*H, D]
        return value.transpose(0, 2, 1).reshape(-1, value.shape[1])
    if layout == "heads_in":  # [N, H, D] -> [N*H, D] -> [D, N*H]
        return value.reshape(-1, value.shape[2]).transpose(1, 0)
    return value


def from_transformers(value, layout: str, shape):
    """Inverse of `to_transformers`; `shape` is the variable's."""
    if layout == "transposed":
        return value.transpose(1, 0)
    if layout == "heads_out":  # [N*H, D] -> [N, H, D] -> [N, D, H]
        heads, width, size = shape
        return value.reshape(heads, size, width).transpose(0, 2, 1)
    if layout == "heads_in":  # [D, N*H] -> [N*H, D] -> [N, H, D]
        return value.transpose(1, 0).reshape(shape)
    return value


def transformers_shape(layout: str, shape) -> tuple[int, ...]:
    """Shape of Transformers' matrix for a variable of `shape`."""
    # A broadcast scalar has every shape and no memory.
    return to_transformers(np.broadcast_to(np.int8(0), shape), layout).shape


# --- Variables without memory -------------------------------------------------------


def build_empty(make):
    """Call `make()` so that the variables it creates take no memory yet.

    Every variable must get a value before the model is used: `fill` sees to that.
    """
    with keras.StatelessScope(initialize_variables=False):
        model = make()
    waiting = global_state.get_global_attribute("uninitialized_variables", [])
    ours = {id(variable) for variable in model.variables}
    global_state.set_global_attribute(
        "uninitialized_variables", [v for v in waiting if id(v) not in ours]
    )
    return model


def set_value(variable, value):
    """Give a variable its value at its own dtype; it may not have had memory before.

    Under a `keras.distribution` each device receives its shard and nothing more.
    """
    if variable._value is not None:
        variable.assign(value)
        return
    if keras.distribution.distribution() is None or not isinstance(value, np.ndarray):
        value = ops.cast(ops.convert_to_tensor(value), variable.dtype)
    else:  # From host memory straight to the shards.
        value = value.astype(numpy_dtype(variable.dtype))
    variable._initialize(value)
    variable._initializer = None


def fill(model, stream):
    """Set every variable of a model made by `build_empty` from `(path, value)` pairs.

    What no file holds, such as the state of a dropout's random seed, gets its own
    initial value.
    """
    variables = {variable.path: variable for variable in model.variables}
    for path, value in stream:
        set_value(variables[path], value)
        del value  # Before the next tensor is read: one at a time.
    for variable in model.variables:
        if variable._value is None:
            variable._deferred_initialize()


def numpy_dtype(name: str) -> np.dtype:
    """Numpy's dtype for a Keras dtype name, bfloat16 included."""
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


# --- Reading ------------------------------------------------------------------------


def stream_transformers(backbone, files: list[str]):
    """Read safetensors files in Transformers' names.

    Args:
        backbone: gives names and shapes; its values are neither read nor set.
        files: paths of every shard.

    Yields:
        `(variable path, ndarray)`, biggest first, in the file's dtype.

    Raises:
        ValueError: a file is cut short or damaged, or a tensor is missing, unexpected
            or misshapen.
    """
    found = {}  # name -> (file, name in the file, shape)
    for file in files:
        with _open_safetensors(file) as tensors:
            for name in tensors.keys():  # noqa: SIM118 (it is no dict)
                shape = tuple(tensors.get_slice(name).get_shape())
                found[_canonical(name)] = (file, name, shape)
    variables = {variable.path: variable for variable in backbone.variables}
    rows = {row.transformers: row for row in table(backbone.num_layers)}
    expected = {
        name: transformers_shape(row.layout, tuple(variables[row.keras].shape))
        for name, row in rows.items()
    }
    ignored = {name for name in found if _is_derived(name)}
    shapes = {k: shape for k, (_, _, shape) in found.items() if k not in ignored}
    _check(expected, shapes, _name_of(files))
    for name in sorted(expected, key=lambda k: -math.prod(expected[k])):
        file, name_in_file, _ = found[name]
        # The library maps the whole file into memory and the pages it has read count
        # as ours until it is closed: so open it anew for each tensor.
        with _open_safetensors(file) as tensors:
            value = tensors.get_tensor(name_in_file)
        row = rows[name]
        shape = tuple(variables[row.keras].shape)
        yield row.keras, from_transformers(value, row.layout, shape)


def _canonical(name: str) -> str:
    """Names of a saved `GemmaModel` lack the `model.` of a `GemmaForCausalLM`."""
    if name.startswith(("model.", "lm_head.")):
        return name
    return f"model.{name}"


def _is_derived(name: str) -> bool:
    """Tensors that repeat others: the tied head, rotary buffers of old versions."""
    return name == "lm_head.weight" or name.endswith(".rotary_emb.inv_freq")


@contextlib.contextmanager
def _open_safetensors(file: str):
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise ImportError(
            "Reading Transformers checkpoints needs the safetensors package: "
            "`pip install safetensors`."
        ) from None
    try:
        with safe_open(file, framework="np") as tensors:
            yield tensors
    except SafetensorError as error:
        raise _damaged(file, error) from None


def stream_keras(backbone, files: list[str]):
    """Read Keras `.weights.h5` files (all shards of one model).

    Quantized layers read their own variables, as Keras lays them out; of all others
    each holds one dataset.

    Args, yields, raises: as `stream_transformers`.
    """
    datasets = _h5_datasets(files)  # "reversible_embedding/0" -> (file, path, shape)
    variables = {variable.path: variable for variable in backbone.variables}
    rows = {row.h5: row for row in table(backbone.num_layers)}
    plain, quantized = {}, []
    for group, row in rows.items():
        if getattr(layer_of(backbone, row), "quantization_mode", None):
            quantized.append(group)
        else:
            plain[f"{group}/0"] = tuple(variables[row.keras].shape)
    of_quantized = {name for name in datasets if name.rsplit("/", 1)[0] in quantized}
    shapes = {k: d[2] for k, d in datasets.items() if k not in of_quantized}
    _check(plain, shapes, _name_of(files))

    def size(group):
        return sum(math.prod(datasets[n][2]) for n in of_quantized if _in(n, group))

    for group in sorted(quantized, key=size, reverse=True):
        names = [n for n in of_quantized if _in(n, group)]
        store = {n.rsplit("/", 1)[1]: _read_h5(datasets[n]) for n in names}
        layer = layer_of(backbone, rows[group])
        yield from _own_variables(layer, store, group, _name_of(files))
        del store
    for name in sorted(plain, key=lambda k: -math.prod(plain[k])):
        yield rows[name.rsplit("/", 1)[0]].keras, _read_h5(datasets[name])


def _own_variables(layer, store, group, where):
    """What `layer.load_own_variables(store)` would assign, without assigning it."""
    with keras.StatelessScope(initialize_variables=False) as scope:
        try:
            layer.load_own_variables(store)
        except (ValueError, KeyError) as error:
            raise ValueError(
                f"{where}: group 'layers/{group}' does not fit layer '{layer.path}', "
                f"quantized to {layer.quantization_mode}: {error} Load the preset at "
                "the dtype it was saved with (leave `dtype` out)."
            ) from None
    for variable in layer.variables:
        value = scope.get_current_value(variable)
        if value is not None:
            yield variable.path, value


def _in(name: str, group: str) -> bool:
    return name.rsplit("/", 1)[0] == group


def layer_of(backbone, row: Row):
    """The layer of a backbone that owns the tensor of a row."""
    owner = backbone
    if row.keras.startswith("decoder_block_"):
        index = row.keras.removeprefix("decoder_block_").split("/")[0]
        owner = backbone.transformer_layers[int(index)]
    return operator.attrgetter(row.attribute)(owner)


def _h5_datasets(files: list[str]) -> dict[str, tuple[str, str, tuple[int, ...]]]:
    import h5py

    found = {}
    for file in files:
        try:
            with h5py.File(file, "r") as h5:
                # Visits what is in this file only: links out of it are not followed.
                h5.visititems(functools.partial(_note, found, file))
        except OSError as error:
            raise _damaged(file, error) from None
    return found


def _note(found, file, path, item):
    shape = getattr(item, "shape", None)
    if shape is None:
        return
    if item.external or item.is_virtual:
        raise ValueError(
            f"{file}: dataset '{path}' points to another file, which is not followed. "
            "Save the weights anew as one self-contained file."
        )
    # Keras 2.13 called the list of layers otherwise.
    name = path.replace("_layer_checkpoint_dependencies/", "layers/")
    name = name.removeprefix("layers/").replace("/vars/", "/")
    found[name] = (file, path, tuple(shape))


def _read_h5(dataset) -> np.ndarray:
    import h5py

    file, path, shape = dataset
    try:
        with h5py.File(file, "r") as h5:
            value = np.empty(shape, h5[path].dtype)
            if value.size:
                h5[path].read_direct(value)
            bfloat16 = h5[path].attrs.get("dtype") == "bfloat16"
    except OSError as error:
        raise _damaged(file, error) from None
    # HDF5 has no bfloat16; Keras stores its bytes and says so in an attribute.
    if bfloat16 and value.dtype.itemsize == 2:
        value = value.view(ml_dtypes.bfloat16)
    return value


def _check(expected: dict, found: dict, where: str):
    missing = sorted(expected.keys() - found.keys())
    unexpected = sorted(found.keys() - expected.keys())
    if missing or unexpected:
        parts = [f"{where} does not hold the weights that its config.json describes."]
        if missing:
            parts.append(f"Missing {_some(missing)}.")
        if unexpected:
            parts.append(f"Not part of this network: {_some(unexpected)}.")
        parts.append(
            "Either the download is incomplete or config.json belongs to another model."
        )
        raise ValueError(" ".join(parts))
    wrong = [name for name in expected if expected[name] != found[name]]
    if wrong:
        name = wrong[0]
        more = f" ({len(wrong) - 1} more differ.)" if len(wrong) > 1 else ""
        raise ValueError(
            f"{where}: tensor '{name}' has shape {found[name]}, but config.json asks "
            f"for {expected[name]}.{more} config.json belongs to another model, or the "
            "file is not a CodeGemma checkpoint."
        )


def _damaged(file: str, reason) -> ValueError:
    return ValueError(
        f"{file} is cut short or damaged ({str(reason).strip()}). Delete it and "
        "download or copy it again."
    )


def _some(names: list[str]) -> str:
    count = f"{len(names)} tensor{'s' if len(names) > 1 else ''}"
    return f"{count}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"


def _name_of(files: list[str]) -> str:
    return files[0] if len(files) == 1 else os.path.dirname(files[0])


def refuse_active_adapter(backbone):
    """Raise if an adapter of `lora` is active: no format of a whole model holds it."""
    for layer in backbone._flatten_layers(include_self=False):
        name = getattr(getattr(layer, "adapter", None), "active", None)
        if name is not None:
            raise ValueError(
                f"The adapter {name!r} is active and would be left out. Call "
                "`lora.merge(model)` to save the model with it, or `lora.save` for the "
                "adapter and `lora.select(model, None)` for the model without it."
            )
