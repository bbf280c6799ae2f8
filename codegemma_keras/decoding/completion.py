"""From the tokens of a row to text: what may be streamed, and what is returned.

`write` drives a `Generation`; every way of asking for text goes through it, so a stream
gives the same text as a call that waits.
"""

import collections
import dataclasses
import html
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from codegemma_keras.decoding.cache import Least, bucket, row_bucket
from codegemma_keras.decoding.generation import VISIT, Generation, Row
from codegemma_keras.decoding.postprocessing import Tidying
from codegemma_keras.decoding.stops import Stops
from codegemma_keras.tokenizer.tokenizer import IncrementalDecoder

# Most tokens of further work after a stop that only the host sees.
WATCHED_VISIT = 8
# Slots of the smallest cache where programs are to be few: shorter prompts lose less by it
# than programs of their own would take.
LEAST_SLOTS = 512
# Lines that a notebook shows on each side of a completion.
SHOWN_LINES = 8
# A watched visit lasts about so long, so that text streams as it comes.
WATCHED_SECONDS = 0.05


@dataclasses.dataclass(frozen=True)
class Completion:
    """A completion, and how it ended.

    Attributes:
        text: the completion, which ends before any control token and any stop.
        stop_reason: `"stop_token"`, `"max_new_tokens"`, `"stop_string"`, `"line"`,
            `"statement"`, `"block"`, `"suffix"`, `"time"` or `"cancelled"`.
        token_ids: the new tokens, before cutting at a stop in the text.
        prompt_tokens: how many tokens the prompt took, bos included.
        prefix, suffix: the parts of the caller's text that fitted into the prompt.
        log_probabilities: those of `token_ids`, at temperature 1.
        computed_tokens: how many of the prompt's tokens were computed for this request.
            A session found the others in its cache.

    Examples:
        >>> completion = lm.complete("import ", max_new_tokens=4)
        >>> len(completion.token_ids) == len(completion.log_probabilities) <= 4
        True
    """

    text: str
    stop_reason: str
    token_ids: list[int]
    prompt_tokens: int
    prefix: str = ""
    suffix: str = ""
    log_probabilities: list[float] = dataclasses.field(default_factory=list)
    computed_tokens: int = 0

    def _repr_html_(self) -> str:
        """In a notebook: the text in its place, with the lines around it."""
        before = "".join(self.prefix.splitlines(keepends=True)[-SHOWN_LINES:])
        after = "".join(self.suffix.splitlines(keepends=True)[:SHOWN_LINES])
        shown = (
            f"{html.escape(before)}<mark>{html.escape(self.text)}</mark>"
            f"{html.escape(after)}"
        )
        note = html.escape(f"{len(self.token_ids)} tokens, {self.stop_reason}")
        return f"<pre>{shown}</pre><small>{note}</small>"


# Text as it grows


class GrowingText:
    """The text of one row: whole characters, none that a stop may take back.

    Args:
        tokenizer: a `CodeGemmaTokenizer`.
        stops: where the text ends.
        tidying: how the text is fitted in between prefix and suffix; None: not at all.
        begun: what the caller's text holds already and the prompt left to the model; it
            is not repeated.
        indentation: what the prompt holds and the caller's text lacks; the text begins
            with it.

    Attributes:
        stop_reason: why the text ended, or None.
        tokens: how many tokens it took, the one that completed a stop included.
    """

    def __init__(
        self,
        tokenizer,
        stops: Stops,
        tidying: Tidying | None = None,
        begun: str = "",
        indentation: str = "",
    ):
        self._decoder = IncrementalDecoder(tokenizer)
        self._stops = stops
        self._tidying = tidying
        self._begun = begun
        self._indentation = indentation
        self._raw = ""
        self._sent = 0
        self._finished = False
        self.stop_reason = None
        self.tokens = 0

    @property
    def text(self) -> str:
        """All of it, as if no more tokens came."""
        whole = self._tidying.whole(self._raw) if self._tidying else self._raw
        return self._indented(whole)

    def push(self, token_ids: Sequence[int]) -> str:
        """What may go out after these further tokens; those behind a stop are ignored."""
        for token in token_ids:
            if self.stop_reason is None:
                self._add(self._decoder.push([token]))
                self.tokens += 1
        if self.stop_reason is not None:
            return ""  # `finish` has the rest
        safe = self._stops.safe(self._raw) if self._stops else len(self._raw)
        if self._tidying is None:
            return self._piece(self._raw[:safe])
        # The first line stays, even if no whole statement comes of it: see `finish`.
        first = self._raw.find("\n")
        first = len(self._raw) if first < 0 else first
        safe = min(safe, max(first, self._stops.whole(self._raw)))
        return self._piece(self._indented(self._tidying.certain(self._raw[:safe])))

    def finish(self, early: bool = False) -> str:
        """What is left when no more tokens come.

        Args:
            early: whether the model had more to say; tidied text then ends with a whole
                statement, if it has one.
        """
        if self._finished:
            return ""
        self._finished = True
        self._add(self._decoder.finish())
        if early and self._tidying is not None and self.stop_reason is None:
            self._raw = self._raw[: self._stops.whole(self._raw) or None]
        return self._piece(self.text)

    def _add(self, new):
        if self.stop_reason is not None:
            return
        if self._begun and new:
            new, self._begun = new.removeprefix(self._begun), ""
        self._raw += new
        end = self._stops.end(self._raw) if self._stops else None
        if end is not None:
            kept, self.stop_reason = end
            self._raw = self._raw[:kept]

    def _indented(self, text):
        return self._indentation + text if text else text

    def _piece(self, certain):
        piece = certain[self._sent :]
        self._sent = max(self._sent, len(certain))
        return piece


