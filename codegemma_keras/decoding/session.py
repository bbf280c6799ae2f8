"""Completion in an editor: the KV cache stays between keystrokes.

Each request is compared with the tokens whose keys and values the session still holds,
and only what follows their longest common beginning is computed. What that saves depends
on the order of the prompt, the *layout*; P, S, M are the sentinels:

    psm    P prefix S suffix M           a keystroke changes the prefix, so the suffix
                                         is computed again
    line   P lines above S suffix M line's beginning
                                         typing on one line only appends
    spm    P S suffix M prefix           typing anywhere only appends; a suffix that
                                         changes costs everything
    left_to_right   suffix prefix        the same, for models that were taught no
                                         filling in

Cached results are exact: the tokens are those of a cold call with the same layout.

What is found in the cache, share of prompt tokens over 200 keystrokes in the middle of a
file of 400 lines (benchmarks/keystrokes.py --count-only; prompts of 3,600 tokens):

              typing   deleting   newline   a line up     all
    psm          48%        48%       48%         48%     48%
    line        100%       100%       48%         48%     92%
    spm         100%       100%      100%          0%     90%

At a median of 1 token to compute for `line` and 2 for `spm`, `line` is the default: it
never loses everything.
"""

import threading

from codegemma_keras import fim
from codegemma_keras.decoding import answering
from codegemma_keras.decoding.cache import CachedPrefix
from codegemma_keras.decoding.request import at_cursor
from codegemma_keras.decoding.sampling import Sampling
from codegemma_keras.decoding.signatures import takes_options

# Where text is cut to fit, the cut stays at every so many lines of the file, so that it
# does not move with every keystroke.
CUT_LINES = 16
LAYOUTS = ("psm", "line", "spm", fim.LEFT_TO_RIGHT)


