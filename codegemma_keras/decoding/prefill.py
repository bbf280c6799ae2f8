"""Prompts on their way into a batch: which chunks of which rows are computed, and when.

`cache.prefill_plan` lays out the chunks of one batch. Here they run one at a time, so that
rows which decode already get their turn in between.
"""

import functools

import numpy as np

from codegemma_keras.decoding.cache import (
    AS_NEEDED,
    CachedPrefix,
    bucket,
    common_length,
    prefill_plan,
    row_bucket,
)
from codegemma_keras.decoding.loop import VISIT

# A beginning that all prompts share is computed once if it has so many tokens and saves so
# many: the copies of its cache, and programs for one row, cost something, too.
LEAST_SHARED, LEAST_SAVED = 64, 256


class Prefill:
    """Rows on their way into a batch: each different prompt once, longest first.

    What all prompts begin with, such as the worked examples of an evaluation, is computed
    once, in a cache of one row, which is then copied for the others.

    A prompt of which a cache holds all but the last token, which is what most keystrokes
    in the layout `line` leave, has no chunk: its last token is computed by the decode loop,
    together with the newest tokens of the rows that go on.

    Args:
        engine: an `Engine`.
        drafter: as of `Generation`.
        rows: of `Row`.
        least: a `Least` of the cache.

    Attributes:
        ready: whether only the last token of one prompt is to be computed. It is certain
            when the prefill has begun: weights may have changed.
    """

    def __init__(self, engine, drafter, rows, least=AS_NEEDED):
        self._engine = engine
        self._least = least
        self._drafter = drafter
        self.rows = rows
        self._prompts = sorted({tuple(r.prompt) for r in rows}, key=len, reverse=True)
        self._plan = None  # chunks to come; None: not laid out yet
        self._cache = self._hidden = None
        self._shared = 0  # tokens of the beginning that is computed once
        self._alone = 0  # chunks of it that are to come
        self.ready = self._lacks_one_token()

    def _lacks_one_token(self):
        """Whether a cache holds all of the only prompt but its last token."""
        row = self.rows[0]
        if len(self.rows) > 1 or row.cached is None or row.cached.cache is None:
            return False
        if self._drafter is not None or self._least.fixed:
            return False
        return common_length(row.prompt, row.cached.token_ids) >= len(row.prompt) - 1

    @property
    def running(self) -> bool:
        return any(row.running for row in self.rows)

    @property
    def done(self) -> bool:
        return self._plan == []

    def begin(self) -> None:
        """Find out what is to be computed, and make room for it."""
        if self._plan is None:
            self._lay_out()

    def advance(self) -> int:
        """The next chunk; how many prompt tokens it computed."""
        self.begin()
        (offset, width, rows), alone = self._plan[0], bool(self._alone)
        cache, self._cache = self._cache, None
        if not alone and cache.rows < len(self._lengths):  # from here on rows differ
            cache = self._engine.take_rows(cache, np.zeros(len(self._lengths), "int32"))
        lengths = np.array([self._shared], "int32") if alone else self._lengths
        hidden = self._engine.hidden(1) if alone else self._hidden
        chunk = np.ascontiguousarray(self._ids[:rows, offset : offset + width])
        hidden, self._cache = self._engine.prefill(
            chunk, np.int32(offset), lengths, hidden, cache, self._drafter
        )
        if alone:
            self._alone -= 1
        else:
            self._hidden = hidden
        self._plan = self._plan[1:]
        computed = np.clip(lengths - offset, 0, width)[:rows]
        by_prompt = dict(zip(self._prompts, computed.tolist(), strict=False))
        for row in self.rows:
            row.computed_tokens += by_prompt.get(tuple(row.prompt), 0)
        return int(computed.sum())

    def _lay_out(self):
        engine, drafter = self._engine, self._drafter
        lengths = [len(prompt) for prompt in self._prompts]
        rows = max(row_bucket(len(lengths)), self._least.rows)
        start, cache = self._cached()
        reach = max(len(row.prompt) + min(VISIT, row.limit - 1) for row in self.rows)
        slots = bucket(reach + (2 * drafter.width if drafter else 0))
        slots = max(slots, self._least.slots, cache.slots if cache else 0)
        if self.ready and cache is not None:  # with the weights of now
            self._plan, self._cache = [], engine.grow(cache, slots, drafter)
            return
        self.ready = False
        plan = functools.partial(prefill_plan, read=engine.tokens_per_read, room=slots)
        self._shared = 0 if cache else shared_beginning(self._prompts)
        alone = plan([self._shared]) if self._shared else []
        self._alone = len(alone)
        fixed = rows if self._least.fixed else None
        self._plan = alone + plan(lengths, self._shared or start, rows=fixed)
        reach = max(offset + width for offset, width, _ in self._plan)
        self._ids = np.zeros((rows, reach), "int32")
        for ids, prompt in zip(self._ids, self._prompts, strict=False):
            ids[: len(prompt)] = prompt
        self._lengths = np.array(lengths + [0] * (rows - len(lengths)), "int32")
        self._hidden = engine.hidden(rows)
        if cache is None:
            engine.check_cache(rows, slots, drafter)
            rows = 1 if self._shared else rows
            _, self._cache = engine.empty(rows, slots, drafter)
        else:
            self._cache = engine.grow(cache, slots, drafter)

    def _cached(self):
        """How many tokens of the one prompt are held already, and the cache with them."""
        first = self.rows[0]
        if first.cached is None:
            return 0, None
        version, held = self._engine.weights_version(), first.cached
        for row in self.rows:
            row.weights = version
            # A row lives as long as somebody holds its answer, and would keep the cache
            # alive: 16 editors held gigabytes in this way.
            row.cached = CachedPrefix()
        if len(self._prompts) > 1:
            return 0, None
        return held.usable(first.prompt, self._drafter, version)

    def finish(self):
        """`(rows, hidden, cache)`: each row that still runs in a row of its own.

        `hidden` is None for a prompt whose last token is still to be computed.
        """
        place = {prompt: number for number, prompt in enumerate(self._prompts)}
        rows = [row for row in self.rows if row.running]
        rows.sort(key=lambda row: place[tuple(row.prompt)])
        source = [place[tuple(row.prompt)] for row in rows]
        unused = max(row_bucket(len(rows)), self._least.rows) - len(rows)
        hidden, cache = self._hidden, self._cache
        if source != list(range(len(self._prompts))):
            index = np.array(source + [0] * unused, "int32")
            hidden, cache = self._engine.take_rows((hidden, cache), index)
        return rows + [None] * unused, hidden, cache

    def keep(self, row) -> CachedPrefix:
        """What a row that ended within the prefill leaves."""
        if self._plan is None:
            return row.cached or CachedPrefix()
        if self._cache is None or self._cache.rows != 1 or not self._plan:
            return CachedPrefix()
        if self.running:  # others need it
            return CachedPrefix()
        cache, self._cache = self._cache, None
        tokens = tuple(row.prompt[: self._plan[0][0]])
        return CachedPrefix(tokens, cache, self._drafter, row.weights)


def shared_beginning(prompts) -> int:
    """How many tokens of a beginning that all prompts have pay if computed once; or 0.

    Of each prompt a token is left, whose hidden state gives the next.

    Examples:
        >>> shots = tuple(range(500))
        >>> shared_beginning([(*shots, 7, 8), (*shots, 9)])
        500
        >>> shared_beginning([(1, 2, 3), (1, 2, 4)])
        0
    """
    first, last = min(prompts), max(prompts)  # what these two share, all share
    shared = min(common_length(first, last), min(map(len, prompts)) - 1)
    saved = (len(prompts) - 1) * shared
    return shared if shared >= LEAST_SHARED and saved >= LEAST_SAVED else 0
