"""The mathematics that more than one place uses, once.

Everything is `keras.ops`, so it runs on JAX and TensorFlow, eagerly or compiled.
Shape letters as in docs/design.md: B batch, T query tokens, S key tokens, D width,
K key/value heads, H head size.
"""

import math

import keras
import numpy as np
from keras import ops

from codegemma_keras import platforms


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
    # Keras would make a float of an index that is no tensor yet.
    first_row = ops.take(token_ids, ops.zeros((1,), dtype="int32"), axis=0)
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


def attend(query, key, value, mask):
    """Softmax attention of grouped heads: `softmax(query @ key / sqrt(H)) @ value`.

    Query head n reads key/value head n // G. The softmax is in float32. A row that may
    look at nothing (padding before the first token) becomes uniform: finite, and nobody
    reads it.

    Args:
        query: `[B, T, N, H]`.
        key, value: `[B, S, K, H]`; K divides N, and G is N / K.
        mask: bool `[B or 1, T, S]`, True where a query may look.

    Returns:
        `[B, T, N, H]`.
    """
    return attend_to_cache(query, heads_first(key), heads_first(value), mask)


def heads_first(x):
    """`[B, T, K, H]` as `[B, K, T, H]`."""
    return ops.transpose(x, (0, 2, 1, 3))


def attend_to_cache(query, key, value, mask):
    """`attend`, whose keys and values lie as in a cache.

    The keys of one head lie one after the other, and all queries that read them are rows
    of one matrix. So a step of decoding reads the cache once and moves nothing. With the
    axes in another order, XLA on a CPU copies the whole cache in every step
    (benchmarks/cached_attention.py).

    Args:
        query: `[B, T, N, H]`.
        key, value: `[B, K, S, H]`; K divides N, and G is N / K.
        mask: bool `[B or 1, T, S]`, True where a query may look.

    Returns:
        `[B, T, N, H]`.
    """
    batch, length = ops.shape(query)[:2]
    heads, size = query.shape[2:]
    groups = heads // key.shape[1]
    by_key_head = (batch, key.shape[1], length, groups, -1)
    query = query * ops.cast(size**-0.5, query.dtype)
    query = ops.reshape(query, (batch, length, key.shape[1], groups, size))
    query = ops.transpose(query, (0, 2, 1, 3, 4))
    query = ops.reshape(query, (batch, key.shape[1], length * groups, size))
    key, value = ops.cast(key, query.dtype), ops.cast(value, query.dtype)
    scores = ops.einsum("bkmh,bksh->bkms", query, key)
    scores = ops.cast(ops.reshape(scores, by_key_head), "float32")  # [B, K, T, G, S]
    scores = ops.where(mask[:, None, :, None, :], scores, -1e30)
    weights = ops.cast(ops.softmax(scores, axis=-1), query.dtype)
    weights = ops.reshape(weights, (batch, key.shape[1], length * groups, -1))
    attended = ops.einsum("bkms,bksh->bkmh", weights, value)
    attended = ops.transpose(ops.reshape(attended, by_key_head), (0, 2, 1, 3, 4))
    return ops.reshape(attended, (batch, length, heads, size))


def write_cache(cache, update, index):
    """Write `update` into `cache` from slot `index` on.

    Args:
        cache: `[B, K, S, H]`.
        update: `[B, T, K, H]`, cast to the cache's dtype.
        index: int scalar (every row starts at the same slot) or `[B]` (ragged rows).
            `index + T <= S` is the caller's duty: it cannot be checked in a compiled
            program.

    Returns:
        The new cache; inside a compiled program the old one's memory is reused.
    """
    update = heads_first(ops.cast(update, cache.dtype))  # [B, K, T, H]
    index = ops.convert_to_tensor(index, dtype="int32")
    if len(index.shape) == 0:
        zero = ops.zeros_like(index)  # of one dtype, also where JAX counts in 64 bits
        start = [zero, zero, index, zero]
        if not _traced_by_jax_for_a_cpu(index):
            return ops.slice_update(cache, start, update)
        # XLA for CPUs would write one copy of the cache for those that read it in this
        # step, and another one for the next step (benchmarks/one_row.py). It leaves a
        # loop alone, even of one turn: only we know that the index is not negative.
        turns = ops.cast(index >= 0, "int32")
        return ops.fori_loop(
            0, turns, lambda _, cache: ops.slice_update(cache, start, update), cache
        )
    rows, heads, length = ops.shape(update)[:3]
    row, head, slot = ops.meshgrid(
        *(ops.arange(n, dtype="int32") for n in (rows, heads, length)), indexing="ij"
    )
    slot = slot + index[:, None, None]
    indices = ops.stack([row, head, slot], axis=-1)  # [B, K, T, 3]
    return ops.scatter_update(
        cache,
        ops.reshape(indices, (-1, 3)),
        ops.reshape(update, (-1, cache.shape[3])),
    )


