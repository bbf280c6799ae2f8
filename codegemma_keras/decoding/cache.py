"""The cache of keys and values: its sizes, its rows, and whether it is still true.

A cache is left-aligned: row b holds the keys and values of its tokens in slots 0, 1, 2,
...; what slots above hold is never attended to. Sizes come in few buckets, so that
programs are compiled for few shapes and attention reads little more than what is filled.
"""

import concurrent.futures
import dataclasses
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops, tree

# Tokens a prefill program takes. 8: what one keystroke adds. 512: enough to be bound by
# arithmetic on a GPU.
PREFILL_CHUNKS = (8, 32, 64, 128, 512)
# Where programs are to be few: more padding is computed, and fewer programs are compiled.
FEW_CHUNKS = (32, 128, 512)
# Reading the weights for a prefill chunk takes as long as computing so many of its
# tokens: measured on two CPU cores (90 ms for a chunk of 32, 137 for 64, 228 for 128);
# arithmetic over bandwidth of an H100 in bfloat16.
TOKENS_PER_READ = 26
TOKENS_PER_READ_GPU = 256


def bucket(length: int, smallest: int = 64) -> int:
    """The least bucket that holds `length`: 64, 128, 192, 256, 384, 512, 768, ...

    Two buckets to an octave above 256: at most a third of the work is padding.
    """
    size = smallest
    while size < length:
        if size < 4 * smallest:
            size += smallest
        elif size & (size - 1) == 0:  # a power of two: next is 1.5 times it
            size += size // 2
        else:
            size = size // 3 * 4
    return size


def row_bucket(rows: int) -> int:
    """The least power of two that is not below `rows`."""
    return 1 << (rows - 1).bit_length()