@dataclasses.dataclass(frozen=True)
class Cancellation:
    """What may end a request from outside.

    Attributes:
        deadline: `time.monotonic()` to end at, or None.
        cancelled: asked between visits of the device; True ends the request.
    """

    deadline: float | None = None
    cancelled: Callable[[], bool] | None = None

    def __bool__(self):
        return self.deadline is not None or self.cancelled is not None

    def reason(self) -> str | None:
        """Why to end now, or None."""
        if self.cancelled is not None and self.cancelled():
            return "cancelled"
        if self.deadline is not None and time.monotonic() >= self.deadline:
            return "time"
        return None


@dataclasses.dataclass(eq=False)
class Answer:
    """What comes of one request: its row in a generation, and the text of it.

    Attributes:
        row: in the `Generation`.
        text: a `GrowingText`.
        cancellation: what may end it from outside; alternatives share one.
        watched: whether the host has reason to look soon: the text may stop before its
            tokens do, it is cancelled from outside, or somebody reads it as it comes.
        prefix, suffix: what of the caller's text is in the prompt.
    """

    row: Row
    text: GrowingText
    cancellation: Cancellation = Cancellation()
    watched: bool = False
    prefix: str = ""
    suffix: str = ""
    _seen: int = 0

    def take_in(self) -> str:
        """The text that has become certain since the last call."""
        new = self.row.tokens[self._seen :]
        self._seen += len(new)
        if new and self.row.stop_reason == "stop_token":
            new = new[:-1]  # not text
        piece = self.text.push(new) if new else ""
        if self.text.stop_reason is not None:
            self.row.cut(self.text.tokens, self.text.stop_reason)
        if not self.row.running:
            early = self.row.stop_reason in ("max_new_tokens", "time")
            piece += self.text.finish(early)
        return piece

    def completion(self) -> Completion:
        result = self.row.result()
        return Completion(
            text=self.text.text,
            stop_reason=self.text.stop_reason or result.stop_reason,
            token_ids=result.token_ids,
            prompt_tokens=len(self.row.prompt),
            prefix=self.prefix,
            suffix=self.suffix,
            log_probabilities=result.log_probabilities,
            computed_tokens=self.row.computed_tokens,
        )


def write(
    generation: Generation,
    answers: Sequence[Answer],
    waiting: Sequence[Answer] = (),
) -> Iterator[tuple[Answer, str]]:
    """Drive a generation to its end; yield `(answer, text)` as text becomes certain.

    Closing the generator leaves the generation where it is: no further work is done.

    Args:
        generation: a batch.
        answers: those that have joined it.
        waiting: others, which join as rows end, so that the batch stays full until nobody
            waits. They join by quarters of the batch: a quarter is read faster than row by
            row, and which prompts are read together depends on their order only.
    """
    open_answers, waiting = list(answers), collections.deque(waiting)
    rows, quarter = len(open_answers), join_size(len(open_answers))
    while generation.running or waiting:
        end_from_outside(open_answers)
        while waiting and rows - len(open_answers) >= quarter:
            joining = [waiting.popleft() for _ in range(min(quarter, len(waiting)))]
            generation.join([answer.row for answer in joining])
            open_answers += joining
        if generation.running:
            visit = visit_length(generation, open_answers)
            # A place is given away soon after its row ends, and the new prompt is read at once.
            if waiting:
                visit = 1 if generation.joining else min(visit, WATCHED_VISIT)
            generation.advance(visit)
        for answer in open_answers:
            piece = answer.take_in()
            if piece:
                yield answer, piece
        open_answers = [answer for answer in open_answers if answer.row.running]
    for answer in open_answers:  # those that were to give no tokens at all
        answer.take_in()


def join_size(rows: int) -> int:
    """How many prompts join a batch of so many rows together."""
    return max(1, rows // 4)


def least_cache(rows: Sequence[Row], together: int) -> Least:
    """`least` of a `Generation` for prompts that are all known.

    A first evaluation spent a third of its time and more on compiling programs for groups
    of other sizes (docs/evaluation.md).

    Args:
        rows: all that will join.
        together: how many run at once.
    """
    reach = max(len(row.prompt) + max(0, min(VISIT, row.limit - 1)) for row in rows)
    slots = max(bucket(reach), LEAST_SLOTS)
    return Least(row_bucket(join_size(together)), slots, fixed=True)


def end_from_outside(answers: Sequence[Answer]) -> None:
    """Stop the rows that were cancelled or whose time is over."""
    reasons: dict[Any, str | None] = {}
    for answer in answers:
        outside = answer.cancellation
        if outside and id(outside) not in reasons:
            reasons[id(outside)] = outside.reason()
        if reasons.get(id(outside)):
            answer.row.stop(reasons[id(outside)])


def visit_length(generation: Generation, answers: Sequence[Answer]) -> int:
    """How many tokens to decode before the host looks again."""
    if not any(answer.watched or answer.cancellation for answer in answers):
        return VISIT
    seconds = generation.seconds_per_step
    if seconds is None or generation.starting:
        return 1
    visit = min(WATCHED_VISIT, int(WATCHED_SECONDS / seconds))
    deadlines = [a.cancellation.deadline for a in answers if a.cancellation.deadline]
    if deadlines:
        visit = min(visit, int((min(deadlines) - time.monotonic()) / seconds))
    return max(1, visit)
