"""The mathematics that more than one place uses, once.

Everything is `keras.ops`, so it runs on JAX and TensorFlow, eagerly or compiled.
Shape letters as in docs/design.md: B batch, T query tokens, S key tokens, D width,
K key/value heads, H head size.
"""

import math

import keras
import numpy as np
from keras import ops

BATCH_AXES = ("data", "fsdp")  # of a mesh: which of them split the rows


def rotary_turns(head_dim: int, max_wavelength: float) -> tuple[np.ndarray, np.ndarray]:
    """Rotary frequencies in turns per token, each as a sum of two float32.

    A float32 angle `position * frequency` loses 4e-4 radians at position 5,000. Here
    the frequency (in whole turns, computed in float64) is split into `high + low`.
    `high` keeps 11 significant bits, so that `position * high` is exact in float32
    for positions below 2**13, and whole turns can be dropped from it without error;
    `low` carries the rest.

    Returns:
        `(high, low)`, each float32 `[H / 2]`.
    """
    exponent = np.arange(0, head_dim, 2, dtype="float64") / head_dim
    turns = max_wavelength**-exponent / (2 * np.pi)
    mantissa, power = np.frexp(turns)
    high = np.ldexp(np.floor(mantissa * 2**11) / 2**11, power)
    return high.astype("float32"), (turns - high).astype("float32")


def rotary_angles(positions, head_dim: int, max_wavelength: float = 10_000.0):
    """Cosine and sine of the rotary angles, accurate to about 1e-7.

    Args:
        positions: int tensor `[B, T]` (or `[1, T]`).
        head_dim: head size H, even.
        max_wavelength: base of the geometric series of wavelengths.

    Returns:
        `(cos, sin)`, float32 `[B, T, 1, H / 2]`.
    """
    high, low = rotary_turns(head_dim, max_wavelength)
    p = ops.cast(positions, "float32")[..., None, None]  # [B, T, 1, 1]
    turns = p * high
    turns = turns - ops.round(turns)  # exact: in [-1/2, 1/2]
    angle = (turns + p * low) * (2 * np.pi)
    return ops.cos(angle), ops.sin(angle)


def apply_rotary(x, cos, sin):
    """Rotate the two halves of each head (Gemma's half-split layout) in float32.

    Args:
        x: `[B, T, N, H]`.
        cos, sin: float32 `[B, T, 1, H / 2]` from `rotary_angles`.

    Returns:
        The same shape and dtype as `x`.
    """
    first, second = ops.split(ops.cast(x, "float32"), 2, axis=-1)
    rotated = ops.concatenate(
        [first * cos - second * sin, second * cos + first * sin], axis=-1
    )
    return ops.cast(rotated, x.dtype)


def slots_of(token_ids):
    """Slots 0..T-1 as int32 `[1, T]`; works on symbolic tensors of unknown length."""
    first_row = ops.take(token_ids, [0], axis=0)
    return ops.cumsum(ops.ones_like(first_row, dtype="int32"), axis=1) - 1


def attention_mask(query_slots, key_slots, padding_mask=None, segment_ids=None):
    """The one mask builder: what each query may attend to.

    A query in slot t sees key slots 0..t, only those that hold a token, and only those
    of its own document.

    Args:
        query_slots: int `[B, T]` or `[1, T]`, the slot of each query among the keys
            (not its rotary position, which restarts at 0 in each packed document).
        key_slots: int `[1, S]`, 0..S-1.
        padding_mask: `[B, S]`, nonzero where a key slot holds a token. None: all do.
        segment_ids: int `[B, S]`, the document of each slot, for packed rows with
            T == S. None: one document a row.

    Returns:
        bool `[B or 1, T, S]`.
    """
    allowed = key_slots[:, None, :] <= query_slots[:, :, None]
    if padding_mask is not None:
        allowed = ops.logical_and(allowed, ops.cast(padding_mask, "bool")[:, None, :])
    if segment_ids is not None:
        same = segment_ids[:, :, None] == segment_ids[:, None, :]
        allowed = ops.logical_and(allowed, same)
    return allowed


def write_cache(cache, update, index):
    """Write `update` into `cache` from slot `index` on.

    Args:
        cache: `[B, S, K, H]`.
        update: `[B, T, K, H]`, cast to the cache's dtype.
        index: int scalar (every row starts at the same slot) or `[B]` (ragged rows).
            `index + T <= S` is the caller's duty: it cannot be checked in a compiled
            program.

    Returns:
        The new cache; inside a compiled program the old one's memory is reused.
    """
    update = ops.cast(update, cache.dtype)
    if len(ops.shape(index)) == 0:
        return ops.slice_update(cache, [0, index, 0, 0], update)
    rows, length = ops.shape(update)[0], ops.shape(update)[1]
    row = ops.broadcast_to(ops.arange(rows, dtype="int32")[:, None], (rows, length))
    slot = ops.cast(index, "int32")[:, None] + ops.arange(length, dtype="int32")
    indices = ops.stack([row, slot], axis=-1)  # [B, T, 2]
    return ops.scatter_update(
        cache,
        ops.reshape(indices, (-1, 2)),
        ops.reshape(update, (-1, *cache.shape[2:])),
    )


