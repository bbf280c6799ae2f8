"""From requests to answers: the prompt's token ids, its row in a batch, and its text.

A `Request` was checked when it was made (`request`). Here it meets a model: its prompt is
cut to the context and becomes token ids, and what a None of it stands for is filled in.
"""

import dataclasses
import time
import warnings
from collections.abc import Iterator, Sequence

from codegemma_keras import chat, fim
from codegemma_keras.decoding.cache import CachedPrefix
from codegemma_keras.decoding.completion import (
    Answer,
    Cancellation,
    Completion,
    GrowingText,
    write,
)
from codegemma_keras.decoding.generation import Row
from codegemma_keras.decoding.postprocessing import Tidying, missing_indentation
from codegemma_keras.decoding.request import (
    Conversation,
    Cursor,
    Request,
    TokenIds,
    whole_number,
)
from codegemma_keras.decoding.sampling import Sampling, seeds
from codegemma_keras.decoding.stops import Stops, repeated_line, what_is_missing

NEVER = Cancellation()
# Fewer tokens than this hold no prompt worth asking.
LEAST_PROMPT = 16


# Answers


def complete(lm, request: Request, session=None) -> Completion:
    """The completion of one request."""
    return complete_all(lm, [request], session)[0]


def alternatives(lm, request: Request, n: int) -> list[Completion]:
    """n completions of one request from one prefill, with a seed each."""
    n = whole_number("n", n)
    if n < 1:
        raise ValueError(f"n={n} must be at least 1.")
    if n > 1 and request.sampling is None and sampling_of(lm, None).greedy:
        warnings.warn(
            f"All {n} completions are the same, because sampling is greedy. Give "
            "sampling=codegemma_keras.Sampling(temperature=0.8), for example.",
            stacklevel=4,  # that of a caller of `CodeGemmaCausalLM.alternatives`
        )
    return complete_all(lm, [request] * n)


def complete_all(lm, requests: Sequence[Request], session=None) -> list[Completion]:
    """The completions of requests that run together; they share all but the prompt."""
    generation, answers = _begin(lm, requests, session)
    try:
        for _ in write(generation, answers):
            pass
    finally:
        if session is not None:
            session.keep(generation, answers[0].row)
    return [answer.completion() for answer in answers]


def complete_each(lm, prompts, limits, request: Request) -> list[Completion]:
    """`complete_all` of prompts as token ids, each with its limit of new tokens."""
    return complete_all(
        lm,
        [
            dataclasses.replace(request, prompt=TokenIds(ids), max_new_tokens=limit)
            for ids, limit in zip(prompts, limits, strict=True)
        ],
    )


def stream(lm, request: Request, session=None) -> Iterator[str]:
    """A generator of the text of `complete`. The request begins at the call."""
    generation, [answer] = _begin(lm, [request], session, streaming=True)

    def pieces():
        try:
            for _, piece in write(generation, [answer]):
                yield piece
        finally:
            if session is not None:
                session.keep(generation, answer.row)

    return pieces()


def _begin(lm, requests, session, streaming=False):
    """A generation and the answers in it, nothing computed yet."""
    if not requests:
        return lm.engine.generation(), []
    first = requests[0]
    sampling = sampling_of(lm, first.sampling)
    sampler = lm.sampler if first.sampling is None else None
    drawn = seeds(first.seed, len(requests), sampler)
    cancellation = Cancellation(None, first.cancelled)
    if first.time_limit_ms is not None:
        deadline = time.monotonic() + first.time_limit_ms / 1000
        cancellation = Cancellation(deadline, first.cancelled)
    generation = lm.engine.generation(first.speculate)
    cached = session.take() if session is not None else None
    answers = [
        answer_to(lm, request, sampling, seed, cancellation, session, cached)
        for request, seed in zip(requests, drawn, strict=True)
    ]
    for answer in answers:
        answer.watched = answer.watched or streaming
    generation.join([answer.row for answer in answers])
    return generation, answers


