"""The one thread that owns the engine: requests of all clients in one running batch.

Between two visits of the device it ends what was cancelled, lets waiting prompts join the
batch, and gives out the text that has become certain. Prompts join in the order they
came; while one is computed, prefill and decoding alternate (`decoding.Generation`).

A `Job` is one request of a client: one or more prompts, each with one or more answers.
What becomes of it is told to its `deliver`, in the scheduler's thread: `Text` as it comes,
`Done` for each answer, or `Failed` once.
"""

import collections
import dataclasses
import logging
import threading
import time
from collections.abc import Callable

from codegemma_keras.decoding import Completion, Sampling, Session
from codegemma_keras.decoding.completion import (
    Answer,
    Cancellation,
    end_from_outside,
    visit_length,
)
from codegemma_keras.decoding.request import Cursor, TokenIds, answer_to, room
from codegemma_keras.decoding.sampling import seeds
from codegemma_keras.server import memory
from codegemma_keras.server.ask import Ask, BusyError
from codegemma_keras.server.prefixes import Prefixes

LOG = logging.getLogger(__name__)
# Seconds without a request after which freed memory goes back to the system.
QUIET = 1.0


@dataclasses.dataclass(frozen=True)
class Text:
    """Further text of one answer."""

    index: int
    text: str


@dataclasses.dataclass(frozen=True)
class Done:
    """One answer is there."""

    index: int
    completion: Completion


@dataclasses.dataclass(frozen=True)
class Failed:
    """The job ended with an error; nothing else comes."""

    error: Exception


