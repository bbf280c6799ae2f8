"""Numbered batches: batch n of a run is the same whenever it is asked for.

So the number of updates is the position in the data, and a run that was killed goes on
with the rows of one that was not. A batch holds all rows of an update; computing it in
`accumulation` parts cuts it up and changes no order.
"""

import functools
import itertools

import numpy as np

from codegemma_keras import hosts, sharding


def rows_of_part(config) -> int:
    """Rows of one part of a batch.

    Args:
        config: with `batch_tokens`, `sequence_length`, `accumulation`, `mesh`.

    Raises:
        ValueError: the mesh cannot divide them.
    """
    rows = rows_of_batch(config) // config.accumulation
    sharding.check_rows(rows, config.mesh)
    return rows


def rows_of_batch(config) -> int:
    """Rows of one update."""
    return config.batch_tokens // config.sequence_length


def batch_of(rows, number, size, seed):
    """Batch `number` of rows in memory, in an order of its own for every pass.

    Args:
        rows: `(x, y, sample_weight)` of all rows.
        number: int.
        size: rows of a batch; what fills no batch at a pass's end is left out.
        seed: int.
    """
    x, y, weight = rows
    epoch, place = divmod(number, len(y) // size)
    chosen = _order(len(y), seed, epoch)[place * size : (place + 1) * size]
    return {name: value[chosen] for name, value in x.items()}, y[chosen], weight[chosen]


def batches_of(rows, size, seed, start=0):
    """Batches `start`, `start + 1`, ... of rows in memory, for ever."""
    for number in itertools.count(start):
        yield batch_of(rows, number, size, seed)


@functools.lru_cache(2)
def _order(count, seed, epoch):
    return np.random.default_rng((seed, epoch)).permutation(count)


def parts_of(batch, count):
    """A batch in `count` parts of equally many rows."""
    x, y, weight = batch
    size = len(y) // count
    for start in range(0, size * count, size):
        part = slice(start, start + size)
        yield {name: value[part] for name, value in x.items()}, y[part], weight[part]


def own_part(batch):
    """The rows of a batch that this process computes, of several on other hosts."""
    x, y, weight = batch
    own = hosts.own_rows(len(y))
    return {name: value[own] for name, value in x.items()}, y[own], weight[own]


def in_order(rows, size):
    """All rows once, as they stand; the last batch is filled up with rows of weight 0."""
    x, y, weight = rows
    for start in range(0, len(y), size):
        # All batches alike: one program, and a mesh can split each.
        chosen = np.arange(start, start + size)
        real = (chosen < len(y)).astype("float32")[:, None]
        chosen = chosen % len(y)
        batch = {name: value[chosen] for name, value in x.items()}
        yield batch, y[chosen], weight[chosen] * real