def answer_to(
    lm,
    request: Request,
    sampling: Sampling,
    seed: int,
    cancellation: Cancellation = NEVER,
    session=None,
    cached: CachedPrefix | None = None,
) -> Answer:
    """The `Answer` to a request, its row not in a generation yet.

    Args:
        lm: a `CodeGemmaCausalLM`.
        request: what is asked for.
        sampling, seed: those of the request, or what its None stands for.
        cancellation: what may end it from outside.
        session: whose layout the prompt has; None: the request's own mode.
        cached: what the prompt may begin with.
    """
    tokenizer = lm.tokenizer  # Without a preprocessor this raises, whatever is asked.
    prompt, prefix, suffix, repeated, tidying = request.prompt, "", "", "", None
    until, begun, indentation = request.until, "", ""
    if isinstance(prompt, Cursor):
        mode = session.layout if session is not None else _mode(lm, prompt)
        if mode == fim.LEFT_TO_RIGHT and request.tidy:
            indentation = missing_indentation(prompt.prefix, prompt.suffix)
            indented = prompt.prefix + indentation
            prompt = dataclasses.replace(prompt, prefix=indented)
            request = dataclasses.replace(request, prompt=prompt)
        ids, prefix, suffix = _at_cursor(lm, request, session)
        if mode == fim.LEFT_TO_RIGHT:
            if until in (None, "block"):
                until = what_is_missing(prompt.prefix, prompt.suffix)
            begun = " " if prefix.endswith(" ") else ""  # see `fim.render`
        if request.stop_at_suffix or request.tidy or mode == fim.LEFT_TO_RIGHT:
            repeated = repeated_line(prompt.suffix)
        if request.tidy:
            tidying = Tidying(prompt.prefix, prompt.suffix)
    else:
        ids = prompt_ids(lm, prompt)
    before = getattr(prompt, "prefix", getattr(prompt, "text", ""))
    stops = Stops(request.stop_strings, until, before, repeated)
    limit, stop_ids = request.max_new_tokens, request.stop_token_ids
    if limit is None or not isinstance(prompt, TokenIds):
        limit = room(lm, len(ids), None, limit)
    if stop_ids == "auto":
        stop_ids = tokenizer.stop_token_ids
    row = Row(ids, limit, stop_ids, sampling, seed, cached)
    text = GrowingText(tokenizer, stops, tidying, begun, indentation)
    prefix = prefix.removesuffix(indentation)  # the caller's own
    return Answer(row, text, cancellation, bool(stops), prefix, suffix)


def sampling_of(lm, sampling) -> Sampling:
    """A caller's `Sampling`, or that of the compiled sampler.

    Raises:
        ValueError: the compiled sampler looks at more than one next token.
    """
    sampling = sampling or Sampling.from_keras_hub(lm.sampler)
    if sampling is None:
        raise ValueError(
            f"{type(lm.sampler).__name__} cannot drive infill(), chat() and their like. "
            "Pass `sampling=Sampling(...)` or compile with a greedy, random, top-k or "
            "top-p sampler."
        )
    return sampling


# Prompts as token ids


def _at_cursor(lm, request, session):
    """`(token ids, prefix kept, suffix kept)` of a fill-in-the-middle prompt."""
    cursor, encode = request.prompt, lm.tokenizer.encode
    limit = cursor_limit(lm, request.max_new_tokens)
    if session is not None:
        if cursor.mode is not None:
            raise TypeError("A session has a layout; `mode` is for calls without one.")
        return session.prompt(cursor, limit)
    prefix, suffix, context = fim.shrink(
        cursor.prefix, cursor.suffix, cursor.context, limit, encode, path=cursor.path
    )
    parts = fim.render(
        prefix, suffix, path=cursor.path, context=context, mode=_mode(lm, cursor)
    )
    return [lm.tokenizer.start_token_id, *encode(parts)], prefix, suffix


def _mode(lm, cursor):
    return cursor.mode or lm.preprocessor.infill_mode


def cursor_limit(lm, max_new_tokens: int) -> int:
    """How many tokens a prompt may have besides bos, with room for the new ones.

    Raises:
        ValueError: too few.
    """
    context = lm.preprocessor.sequence_length
    if max_new_tokens >= context:
        raise ValueError(
            f"max_new_tokens={max_new_tokens} is as much as the context of {context} tokens, "
            f"or more, and the prompt needs at least {LEAST_PROMPT}. Ask for fewer new tokens."
        )
    if context - max_new_tokens < LEAST_PROMPT:
        raise ValueError(
            f"max_new_tokens={max_new_tokens} leaves {context - max_new_tokens} of the "
            f"context of {context} tokens for the prompt; at least {LEAST_PROMPT} are "
            "needed. Ask for fewer new tokens."
        )
    return context - max_new_tokens - 1


def prompt_ids(lm, prompt) -> list[int]:
    """Token ids of a prompt that is not at a cursor, with bos."""
    tokenizer = lm.tokenizer
    if isinstance(prompt, TokenIds):
        return [int(token) for token in prompt.ids]
    if isinstance(prompt, Conversation):
        parts = chat.render(prompt.messages, True, tokenizer.chat_format)
        parts = [part for part, _ in parts]
        return [tokenizer.start_token_id, *tokenizer.encode(parts)]
    ids = [int(token) for token in tokenizer.tokenize(prompt.text)]
    if lm.preprocessor.add_start_token:
        ids.insert(0, tokenizer.start_token_id)
    return ids


def room(lm, prompt_length, max_length, max_new_tokens) -> int:
    """How many tokens a prompt of `prompt_length` may grow by."""
    limit = max_length or lm.preprocessor.sequence_length
    if prompt_length > limit:
        raise ValueError(
            f"The prompt has {prompt_length} tokens, but the limit is {limit} (prompt "
            "and new tokens together). Shorten it; infill() cuts the text around the "
            "cursor to fit by itself, and `fim.shrink` does it for prompts of your "
            "own. If the model was trained on longer text, raise "
            "`lm.preprocessor.sequence_length`."
        )
    left = limit - prompt_length
    return left if max_new_tokens is None else min(left, max_new_tokens)
