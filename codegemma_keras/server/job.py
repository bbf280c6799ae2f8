"""`Job`: one request of a client on its way, and what it is told.

One or more prompts, each with one or more answers. What becomes of a job is told to its
`deliver`, in the scheduler's thread: `Text` as it comes, `Done` for each answer, or
`Failed` once.
"""

import dataclasses
import itertools
import threading
import time
from collections.abc import Callable

from codegemma_keras.decoding import Completion
from codegemma_keras.decoding.completion import Answer
from codegemma_keras.server.ask import ApiError, Ask, BusyError, SupersededError

_ARRIVALS = itertools.count(1)


def arrival() -> int:
    """The next number. Who came later has a higher one, whoever is prepared first."""
    return next(_ARRIVALS)


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
    """One request of a client on its way; `Scheduler.prepare` makes its prompts.

    Args:
        ask: what is asked for.
        deliver: takes a `Text`, `Done` or `Failed`; must not block.
        editor: the name of an editor: its newer jobs end its older ones. None: nobody's.
        number: of its arrival, if that was before now; see `arrival`.

    Attributes:
        groups: answers by prompt, in the order of the request.
        completions: what came of each answer; None until it is done.
        prompt_scores: the log-probabilities of each prompt's tokens, if asked for; None
            until they are there.
        tokenizer: the model's.
        arrived, first_token, ended: `time.monotonic()` of these moments, or None.
        superseded: whether a newer job of the same editor ended it.
        cancellation: the event that `cancel` sets.
    """

    def __init__(
        self,
        ask: Ask,
        deliver: Callable,
        editor: str | None = None,
        number: int | None = None,
    ):
        self.ask = ask
        self.deliver = deliver
        self.editor = editor
        self.number = arrival() if number is None else number
        self.groups: list[list[Answer]] = []
        self.completions: list[Completion | None] = []
        self.prompt_scores: list = [None] * len(ask.requests)
        self.tokenizer = None
        self.arrived = time.monotonic()
        self.first_token = self.ended = None
        self.superseded = False
        self.cancellation = threading.Event()

    def cancel(self) -> None:
        """End it at the next visit, with what there is."""
        self.cancellation.set()

    def supersede(self) -> None:
        """End it, because a newer job of its editor came."""
        self.superseded = True
        self.cancel()

    @property
    def cancelled(self) -> bool:
        return self.cancellation.is_set()

    @property
    def prompt_tokens(self) -> int:
        return sum(len(group[0].row.prompt) for group in self.groups)

    @property
    def computed_tokens(self) -> int:
        """Prompt tokens that were not found in a cache."""
        return sum(group[0].row.computed_tokens for group in self.groups)

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens that were found in a cache; none of a prompt that was not read."""
        rows = [group[0].row for group in self.groups]
        return sum(len(row.prompt) - row.computed_tokens for row in rows if row.tokens)

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

    def refusal(self, index: int) -> ApiError | None:
        """What to say instead of answer `index`, which ended; None: it is one."""
        if self.superseded:
            return SupersededError()
        completion = self.completions[index]
        if completion.token_ids or completion.stop_reason not in ("time", "cancelled"):
            return None
        scored = self.prompt_scores[index // self.ask.n] is not None
        if self.first_token is not None and (scored or not self.ask.score_prompts):
            return None  # another answer of the job has text
        return unread(completion.stop_reason)


def unread(reason: str) -> BusyError:
    """What to say of a prompt that ended before it was read.

    Args:
        reason: `"time"` or `"cancelled"`.
    """
    if reason == "time":
        return BusyError(
            "The request had all of its time (--max-seconds) before its first token. "
            "Too much else is asked; try again later."
        )
    return BusyError("The request was ended before its first token.", 5)