def pick(x, index):
    """One token of each row.

    Args:
        x: `[B or 1, T, ...]`.
        index: int `[B]`, below T.

    Returns:
        `[B, 1, ...]`.
    """
    if x.shape[0] == 1:
        return ops.take(x[0], index, axis=0)[:, None]
    return ops.take_along_axis(
        x, ops.reshape(index, (-1, *(1,) * (len(x.shape) - 1))), axis=1
    )


def saturate(x):
    """Keep float16 activations finite; the identity at every other dtype.

    float16 ends at 65,504. Gemma's residual stream comes near it, and one infinity
    turns the whole row into NaN at the next norm.
    """
    if keras.backend.standardize_dtype(x.dtype) != "float16":
        return x
    return ops.clip(x, -65504.0, 65504.0)


def place(x, *dimensions):
    """`x`, split over the current mesh as said; without a mesh it says nothing. JAX.

    Left to itself, the compiler splits products along whatever their weights are stored
    by, and moves activations where it should move weights. A dimension that its devices
    do not divide stays whole.

    Args:
        x: tensor of a traced step.
        *dimensions: for each, None (whole), `"rows"` (over the axes that split the
            batch), `"model"`, or `"all"` (over every device).
    """
    current = keras.distribution.distribution()
    if keras.backend.backend() != "jax" or current is None:
        return x
    import jax

    mesh = current.device_mesh
    if mesh is None or not isinstance(x, jax.core.Tracer):
        return x
    sizes = dict(zip(mesh.axis_names, mesh.shape, strict=True))
    kinds = {"rows": BATCH_AXES, "model": ("model",), "all": tuple(sizes), None: ()}
    axes = []
    for size, dimension in zip(x.shape, dimensions, strict=True):
        names = tuple(name for name in kinds[dimension] if name in sizes)
        whole = not names or size % math.prod(sizes[name] for name in names)
        axes.append(None if whole else names)
    spec = jax.sharding.PartitionSpec(*axes)
    there = jax.sharding.NamedSharding(mesh.backend_mesh, spec)
    return jax.lax.with_sharding_constraint(x, there)


def remat(function, layer):
    """`function(x)`, computed again in the backward pass instead of kept.

    Dropout in it drops the same values both times: seeds are drawn here, outside. Drawn
    inside, they would be others when TensorFlow computes again (wrong gradients), and
    on JAX the generator's new state could not leave the computation.

    Args:
        function: of one tensor; calls `layer` once.
        layer: a Keras layer; the seeds are those of its dropout layers.
    """
    found = (
        getattr(inner, "seed_generator", None) for inner in layer._flatten_layers()
    )
    generators = [generator for generator in found if generator is not None]
    seeds = [generator.next() for generator in generators]

    def again(x):
        for generator, seed in zip(generators, seeds, strict=True):
            generator.next = lambda ordered=True, seed=seed: seed
        try:
            return function(x)
        finally:
            for generator in generators:
                del generator.next  # the class's own again

    return keras.remat(again)


def traced_once(layers):
    """`call(layer, *args)` of any of `layers`, traced once for all that are alike.

    Tracing a Keras layer takes milliseconds, and a network has dozens of the same kind:
    before this, most of the time to a first token from kept programs was tracing. On
    JAX, within a trace, layers whose variables have the same shapes and dtypes share
    one function of these; the compiler inlines it, and the program is the same.
    Elsewhere, and where adapters may differ, each layer is called as it is.
    """

    def call(layer, *args):
        return layer(*args)

    if keras.config.backend() != "jax":
        return call
    import jax

    kinds = {tuple((v.shape, v.dtype) for v in layer.variables) for layer in layers}
    adapted = any(
        getattr(inner, "adapter", None) is not None
        for layer in layers
        for inner in layer._flatten_layers()
    )
    if len(kinds) > 1 or adapted:
        return call
    first = layers[0]

    @jax.jit
    def shared(values, *args):
        mapping = list(zip(first.variables, values, strict=True))
        with keras.StatelessScope(state_mapping=mapping):
            return first(*args)

    def call_shared(layer, x, *args):
        if not isinstance(x, jax.core.Tracer):  # eager: nothing is traced to be kept
            return layer(x, *args)
        return shared([v.value for v in layer.variables], x, *args)

    return call_shared
