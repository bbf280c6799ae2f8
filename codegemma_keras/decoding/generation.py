"""A batch of rows under way: what the host knows of them, and one visit of the device.

A `Row` is one prompt and what has come of it. A `Generation` takes rows through prefill
and decoding, and rows may join at any time between two visits, whatever their age and
length: continuous batching. A row's tokens are those that it has alone.

    generation = engine.generation()
    generation.join([Row(prompt, 20)])
    while generation.running:
        generation.advance(8)           # a prefill chunk, or up to 8 tokens a row
        ...                             # look at row.tokens; row.stop(); join more
"""

import collections
import dataclasses
import time

import numpy as np

from codegemma_keras.decoding.cache import (
    AS_NEEDED,
    CachedPrefix,
    bucket,
    row_bucket,
)
from codegemma_keras.decoding.loop import VISIT, Rows
from codegemma_keras.decoding.prefill import Prefill
from codegemma_keras.decoding.sampling import Sampling, Settings, Work

# A smaller program is compiled if it can save so many tokens of rows that ended: it takes
# as long as many steps do.
WORTH_A_PROGRAM = 2048
# Stop ids travel in an array of this size, padded with -1, which no token equals.
MAX_STOP_IDS = 16


@dataclasses.dataclass(frozen=True)
class Generated:
    """What one prompt gave.

    Attributes:
        token_ids: the new tokens, without the stop token.
        stop_reason: `"stop_token"`, `"max_new_tokens"`, or one of the caller's own.
        stop_token: the id that ended it, or None.
        log_probabilities: of `token_ids`, in the model's own distribution
            (temperature 1, nothing dropped).
    """

    token_ids: list[int]
    stop_reason: str
    stop_token: int | None = None
    log_probabilities: list[float] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(eq=False)
class Row:
    """One prompt, and how far it has come.

    Attributes:
        prompt: token ids; not empty.
        limit: most new tokens.
        stop_token_ids: ids that end the row; at most MAX_STOP_IDS.
        sampling: how its tokens are chosen.
        seed: int, of its noise.
        cached: a `CachedPrefix` that its prompt may begin with; an empty one as soon as
            the prompt is begun. Needed for `Generation.keep`, too. None: no interest.
        tokens: its new tokens so far, a stop token included.
        log_probabilities: of `tokens`.
        stop_reason: why it ended; None while it goes on.
        computed_tokens: how many of the prompt's tokens were not found in `cached`.
        weights: the `WeightsVersion` that computes it, if it is to be kept.
    """

    prompt: list[int]
    limit: int
    stop_token_ids: tuple[int, ...] = ()
    sampling: Sampling = Sampling()
    seed: int = 0
    cached: CachedPrefix | None = None
    tokens: list[int] = dataclasses.field(default_factory=list, init=False)
    log_probabilities: list[float] = dataclasses.field(default_factory=list, init=False)
    stop_reason: str | None = dataclasses.field(default=None, init=False)
    computed_tokens: int = dataclasses.field(default=0, init=False)
    weights: object = dataclasses.field(default=None, init=False)

    @property
    def running(self) -> bool:
        return self.stop_reason is None

    @property
    def left(self) -> int:
        """How many more tokens it may have."""
        return self.limit - len(self.tokens)

    @property
    def position(self) -> int:
        """The slot of its newest token."""
        return len(self.prompt) + len(self.tokens) - 1

    def stop(self, reason: str) -> None:
        """End it: it gets no more tokens."""
        if self.stop_reason is None:
            self.stop_reason = reason

    def add(self, tokens, log_probabilities) -> None:
        """Take in new tokens, of which only the last can be a stop token."""
        self.tokens += [int(token) for token in tokens]
        self.log_probabilities += [float(value) for value in log_probabilities]
        if self.tokens and self.tokens[-1] in self.stop_token_ids:
            self.stop("stop_token")
        elif self.left <= 0:
            self.stop("max_new_tokens")

    def cut(self, count: int, reason: str) -> None:
        """End it after `count` tokens: what was decoded behind them is dropped."""
        del self.tokens[count:], self.log_probabilities[count:]
        self.stop_reason = reason

    def result(self) -> Generated:
        """What it gave so far."""
        tokens, values = list(self.tokens), list(self.log_probabilities)
        stop_token = None
        if self.stop_reason == "stop_token":
            stop_token = tokens.pop()
            values.pop()
        return Generated(tokens, self.stop_reason or "stopped", stop_token, values)


