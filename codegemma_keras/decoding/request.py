"""One request for text: from a caller's arguments to a run and back to `Completion`s.

`Options` are the arguments of every way to ask for a completion, said once:
`CodeGemmaCausalLM.infill`, `complete`, `alternatives`, `stream` and those of a `Session`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from codegemma_keras import fim
from codegemma_keras.decoding.sampling import Sampling
from codegemma_keras.decoding.stopping import Stops, repeated_line
from codegemma_keras.decoding.text import Completion, GrowingText, Watch, pieces

# Fewer tokens than this hold no prompt worth asking.
LEAST_PROMPT = 16


def seeds(seed, rows: int) -> list[int]:
    """A seed for each of `rows` requests asked together; None draws one."""
    if seed is None:
        seed = int(np.random.default_rng().integers(2**32))
    # Far apart, so that (seed, row 1) is not (seed + 1, row 0).
    return [(seed + 0x9E3779B9 * i) % 2**32 for i in range(rows)]


def prompt_limit(lm, max_new_tokens: int) -> int:
    """How many tokens a prompt may have that leaves room for the new ones.

    Raises:
        ValueError: too few.
    """
    limit = lm.preprocessor.sequence_length - max_new_tokens
    if limit < LEAST_PROMPT:
        raise ValueError(
            f"max_new_tokens={max_new_tokens} leaves {limit} of the context of "
            f"{lm.preprocessor.sequence_length} tokens for the prompt; at least "
            f"{LEAST_PROMPT} are needed. Ask for fewer new tokens."
        )
    return limit


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What a caller may say about a completion besides the text around the cursor.

    Attributes:
        path: str, the file's path in its repository; recommended.
        context: `(path, text)` pairs of other files, most related last.
        max_new_tokens: int.
        mode: `"psm"` (the default) or `"spm"`, the order of the prompt. Not in a
            session, which has a layout.
        stop_strings: the completion ends before the first of these.
        until: None, `"line"` (end before the first line end) or `"block"` (end where
            the cursor's block does; see `stopping.Stops`).
        stop_at_suffix: end before a line that repeats the suffix's first whole line.
        time_limit_ms: end after so many milliseconds, with what there is.
        cancelled: a function that is asked every few tokens; True ends the request,
            with what there is.
        sampling: a `Sampling`; default: as the compiled sampler.
        seed: int; None draws one.
        speculate: guess tokens and verify several at once; the same result, sooner
            where the guesses are right. True guesses what stood in the text before; a
            smaller `CodeGemmaCausalLM` of the same vocabulary guesses by itself.
    """

    path: str | None = None
    context: Sequence[tuple[str, str]] = ()
    max_new_tokens: int = 128
    mode: str | None = None
    stop_strings: Sequence[str] = ()
    until: str | None = None
    stop_at_suffix: bool = False
    time_limit_ms: float | None = None
    cancelled: Callable[[], bool] | None = None
    sampling: Sampling | None = None
    seed: int | None = None
    speculate: Any = False

    def stops(self, prefix, suffix) -> Stops:
        repeated = repeated_line(suffix) if self.stop_at_suffix else ""
        return Stops(self.stop_strings, self.until, prefix, repeated)


def complete(lm, prefix, suffix, *, n=None, session=None, **options):
    """A `Completion`; with `n` a list of n from one prefill."""
    options = Options(**options)
    watch = Watch.of(options.time_limit_ms, options.cancelled)
    asked = _Asked(lm, prefix, suffix, n or 1, session, options)
    try:
        for _ in pieces(asked.run, asked.texts, watch, asked.watched):
            pass
    finally:
        if session is not None:
            session.keep(asked.run)
    completions = asked.completions()
    return completions[0] if n is None else completions


def stream(lm, prefix, suffix, *, session=None, **options):
    """A generator of text."""
    # Arguments are checked at the call, not at the first piece.
    options = Options(**options)
    watch = Watch.of(options.time_limit_ms, options.cancelled, streaming=True)
    asked = _Asked(lm, prefix, suffix, 1, session, options)

    def texts():
        try:
            for _, piece in pieces(asked.run, asked.texts, watch, asked.watched):
                yield piece
        finally:
            if session is not None:
                session.keep(asked.run)

    return texts()


class _Asked:
    """A run not yet begun, what reads its text, and what makes `Completion`s."""

    def __init__(self, lm, prefix, suffix, n, session, options: Options):
        if session is not None and options.mode is not None:
            raise TypeError("A session has a layout; `mode` is for calls without one.")
        sampling = sampling_of(lm, options.sampling)
        stops = options.stops(prefix, suffix)
        about = (options.path, options.context, options.max_new_tokens)
        if session is None:
            prompt = _prompt(lm, prefix, suffix, *about, options.mode or "psm")
        else:
            prompt = session.prompt(prefix, suffix, *about)
        self.ids, self.prefix, self.suffix = prompt
        start = lm.engine.start if session is None else session.start
        self.run = start(
            [self.ids] * n,
            options.max_new_tokens,
            lm.tokenizer.stop_token_ids,
            sampling,
            seeds(options.seed, n),
            options.speculate,
        )
        self.texts = [GrowingText(lm.tokenizer, stops) for _ in range(n)]
        self.watched = bool(stops)

    def completions(self):
        return [
            Completion(
                text=text.text,
                stop_reason=text.stop_reason or result.stop_reason,
                token_ids=result.token_ids,
                prompt_tokens=len(self.ids),
                prefix=self.prefix,
                suffix=self.suffix,
                log_probabilities=result.log_probabilities,
                computed_tokens=self.run.prefilled,
            )
            for text, result in zip(self.texts, self.run.generations(), strict=True)
        ]


def sampling_of(lm, sampling):
    """A caller's `Sampling`, or that of the compiled sampler.

    Raises:
        ValueError: the compiled sampler looks at more than one next token.
    """
    sampling = sampling or Sampling.from_keras_hub(lm.sampler)
    if sampling is None:
        raise ValueError(
            f"{type(lm.sampler).__name__} cannot drive infill(). Pass `sampling="
            "Sampling(...)` or compile with a greedy, random, top-k or top-p sampler."
        )
    return sampling


def _prompt(lm, prefix, suffix, path, context, max_new_tokens, mode):
    """`(token ids, prefix kept, suffix kept)`."""
    encode = lm.tokenizer.encode
    limit = prompt_limit(lm, max_new_tokens) - 1  # bos
    prefix, suffix, context = fim.shrink(
        prefix, suffix, context, limit, encode, path=path
    )
    parts = fim.render(prefix, suffix, path=path, context=context, mode=mode)
    return [lm.tokenizer.start_token_id, *encode(parts)], prefix, suffix
