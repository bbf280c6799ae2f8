"""Weights: one name table for every file format, and tensors that stream.

Files are read one tensor at a time, biggest first, into variables that were created
without memory; the only copies that ever exist are the model and the tensor under way.
Everything that can be known without reading a tensor (missing, unexpected, misshapen,
of a dtype that is no weight's) is checked from the headers, before a model is built.

The files themselves are read in `safetensors`, `h5` and `gguf`, each of which gives
`Tensor`s by their names. Left out: pickled checkpoints (`.bin`, `.pt`), on purpose, as
reading one runs code.

Shape letters: D width, F ffn width, V vocabulary, N query heads, K key/value heads, H
head size.
"""

import dataclasses
import math
import operator
from collections.abc import Callable, Iterator

import keras
import ml_dtypes
import numpy as np
from keras import ops

# Not public API, and used for one thing only: Keras lists each variable that was
# created without memory, to fill them all later. Ours are filled here, so they must
# leave that list (see `build_empty`).
from keras.src.backend.common import global_state

from codegemma_keras.formats import checks


@dataclasses.dataclass(frozen=True)
class Row:
    """One kind of tensor under its name in each format.

    Attributes:
        keras: path of the variable; its last part is the layer's attribute too.
        attribute: path of the owning layer from the block (or from the backbone).
        h5: group in a `.weights.h5` file, below `layers/`.
        transformers: name in a safetensors file.
        gguf: name in a GGUF file, laid out as Transformers'; norms are 1 + w there.
        axes: the shape of the variable, in the letters above.
        layout: how Transformers lays the same numbers out; see `to_transformers`.
    """

    keras: str
    attribute: str
    h5: str
    transformers: str
    gguf: str
    axes: str
    layout: str


OUTER = (
    Row(
        keras="token_embedding/embeddings",
        attribute="token_embedding",
        h5="reversible_embedding",
        transformers="model.embed_tokens.weight",
        gguf="token_embd.weight",
        axes="VD",
        layout="same",
    ),
    Row(
        keras="final_normalization/scale",
        attribute="layer_norm",
        h5="rms_normalization",
        transformers="model.norm.weight",
        gguf="output_norm.weight",
        axes="D",
        layout="same",
    ),
)

