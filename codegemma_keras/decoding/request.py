"""What is asked for: the kinds of prompts, and one validated `Request`.

Every way to ask (`infill`, `complete`, `alternatives`, `stream`, `chat`, `generate` and
those of a `Session`) makes a `Request`, which is checked once, here. What a request cannot
be given is refused by name; no option is dropped. Nothing here needs a model: `answering`
has the way from a request to text.
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

from codegemma_keras import chat, fim
from codegemma_keras.decoding.sampling import Sampling

# Prompts


@dataclasses.dataclass(frozen=True)
class Cursor:
    r"""A place in a file. Text that is too long is cut far away from the cursor.

    Attributes:
        prefix, suffix: str, the text before and after the cursor.
        path: str, the file's path in its repository; recommended.
        context: `(path, text)` pairs of other files, most related last.
        mode: `"psm"`, `"spm"` or `"left_to_right"`, the order of the prompt. None means
            that of the preprocessor (`infill_mode`). A session has a layout instead and
            accepts only None.

    Examples:
        >>> Cursor("def f(", "):\n", path="f.py").suffix
        '):\n'
    """

    prefix: str
    suffix: str = ""
    path: str | None = None
    context: Sequence[tuple[str, str]] = ()
    mode: str | None = None

    def __post_init__(self):
        context = tuple(tuple(c) if isinstance(c, list) else c for c in self.context)
        object.__setattr__(self, "context", context)
        mode = "psm" if self.mode is None else self.mode
        fim.render(  # raises if anything is wrong
            self.prefix, self.suffix, path=self.path, context=context, mode=mode
        )


@dataclasses.dataclass(frozen=True)
class Conversation:
    """Messages, the last one the user's; see `codegemma_keras.chat`.

    A string is one message of the user.

    Examples:
        >>> Conversation([{"role": "user", "content": "Hi"}]).messages[0]["content"]
        'Hi'
        >>> Conversation("Hi") == Conversation([{"role": "user", "content": "Hi"}])
        True
    """

    messages: Sequence[Any] | str

    def __post_init__(self):
        if isinstance(self.messages, str):
            message = {"role": "user", "content": self.messages}
            object.__setattr__(self, "messages", [message])
        chat.render(self.messages, add_generation_prompt=True)

    @staticmethod
    def are_several(messages) -> bool:
        """Whether these are conversations, and not the messages of one.

        Examples:
            >>> Conversation.are_several(["Hi", "Good morning"])
            True
            >>> Conversation.are_several([{"role": "user", "content": "Hi"}])
            False
        """
        if isinstance(messages, str) or not isinstance(messages, Sequence):
            return False
        return bool(messages) and all(
            isinstance(m, str | list | tuple) for m in messages
        )


@dataclasses.dataclass(frozen=True)
class RawText:
    """Text to continue, in which a control string becomes the control token.

    Examples:
        >>> RawText("<|fim_prefix|>def f(").text  # the model sees a control token
        '<|fim_prefix|>def f('
    """

    text: str

    def __post_init__(self):
        if not isinstance(self.text, str):
            raise TypeError(f"A prompt must be text, not {type(self.text).__name__}.")


@dataclasses.dataclass(frozen=True)
class TokenIds:
    """Token ids to continue, bos included where it is wanted.

    Examples:
        >>> TokenIds([2, 10, 11]).ids
        [2, 10, 11]
    """

    ids: Sequence[int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    r"""One request for text, which is frozen and was checked when it was made.

    Attributes:
        prompt: a `Cursor`, `Conversation`, `RawText` or `TokenIds`.
        max_new_tokens: int, 0 or more, the most new tokens. None means as many as the
            context has room for. The context is always the limit, except for `TokenIds`.
        stop_strings: the text ends before the first of these to be complete.
        stop_token_ids: `"auto"` (eos, the FIM sentinels and `<end_of_turn>`), a sequence
            of ids, or None to go on until the limit.
        until: None, `"line"` (the text ends before the first line end), `"statement"` or
            `"block"` (it ends where the cursor's statement or block ends; see
            `stops.Stops`). A model that is asked from left to right does not stop by
            itself. For it, None and `"block"` mean what the text around the cursor lacks
            (`stops.what_is_missing`).
        stop_at_suffix: end before a line that repeats the suffix's first whole line.
        tidy: fit the text in between prefix and suffix by the rules of
            `postprocessing`, so that nothing is written twice. It implies
            `stop_at_suffix`.
        time_limit_ms: end after this many milliseconds, with the text so far.
        cancelled: a function that is called every few tokens. If it returns True, the
            request ends with the text so far.
        sampling: a `Sampling`. The default is that of the compiled sampler.
        seed: int. None draws one (see `sampling.seeds`).
        speculate: guess tokens and verify several at once. The result is the same, and
            comes sooner if the guesses are right. True guesses what stood in the text
            before. A smaller `CodeGemmaCausalLM` with the same vocabulary guesses by
            itself.

    Raises:
        TypeError: a value has another type than described above.
        ValueError: a value is out of range, or this prompt cannot use an option.

    Examples:
        >>> Request(prompt=Cursor("def f(", "):\n"), until="line").max_new_tokens
        128
        >>> Request(prompt=RawText("x = "), tidy=True)
        Traceback (most recent call last):
        ValueError: tidy=True is about the text after a cursor, and this prompt has none.
        Leave it out, or use complete().
    """

    prompt: Cursor | Conversation | RawText | TokenIds
    max_new_tokens: int | None = 128
    stop_strings: Sequence[str] = ()
    stop_token_ids: Sequence[int] | str | None = "auto"
    until: str | None = None
    stop_at_suffix: bool = False
    tidy: bool = False
    time_limit_ms: float | None = None
    cancelled: Callable[[], bool] | None = None
    sampling: Sampling | None = None
    seed: int | None = None
    speculate: Any = False

    def __post_init__(self):
        put = functools.partial(object.__setattr__, self)
        if self.max_new_tokens is not None:
            put("max_new_tokens", whole_number("max_new_tokens", self.max_new_tokens))
            if self.max_new_tokens < 0:
                raise ValueError(f"max_new_tokens={self.max_new_tokens} must be >= 0.")
        put("stop_strings", _stop_strings(self.stop_strings))
        put("stop_token_ids", _stop_token_ids(self.stop_token_ids))
        if self.until not in (None, "line", "statement", "block"):
            raise ValueError(
                f"until={self.until!r}: give None, 'line', 'statement' or 'block'."
            )
        for name in ("stop_at_suffix", "tidy"):
            if getattr(self, name) and not isinstance(self.prompt, Cursor):
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is about the text after a cursor, "
                    "and this prompt has none. Leave it out, or use complete()."
                )
        put("time_limit_ms", _time_limit(self.time_limit_ms))
        if self.cancelled is not None and not callable(self.cancelled):
            raise TypeError(
                f"cancelled={self.cancelled!r} must be a function without arguments that "
                "says whether to end, such as `event.is_set`."
            )
        if self.sampling is not None and not isinstance(self.sampling, Sampling):
            raise TypeError(
                f"sampling={self.sampling!r} must be a Sampling: Sampling() is greedy, "
                "Sampling(temperature=1.0) draws."
            )
        if self.seed is not None:
            put("seed", whole_number("seed", self.seed))
        put("speculate", _speculate(self.speculate))


def whole_number(name: str, value) -> int:
    """`value` of the option `name` as an int; NumPy's count, 2.5 and True do not."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name}={value!r} must be a whole number.") from None


