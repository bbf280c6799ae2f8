"""Which programs there are: each is called once with numbers that mean nothing.

Whoever iterates may let others use the engine between two programs.
"""

import numpy as np

from codegemma_keras.decoding import loop
from codegemma_keras.decoding.cache import PREFILL_CHUNKS, bucket, row_bucket
from codegemma_keras.decoding.generation import MAX_STOP_IDS
from codegemma_keras.decoding.sampling import Sampling, Settings, Work


def calls(
    engine, max_length, batch_sizes, samplings, speculate, joining, prompts, least
):
    """Call every program, one for each item, which is False; see `Engine.warm_up`.

    Args:
        engine: an `Engine`.
        max_length, batch_sizes, samplings, speculate, joining, prompts, least: as there.
    """
    drafter = engine.drafter(speculate)
    engine.weights_version()  # what keeps a cache asks for it: on TensorFlow a program
    yield False
    sizes = [1 << i for i in range(row_bucket(max(batch_sizes)).bit_length())]
    widths = [w for w in PREFILL_CHUNKS if w < 2 * max_length or w == 8]
    works = list(dict.fromkeys(Work.of([sampling]) for sampling in samplings))
    kinds = [(None, max_length)]
    if drafter is not None:
        kinds.append((drafter, max_length + 2 * drafter.width))
    for kind, reach in kinds:
        slots = [bucket(least.slots)]
        while slots[-1] < reach:
            slots.append(bucket(slots[-1] + 1))
        for rows in sizes:
            for size in slots:
                together = prompts is None or rows <= row_bucket(prompts)
                reads = widths if together else []
                cache = yield from _one_size(engine, rows, size, reads, works, kind)
                grows = size < slots[-1]
                yield from _moves(engine, sizes, size, cache, grows, kind)
                if joining:
                    yield from _joining(engine, sizes, size, cache, kind)


def _one_size(engine, rows, slots, widths, works, drafter):
    """Prefill and decoding of one size; the cache that came out."""
    hidden, cache = engine.empty(rows, slots, drafter)
    yield False
    lengths = np.ones(rows, "int32")
    for width in [w for w in widths if w <= slots]:
        for part in [1 << i for i in range(rows.bit_length())]:
            ids = np.zeros((part, width), "int32")
            hidden, cache = engine.prefill(
                ids, np.int32(0), lengths, hidden, cache, drafter
            )
            yield False
    each = [np.ones(rows, "int32") for _ in range(4)]  # tokens to limits
    seeds, steps = np.zeros(rows, "uint32"), np.int32(0)
    stop_ids = np.full((rows, MAX_STOP_IDS), -1, "int32")
    settings = Settings.of([Sampling()] * rows)
    state = loop.Rows(*each, np.ones(rows, bool), seeds, stop_ids, settings)
    for work in works:
        engine.first(work, settings, hidden, seeds)
        yield False
        if drafter is None:
            *_, cache = engine.decode(work, state, steps, cache)
        else:
            history = np.zeros((rows, slots), "int32")
            *_, cache = engine.speculate(work, drafter, state, steps, history, cache)
        yield False
    return cache


def _moves(engine, sizes, slots, cache, grows, drafter):
    """Of rows to more or fewer, and of a cache to its next size."""
    for part in [size for size in sizes if size <= cache.rows]:
        engine.take_rows(cache, np.zeros(part, "int32"))
        hidden_and_cache = engine.empty(part, slots, drafter)
        engine.take_rows(hidden_and_cache, np.zeros(cache.rows, "int32"))
        yield False
    if grows:
        engine.grow(cache, slots + 1, drafter)
        yield False


def _joining(engine, sizes, slots, cache, drafter):
    """Of one row into a batch that has room for it, or becomes twice as large first."""
    _, one = engine.empty(1, slots, drafter)
    if 2 * cache.rows in sizes:
        engine.take_rows(cache, np.zeros(2 * cache.rows, "int32"))
        yield False
    place = np.zeros(1, "int32")
    engine.put_rows(cache, one, place, place)
    yield False