def _traced_by_jax_for_a_cpu(x) -> bool:
    """Outside of a trace a loop would be compiled at every call, and helps nobody."""
    if keras.backend.backend() != "jax" or platforms.platform() != "cpu":
        return False
    import jax

    return isinstance(x, jax.core.Tracer)


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


# A chunk's float32 logits may take this much, and it has so many tokens at most. Larger
# chunks win nothing on a CPU (benchmarks/train_memory.py); on an accelerator the `[V, D]`
# accumulator is read and written once a chunk, which 500 tokens hide behind their matrix
# products. Small ones leave out more of the targets that have no weight.
CHUNK_BYTES, CHUNK_TOKENS = 2**29, 512


def tokens_of_a_chunk(vocabulary_size, devices=None) -> int:
    """How many tokens, of all devices together, go into one chunk.

    Several devices share the logits of a chunk and each one's part of the accumulator is
    as much smaller; a quarter of what one device may hold keeps both small.

    Args:
        vocabulary_size: int. V.
        devices: default: those of the current `keras.distribution`.
    """
    if devices is None:
        distribution = keras.distribution.distribution()
        devices = math.prod(distribution.device_mesh.shape) if distribution else 1
    tokens = min(CHUNK_TOKENS, CHUNK_BYTES // (4 * vocabulary_size))
    return max(16, max(1, devices // 4) * tokens)


def split_chunks(tensors, vocabulary_size, chunk_tokens=None):
    """Tensors `[B, T, ...]` as chunks `[B, n, C, ...]` (TensorFlow: `[1, B n, C, ...]`).

    Rows stay whole along B on JAX, where a mesh may have split them over devices.
    TensorFlow often does not know B while it traces, so there a chunk is of one row.

    Args:
        tensors: of equal B and T.
        vocabulary_size: int. V.
        chunk_tokens: tokens of a chunk, B C, rounded up to whole columns; default: what
            `CHUNK_BYTES` allows.

    Returns:
        The tensors, and C. Padding makes every chunk as long as the others.
    """
    limit = chunk_tokens or tokens_of_a_chunk(vocabulary_size)
    by_row = keras.backend.backend() == "tensorflow"
    batch, length = tensors[0].shape[:2]
    if length is None:  # known at run time only
        length = ops.shape(tensors[0])[1]
        size = ops.minimum(limit, ops.maximum(length, 1))
        count = -(-length // size)
    else:
        count = -(-(1 if by_row else batch) * length // limit)
        count = min(count, length)
        size = -(-length // count)
        count = -(-length // size)
    batch = ops.shape(tensors[0])[0]
    out = []
    for tensor in tensors:
        if not isinstance(length, int) or count * size != length:
            more = (batch, count * size - length, *tensor.shape[2:])
            tensor = ops.concatenate([tensor, ops.zeros(more, tensor.dtype)], axis=1)
        rows = (1, batch * count) if by_row else (batch, count)
        out.append(ops.reshape(tensor, (*rows, size, *tensor.shape[2:])))
    return out, size


def nth_chunk(chunks, i):
    """Chunk i, `[B, C, ...]`, of `[B, n, C, ...]`."""
    shape = list(ops.shape(chunks))
    start = [0] * len(shape)
    start[1], shape[1] = i, 1
    return ops.squeeze(ops.slice(chunks, start, shape), axis=1)


def loop_chunks(count, body, state):
    """`state = body(i, state)` for i in 0..count-1, one after the other."""
    if keras.backend.backend() != "tensorflow":
        return ops.fori_loop(0, count, body, state)
    import tensorflow as tf

    # Outside XLA it would run ten at a time, each with logits of its own.
    return tf.while_loop(
        lambda i, _: i < count,
        lambda i, state: (i + 1, body(i, state)),
        (tf.constant(0), state),
        parallel_iterations=1,
    )[1]


def lookup(table, ids):
    """Rows of a table, whose gradients are summed in float32.

    As the gradient of `take` they would be summed in the table's dtype, and a sum of
    bfloat16 numbers stays at 256 times its terms, however many follow. Spaces and line
    ends are thousands of the tokens of a step.

    Args:
        table: float `[V, D]`.
        ids: int `[...]`.

    Returns:
        `[..., D]` of the table's dtype.
    """
    ids = ops.cast(ids, "int32")
    if keras.backend.standardize_dtype(table.dtype) == "float32":
        return ops.take(table, ids, axis=0)

    def forward(table):
        def backward(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            flat = ops.cast(ops.reshape(upstream, (-1, table.shape[1])), "float32")
            summed = ops.segment_sum(flat, ops.reshape(ids, (-1,)), table.shape[0])
            return ops.cast(summed, table.dtype)

        return ops.take(table, ids, axis=0), backward

    # TensorFlow takes no variable here, and a variable is no tensor until it is used.
    return ops.custom_gradient(forward)(ops.reshape(table, table.shape))


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
        *dimensions: for each, None (whole), `"rows"` (over the axis that splits the
            batch), `"model"` (over the other axes), `"fsdp"` (over that axis, if there is
            one), or `"all"` (over every device).
    """
    current = _traced_on_mesh(x)
    if current is None:
        return x
    import jax

    mesh = current.device_mesh
    kinds, axes = axes_by_kind(current), []
    for size, dimension in zip(x.shape, dimensions, strict=True):
        names = kinds[dimension]
        whole = not names or size % devices_of(mesh, names)
        axes.append(None if whole else names)
    spec = jax.sharding.PartitionSpec(*axes)
    there = jax.sharding.NamedSharding(mesh.backend_mesh, spec)
    return jax.lax.with_sharding_constraint(x, there)


def cut_gradient(weights, variable):
    """The value of a variable, whose gradient is cut into the variable's parts at once. JAX.

    On a mesh that splits weights, a device needs only its part of a gradient. Left to
    itself, the compiler cuts it where the optimizer uses it, and until then each device
    holds the gradients of all layers whole: 0.5 GiB for each layer of the 7B.

    Args:
        weights: what a layer computes with in a traced step, the variable or a tensor of it.
        variable: a built Keras variable. One that does not train has no gradient.
    """
    current = _traced_on_mesh(weights) if variable.trainable else None
    if current is None or "fsdp" not in current.device_mesh.axis_names:
        return weights
    import jax

    layout = current.get_variable_layout(variable)
    there = getattr(layout, "backend_layout", layout)  # JAX's own in older releases

    def backward(_, gradient):
        part = jax.lax.with_sharding_constraint(gradient, there)
        # Else the cut would move back to where it is used.
        return (jax.lax.optimization_barrier(part),)

    same = jax.custom_vjp(lambda x: x)
    same.defvjp(lambda x: (x, None), backward)
    return same(ops.convert_to_tensor(weights))


def _traced_on_mesh(x):
    """The current distribution, if it has a mesh and `x` is traced for JAX; else None."""
    current = keras.distribution.distribution()
    if keras.backend.backend() != "jax" or current is None:
        return None
    import jax

    traced = isinstance(ops.convert_to_tensor(x), jax.core.Tracer)
    return current if current.device_mesh is not None and traced else None


def axes_by_kind(distribution) -> dict:
    """Which mesh axes each of `place`'s words means, as tuples of their names."""
    names = tuple(distribution.device_mesh.axis_names)
    rows = distribution.batch_dim_name
    others = tuple(name for name in names if name != rows)
    return {
        "rows": (rows,) if rows else (),
        "model": others,
        "fsdp": ("fsdp",) if "fsdp" in names else (),
        "all": names,
        None: (),
    }


def devices_of(mesh, names) -> int:
    """How many devices lie along these axes of a `keras.distribution.DeviceMesh`."""
    sizes = dict(zip(mesh.axis_names, mesh.shape, strict=True))
    return math.prod(sizes[name] for name in names)


def variable_axes(model, fsdp, split_heads) -> dict[str, tuple[str | None, ...]]:
    """Pattern of a variable's path -> the mesh axis of each of its dimensions.

    Args:
        model: name of the axis that splits query heads, feed-forward width and
            vocabulary; or None.
        fsdp: name of the axis that splits the other dimension; or None.
        split_heads: whether `model` divides the key/value heads. If not, each device
            needs all of them for its query heads, and stored they are split along D.
    """
    key_value = (model, fsdp, None) if model and split_heads else None
    key_value = key_value or (None, fsdp or model, None)
    attention = r".*decoder_block_\d+/attention"
    return {
        r".*token_embedding/embeddings": (model, fsdp),  # [V, D]
        rf"{attention}/query/kernel": (model, fsdp, None),  # [N, D, H]
        rf"{attention}/(key|value)/kernel": key_value,  # [K, D, H]
        rf"{attention}/attention_output/kernel": (model, None, fsdp),  # [N, H, D]
        r".*decoder_block_\d+/ffw_gating(_2)?/kernel": (fsdp, model),  # [D, F]
        r".*decoder_block_\d+/ffw_linear/kernel": (model, fsdp),  # [F, D]
        r".*/adapter_[\w-]+_a": (None, fsdp or model),  # [rank, in]
        r".*/adapter_[\w-]+_b": (fsdp or model, None),  # [out, rank]
    }