# The path of the attribute is also the group in a .weights.h5 file.
BLOCK = tuple(
    Row(
        keras=f"decoder_block_{{i}}/{keras_name}",
        attribute=attribute,
        h5=f"gemma_decoder_block{{_i}}/{attribute.replace('.', '/')}",
        transformers=f"model.layers.{{i}}.{transformers}.weight",
        gguf=f"blk.{{i}}.{gguf}.weight",
        axes=axes,
        layout=layout,
    )
    for keras_name, attribute, transformers, gguf, axes, layout in (
        line.split()
        for line in """\
pre_attention_norm/scale    pre_attention_norm     input_layernorm          attn_norm   D   same
attention/query/kernel      attention.query_dense  self_attn.q_proj         attn_q      NDH heads_out
attention/key/kernel        attention.key_dense    self_attn.k_proj         attn_k      KDH heads_out
attention/value/kernel      attention.value_dense  self_attn.v_proj         attn_v      KDH heads_out
attention/attention_output/kernel attention.output_dense self_attn.o_proj   attn_output NHD heads_in
pre_ffw_norm/scale          pre_ffw_norm           post_attention_layernorm ffn_norm    D   same
ffw_gating/kernel           gating_ffw             mlp.gate_proj            ffn_gate    DF  transposed
ffw_gating_2/kernel         gating_ffw_2           mlp.up_proj              ffn_up      DF  transposed
ffw_linear/kernel           ffw_linear             mlp.down_proj            ffn_down    FD  transposed
""".splitlines()  # noqa: E501 (a table reads better in one line a row)
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


def shape_of(row: Row, config: dict) -> tuple[int, ...]:
    """Shape of a row's variable in a network of `config` (arguments of the backbone)."""
    sizes = {
        "V": config["vocabulary_size"],
        "D": config["hidden_dim"],
        "F": config["intermediate_dim"] // 2,
        "N": config["num_query_heads"],
        "K": config["num_key_value_heads"],
        "H": config["head_dim"],
    }
    return tuple(sizes[axis] for axis in row.axes)


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


# --- Tensors of files ---------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor in a file: known by its header, read when asked.

    Attributes:
        file: path.
        name: in the file.
        shape: as stored.
        dtype: numpy's name; of what is no number, the format's own.
        reader: `Tensor -> ndarray`.
    """

    file: str
    name: str
    shape: tuple[int, ...]
    dtype: str
    reader: Callable

    def read(self) -> np.ndarray:
        """The values, at the file's dtype.

        Raises:
            ValueError: the file is damaged.
        """
        return self.reader(self)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Weights that fit a network, on disk.

    Attributes:
        dtype: what they are stored at: `"float32"`, `"float16"` or `"bfloat16"`.
        stream: `backbone -> iterator of (variable path, value)`, for `fill`.
    """

    dtype: str
    stream: Callable


def check_layers(config: dict, tensors: dict[str, Tensor], where: str):
    """Refuse more layers than tensors, before a name is written out for each."""
    if config["num_layers"] > len(tensors):
        raise ValueError(
            f"{where} does not hold the weights that its config describes: "
            f"{config['num_layers']} layers, and {len(tensors)} tensors."
        )


def check(expected: dict[str, tuple], tensors: dict[str, Tensor], where: str):
    """Refuse tensors that are missing, unexpected, misshapen or no floats.

    Args:
        expected: name -> shape of every tensor of the network, as the format has it.
        tensors: what the files hold.
        where: the file or folder, for messages.

    Raises:
        ValueError: the first of these, with names.
    """
    missing = sorted(expected.keys() - tensors.keys())
    unexpected = sorted(tensors.keys() - expected.keys())
    if missing or unexpected:
        parts = [f"{where} does not hold the weights that its config describes."]
        if missing:
            parts.append(f"Missing {_some(missing)}.")
        if unexpected:
            parts.append(f"Not part of this network: {_some(unexpected)}.")
        parts.append(
            "Either the download is incomplete or the config belongs to another model."
        )
        raise ValueError(" ".join(parts))
    wrong = [name for name in expected if expected[name] != tensors[name].shape]
    if wrong:
        name = wrong[0]
        more = f" ({len(wrong) - 1} more differ.)" if len(wrong) > 1 else ""
        raise ValueError(
            f"{where}: tensor '{name}' has shape {tensors[name].shape}, but the config "
            f"asks for {expected[name]}.{more} The config belongs to another model, or "
            "the file is not a CodeGemma checkpoint."
        )
    for name in expected:
        if tensors[name].dtype not in checks.FLOAT_DTYPES:
            raise ValueError(
                f"{tensors[name].file}: tensor '{name}' is of {tensors[name].dtype}; "
                f"weights are one of {', '.join(checks.FLOAT_DTYPES)}."
            )


def stream(tensors: dict[str, Tensor], variables: dict) -> Iterator[tuple]:
    """Read tensors one at a time, biggest first.

    Args:
        tensors: what `check` has passed.
        variables: name -> `(path of the variable, function of the tensor's value)`.

    Yields:
        `(path, ndarray)`, in the file's dtype.

    Raises:
        ValueError: a file is damaged, or holds NaN or infinity.
    """
    for name in sorted(variables, key=lambda name: -math.prod(tensors[name].shape)):
        path, convert = variables[name]
        value = checks.finite(tensors[name].read(), name, tensors[name].file)
        yield path, convert(value)


def stored_dtype(tensors: dict[str, Tensor]) -> str:
    """The dtype that the largest tensor is stored at; float32 where it is wider."""
    largest = max(tensors.values(), key=lambda tensor: math.prod(tensor.shape))
    dtype = largest.dtype
    return dtype if dtype in ("float16", "bfloat16") else "float32"


def layer_of(backbone, row: Row):
    """The layer of a backbone that owns the tensor of a row."""
    owner = backbone
    if row.keras.startswith("decoder_block_"):
        index = row.keras.removeprefix("decoder_block_").split("/")[0]
        owner = backbone.transformer_layers[int(index)]
    return operator.attrgetter(row.attribute)(owner)


def _some(names: list[str]) -> str:
    count = f"{len(names)} tensor{'s' if len(names) > 1 else ''}"
    return f"{count}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"


def refuse_active_adapter(backbone):
    """Raise if an adapter of `lora` is active: no format of a whole model holds it."""
    name = getattr(backbone, "active_adapter", None)
    if name is not None:
        raise ValueError(
            f"The adapter {name!r} is active and would be left out. Call "
            "`lora.merge(model)` to save the model with it, or `lora.save` for the "
            "adapter and `lora.select(model, None)` for the model without it. (A file "
            "that keeps both is `model.save('name.keras')`.)"
        )
