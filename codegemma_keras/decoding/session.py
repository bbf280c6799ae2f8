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
from codegemma_keras.decoding import request
from codegemma_keras.decoding.run import Held
from codegemma_keras.decoding.sampling import Sampling

# Where text is cut to fit, the cut stays at every so many lines of the file, so that it
# does not move with every keystroke.
CUT_LINES = 16
LAYOUTS = ("psm", "line", "spm")


class Session:
    """One editor's view of one model; made by `CodeGemmaCausalLM.session`.

    Threads may share it: a request that comes while another is under way finds nothing
    held and is computed cold; what ends last is held.

    Args:
        lm: a `CodeGemmaCausalLM`.
        layout: `"psm"`, `"line"` or `"spm"`; see above.
    """

    def __init__(self, lm, layout="line"):
        if layout not in LAYOUTS:
            raise ValueError(f"layout={layout!r}: give one of {', '.join(LAYOUTS)}.")
        self._lm = lm
        self._layout = layout
        self._lock = threading.Lock()
        self._engine = None
        self._held = Held([], None)

    def infill(self, prefix, suffix="", **options) -> str:
        """As `CodeGemmaCausalLM.infill`, from where the last request left off."""
        return self.complete(prefix, suffix, **options).text

    def complete(self, prefix, suffix="", **options):
        """As `CodeGemmaCausalLM.complete`, `mode` being the session's own.

        Returns:
            A `Completion`; its `computed_tokens` say how much of the prompt was new.
        """
        return request.complete(self._lm, prefix, suffix, session=self, **options)

    def stream(self, prefix, suffix="", **options):
        """As `CodeGemmaCausalLM.stream`; exhaust or close it to hold what it computed."""
        return request.stream(self._lm, prefix, suffix, session=self, **options)

    def warm(self, prefix, suffix="", **options):
        """Compute a prompt ahead, while nobody waits.

        Args:
            prefix, suffix, **options: as the request to come will have them.

        Returns:
            How many tokens were computed.
        """
        options = request.Options(**options)
        ids, *_ = self.prompt(
            prefix, suffix, options.path, options.context, options.max_new_tokens
        )
        run = self.start([ids], 1, (), Sampling(), [0], options.speculate)
        try:
            while run.running:
                run.advance(1)
        finally:
            self.keep(run)
        return run.prefilled

    # For `CodeGemmaCausalLM`

    def prompt(self, prefix, suffix, path, context, max_new_tokens):
        """`(token ids, prefix kept, suffix kept)` in this session's layout."""
        tokenizer = self._lm.tokenizer
        limit = request.prompt_limit(self._lm, max_new_tokens) - 1  # bos
        # A line's beginning placed elsewhere is encoded apart: a token or two more.
        kept_prefix, kept_suffix, context = fim.shrink(
            prefix, suffix, context, limit - 4, tokenizer.encode, path=path
        )
        kept_prefix = kept_prefix[_tail_start(prefix, kept_prefix) :]
        kept_suffix = kept_suffix[: _head_end(suffix, kept_suffix)]
        parts = self._parts(kept_prefix, kept_suffix, path, context)
        ids = [tokenizer.start_token_id, *tokenizer.encode(parts)]
        return ids, kept_prefix, kept_suffix

    def _parts(self, prefix, suffix, path, context):
        if self._layout != "line":
            return fim.render(
                prefix, suffix, path=path, context=context, mode=self._layout
            )
        border = prefix.rfind("\n") + 1
        parts = fim.render(prefix[:border], suffix, path=path, context=context)
        return [*parts, prefix[border:]] if prefix[border:] else parts

    def start(self, prompts, limit, stop_ids, sampling, seeds, speculate=False):
        """A run that begins with what the session holds."""
        engine = self._lm.engine
        with self._lock:
            if engine is not self._engine:  # other variables: another network
                self._engine, self._held = engine, Held([], None)
            held, self._held = self._held, Held([], None)
        return engine.start(prompts, limit, stop_ids, sampling, seeds, speculate, held)

    def keep(self, run):
        """Hold what a run leaves."""
        held = run.hold()
        with self._lock:
            self._held = held

    def forget(self):
        """Drop what is held; needed after weights were changed in place."""
        with self._lock:
            self._held = Held([], None)


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