def _stop_strings(strings):
    strings = (strings,) if isinstance(strings, str) else tuple(strings or ())
    for string in strings:
        if not isinstance(string, str):
            raise TypeError(f"stop_strings holds {string!r}, which is no string.")
        if not string:
            raise ValueError(
                "A stop string is empty, which would stop everywhere. Remove it."
            )
    return strings


def _stop_token_ids(ids):
    if isinstance(ids, str):
        if ids != "auto":
            raise ValueError(f"stop_token_ids={ids!r}: give 'auto', None or ids.")
        return ids
    return tuple(
        whole_number("stop_token_ids", id) for id in (() if ids is None else ids)
    )


def _time_limit(limit):
    if limit is None:
        return None
    try:
        limit = float(limit)
    except (TypeError, ValueError):
        raise TypeError(f"time_limit_ms={limit!r} must be a number.") from None
    if not 0 < limit < math.inf:
        raise ValueError(
            f"time_limit_ms={limit:g} must be a finite number of milliseconds > 0; None "
            "sets no limit."
        )
    return limit


def _speculate(speculate):
    if speculate is None or isinstance(speculate, int):
        return bool(speculate)
    if not hasattr(speculate, "engine") or not hasattr(speculate, "backbone"):
        raise TypeError(
            f"speculate={speculate!r} must be True, False or a smaller "
            "CodeGemmaCausalLM of the same vocabulary."
        )
    return speculate


# Options as keyword arguments

CURSOR_OPTIONS = tuple(
    field.name
    for field in dataclasses.fields(Cursor)
    if field.name not in ("prefix", "suffix")
)
OPTIONS = tuple(
    field.name
    for field in dataclasses.fields(Request)
    if field.name not in ("prompt", "stop_token_ids")
)


def at_cursor(prefix, suffix, options) -> Request:
    """The request of `complete(prefix, suffix, **options)`."""
    cursor = {k: v for k, v in options.items() if k in CURSOR_OPTIONS}
    rest = {k: v for k, v in options.items() if k not in CURSOR_OPTIONS}
    request = Request(prompt=Cursor(prefix, suffix, **cursor), **rest)
    if request.max_new_tokens is None:
        raise TypeError("max_new_tokens=None must be a whole number.")
    return request
