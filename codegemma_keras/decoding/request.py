"""One request for text: from a caller's arguments to a run and back to `Completion`s.

`CodeGemmaCausalLM.complete`, `alternatives`, `stream` and `Session` say what the
arguments mean; here they are put to work, in one place.
"""

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


def complete(lm, prefix, suffix, *, n=None, session=None, **kwargs):
    """A `Completion`; with `n` a list of n from one prefill."""
    request = _request(lm, prefix, suffix, n or 1, session, **kwargs)
    run, grown, watch, watched, finish = request
    try:
        for _ in pieces(run, grown, watch, watched):
            pass
    finally:
        if session is not None:
            session.keep(run)
    completions = finish()
    return completions[0] if n is None else completions


def stream(lm, prefix, suffix, *, session=None, cancelled=None, **kwargs):
    """A generator of text."""
    # Arguments are checked at the call, not at the first piece.
    run, grown, watch, watched, _ = _request(
        lm, prefix, suffix, 1, session, cancelled=cancelled, streaming=True, **kwargs
    )

    def texts():
        try:
            for _, piece in pieces(run, grown, watch, watched):
                yield piece
        finally:
            if session is not None:
                session.keep(run)

    return texts()


def _request(
    lm,
    prefix,
    suffix,
    n,
    session,
    *,
    path=None,
    context=(),
    max_new_tokens=128,
    mode=None,
    stop_strings=(),
    until=None,
    stop_at_suffix=False,
    time_limit_ms=None,
    cancelled=None,
    sampling=None,
    seed=None,
    speculate=False,
    streaming=False,
):
    """A run not yet begun, what reads its text, and what makes `Completion`s."""
    if session is not None and mode is not None:
        raise TypeError("A session has a layout; `mode` is for calls without one.")
    watch = Watch.of(time_limit_ms, cancelled, streaming)
    sampling = sampling or Sampling.from_keras_hub(lm.sampler)
    if sampling is None:
        raise ValueError(
            f"{type(lm.sampler).__name__} cannot drive infill(). Pass `sampling="
            "Sampling(...)` or compile with a greedy, random, top-k or top-p sampler."
        )
    stops = Stops(
        stop_strings, until, prefix, repeated_line(suffix) if stop_at_suffix else ""
    )
    if session is None:
        ids, prefix, suffix = _prompt(
            lm, prefix, suffix, path, context, max_new_tokens, mode or "psm"
        )
        start = lm.engine.start
    else:
        ids, prefix, suffix = session.prompt(
            prefix, suffix, path, context, max_new_tokens
        )
        start = session.start
    run = start(
        [ids] * n,
        max_new_tokens,
        lm.tokenizer.stop_token_ids,
        sampling,
        seeds(seed, n),
        speculate,
    )
    grown = [GrowingText(lm.tokenizer, stops) for _ in range(n)]

    def finish():
        return [
            Completion(
                text=text.text,
                stop_reason=text.stop_reason or result.stop_reason,
                token_ids=result.token_ids,
                prompt_tokens=len(ids),
                prefix=prefix,
                suffix=suffix,
                log_probabilities=result.log_probabilities,
                computed_tokens=run.prefilled,
            )
            for text, result in zip(grown, run.generations(), strict=True)
        ]

    return run, grown, watch, bool(stops), finish


def _prompt(lm, prefix, suffix, path, context, max_new_tokens, mode):
    """`(token ids, prefix kept, suffix kept)`."""
    encode = lm.tokenizer.encode
    limit = prompt_limit(lm, max_new_tokens) - 1  # bos
    prefix, suffix, context = fim.shrink(
        prefix, suffix, context, limit, encode, path=path
    )
    parts = fim.render(prefix, suffix, path=path, context=context, mode=mode)
    return [lm.tokenizer.start_token_id, *encode(parts)], prefix, suffix
