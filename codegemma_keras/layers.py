"""The layers that hold the weights.

A matrix of the network may be stored as floats or as integers, and an adapter (lora.py)
may add to what it computes. `Linear` and `ReversibleEmbedding` hide that, so that
backbone.py calls them and thinks of nothing else. They are Keras's own layers with two
things added: adapters, and an order of memory that XLA need not change.

Shape letters: B batch, T tokens, D width, V vocabulary, N heads, H head size, R rows.
"""

import dataclasses
import math

import keras
import numpy as np
from keras import ops

from codegemma_keras import platforms
from codegemma_keras.ops import cut_gradient, lookup

# With JAX on a CPU, up to so many tokens have a product each; with TensorFlow that gains
# nothing. Measured with smollm2_135m_code (benchmarks/few_tokens.py).
TOKENS_APART = 8
# On some processors, XLA multiplies one token with a matrix of more inputs than outputs at
# half of the memory's speed, and nearly at its full speed in parts of so many inputs
# (benchmarks/one_token.py).
INPUTS_AT_ONCE = 256


@dataclasses.dataclass
class LowRank:
    """An adapter of one matrix `[out, in]`: it adds `scale * b @ a`."""

    a: keras.Variable  # [rank, in], float32
    b: keras.Variable  # [out, rank], float32
    scale: float
    dropout: float

    @property
    def variables(self):
        return [self.a, self.b]

    @property
    def settings(self):
        return self.scale, self.dropout


@dataclasses.dataclass
class Rows:
    """An adapter of an embedding `[V, D]`: it has its own values for some rows."""

    ids: np.ndarray  # int32 [R], each once
    values: keras.Variable  # [R, D], float32
    place: np.ndarray  # int32 [V]: where in `ids` a token is, or -1

    @property
    def variables(self):
        return [self.values]

    @property
    def settings(self):
        return tuple(self.ids.tolist())


class _Adaptable:
    """What `Linear` and `ReversibleEmbedding` share: adapters by name, one active.

    Adapters are float32 whatever the layer is, as small steps vanish in bfloat16. They
    are saved and loaded with the layer's own variables, under names of their own.
    """

    adapters = None  # name -> LowRank or Rows
    active_adapter = None

    @property
    def current_adapter(self):
        """The active adapter, or None."""
        return self.adapters.get(self.active_adapter)

    @property
    def adapter_state(self):
        """What of the adapters is no variable; layers that differ in it compute apart."""
        settings = [(name, each.settings) for name, each in self.adapters.items()]
        return self.active_adapter, tuple(settings)

    def remove_adapter(self, name):
        """Forget adapter `name`, if there is one."""
        removed = self.adapters.pop(name, None)
        if removed is not None:
            self._tracker.unlock()
            for variable in removed.variables:
                self._untrack_variable(variable)
            self._tracker.lock()
        if self.active_adapter == name:
            self.active_adapter = None

    def _adapter_weight(self, name, shape, initializer):
        self._tracker.unlock()  # as Keras's own enable_lora does on a built layer
        weight = self.add_weight(
            name=f"adapter_{name}",
            shape=shape,
            initializer=initializer,
            dtype="float32",
            autocast=False,
        )
        self._tracker.lock()
        return weight

    def save_own_variables(self, store):
        super().save_own_variables(store)
        for variable in self._adapter_variables():
            store[variable.name] = variable

    def load_own_variables(self, store):
        ours = {variable.name: variable for variable in self._adapter_variables()}
        theirs = {key for key in store.keys() if key.startswith("adapter_")}  # noqa: SIM118
        if theirs != ours.keys():
            raise ValueError(
                f"{self.path}: the file holds the adapter variables "
                f"{sorted(theirs) or 'none'}, and this model has "
                f"{sorted(ours) or 'none'}. Give the model the same adapters first "
                "(lora.add or lora.load), or lora.remove those it has; a whole model is "
                "loaded with keras.saving.load_model or from_preset."
            )
        own = {key: store[key] for key in store.keys() if key not in theirs}  # noqa: SIM118
        super().load_own_variables(own)
        for name, variable in ours.items():
            variable.assign(store[name])

    def _check_load_own_variables(self, store):
        # Keras's check counts variables, and the adapters' are not in this store.
        if len(store) != len(self.weights) - len(self._adapter_variables()):
            super()._check_load_own_variables(store)

    def _adapter_variables(self):
        return [v for each in self.adapters.values() for v in each.variables]


def _few_on_cpu(x):
    """Whether `[B, T, ...]` is so few tokens that each has a product of its own."""
    if keras.config.backend() != "jax" or platforms.platform() != "cpu":
        return False
    return None not in x.shape[:2] and x.shape[0] * x.shape[1] <= TOKENS_APART


