"""Attention by what the device has: a fused kernel, or blocks of queries, or an einsum.

`ops.attend` is the definition. Its float32 scores `[B, N, T, T]` decide how much memory a
training step takes once rows are long, so `attend` here computes the same without ever
holding all of them:

* `splash`, on a TPU: the Pallas kernel that comes with JAX. It skips what causality
  masks and knows the documents of packed rows.
* `cudnn`, on a GPU whose cuDNN takes these heads. For CodeGemma's heads of 256 that is
  an H100 and later. cuDNN knows no documents, so they are an additive mask `[B, 1, T, T]`
  in 16 bits, which all heads and layers share.
* `in_blocks`, on every other GPU: the einsum for a few hundred queries at a time, whose
  scores are computed again in the backward pass.

The device is the one that the program is traced for. A CPU, TensorFlow and short rows use
the einsum. So does decoding (`ops.attend_to_cache`): with a cache there are at most 512
queries at a time, and the einsum reads the cache once.

Left out: sequence parallelism, and kernels on TensorFlow, whose XLA fuses the softmax but
keeps the scores.

Shape letters: B batch, T query tokens, S key tokens, N query heads, K key/value heads, G
N / K, H head size.
"""

import functools
from typing import Any, NamedTuple

import keras
from keras import ops as keras_ops

from codegemma_keras import ops, platforms

# From so many tokens a row on. The scores of shorter rows are small, and the kernels
# work on blocks of up to 512 tokens.
FUSED_FROM = 256
LANES = 128  # of a TPU: rows and heads are multiples of it
# Queries of a block of `in_blocks`, and the largest block of `splash`: 512 x 512 scores
# in float32 are 1 MiB of a TPU core's fast memory.
BLOCK = 512
PADDING = -1  # the document of padding


class Mask(NamedTuple):
    """What each query may attend to, said in two ways.

    Attributes:
        allowed: bool `[B or 1, T, S]`, True where a query may look.
        documents: int32 `[B or 1, T]`, or None with a cache. Where it is given, S is T,
            and a query sees the keys of its own document up to its own slot.
    """

    allowed: Any
    documents: Any = None


def mask_of(query_slots, key_slots, padding_mask=None, segment_ids=None, cached=False):
    """The `Mask` of arguments as of `ops.attention_mask`.

    Padding is a document of its own in `documents`: what a padded query sees differs
    between the two, and nobody reads it.

    Args:
        cached: bool, whether the keys are those of a cache.
    """
    allowed = ops.attention_mask(query_slots, key_slots, padding_mask, segment_ids)
    if cached:
        return Mask(allowed)
    documents = segment_ids
    if documents is None:
        documents = keras_ops.zeros_like(query_slots)
    documents = keras_ops.cast(documents, "int32")
    if padding_mask is not None:
        real = keras_ops.cast(padding_mask, "bool")
        documents = keras_ops.where(real, documents, PADDING)
    return Mask(allowed, documents)


def attend(query, key, value, mask, remat=False):
    """`ops.attend`, by the way that suits the device.

    Args:
        query: `[B, T, N, H]`.
        key, value: `[B, S, K, H]`; K divides N.
        mask: `Mask`, or its `allowed` alone, which only the einsum takes.
        remat: bool, whether the einsum computes its scores again in the backward pass.
            The other ways never keep them.

    Returns:
        `[B, T, N, H]`.
    """
    mask = mask if isinstance(mask, Mask) else Mask(mask)
    way = _way(query, key, mask)
    if way is not None:
        documents = keras_ops.broadcast_to(mask.documents, query.shape[:2])
        return _on_each_device(way, query, key, value, documents)
    if remat:
        again = keras.remat(lambda q, k, v: ops.attend(q, k, v, mask.allowed))
        return again(query, key, value)
    return ops.attend(query, key, value, mask.allowed)


# --- Which way ----------------------------------------------------------------------


def _way(query, key, mask):
    """The fused function for these shapes; None for the einsum."""
    if keras.backend.backend() != "jax" or isinstance(query, keras.KerasTensor):
        return None
    if mask.documents is None or query.shape[1] < FUSED_FROM:
        return None
    if not _heads_divide(query.shape[2], key.shape[2], query.shape[0]):
        return None
    platform = platforms.platform()
    if platform == "tpu":
        return splash
    if platform != "gpu":
        return None
    asked = (str(query.dtype), query.shape[2], key.shape[2], query.shape[3])
    # A GPU that is not here cannot be asked what its cuDNN takes: it counts as without.
    if platforms.is_planned() or not _cudnn_takes(*asked):
        return in_blocks
    return cudnn


@functools.cache
def _cudnn_takes(dtype, heads, key_heads, size) -> bool:
    """Whether cuDNN of this machine trains such heads: traces a small call and sees."""
    import jax

    def shape(count):
        return jax.ShapeDtypeStruct((1, LANES, count, size), dtype)

    def loss(query, key, value, documents):
        return cudnn(query, key, value, documents).astype("float32").sum()

    documents = jax.ShapeDtypeStruct((1, LANES), "int32")
    keys = shape(key_heads)
    try:
        jax.eval_shape(jax.grad(loss, (0, 1, 2)), shape(heads), keys, keys, documents)
    except (NotImplementedError, RuntimeError, ValueError, TypeError):
        return False
    return True


# --- The fused ways: (query, key, value, documents) -> attended -----------------------