class Session:
    r"""One editor's view of one model; made by `CodeGemmaCausalLM.session`.

    Threads may share it: a request that comes while another is under way finds nothing
    held and is computed cold; what ends last is held. What was computed with other
    weights, before `fit`, `load_weights` or another adapter, is not used.

    Args:
        lm: a `CodeGemmaCausalLM`.
        layout: one of `LAYOUTS`; see above. None: `"line"`, or `"left_to_right"` for a
            model that is asked so (`infill_mode` of its preprocessor).

    Attributes:
        layout: the one in use.

    Examples:
        >>> session = lm.session()
        >>> for typed in ("a", "a +", "a + "):
        ...     found = session.complete(
        ...         "def add(a, b):\n    return " + typed, max_new_tokens=4
        ...     )
        >>> found.computed_tokens < found.prompt_tokens
        True
    """

    def __init__(self, lm, layout=None):
        if layout is None:
            mode = lm.preprocessor.infill_mode
            layout = mode if mode == fim.LEFT_TO_RIGHT else "line"
        if layout not in LAYOUTS:
            raise ValueError(f"layout={layout!r}: give one of {', '.join(LAYOUTS)}.")
        self._lm = lm
        self.layout = layout
        self._lock = threading.Lock()
        self._held = CachedPrefix()

    @takes_options
    def infill(self, prefix, suffix="", **options) -> str:
        r"""Do what `CodeGemmaCausalLM.infill` does, and reuse the cache of the last request.

        Examples:
            >>> text = lm.session().infill(
            ...     "def add(a, b):\n    return ", max_new_tokens=4
            ... )
        """
        return self.complete(prefix, suffix, **options).text

    @takes_options
    def complete(self, prefix, suffix="", **options):
        r"""Do what `CodeGemmaCausalLM.complete` does, with the layout of the session.

        Returns:
            A `Completion`; its `computed_tokens` say how much of the prompt was new.

        Examples:
            >>> session = lm.session()
            >>> session.complete(
            ...     "def add(a, b):\n    return a", max_new_tokens=4
            ... ).computed_tokens > 0
            True
        """
        request = at_cursor(prefix, suffix, options)
        return answering.complete(self._lm, request, self)

    @takes_options
    def stream(self, prefix, suffix="", **options):
        r"""Do what `CodeGemmaCausalLM.stream` does.

        The session keeps what was computed when the stream ends or is closed.

        Examples:
            >>> session = lm.session()
            >>> text = "".join(
            ...     session.stream("def add(a, b):\n    return ", max_new_tokens=4)
            ... )
        """
        request = at_cursor(prefix, suffix, options)
        return answering.stream(self._lm, request, self)

    @takes_options
    def warm(self, prefix, suffix="", **options):
        r"""Compute a prompt ahead of time, while nobody waits.

        Args:
            prefix, suffix, **options: as the request to come will have them.

        Returns:
            How many tokens were computed.

        Examples:
            >>> session = lm.session()
            >>> session.warm("def add(a, b):\n    return ") > 0
            True
        """
        request = at_cursor(prefix, suffix, options)
        generation = self._lm.engine.generation(request.speculate)
        answer = answering.answer_to(
            self._lm, request, Sampling(), 0, session=self, cached=self.take()
        )
        answer.row.limit = 1
        generation.join([answer.row])
        try:
            while generation.running:
                generation.advance(1)
        finally:
            self.keep(generation, answer.row)
        return answer.row.computed_tokens

    # For `request`

    def prompt(self, cursor, limit):
        """`(token ids, prefix kept, suffix kept)` in this session's layout.

        Args:
            cursor: a `request.Cursor`.
            limit: tokens of the prompt, bos not counted.
        """
        tokenizer = self._lm.tokenizer
        # A line's beginning placed elsewhere is encoded apart: a token or two more.
        prefix, suffix, context = fim.shrink(
            cursor.prefix,
            cursor.suffix,
            cursor.context,
            limit - 4,
            tokenizer.encode,
            path=cursor.path,
        )
        prefix = prefix[_tail_start(cursor.prefix, prefix) :]
        suffix = suffix[: _head_end(cursor.suffix, suffix)]
        parts = self._parts(prefix, suffix, cursor.path, context)
        return [tokenizer.start_token_id, *tokenizer.encode(parts)], prefix, suffix

    def _parts(self, prefix, suffix, path, context):
        if self.layout != "line":
            return fim.render(
                prefix, suffix, path=path, context=context, mode=self.layout
            )
        border = prefix.rfind("\n") + 1
        parts = fim.render(prefix[:border], suffix, path=path, context=context)
        return [*parts, prefix[border:]] if prefix[border:] else parts

    def take(self) -> CachedPrefix:
        """What is held, for one request; nothing is held then until `keep`."""
        with self._lock:
            held, self._held = self._held, CachedPrefix()
        return held

    def keep(self, generation, row) -> None:
        """Hold what a row leaves."""
        held = generation.keep(row)
        with self._lock:
            self._held = held

    def forget(self) -> None:
        r"""Drop the cache and free its memory.

        Examples:
            >>> session = lm.session()
            >>> _ = session.warm("def add(a, b):\n    return ")
            >>> session.forget()  # the memory of the cache is free again
        """
        with self._lock:
            self._held = CachedPrefix()


def _tail_start(whole, kept):
    """Where to cut `kept`, the end of `whole`, so that the cut stays while one types."""
    if len(kept) == len(whole):
        return 0
    cut = len(whole) - len(kept)
    lines = whole.count("\n", 0, cut)
    place = cut
    while True:
        place = whole.find("\n", place) + 1
        if place == 0:
            return 0  # one long line: cut where it fits
        lines += 1
        if lines % CUT_LINES == 0:
            return place - cut


def _head_end(whole, kept):
    """The same for the beginning of `whole`, lines counted from its end."""
    if len(kept) == len(whole):
        return len(kept)
    lines = whole.count("\n", len(kept))
    place = len(kept)
    while True:
        place = whole.rfind("\n", 0, place)
        if place < 0:
            return len(kept)
        lines += 1
        if lines % CUT_LINES == 0:
            return place + 1
