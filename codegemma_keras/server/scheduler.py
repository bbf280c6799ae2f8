"""The one thread that owns the engine: requests of all clients in one running batch.

Between two visits of the device it ends what was cancelled, lets waiting prompts join the
batch, and gives out the text that has become certain. Prompts join in the order they
came; while one is computed, prefill and decoding alternate (`decoding.Generation`).

Before that, the prompts of a `Job` are made in one of a few other threads, and count as
waiting already. Jobs of one editor may be prepared in any order; their numbers say which
is the newest.
"""

import collections
import concurrent.futures
import dataclasses
import logging
import threading
import time

from codegemma_keras.decoding.cache import AS_NEEDED, Least, bucket
from codegemma_keras.decoding.completion import Answer, end_from_outside, visit_length
from codegemma_keras.server import memory
from codegemma_keras.server.ask import BusyError, SupersededError
from codegemma_keras.server.job import Done, Failed, Job, Text
from codegemma_keras.server.prefixes import Prefixes
from codegemma_keras.server.preparing import Preparer

LOG = logging.getLogger(__name__)
# Seconds without a request after which freed memory goes back to the system.
QUIET = 1.0
# Threads that encode text. More would take the processor from the device's thread.
PREPARING_AT_ONCE = 2
# Editors whose newest number is remembered, so that names without end take no memory.
REMEMBERED_EDITORS = 1024

