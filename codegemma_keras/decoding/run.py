"""A batch of requests under way: what the host knows, and one visit of the device.

The engine holds the programs; a run holds the cache, the tokens so far and why each
request ended. Between visits the caller may stop requests.
"""

import dataclasses
import time

import numpy as np

from codegemma_keras.decoding.buckets import VISIT, bucket, prefill_plan, row_bucket
from codegemma_keras.decoding.steps import Rows


@dataclasses.dataclass(frozen=True)
class Generation:
    """What one request gave.

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


@dataclasses.dataclass
class Held:
    """A cache of one row and the tokens whose keys and values it holds.

    Attributes:
        drafter: whose part of the cache follows the model's own; None: nobody's.
    """

    token_ids: list[int]
    cache: list | None = None
    drafter: object = None


def common_length(a, b) -> int:
    """How many elements two sequences begin with alike."""
    for index, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return index
    return min(len(a), len(b))


class Run:
    """A batch of requests under way. One thread at a time; the engine may be shared.

    The first calls of `advance` prefill. Dropping a run at any time is safe: nothing of
    it stays in the engine.

    Attributes:
        tokens: new tokens of each request so far, stop tokens included.
        scores: their log-probabilities.
        prefilled: how many prompt tokens were computed (not found in `held`).
        forwards: how often the decode loop ran the network.
    """

    def __init__(
        self, engine, prompts, limits, stop_ids, sampling, seeds, drafter, held
    ):
        self._engine = engine
        self._prompts = prompts
        self._limits = limits
        self._stop_ids = stop_ids
        self._sampling = sampling
        self._drafter = drafter
        self._seeds = np.array(seeds, "int64").astype("uint32")
        self._held = held
        self._cache = None
        self._plan = None  # prefill chunks to come; None: not laid out yet
        self._rows = []  # the request in each row of the cache; -1: none
        self.tokens = [[] for _ in prompts]
        self.scores = [[] for _ in prompts]
        self._reasons = ["max_new_tokens" if n == 0 else None for n in limits]
        self.prefilled = 0
        self.forwards = 0

    @property
    def running(self) -> bool:
        """Whether any request wants more tokens."""
        return any(reason is None for reason in self._reasons)

    def stop(self, request: int, reason: str) -> None:
        """End a request: it gets no more tokens."""
        if self._reasons[request] is None:
            self._reasons[request] = reason

    def stop_all(self, reason: str) -> None:
        for request in range(len(self._prompts)):
            self.stop(request, reason)

    def is_running(self, request: int) -> bool:
        return self._reasons[request] is None

    def stopped_by_token(self, request: int) -> bool:
        """Whether the newest token of a request is a stop token."""
        return self._reasons[request] == "stop_token"

    @property
    def seconds_per_step(self) -> float | None:
        """What a decoded token took lately in such a batch, any text of the model."""
        return self._engine.seconds_per_step.get(len(self._rows))

    def generations(self) -> list[Generation]:
        """The requests' results so far."""
        results = []
        for tokens, scores, reason in zip(
            self.tokens, self.scores, self._reasons, strict=True
        ):
            stop_token = None
            if reason == "stop_token":
                tokens, scores, stop_token = tokens[:-1], scores[:-1], tokens[-1]
            results.append(
                Generation(list(tokens), reason or "stopped", stop_token, list(scores))
            )
        return results

    def hold(self) -> Held:
        """The first row's cache, for a later run; this one ends.

        Returns:
            A `Held` of the prompt and of all new tokens but the last, whose keys and
            values were never needed.
        """
        self.stop_all("stopped")
        if self._plan is None:  # ended before it began
            return self._held or Held([], None)
        cache, self._cache = self._cache, None
        if cache is None or cache[0][0].shape[0] != 1:
            return Held([], None)
        if not self._rows:  # ended within the prefill
            return Held(self._prompts[0][: self._plan[0][0]], cache, self._drafter)
        tokens = (self._prompts[0] + self.tokens[0])[:-1]
        return Held(tokens, cache, self._drafter)

    # One visit

    def advance(self, count: int) -> None:
        """One turn on the device: a prefill chunk, or up to `count` (1 to 32) tokens.

        Other threads get their turn before the next.
        """
        if not self.running:
            return
        with self._engine.lock:
            if self._plan is None:
                self._prepare()
            if self._plan:
                self._prefill()
            else:
                self._decode(count)

    def _live(self):
        return [r >= 0 and self._reasons[r] is None for r in self._rows]

    def _prepare(self):
        """Lay out the prompts, each different one once, longest first."""
        wanted = {
            tuple(p) for p, n in zip(self._prompts, self._limits, strict=True) if n
        }
        self._unique = sorted(wanted, key=len, reverse=True)
        rows = row_bucket(len(self._unique))
        lengths = [len(p) for p in self._unique]
        start, cache = self._reused()
        plan = prefill_plan(lengths, start, self._engine.tokens_per_read)
        end = max(offset + width for offset, width, _ in plan)
        slots = bucket(max(end, self._need(lengths[0], min(VISIT, self._limits.max()))))
        self._ids = np.zeros((rows, end), "int32")
        for row, prompt in zip(self._ids, self._unique, strict=False):
            row[: len(prompt)] = prompt
        self._lengths = np.array(lengths + [0] * (rows - len(lengths)), "int32")
        if cache is None:
            self._hidden, self._cache = self._engine.empty(rows, slots, self._drafter)
        else:
            self._hidden, _ = self._engine.empty(rows, bucket(1))
            self._cache = self._grown(cache, slots)
        self._plan = plan

    def _prefill(self):
        """The next chunk; after the last one the first tokens."""
        offset, width, rows = self._plan[0]
        chunk = np.ascontiguousarray(self._ids[:rows, offset : offset + width])
        # Given away: if the device fails, there is no cache rather than a broken one.
        cache, self._cache = self._cache, None
        self._hidden, self._cache = self._engine.prefill(
            chunk, np.int32(offset), self._lengths, self._hidden, cache, self._drafter
        )
        self.prefilled += int(np.clip(self._lengths[:rows] - offset, 0, width).sum())
        self._plan = self._plan[1:]
        if not self._plan:
            self._spread()

    def _spread(self):
        """From one row for each prompt to one for each request, and the first tokens."""
        engine = self._engine
        place = {prompt: row for row, prompt in enumerate(self._unique)}
        wanted = [r for r in range(len(self._prompts)) if self._limits[r]]
        wanted.sort(key=lambda r: place[tuple(self._prompts[r])])
        rows = row_bucket(len(wanted))
        hidden = self._hidden
        if len(wanted) != len(self._unique):
            source = [place[tuple(self._prompts[r])] for r in wanted]
            index = np.array(source + [0] * (rows - len(wanted)), "int32")
            hidden, self._cache = engine.take_rows((hidden, self._cache), index)
        self._rows = wanted + [-1] * (rows - len(wanted))
        seeds = self._row_array(self._seeds, "uint32")
        token, score = engine.first(self._sampling, hidden, seeds)
        self._ids = self._hidden = None
        self._collect(np.asarray(token)[:, None], np.asarray(score)[:, None], None)

    def _reused(self):
        """How many slots of the held cache serve the one prompt, and that cache."""
        held, self._held = self._held, None
        if held is None or held.cache is None or len(self._unique) != 1:
            return 0, None
        cache = held.cache
        if self._drafter is None or self._drafter.engine is None:
            cache = self._engine.own(cache)
        elif held.drafter != self._drafter:
            return 0, None  # the draft model has read nothing of it
        # The last token is computed in any case: its hidden state gives the next.
        common = common_length(self._unique[0], held.token_ids)
        return min(common, len(self._unique[0]) - 1), cache

    def _need(self, length, count):
        drafts = 2 * self._drafter.width if self._drafter else 0
        return length + count + 1 + drafts

    def _grown(self, cache, slots):
        size = cache[0][0].shape[1]
        while size < slots:  # step by step, through programs that warm_up compiled
            size = bucket(size + 1)
            cache = self._engine.grow(cache, size)
        return cache

    def _row_array(self, values, dtype):
        return np.array([values[r] if r >= 0 else 0 for r in self._rows], dtype)

    def _decode(self, count):
        engine = self._engine
        self._compact()
        live = np.array(self._live())
        newest = [tokens[-1] if tokens else 0 for tokens in self.tokens]
        length = [
            len(p) + len(t) - 1 for p, t in zip(self._prompts, self.tokens, strict=True)
        ]
        positions = self._row_array(length, "int32")
        counts = self._row_array([len(t) for t in self.tokens], "int32")
        limits = self._row_array(self._limits, "int32")
        count = min(count, VISIT, int((limits - counts)[live].max()))
        # Ended rows may be longer than any live one; their slots exist already.
        slots = bucket(self._need(int(positions.max()), count))
        self._cache, cache = None, self._grown(self._cache, slots)
        rows = Rows(
            tokens=self._row_array(newest, "int32"),
            positions=positions,
            counts=counts,
            limits=limits,
            stopped=~live,
            seeds=self._row_array(self._seeds, "uint32"),
        )
        before = time.perf_counter()
        output, scores, new_counts, forwards, self._cache = self._visit(
            rows, np.int32(count), cache
        )
        output, scores, new_counts = map(np.asarray, (output, scores, new_counts))
        done = int((new_counts - counts).max())
        self.forwards += done if forwards is None else int(forwards)
        engine.seconds_per_step[len(self._rows)] = (time.perf_counter() - before) / max(
            done, 1
        )
        self._collect(output, scores, new_counts - counts)

    def _visit(self, rows, count, cache):
        """Tokens, scores, counts, forwards (None: one a token) and the cache."""
        engine = self._engine
        if self._drafter is None:
            *results, cache = engine.decode(
                self._sampling, rows, self._stop_ids, count, cache
            )
            return *results, None, cache
        history = None
        if self._drafter.engine is None:
            history = np.zeros((len(self._rows), cache[0][0].shape[1]), "int32")
            for row, request in zip(history, self._rows, strict=True):
                if request >= 0:
                    text = self._prompts[request] + self.tokens[request]
                    row[: len(text)] = text
        return engine.speculate(
            self._sampling, self._drafter, rows, self._stop_ids, count, history, cache
        )

    def _compact(self):
        """Drop ended rows when the smaller program exists: never compile to save time."""
        live = [row for row, on in enumerate(self._live()) if on]
        rows = row_bucket(len(live))
        slots = self._cache[0][0].shape[1]
        if rows >= len(self._rows) or self._drafter is not None:
            return
        if not self._engine.is_compiled(self._sampling, rows, slots):
            return
        index = live + [live[0]] * (rows - len(live))
        self._cache = self._engine.take_rows(self._cache, np.array(index, "int32"))
        self._rows = [self._rows[row] for row in live] + [-1] * (rows - len(live))

    def _collect(self, output, scores, counts):
        stops = set(self._stop_ids.tolist())
        for row, request in enumerate(self._rows):
            if request < 0 or self._reasons[request] is not None:
                continue
            number = 1 if counts is None else int(counts[row])
            tokens = [int(t) for t in output[row, :number]]
            self.tokens[request] += tokens
            self.scores[request] += [float(s) for s in scores[row, :number]]
            if tokens and tokens[-1] in stops:
                self._reasons[request] = "stop_token"
            elif len(self.tokens[request]) >= self._limits[request]:
                self._reasons[request] = "max_new_tokens"
