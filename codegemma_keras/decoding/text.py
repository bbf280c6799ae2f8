"""From a run of tokens to text that stops, streams, keeps deadlines and is cancelled.

`pieces` drives a `Run`; every way of asking for text goes through it, so a stream gives
the same text as a call that waits.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence

from codegemma_keras.decoding.buckets import VISIT, WATCHED_SECONDS, WATCHED_VISIT
from codegemma_keras.decoding.run import Run
from codegemma_keras.decoding.stopping import Stops
from codegemma_keras.tokenizer.tokenizer import IncrementalDecoder


@dataclasses.dataclass(frozen=True)
class Completion:
    """A completion and how it ended.

    Attributes:
        text: the completion, cut before any control token and any stop.
        stop_reason: `"stop_token"`, `"max_new_tokens"`, `"stop_string"`, `"line"`,
            `"block"`, `"suffix"`, `"time"` or `"cancelled"`.
        token_ids: the new tokens, before cutting at a stop in the text.
        prompt_tokens: how many tokens the prompt took, bos included.
        prefix, suffix: what of the caller's text fitted into the prompt.
        log_probabilities: of `token_ids`, at temperature 1.
        computed_tokens: how many of the prompt's tokens were computed for this request;
            a session found the others in its cache.
    """

    text: str
    stop_reason: str
    token_ids: list[int]
    prompt_tokens: int
    prefix: str = ""
    suffix: str = ""
    log_probabilities: list[float] = dataclasses.field(default_factory=list)
    computed_tokens: int = 0


class GrowingText:
    """The text of one request: whole characters, none that a stop may take back.

    Args:
        tokenizer: a `CodeGemmaTokenizer`.
        stops: a `Stops`.
    """

    def __init__(self, tokenizer, stops: Stops):
        self._decoder = IncrementalDecoder(tokenizer)
        self._stops = stops
        self._sent = 0
        self._finished = False
        self.text = ""
        self.stop_reason = None

    def push(self, token_ids: Sequence[int]) -> str:
        """What may go out after these further tokens."""
        return self._add(self._decoder.push(token_ids))

    def finish(self) -> str:
        """What is left when no more tokens come."""
        if self._finished:
            return ""
        self._finished = True
        piece = self._add(self._decoder.finish())
        rest = (
            self.text[self._sent + len(piece) :] if piece else self.text[self._sent :]
        )
        self._sent = len(self.text)
        return piece + rest

    def _add(self, new):
        if self.stop_reason is not None:
            return ""
        self.text += new
        safe = len(self.text)
        if self._stops:
            end = self._stops.end(self.text)
            if end is not None:
                safe, self.stop_reason = end
                self.text = self.text[:safe]
            else:
                safe = self._stops.safe(self.text)
        piece = self.text[self._sent : safe]
        self._sent = max(self._sent, safe)
        return piece


@dataclasses.dataclass(frozen=True)
class Watch:
    """What may end a request from outside.

    Attributes:
        deadline: `time.monotonic()` to end at, or None.
        cancelled: asked between visits of the device; True ends the request.
        streaming: pieces are wanted as they come.
    """

    deadline: float | None = None
    cancelled: Callable[[], bool] | None = None
    streaming: bool = False

    @classmethod
    def of(cls, time_limit_ms=None, cancelled=None, streaming=False):
        """With a deadline counted from now."""
        if time_limit_ms is None:
            return cls(None, cancelled, streaming)
        if time_limit_ms <= 0:
            raise ValueError(
                f"time_limit_ms={time_limit_ms} must be > 0 milliseconds, or None."
            )
        return cls(time.monotonic() + time_limit_ms / 1000, cancelled, streaming)

    def __bool__(self):
        return self.deadline is not None or self.cancelled is not None or self.streaming


def pieces(
    run: Run, texts: Sequence[GrowingText], watch: Watch, watched: bool
) -> Iterator[tuple[int, str]]:
    """Drive a run to its end; yield `(request, text)` as text becomes certain.

    Closing the generator leaves the run where it is: no further work is done.

    Args:
        run: a `Run`.
        texts: one for each request.
        watch: what may end all of them.
        watched: whether any of the texts may stop before its tokens do; then visits of
            the device are short.
    """
    seen = [0] * len(texts)
    watched = watched or bool(watch)
    while run.running:
        if watch.cancelled is not None and watch.cancelled():
            run.stop_all("cancelled")
        elif watch.deadline is not None and time.monotonic() >= watch.deadline:
            run.stop_all("time")
        else:
            run.advance(_visit(run, watch) if watched else VISIT)
        for request, text in enumerate(texts):
            # `generations` would copy all; a stop token alone is not text.
            new = run.tokens[request][seen[request] :]
            seen[request] += len(new)
            if new and run.stopped_by_token(request):
                new = new[:-1]
            piece = text.push(new) if new else ""
            if text.stop_reason is not None:
                run.stop(request, text.stop_reason)
            if not run.is_running(request):
                piece += text.finish()
            if piece:
                yield request, piece


def _visit(run, watch):
    """How many tokens to decode before the host looks again."""
    seconds = run.seconds_per_step
    if seconds is None:
        return 1
    visit = min(WATCHED_VISIT, int(WATCHED_SECONDS / seconds))
    if watch.deadline is not None:
        visit = min(visit, int((watch.deadline - time.monotonic()) / seconds))
    return max(1, visit)