class Generation:
    """A batch of rows under way. One thread at a time; the engine may be shared.

    Dropping one at any time is safe: nothing of it stays in the engine.

    Args:
        engine: an `Engine`.
        drafter: who guesses tokens for all rows; see `speculation`. None: nobody.
        may_compile: whether rows that ended may be dropped for a program that is not
            compiled yet, if that can save much. Not where somebody waits for the others.
        least: a `Least` of the cache of every group that joins.

    Attributes:
        prefilled: how many prompt tokens were computed.
        forwards: how often the decode loop ran the network.
    """

    def __init__(self, engine, drafter=None, may_compile=True, least=AS_NEEDED):
        self._engine = engine
        self._least = least
        self._drafter = drafter
        self._may_compile = may_compile
        self._joining = collections.deque()  # of `Prefill`
        self._places = []  # the Row in each row of the cache; None: free
        self._cache = None
        self._decode_next = False
        self.prefilled = 0
        self.forwards = 0

    @property
    def running(self) -> bool:
        """Whether any row wants more tokens."""
        return bool(self._live()) or any(group.running for group in self._joining)

    @property
    def joining(self) -> bool:
        """Whether any row waits for its first token."""
        return bool(self._joining) or self.starting

    @property
    def starting(self) -> bool:
        """Whether the next step of decoding gives a row its first token."""
        return any(not row.tokens for row in self._live())

    @property
    def seconds_per_step(self) -> float | None:
        """What a decoded token took lately in such a batch, any text of the model."""
        return self._engine.seconds_per_step.get(len(self._places))

    def join(self, rows: list[Row]) -> None:
        """Take in rows; the next visits prefill them. Equal prompts are computed once.

        Raises:
            ValueError: a row that cannot run (see `Engine.check_row`), or a batch whose
                cache could outgrow `Engine.cache_limit_bytes`. Nothing has joined then.
        """
        for number, row in enumerate(rows):
            self._engine.check_row(row, number)
            if row.limit == 0:
                row.stop("max_new_tokens")
        new = [row for row in rows if row.running]
        if not new:
            return
        others = self._live() + [r for group in self._joining for r in group.rows]
        self._check_room(others + new)
        self._joining.append(Prefill(self._engine, self._drafter, new, self._least))

    def _check_room(self, rows):
        longest = max(len(row.prompt) + row.limit - 1 for row in rows)
        slots = max(bucket(longest + self._draft_slots), self._least.slots)
        size = max(row_bucket(len(rows)), self._least.rows)
        self._engine.check_cache(size, slots, self._drafter)

    @property
    def _draft_slots(self):
        return 2 * self._drafter.width if self._drafter else 0

    def keep(self, row: Row) -> CachedPrefix:
        """The cache of a row for a later one; the row ends.

        It holds the prompt and all new tokens but the last, whose keys and values were
        never needed. Only rows with a `cached` can be kept, and a cache of one row is
        given away, not copied.
        """
        row.stop("stopped")
        for group in self._joining:
            if row in group.rows:
                return group.keep(row)
        if row not in self._places or self._cache is None:
            return CachedPrefix()
        if self._cache.rows == 1:
            cache, self._cache, self._places = self._cache, None, []
        else:
            place = np.array([self._places.index(row)], "int32")
            turn = self._engine.queue.turn()
            with turn.over:
                turn.wait()
                cache = self._engine.take_rows(self._cache, place)
        tokens = tuple(row.prompt + row.tokens)[:-1]
        return CachedPrefix(tokens, cache, self._drafter, row.weights)

    def advance(self, count: int = VISIT) -> None:
        """One turn on the device: a prefill chunk, or up to `count` (1 to 32) tokens.

        Other threads get their turn before the next. While rows join, prefill and
        decoding alternate, so that nobody waits for long.
        """
        turn = self._engine.queue.turn()
        with turn.over:
            turn.wait()
            while self._joining and not self._joining[0].running:
                self._joining.popleft()
            self._admit_ready()
            if self._joining and not (self._decode_next and self._live()):
                self._prefill()
            elif self._live():
                self._decode(count)

    def _live(self):
        return [row for row in self._places if row is not None and row.running]

    # Prefill

    def _admit_ready(self):
        """Let rows decode at once that need no chunk, whoever came before them."""
        for group in [g for g in self._joining if g.ready and g.running]:
            group.begin()
            if group.done:
                self._joining.remove(group)
                self._admit(*group.finish())
                self._decode_next = True

    def _prefill(self):
        """The next chunk of the first group; after its last one it joins the batch."""
        group = self._joining[0]
        self.prefilled += group.advance()
        self._decode_next = True
        if group.done:
            self._joining.popleft()
            self._admit(*group.finish())

    def _admit(self, rows, hidden, cache):
        """The first tokens of `rows` (None: an unused row of `cache`), then the merge.

        Without `hidden`, the first token comes with the next step of decoding.
        """
        if hidden is not None:
            self._first(rows, hidden)
        if self._live():
            rows, cache = self._merged(rows, cache)
        self._places, self._cache = rows, cache

    def _first(self, rows, hidden):
        """Give each row the token after its prompt."""
        work = Work.of([row.sampling for row in rows if row is not None])
        seeds = _array(rows, lambda row: row.seed, "uint32")
        token, score = self._engine.first(work, _settings(rows), hidden, seeds)
        for place, row in enumerate(rows):
            if row is not None:
                row.add(np.asarray(token)[place, None], np.asarray(score)[place, None])

    def _merged(self, rows, cache):
        """The live rows of the batch and of `rows`, in one cache."""
        engine, ours, places = self._engine, self._cache, list(self._places)
        new = [n for n, row in enumerate(rows) if row is not None and row.running]
        if not new:
            return places, ours
        self._cache = None
        slots = max(ours.slots, cache.slots)
        ours, cache = (engine.grow(c, slots, self._drafter) for c in (ours, cache))
        needed = len(self._live()) + len(new)
        if needed > ours.rows:  # else as many as now: their program exists
            size = row_bucket(needed)
            ours = engine.take_rows(ours, _fill(range(ours.rows), size))
            places += [None] * (size - len(places))
        free = [n for n, row in enumerate(places) if row is None or not row.running]
        free = free[: len(new)]
        for place, number in zip(free, new, strict=True):
            places[place] = rows[number]
        source, free = (_fill(numbers, cache.rows) for numbers in (new, free))
        return places, engine.put_rows(ours, cache, source, free)

    # Decoding

    def _decode(self, count):
        engine, drafter = self._engine, self._drafter
        self._compact()
        live = self._live()
        count = min(count, VISIT, max(row.left for row in live))
        # Rows that ended stay where they are; those that go on need room for more.
        reach = [row.position + 1 for row in self._places if row is not None]
        reach += [row.position + min(count, row.left) for row in live]
        slots = bucket(max(reach) + self._draft_slots)
        cache, self._cache = self._cache, None  # if the device fails: no broken cache
        cache = engine.grow(cache, slots, drafter)
        work = Work.of([row.sampling for row in live])
        state, steps = self._state(), np.int32(count)
        before = time.perf_counter()
        if drafter is None:
            *results, self._cache = engine.decode(work, state, steps, cache)
            forwards = None
        else:
            history = self._history(cache.slots) if drafter.engine is None else None
            *results, forwards, self._cache = engine.speculate(
                work, drafter, state, steps, history, cache
            )
        tokens, scores, counts = (np.asarray(result) for result in results)
        new = counts - state.counts
        done = int(new.max())
        self.forwards += done if forwards is None else int(forwards)
        seconds = (time.perf_counter() - before) / max(done, 1)
        engine.seconds_per_step[len(self._places)] = seconds
        self._decode_next = False
        for place, row in enumerate(self._places):
            if row is not None and row.running:
                n = new[place]
                if (
                    n and not row.tokens
                ):  # the last token of its prompt was computed, too
                    row.computed_tokens += 1
                    self.prefilled += 1
                row.add(tokens[place, :n], scores[place, :n])

    def _state(self):
        """`loop.Rows` of the batch."""
        rows = self._places
        stop_ids = np.full((len(rows), MAX_STOP_IDS), -1, "int32")
        for ids, row in zip(stop_ids, rows, strict=True):
            if row is not None:
                ids[: len(row.stop_token_ids)] = row.stop_token_ids
        return Rows(
            tokens=_array(rows, lambda row: (row.tokens or row.prompt)[-1]),
            positions=_array(rows, lambda row: row.position),
            counts=_array(rows, lambda row: len(row.tokens)),
            limits=_array(rows, lambda row: row.limit),
            stopped=~_array(rows, lambda row: row.running, "bool"),
            seeds=_array(rows, lambda row: row.seed, "uint32"),
            stop_ids=stop_ids,
            settings=_settings(rows),
        )

    def _history(self, slots):
        """All tokens of each row, int32 `[B, slots]`."""
        history = np.zeros((len(self._places), slots), "int32")
        for known, row in zip(history, self._places, strict=True):
            if row is not None:
                text = row.prompt + row.tokens
                known[: len(text)] = text
        return history

    def _compact(self):
        """Drop ended rows if the smaller program exists, or would save much."""
        live, cache = self._live(), self._cache
        size = row_bucket(len(live))
        if size >= cache.rows or self._drafter is not None:
            return
        work = Work.of([row.sampling for row in live])
        if not self._engine.is_compiled(work, size, cache.slots):
            saved = (cache.rows - size) * max(row.left for row in live)
            if not self._may_compile or saved < WORTH_A_PROGRAM:
                return
        index = [p for p, row in enumerate(self._places) if row and row.running]
        self._cache = self._engine.take_rows(cache, _fill(index, size))
        self._places = live + [None] * (size - len(live))


def _array(rows, value, dtype="int32"):
    """`value(row)` of each row, 0 where there is none."""
    return np.array([value(row) if row is not None else 0 for row in rows], dtype)


def _fill(numbers, size):
    """`numbers` as int32 `[size]`, the first one repeated behind them."""
    numbers = list(numbers)
    return np.array(numbers + numbers[:1] * (size - len(numbers)), "int32")


def _settings(rows):
    neutral = Sampling()
    return Settings.of([row.sampling if row is not None else neutral for row in rows])