def _one_on_cpu(x, batch_shape):
    """Whether `x` is that of a single token, in float32 and on a CPU."""
    if platforms.platform() != "cpu" or any(size != 1 for size in batch_shape):
        return False
    return keras.backend.standardize_dtype(x.dtype) == "float32"


@keras.saving.register_keras_serializable(package="codegemma_keras")
class Linear(_Adaptable, keras.layers.EinsumDense):
    """A linear layer: its kernel, as floats or integers, and the adapters on it.

    Args:
        equation: as of `keras.layers.EinsumDense`, for example `"btd,ndh->btnh"`.
        output_shape: as of `keras.layers.EinsumDense`.
    """

    def __init__(self, equation, output_shape, **kwargs):
        super().__init__(_in_order_of_memory(equation), output_shape, **kwargs)
        self.adapters = {}

    def build(self, input_shape):
        super().build(input_shape)
        self.kernel_shape = self._shape_of_kernel()
        _, kernel, output = _letters(self.equation)
        self._in_axes = [i for i, c in enumerate(kernel) if c not in output]
        self._out_axes = [i for i, c in enumerate(kernel) if c in output]
        self.in_size = math.prod(self.kernel_shape[i] for i in self._in_axes)
        self.out_size = math.prod(self.kernel_shape[i] for i in self._out_axes)
        # A single head is no axis of its own: `[1, D, H]` is `[D, H]`.
        leading = math.prod(self.kernel_shape[: self._in_axes[-1] + 1])
        self._is_tall = leading == self.in_size > self.out_size

    def _shape_of_kernel(self):
        """Also where a quantized kernel has lost its shape, since int4 packs two in one."""
        if shape := getattr(self, "original_kernel_shape", None):
            return tuple(shape)
        shape = list(self._kernel.shape)
        if self.quantization_mode == "int4":  # Keras 3.13 has only this.
            shape[self._int4_pack_axis] = self._orig_length_along_pack_axis
        return tuple(shape)

    @property
    def kernel(self):
        """The matrix as the layer computes with it."""
        kernel = super().kernel
        if self.quantization_mode:  # Integers have no gradient.
            return kernel
        return cut_gradient(kernel, self._kernel)

    def call(self, x, training=None):
        if self._is_tall and _one_on_cpu(x, x.shape[:2]):
            y = self._in_parts(x)
        elif self._out_axes == [0, 2] and (x.shape[1] == 1 or _few_on_cpu(x)):
            y = self._heads_first(x)
        else:
            y = super().call(x, training=training)
        return self._with_adapter(y, x, training)

    def quantized_call(self, x, training=None):
        y = super().quantized_call(x, training=training)
        # Keras's quantized layers return float32 at any dtype, for their float32 scales.
        return self._with_adapter(ops.cast(y, self.compute_dtype), x, training)

    def _heads_first(self, x):
        """`[B, T, D]` times a kernel `[N, D, H]` -> `[B, T, N, H]`, for few tokens.

        With N as a batch the kernel is read as it stands; else XLA would make a copy
        `[D, N, H]` of it at every step. XLA for CPUs has a fast form of this for one token
        only, so there each has a product, in a loop: a program with a copy of the product
        for each token takes three times as long to compile, and runs no faster.
        """
        if _few_on_cpu(x) and x.shape[:2] != (1, 1):
            batch, length, width = x.shape
            y = ops.map(self._heads_first, ops.reshape(x, (-1, 1, 1, width)))
            return ops.reshape(y, (batch, length, *y.shape[3:]))
        kernel = ops.cast(self.kernel, x.dtype)
        heads, width, _ = kernel.shape
        x = ops.broadcast_to(x[:, :, None], (*ops.shape(x)[:2], heads, width))
        return ops.einsum("btnd,ndh->btnh", x, kernel)

    def _in_parts(self, x):
        """`[1, 1, *in]` times a kernel `[*in, *out]`, as a sum over parts of the inputs."""
        parts = max(1, self.in_size // INPUTS_AT_ONCE)
        while self.in_size % parts:
            parts -= 1
        kernel = ops.reshape(ops.cast(self.kernel, x.dtype), (parts, -1, self.out_size))
        y = ops.einsum("pi,pio->po", ops.reshape(x, (parts, -1)), kernel)
        shape = (1, 1, *(self.kernel_shape[i] for i in self._out_axes))
        return ops.reshape(ops.sum(y, axis=0), shape)

    def _with_adapter(self, y, x, training):
        adapter = self.current_adapter
        if adapter is None:
            return y
        shape = ops.shape(y)
        x = ops.reshape(x, (*shape[:2], self.in_size))
        x = ops.cast(x, self.compute_dtype)
        if adapter.dropout and training:
            x = keras.random.dropout(x, adapter.dropout, seed=self.seed_generator)
        low = ops.matmul(x, ops.transpose(ops.cast(adapter.a, x.dtype)))  # [B, T, rank]
        low = low * ops.cast(adapter.scale, x.dtype)  # here, where it is small
        delta = ops.matmul(low, ops.transpose(ops.cast(adapter.b, x.dtype)))
        return y + ops.cast(ops.reshape(delta, shape), y.dtype)

    def add_adapter(self, name, rank, scale, dropout=0.0, seed=None):
        """Create adapter `name`: A random, B zero, so that it changes nothing yet."""
        bound = 1 / math.sqrt(self.in_size)
        start = keras.initializers.RandomUniform(-bound, bound, seed=seed)
        a = self._adapter_weight(f"{name}_a", (rank, self.in_size), start)
        b = self._adapter_weight(f"{name}_b", (self.out_size, rank), "zeros")
        self.adapters[name] = LowRank(a, b, scale, dropout)
        if dropout and not hasattr(self, "seed_generator"):
            self._tracker.unlock()
            self.seed_generator = keras.random.SeedGenerator(seed)
            self._tracker.lock()

    def samples(self, count):
        """Some `count` numbers of the matrix, always the same, float32 numpy.

        A quantized matrix gives what its integers stand for.
        """
        rows, columns = sample_places(self.in_size, self.out_size, count)
        return self._outputs(rows)[:, columns].ravel()

    def matrix(self):
        """The matrix `[out, in]` as float32 numpy, an adapter's share left out.

        A quantized one gives what its integers stand for.
        """
        parts = np.array_split(np.arange(self.in_size), -(-self.in_size // 256))
        return np.concatenate([self._outputs(part) for part in parts]).T

    def _outputs(self, rows):
        """What the unit vectors of some inputs become: `[R, out]`, float32 numpy."""
        shape = (1, len(rows), *(self.kernel_shape[i] for i in self._in_axes))
        x = (np.arange(self.in_size) == rows[:, None]).astype("float32").reshape(shape)
        x = ops.cast(x, self.variable_dtype)
        product = super().quantized_call if self.quantization_mode else super().call
        y = ops.convert_to_numpy(ops.cast(product(x), "float32"))
        return y.reshape(len(rows), -1)

    def merge_adapter(self, name, sign):
        """Add what adapter `name` adds to the kernel itself (-1.0: take it out)."""
        adapter = self.adapters[name]
        a, b = (
            ops.convert_to_numpy(v).astype("float32") for v in (adapter.a, adapter.b)
        )
        matrix = sign * adapter.scale * (b @ a)  # [out, in]
        axes = [*self._out_axes, *self._in_axes]
        delta = matrix.reshape([self.kernel_shape[i] for i in axes])
        value = ops.convert_to_numpy(ops.cast(self._kernel.value, "float32"))
        self._kernel.assign(value + delta.transpose(np.argsort(axes)))

    def quantize(self, mode=None, type_check=True, config=None):
        # Keras refuses subclasses that it does not know, unless it is told.
        super().quantize(mode, type_check=False, config=config)

    @property
    def adapter_state(self):
        return super().adapter_state, getattr(self, "inputs_quantizer", None) is None


def sample_places(in_size, out_size, count):
    """Which rows and columns of a matrix `[in, out]` stand for it, always the same."""
    rows = np.random.default_rng(0).integers(0, in_size, 8)
    return rows, np.random.default_rng(1).integers(0, out_size, count // len(rows))


def _letters(equation):
    """`"btd,ndh->btnh"` -> `("btd", "ndh", "btnh")`."""
    inputs, output = equation.split("->")
    return (*inputs.split(","), output)


def _in_order_of_memory(equation):
    """The same equation, its contracted letters renamed to rise in the kernel.

    JAX contracts in the order of the alphabet. In any order but memory's it would copy
    the kernel at every decoded token: `"btnh,nhd->btd"` becomes `"btAB,ABd->btd"`.
    """
    _, kernel, output = _letters(equation)
    contracted = [letter for letter in kernel if letter not in output]
    if contracted == sorted(contracted):
        return equation
    return equation.translate(
        str.maketrans("".join(contracted), "ABC"[: len(contracted)])
    )


# Of this name, as Keras names the group of a weights file after the class.
@keras.saving.register_keras_serializable(package="codegemma_keras")
class ReversibleEmbedding(_Adaptable, keras.layers.ReversibleEmbedding):
    """Token ids -> vectors, and with `reverse=True` vectors -> logits, tied.

    An adapter has its own values for some rows, for both directions.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.adapters = {}

    def call(self, inputs, reverse=False):
        if reverse:
            y = self._logits(inputs)
        else:
            table = ops.convert_to_tensor(self.embeddings)
            table = cut_gradient(table, self._embeddings)
            y = ops.cast(lookup(table, inputs), self.compute_dtype)
        return self._with_rows(y, inputs, reverse)

    def quantized_call(self, inputs, reverse=False):
        y = super().quantized_call(inputs, reverse=reverse)
        return self._with_rows(y, inputs, reverse)

    def _logits(self, x):
        """`[..., D]` -> `[..., V]`.

        Keras multiplies with the transposed table, which XLA for CPUs then reads in another
        order than that of memory (benchmarks/one_token.py).
        """
        table = ops.convert_to_tensor(self.embeddings)
        if not _one_on_cpu(x, x.shape[:-1]):
            return ops.einsum("...d,vd->...v", x, table)
        y = ops.matmul(table, ops.reshape(x, (self.output_dim, 1)))
        return ops.reshape(y, (*x.shape[:-1], self.input_dim))

    def _with_rows(self, y, inputs, reverse):
        rows = self.current_adapter
        if rows is None:
            return y
        values = ops.cast(rows.values, y.dtype)  # [R, D]
        place = ops.convert_to_tensor(rows.place)
        if reverse:
            theirs = ops.matmul(ops.cast(inputs, y.dtype), ops.transpose(values))
            theirs = ops.take(theirs, ops.maximum(place, 0), axis=-1)  # [..., V]
            return ops.where(place >= 0, theirs, y)
        place = ops.take(place, inputs, axis=0)
        # A product and no lookup: all other tokens would look up row 0 in vain, and a
        # GPU adds the gradients of one row one after the other.
        theirs = ops.matmul(ops.one_hot(place, len(rows.ids), dtype=y.dtype), values)
        return ops.where(place[..., None] >= 0, theirs, y)

    @property
    def trained_rows(self):
        """None, or `(ids, values)` of the rows that the active adapter has."""
        rows = self.current_adapter
        return None if rows is None else (rows.ids, rows.values.value)

    @property
    def trains_table(self):
        """Whether the whole matrix trains, not rows of an adapter alone."""
        ours = {id(variable) for variable in self._adapter_variables()}
        return any(id(variable) not in ours for variable in self.trainable_variables)

    def table(self):
        """The matrix `[V, D]` at the compute dtype, rows of an adapter in it.

        A quantized one is dequantized: as a straight product it has a gradient, which
        the integer product of `layer(..., reverse=True)` has not.
        """
        if self.quantization_mode in ("int8", "int4"):
            return self(ops.arange(self.input_dim, dtype="int32"))
        table = ops.cast(ops.convert_to_tensor(self.embeddings), self.compute_dtype)
        if (rows := self.current_adapter) is None:
            return table
        values = ops.cast(rows.values, table.dtype)
        return ops.scatter_update(table, rows.ids[:, None], values)

    def add_adapter(self, name, ids):
        """Create adapter `name` of the rows `ids`, with the values they have now."""
        place = np.full(self.input_dim, -1, "int32")
        place[list(ids)] = np.arange(len(ids))
        values = self._adapter_weight(
            f"{name}_rows", (len(ids), self.output_dim), "zeros"
        )
        ids = np.array(ids, "int32")
        if self.weights[0]._value is not None:  # else a model without memory, to plan
            values.assign(ops.cast(self.vectors(ids), "float32"))
        self.adapters[name] = Rows(ids, values, place)

    def merge_adapter(self, name, sign):
        """Exchange the adapter's rows and the table's, which undoes itself."""
        rows = self.adapters[name]
        before = ops.cast(self.vectors(rows.ids), "float32")
        values = ops.cast(rows.values.value, self._embeddings.dtype)
        table = ops.scatter_update(self._embeddings.value, rows.ids[:, None], values)
        self._embeddings.assign(table)
        rows.values.assign(before)

    def vectors(self, ids):
        """The stored vectors `[R, D]` of token ids, without an adapter's."""
        layer = super()
        if self.quantization_mode:
            return layer.quantized_call(ops.convert_to_tensor(ids))
        return layer.call(ops.convert_to_tensor(ids))

    def quantize(self, mode=None, type_check=True, config=None):
        super().quantize(mode, type_check=False, config=config)