def splash(query, key, value, documents, interpret=False):
    """Pallas's splash attention, in its multi-query form. TPU.

    Args:
        query: `[B, T, N, H]`.
        key, value: `[B, T, K, H]`.
        documents: int32 `[B, T]`.
        interpret: bool, run the kernel's steps as JAX operations, on any device.

    Returns:
        `[B, T, N, H]`.
    """
    import jax
    from jax import numpy as jnp
    from jax.experimental.pallas.ops.tpu import splash_attention as kernels

    batch, length, heads, size = query.shape
    groups = heads // key.shape[2]
    more, wider = -length % LANES, -size % LANES

    def by_head(x):  # [B, T, heads, H] -> [B, heads, T + more, H + wider]
        x = jnp.pad(x, [(0, 0), (0, more), (0, 0), (0, wider)])
        return x.transpose(0, 2, 1, 3)

    documents = jnp.pad(documents, [(0, 0), (0, more)], constant_values=PADDING)
    long = length + more
    block = max(b for b in (LANES, 2 * LANES, BLOCK) if long % b == 0)
    causal = kernels.CausalMask((long, long))
    kernel = kernels.make_splash_mqa_single_device(
        kernels.MultiHeadMask([causal] * groups),
        block_sizes=kernels.BlockSizes(
            **dict.fromkeys(("block_q", "block_kv", "block_kv_compute"), block),
            **dict.fromkeys(("block_q_dkv", "block_kv_dkv"), block),
            **dict.fromkeys(("block_kv_dkv_compute", "block_q_dq"), block),
            block_kv_dq=block,
        ),
        interpret=interpret,
    )

    def one_row(query, key, value, documents):  # [K, G, T, H], [K, T, H] twice, [T]
        segments = kernels.SegmentIds(documents, documents)
        of_head = functools.partial(kernel, segment_ids=segments)
        return jax.vmap(of_head)(query, key, value)

    query = by_head(query * jnp.asarray(size**-0.5, query.dtype))
    query = query.reshape(batch, -1, groups, long, size + wider)
    attended = jax.vmap(one_row)(query, by_head(key), by_head(value), documents)
    attended = attended.reshape(batch, heads, long, size + wider)
    return attended.transpose(0, 2, 1, 3)[:, :length, :, :size]


def cudnn(query, key, value, documents):
    """cuDNN's flash attention, documents as a mask; arguments as `splash`. GPU."""
    import jax

    same = documents[:, None, :, None] == documents[:, None, None, :]
    return jax.nn.dot_product_attention(
        query, key, value, mask=same, is_causal=True, implementation="cudnn"
    )


def in_blocks(query, key, value, documents):
    """`ops.attend` of up to `BLOCK` queries at a time; arguments as `splash`. Any device."""
    import jax
    from jax import numpy as jnp

    batch, length, heads, size = query.shape
    dtype, slots = query.dtype, jnp.arange(length, dtype="int32")
    count = -(-length // BLOCK)
    width = -(-length // count)  # of a block: little is padded
    more = count * width - length
    # Gradients of keys and values are summed over the blocks in float32.
    key, value = key.astype("float32"), value.astype("float32")

    def blocks(x, fill=0):  # [B, T, ...] -> [blocks, B, width, ...]
        rest = [(0, 0)] * (x.ndim - 2)
        x = jnp.pad(x, [(0, 0), (0, more), *rest], constant_values=fill)
        return x.reshape(batch, count, width, *x.shape[2:]).swapaxes(0, 1)

    # A loop keeps the two computations apart by itself: `prevent_cse` is for others.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def attended(block):
        query, at, own = block
        allowed = slots <= at[..., None]
        allowed &= documents[:, None, :] == own[..., None]  # [B, width, T]
        return ops.attend(query, key.astype(dtype), value.astype(dtype), allowed)

    at = jnp.broadcast_to(slots, documents.shape)
    found = jax.lax.map(attended, (blocks(query), blocks(at), blocks(documents)))
    found = found.swapaxes(0, 1).reshape(batch, count * width, heads, size)
    return found[:, :length]


# --- Many devices ---------------------------------------------------------------------


def _parts():
    """`(mesh, axes of rows, axes of heads)` of the current distribution, or None."""
    current = keras.distribution.distribution()
    if current is None or current.device_mesh is None:
        return None
    kinds = ops.axes_by_kind(current)
    return current.device_mesh, kinds["rows"], kinds["model"]


def _heads_divide(heads, key_heads, rows) -> bool:
    """Whether each device can attend for its own rows and heads alone."""
    parts = _parts()
    if parts is None:
        return True
    mesh, row_axes, head_axes = parts
    split = ops.devices_of(mesh, head_axes)
    heads_fit = heads % split == 0 and (key_heads == 1 or key_heads % split == 0)
    return heads_fit and rows % ops.devices_of(mesh, row_axes) == 0


def _on_each_device(way, query, key, value, documents):
    """A compiler does not split a kernel, so each device is given its own part."""
    parts = _parts()
    if parts is None:
        return way(query, key, value, documents)
    import jax

    mesh, row_axes, head_axes = parts
    rows, heads = row_axes or None, head_axes or None
    of_query = jax.sharding.PartitionSpec(rows, None, heads, None)
    whole = (
        key.shape[2] == 1
    )  # one key/value head serves the query heads of all devices
    of_key = jax.sharding.PartitionSpec(rows, None, None if whole else heads, None)
    each = jax.shard_map(
        way,
        mesh=mesh.backend_mesh,
        in_specs=(of_query, of_key, of_key, jax.sharding.PartitionSpec(rows, None)),
        out_specs=of_query,
        check_vma=False,
    )
    return each(query, key, value, documents)