# Slots that every cache has, so that a short prompt needs no programs of its own. Each size
# takes seconds to compile and tens of megabytes (benchmarks/server_programs.py). Attention
# over this many is a small part of a step: its keys and values are 4 % of the bytes of
# SmolLM2's weights.
SLOTS = 512
# So many caches of that size must fit among the prompts that are held.
LEAST_HELD = 16


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
        max_waiting: most prompts that wait, to be prepared or for a place.
        max_seconds: the time that a job may take, from its arrival on.
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
        self._preparer = Preparer(lm, rows, max_waiting, max_seconds, layout)
        self._threads = concurrent.futures.ThreadPoolExecutor(
            PREPARING_AT_ONCE, "preparing"
        )
        self._preparing = {}  # job (or another key) -> how many prompts it counts as
        self._newest = collections.OrderedDict()  # editor -> number of its newest job
        self.least = least_of(lm, cache_bytes)
        self._generation = self._new_generation()
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
        """How many prompts wait, to be prepared or for a place."""
        with self._changed:
            return len(self._waiting) + sum(self._preparing.values())

    @property
    def running(self) -> int:
        """How many answers are under way."""
        return len(self._open)

    @property
    def closing(self) -> bool:
        """Whether it takes no more jobs."""
        return self._closing

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

    def reserve(self, key, places: int = 1) -> None:
        """Count something among what waits, until it is submitted or released.

        Args:
            key: a `Job` that is to be prepared, or whatever else `call` will work for.
            places: its prompts.

        Raises:
            BusyError: too much waits already, or the server stops.
        """
        with self._changed:
            self._check_room(min(places, self._max_waiting))
            self._preparing[key] = min(places, self._max_waiting)

    def release(self, key) -> None:
        """It waits no more; one that was submitted is left alone."""
        with self._changed:
            self._preparing.pop(key, None)

    def call(self, function, *args) -> concurrent.futures.Future:
        """Run a function of text in one of the few threads for that.

        Raises:
            BusyError: the server stops.
        """
        try:
            return self._threads.submit(function, *args)
        except RuntimeError:
            raise BusyError("The server is being stopped.", 5) from None

    def check_length(self, text: str) -> None:
        """Raise ValueError for text that cannot fit into the context."""
        self._preparer.check_length(text)

    def prepare(self, job: Job) -> Job:
        """`Preparer.prepare`."""
        return self._preparer.prepare(job)

    def _check_room(self, more):
        if self._closing:
            raise BusyError("The server is being stopped.", 5)
        waiting = self.waiting
        if waiting + more > self._max_waiting:
            raise BusyError(
                f"{waiting} prompts are waiting, and this server lets "
                f"{self._max_waiting} wait (--max-waiting). Try again later."
            )

    def submit(self, job: Job) -> None:
        """Let a prepared job wait for its place.

        Raises:
            BusyError: too many wait already, or the server stops.
            SupersededError: a newer job of the same editor was submitted before.
        """
        index, groups = 0, []
        for answers in job.groups:
            groups.append([])
            for answer in answers:
                groups[-1].append(_Open(job, index, answer))
                index += 1
        with self._changed:
            self._preparing.pop(job, None)
            self._check_room(len(groups))
            if job.editor is not None:
                self._supersede(job)
            self._waiting.extend(groups)
            self._changed.notify_all()

    def _supersede(self, job):
        """Newest keystroke wins: end what an editor asked before.

        Raises:
            SupersededError: it has asked for something else since.
        """
        if job.number < self._newest.get(job.editor, 0):
            job.supersede()
            raise SupersededError()
        self._newest[job.editor] = job.number
        self._newest.move_to_end(job.editor)
        if len(self._newest) > REMEMBERED_EDITORS:
            self._newest.popitem(last=False)
        preparing = [key for key in self._preparing if isinstance(key, Job)]
        for other in [*self._jobs(), *preparing]:
            if other.editor == job.editor and other.number < job.number:
                other.supersede()

    def _jobs(self):
        """All that wait for a place or are under way."""
        waiting = [each for group in self._waiting for each in group]
        return {each.job for each in [*self._open, *waiting]}

    def close(self, seconds: float = 5.0) -> None:
        """Take no more jobs; end those that are not done after `seconds`."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._thread.join(seconds)
        with self._changed:
            for job in self._jobs():
                job.cancel()
        self._thread.join(10)

    # In the scheduler's thread

    def _new_generation(self):
        return self.lm.engine.generation(may_compile=False, least=self.least)

    def _run(self):
        while self._wait():
            try:
                self._end()
                self._admit()
                if self._generation.running:
                    self._generation.advance(self._visit_length())
                self._give_out()
            except Exception as error:
                # A fault of the device or of this package: those under way are told,
                # and the next ones find a fresh batch.
                LOG.exception("A batch failed")
                self._generation = self._new_generation()
                failed, self._open = self._open, []
                for job in {each.job for each in failed}:
                    _tell(job, Failed(error))

    def _visit_length(self):
        return visit_length(self._generation, [each.answer for each in self._open])

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
            try:
                self._score(group[0])
                if rows[0].limit:  # else it reads nothing, and would leave no cache
                    rows[0].cached = self.prefixes.take(rows[0].prompt)
                self._generation.join(rows)
            except ValueError as error:  # a batch that could outgrow a limit
                self._open = [each for each in self._open if each not in group]
                _tell(group[0].job, Failed(error))
            if group[0].job.ask.score_prompts:
                return  # others get their visit, and a cancelled job its end

    def _score(self, first):
        """The log-probabilities of a prompt, if they are wanted: one visit."""
        job = first.job
        if job.ask.score_prompts:
            [scores] = self.lm.engine.log_probabilities([first.answer.row.prompt])
            job.prompt_scores[first.index // job.ask.n] = scores

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


def least_of(lm, cache_bytes) -> Least:
    """The `Least` of a server's caches; see `SLOTS`.

    Args:
        lm: a `CodeGemmaCausalLM`. The keys and values of CodeGemma 7B take so much memory
            that short prompts get short caches.
        cache_bytes: of prompts that may be asked again.
    """
    slots = bucket(min(SLOTS, lm.preprocessor.sequence_length))
    fits = LEAST_HELD * lm.engine.cache_bytes(1, slots) <= cache_bytes
    return Least(slots=slots) if fits else AS_NEEDED


def _tell(job, event):
    """Deliver; a job that nobody waits for any more ends, and disturbs no other."""
    try:
        job.deliver(event)
    except RuntimeError:  # its event loop is closed
        job.cancel()