def prefill_plan(
    lengths: Sequence[int],
    start: int = 0,
    read: int = TOKENS_PER_READ,
    room: int | None = None,
    rows: int | None = None,
):
    """How to prefill prompts, longest first: the cheapest sequence of chunks.

    Args:
        lengths: of the prompts, descending.
        start: slots below hold the right tokens already.
        read: what a chunk costs besides its tokens, in tokens.
        room: no chunk may end behind so many slots. Default: no limit.
        rows: of every chunk, and widths are `FEW_CHUNKS`, so that few programs do. Default:
            as many as go on, rounded up.

    Returns:
        List of `(offset, width, rows)`: columns offset..offset+width-1 of the first
        `rows` prompts.
    """
    widths = PREFILL_CHUNKS if rows is None else FEW_CHUNKS
    narrowest = widths[0]
    chunks = -(-(lengths[0] - start) // narrowest)
    if room is not None:  # the last chunk's padding must fit: begin a few slots earlier
        start = max(0, min(start, room - chunks * narrowest))
    last = start + (lengths[0] - start - 1) // narrowest * narrowest
    best = {}  # offset -> cost of it and all after it, its (offset, width, rows)
    for offset in range(last, start - 1, -narrowest):
        left = [n - offset for n in lengths if n > offset]
        going = min(row_bucket(len(left)), row_bucket(len(lengths)))
        size = rows or going
        for width in reversed(widths):
            useful = sum(min(n, width) for n in left)
            # At least half full: `warm_up` counts on it.
            if 2 * useful < going * width and width > narrowest:
                continue
            if room is not None and offset + width > room and width > narrowest:
                continue
            after, _ = best.get(offset + width, (0, None))
            cost = read + size * width + after
            if offset not in best or cost < best[offset][0]:
                best[offset] = cost, (offset, width, size)
    plan, offset = [], start
    while offset in best:
        plan.append(best[offset][1])
        offset += plan[-1][1]
    return plan


class Least(NamedTuple):
    """What the cache of a group of prompts has at least, however few and short they are.

    Groups of other sizes then need no programs of their own. If `fixed`, all chunks have as
    many rows as the cache, and few widths.
    """

    rows: int = 1
    slots: int = 1
    fixed: bool = False


AS_NEEDED = Least()


class Cache(NamedTuple):
    """Keys and values of the rows of a batch; donated to the programs that change it.

    Attributes:
        own: the model's: L pairs `(keys, values)`, each `[B, K, S, H]`.
        draft: a draft model's, of its own L, K and H; empty without one.
    """

    own: list
    draft: Sequence = ()

    @property
    def rows(self) -> int:
        return self.own[0][0].shape[0]

    @property
    def slots(self) -> int:
        return self.own[0][0].shape[2]


@dataclasses.dataclass(frozen=True)
class CachedPrefix:
    """A cache of one row that outlives its request, for one that begins alike.

    Attributes:
        token_ids: the tokens whose keys and values it holds.
        cache: a `Cache`; None: nothing is held.
        drafter: whose part `cache.draft` is.
        weights: the `WeightsVersion` that computed it.
    """

    token_ids: tuple[int, ...] = ()
    cache: Cache | None = None
    drafter: Any = None
    weights: Any = None

    def usable(self, prompt, drafter, weights) -> tuple[int, Cache | None]:
        """How many of a prompt's tokens need no computing, and the cache with them.

        Args:
            prompt: token ids; the last one is computed in any case, since its hidden
                state gives the next.
            drafter: who will guess; a draft model must have read the tokens as well.
            weights: the present `WeightsVersion`.
        """
        cache = self.cache
        if cache is None or self.weights != weights:
            return 0, None
        if drafter is None or drafter.engine is None:
            cache = Cache(cache.own)
        elif drafter != self.drafter:
            return 0, None
        common = common_length(prompt, self.token_ids)
        return min(common, len(prompt) - 1), cache


def common_length(a, b) -> int:
    """How many elements two sequences begin with alike."""
    for index, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return index
    return min(len(a), len(b))


class WeightsVersion:
    """Whether two caches were computed with the same weights: compare by `==`.

    JAX makes a new array whenever a variable changes, so the arrays themselves tell; they
    are not kept alive. TensorFlow writes into the same memory, so there the weights'
    bits are summed up where they are: one reading of the weights, as for one token.

    Args:
        engine: an `Engine`; another engine is another version, since a model gets one
            when its variables or adapters are replaced.
        checksum: TensorFlow only: a function that gives `bit_sums` of the variables, or
            `bit_sums_on_host`.
    """

    def __init__(self, engine, checksum=None):
        self._engine = engine
        self._arrays, self._sums = [], ()
        if keras.config.backend() == "jax":
            self._arrays = [weakref.ref(v.value) for v in engine.variables]
        else:
            self._sums = tuple(np.asarray(checksum()).tolist())

    def __eq__(self, other):
        if not isinstance(other, WeightsVersion):
            return NotImplemented
        if self._engine is not other._engine or self._sums != other._sums:
            return False
        pairs = zip(self._arrays, other._arrays, strict=True)
        return all(a() is not None and a() is b() for a, b in pairs)

    __hash__ = None


def bit_sums(variables):
    """Two sums over the bits of each variable, int32 `[2 * number of variables]`.

    The second weighs each element by its place, so that no exchange of values goes
    unseen. (TensorFlow.)
    """
    import tensorflow as tf

    sums = []
    for variable in variables:
        value = tf.reshape(tf.convert_to_tensor(variable.value), [-1])
        bits = {1: tf.int8, 2: tf.int16}.get(value.dtype.size, tf.int32)
        words = tf.reshape(tf.cast(tf.bitcast(value, bits), tf.int32), [-1])
        place = (
            tf.range(1, tf.size(words) + 1) * 2 + 1
        )  # odd: no bit is multiplied away
        sums += [tf.reduce_sum(words), tf.reduce_sum(words * place)]
    return tf.stack(sums)


# NumPy sums the columns and the rows of blocks of this shape, of words of 64 bits. A block
# fits into the cache of a core, so that memory is read once for both sums.
SUMMED = 64, 1024
SUMMED_WORDS = 2**23  # by one thread at a time


def bit_sums_on_host(values):
    """Sums over the bits of numpy arrays, uint64 `[S]`, in threads.

    On a CPU, XLA and TensorFlow would compute `bit_sums` on one core.
    """
    parts, tails = [], []
    for value in values:
        value = np.ascontiguousarray(value).reshape(-1).view("uint8")
        whole = len(value) // 8 * 8
        tails.append(int.from_bytes(value[whole:].tobytes(), "little"))
        words = value[:whole].view("uint64")
        starts = range(0, len(words), SUMMED_WORDS)
        parts += [words[start : start + SUMMED_WORDS] for start in starts]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        sums = list(pool.map(_word_sums, parts))
    return np.concatenate([np.array(tails, "uint64"), np.ravel(sums).astype("uint64")])


def _word_sums(words):
    """Two sums, uint64 `[2]`, over words of 64 bits.

    Blocks and their columns and rows have weights by their place, so that an exchange of
    two values changes a sum. Weights are odd, so that no bit is multiplied away.
    """
    rows, columns = SUMMED
    sums = np.zeros(columns, "uint64"), np.zeros(rows, "uint64")
    for number, start in enumerate(range(0, len(words), rows * columns)):
        block = words[start : start + rows * columns]
        if len(block) < rows * columns:
            block = np.pad(block, (0, rows * columns - len(block)))
        block = block.reshape(rows, columns)
        weight = np.uint64(2 * number + 1)
        for axis, sum_ in enumerate(sums):
            sum_ += np.add.reduce(block, axis=axis, dtype="uint64") * weight
    weights = (np.arange(1, 2 * len(sum_), 2, dtype="uint64") for sum_ in sums)
    return np.array([(s * w).sum() for s, w in zip(sums, weights, strict=True)])


# On the device


def take_rows(arrays, rows):
    """Rows `rows` (int `[B']`, repeats allowed) of a cache or other structure."""
    return tree.map_structure(lambda x: ops.take(x, rows, axis=0), arrays)


def put_rows(batch, others, source, places):
    """`batch` with row `source[n]` of `others` in row `places[n]`, for each n.

    Args:
        source, places: int `[B']`. A pair may be repeated.
    """
    return tree.map_structure(
        lambda x, y: ops.scatter_update(
            x, places[:, None], ops.take(y, source, axis=0)
        ),
        batch,
        others,
    )


def grow(arrays, slots):
    """Keys and values with room for `slots` tokens a row."""

    def pad(x):
        return ops.pad(x, [[0, 0], [0, 0], [0, slots - x.shape[2]], [0, 0]])

    return tree.map_structure(pad, arrays)
