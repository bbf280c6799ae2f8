"""Caches of prompts that ended, for prompts that begin alike, whoever asks them."""

import collections

import numpy as np

from codegemma_keras.decoding.cache import CachedPrefix, common_length

# What is shorter costs less to compute than to look after.
LEAST_COMMON = 16
# A cache of which this share is of use is handed over. One that is less so belongs to
# another file or another editor that begins with the same context: it is copied.
MOVED = 0.75


class Prefixes:
    """Caches of one row each, bounded in bytes; what was used least recently goes first.

    One thread only, the scheduler's; others may read the length and `bytes`.

    Args:
        engine: the `decoding.Engine` whose caches they are.
        limit_bytes: of all together.

    Attributes:
        bytes: memory of all that is held. It is counted, because a thread that asks for
            metrics cannot go through what another one changes.
    """

    def __init__(self, engine, limit_bytes: int):
        self._engine = engine
        self._limit = limit_bytes
        self._held = collections.deque()  # the most recently used last
        self.bytes = 0

    def __len__(self):
        return len(self._held)

    def take(self, prompt) -> CachedPrefix:
        """What begins most like `prompt`, for one row to use up; perhaps nothing."""
        best, common = None, LEAST_COMMON - 1
        for held in self._held:
            length = common_length(prompt, held.token_ids)
            if length > common:
                best, common = held, length
        if best is None:
            return CachedPrefix()
        if common >= MOVED * len(best.token_ids):
            self._drop(best)
            return best
        self._held.remove(best)
        self._held.append(best)
        turn = self._engine.queue.turn()
        with turn.over:
            turn.wait()
            cache = self._engine.take_rows(best.cache, np.array([0], "int32"))
        return CachedPrefix(best.token_ids, cache, best.drafter, best.weights)

    def put(self, prefix: CachedPrefix) -> None:
        """Hold what a row left."""
        if prefix.cache is None or len(prefix.token_ids) < LEAST_COMMON:
            return
        for held in list(self._held):  # nothing that it lacks
            if common_length(held.token_ids, prefix.token_ids) == len(held.token_ids):
                self._drop(held)
        self._held.append(prefix)
        self.bytes += self._size(prefix)
        while self._held and self.bytes > self._limit:
            self._drop(self._held[0])

    def _drop(self, held):
        self._held.remove(held)
        self.bytes -= self._size(held)

    def _size(self, held):
        return self._engine.cache_bytes(1, held.cache.slots)
