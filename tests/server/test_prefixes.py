"""The memory that caches of prompts take, read while they change."""

import random
from types import SimpleNamespace

from codegemma_keras.decoding.cache import CachedPrefix
from codegemma_keras.server.prefixes import Prefixes


def prefix(number, length=20):
    ids = tuple(range(1000 * number, 1000 * number + length))
    return CachedPrefix(ids, SimpleNamespace(slots=length))


def test_metrics_may_ask_for_the_memory_while_caches_come_and_go():
    """Another thread may hold a cache between any two steps of reading."""
    reading = False

    def cache_bytes(rows, slots):
        if reading:
            prefixes._held.append(prefix(99))
        return 10 * slots

    prefixes = Prefixes(SimpleNamespace(cache_bytes=cache_bytes), 10_000)
    for number in range(3):
        prefixes.put(prefix(number))
    reading = True
    assert prefixes.bytes == 600


def test_the_memory_is_that_of_all_that_are_held():
    engine = SimpleNamespace(cache_bytes=lambda rows, slots: 10 * slots)
    prefixes, choice = Prefixes(engine, 2_000), random.Random(1)
    for _ in range(300):
        number = choice.randrange(12)
        if choice.random() < 0.5:
            prefixes.put(prefix(number, choice.randrange(17, 60)))
        else:
            prefixes.take(prefix(number, 60).token_ids)
        held = [held.cache.slots for held in prefixes._held]
        assert prefixes.bytes == 10 * sum(held) <= 2_000