class Job:
    """One request of a client on its way; made by `Scheduler.prepare`.

    Args:
        ask: what is asked for.
        deliver: takes a `Text`, `Done` or `Failed`; must not block.
        editor: the name of an editor: its newer jobs end its older ones. None: nobody's.

    Attributes:
        groups: answers by prompt, in the order of the request.
        completions: what came of each answer; None until it is done.
        prompt_scores: the log-probabilities of each prompt's tokens, if asked for.
        tokenizer: the model's.
        submitted, first_token, ended: `time.monotonic()` of these moments, or None.
        superseded: whether a newer job of the same editor ended it.
    """

    def __init__(self, ask: Ask, deliver: Callable, editor: str | None = None):
        self.ask = ask
        self.deliver = deliver
        self.editor = editor
        self.groups: list[list[Answer]] = []
        self.completions: list[Completion | None] = []
        self.prompt_scores = []
        self.tokenizer = None
        self.submitted = self.first_token = self.ended = None
        self.superseded = False
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """End it at the next visit, with what there is."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    @property
    def prompt_tokens(self) -> int:
        return sum(len(group[0].row.prompt) for group in self.groups)

    @property
    def computed_tokens(self) -> int:
        """Prompt tokens that were not found in a cache."""
        return sum(group[0].row.computed_tokens for group in self.groups)

    @property
    def new_tokens(self) -> int:
        return sum(len(a.row.tokens) for group in self.groups for a in group)

    def late(self, answer: Answer) -> bool:
        """Whether an answer that has its first line has had its time."""
        limit = self.ask.line_limit_ms
        if limit is None or self.first_token is None:
            return False
        past = (time.monotonic() - self.first_token) * 1000 > limit
        return past and "\n" in answer.text.text


@dataclasses.dataclass(eq=False)
class _Open:
    """An answer under way."""

    job: Job
    index: int
    answer: Answer


class Scheduler:
    """Serves jobs until it is closed.

    Args:
        lm: a `CodeGemmaCausalLM`.
        rows: most answers at once.
        max_waiting: most prompts that wait for a place.
        max_seconds: the time that a job may take.
        layout: of prompts at a cursor, as `Session`'s; None: what suits the model.
        cache_bytes: of prompts that may be asked again.
    """

    def __init__(
        self,
        lm,
        rows: int = 4,
        max_waiting: int = 64,
        max_seconds: float = 60.0,
        layout: str | None = None,
        cache_bytes: int = 2**29,
    ):
        self.lm = lm
        self.rows = rows
        self.prefixes = Prefixes(lm.engine, cache_bytes)
        self._max_waiting = max_waiting
        self._max_seconds = max_seconds
        self._layout = Session(lm, layout)
        self._generation = lm.engine.generation(may_compile=False)
        self._changed = threading.Condition()
        self._waiting = collections.deque()  # of lists of `_Open` of one prompt
        self._open = []
        self._closing = False
        self._freed = False  # memory that the C library may still keep
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)
        self._thread.start()

    # From any thread

    @property
    def waiting(self) -> int:
        """How many prompts wait for a place."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """How many answers are under way."""
        return len(self._open)

    def wait_until_quiet(self, quiet: float, patience: float) -> bool:
        """Wait until there was no request for `quiet` seconds; False: not in `patience`."""
        end = time.monotonic() + patience
        with self._changed:
            while (left := end - time.monotonic()) > 0:
                idle = self._changed.wait_for(lambda: not self._busy(), left)
                if idle and not self._changed.wait_for(self._busy, quiet):
                    return True
        return False

    def _busy(self):
        return bool(self._open or self._waiting)

    def prepare(self, job: Job) -> Job:
        """Make the prompts of a job. Takes as long as its text is long.

        Raises:
            ValueError, TypeError: what is asked for cannot be done, and why.
        """
        ask = job.ask
        if not 1 <= ask.n <= self.rows:
            raise ValueError(
                f"n={ask.n} answers to one prompt; this server gives 1 to {self.rows}."
            )
        if not 1 <= len(ask.requests) <= self._max_waiting:
            raise ValueError(
                f"{len(ask.requests)} prompts in one request; this server takes 1 to "
                f"{self._max_waiting}."
            )
        job.tokenizer = self.lm.tokenizer
        deadline = time.monotonic() + self._max_seconds
        outside = Cancellation(deadline, lambda: job.cancelled)
        job.groups = [
            self._answers(request, ask.n, outside) for request in ask.requests
        ]
        job.completions = [None] * (ask.n * len(ask.requests))
        if ask.score_prompts:
            prompts = [group[0].row.prompt for group in job.groups]
            job.prompt_scores = self.lm.engine.log_probabilities(prompts)
        return job

    def _answers(self, request, n, outside):
        """n answers to one prompt, which fits into the context with what is new."""
        context = self.lm.preprocessor.sequence_length
        if request.max_new_tokens is not None and request.max_new_tokens > context:
            raise ValueError(
                f"{request.max_new_tokens} new tokens are asked for, but the context is "
                f"{context} tokens, prompt and new ones together."
            )
        if isinstance(request.prompt, TokenIds):
            left = room(self.lm, len(request.prompt.ids), None, request.max_new_tokens)
            request = dataclasses.replace(request, max_new_tokens=left)
        at_cursor = isinstance(request.prompt, Cursor)
        layout = self._layout if at_cursor and request.prompt.mode is None else None
        # A compiled sampler has no say here: the same request gives the same text.
        sampling = request.sampling or Sampling()
        answers = [
            answer_to(self.lm, request, sampling, seed, outside, layout)
            for seed in seeds(request.seed, n)
        ]
        for answer in answers:
            answer.watched = True
            self.lm.engine.check_row(answer.row)
        return answers

    def submit(self, job: Job) -> None:
        """Let a prepared job wait for its place.

        Raises:
            BusyError: too many wait already, or the server stops.
        """
        index, groups = 0, []
        for answers in job.groups:
            groups.append([])
            for answer in answers:
                groups[-1].append(_Open(job, index, answer))
                index += 1
        with self._changed:
            if self._closing:
                raise BusyError("The server is being stopped.", 5)
            if len(self._waiting) + len(groups) > self._max_waiting:
                raise BusyError(
                    f"{len(self._waiting)} prompts are waiting, which is all that this "
                    "server lets wait. Try again later."
                )
            if job.editor is not None:
                self._supersede(job.editor)
            job.submitted = time.monotonic()
            self._waiting.extend(groups)
            self._changed.notify_all()

    def _supersede(self, editor):
        """Newest keystroke wins: end what an editor asked before."""
        older = [*self._open, *(each for group in self._waiting for each in group)]
        for each in older:
            if each.job.editor == editor:
                each.job.superseded = True
                each.job.cancel()

    def close(self, seconds: float = 5.0) -> None:
        """Take no more jobs; end those that are not done after `seconds`."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(seconds)
        with self._changed:
            for each in [*self._open, *(e for group in self._waiting for e in group)]:
                each.job.cancel()
        self._thread.join(10)

    # In the scheduler's thread

    def _run(self):
        while self._wait():
            try:
                self._end()
                self._admit()
                if self._generation.running:
                    answers = [each.answer for each in self._open]
                    self._generation.advance(visit_length(self._generation, answers))
                self._give_out()
            except Exception as error:
                # A fault of the device or of this package: those under way are told,
                # and the next ones find a fresh batch.
                LOG.exception("A batch failed")
                self._generation = self.lm.engine.generation(may_compile=False)
                failed, self._open = self._open, []
                for job in {each.job for each in failed}:
                    _tell(job, Failed(error))

    def _wait(self) -> bool:
        """Until there is something to do; False: it is all over."""
        while True:
            with self._changed:
                if self._open or self._waiting or self._closing:
                    self._freed = True
                    return self._busy()
                self._changed.notify_all()  # those in `wait_until_quiet`
                woken = self._changed.wait(QUIET if self._freed else None)
            if not woken:
                memory.give_back()
                self._freed = False

    def _end(self):
        """End what was cancelled or has had its time, wherever it is."""
        end_from_outside([each.answer for each in self._open])
        for each in self._open:
            if each.job.late(each.answer):
                each.answer.row.stop("time")
        self._give_out()
        with self._changed:
            waiting, self._waiting = self._waiting, collections.deque()
            for group in waiting:
                end_from_outside([each.answer for each in group])
                if group[0].answer.row.running:
                    self._waiting.append(group)
                else:
                    self._open.extend(group)
        self._give_out()

    def _admit(self):
        """Let prompts join for which there is a place."""
        while True:
            with self._changed:
                places = self.rows - len(self._open)
                if not self._waiting or len(self._waiting[0]) > places:
                    return
                group = self._waiting.popleft()
                self._open.extend(group)
            rows = [each.answer.row for each in group]
            rows[0].cached = self.prefixes.take(rows[0].prompt)
            try:
                self._generation.join(rows)
            except ValueError as error:  # a batch that could outgrow a limit
                self._open = [each for each in self._open if each not in group]
                _tell(group[0].job, Failed(error))

    def _give_out(self):
        """The text that became certain, and the ends; caches that ended are held."""
        for each in self._open:
            piece = each.answer.take_in()
            job = each.job
            if job.first_token is None and each.answer.row.tokens:
                job.first_token = time.monotonic()
            if piece:
                _tell(job, Text(each.index, piece))
        for each in [each for each in self._open if not each.answer.row.running]:
            row = each.answer.row
            if row.cached is not None:
                self.prefixes.put(self._generation.keep(row))
            completion = each.answer.completion()
            each.job.completions[each.index] = completion
            if None not in each.job.completions:
                each.job.ended = time.monotonic()
            _tell(each.job, Done(each.index, completion))
            # Last, because those that are open are told of a fault.
            self._open.remove(each)


def _tell(job, event):
    """Deliver; a job that nobody waits for any more ends, and disturbs no other."""
    try:
        job.deliver(event)
    except RuntimeError:  # its event loop is closed
        job.cancel()
