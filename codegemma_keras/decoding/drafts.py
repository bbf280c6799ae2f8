"""Who guesses the tokens that `steps.speculate` verifies: prompt lookup, or a model.

A drafter is a constant of the compiled program and works on a `memory` that the loop
carries: `guess` gives K tokens a row, `learn` takes in what was verified. Guesses cost
time when they are wrong, never a token: see `steps.speculate`.

Left out: trees of guesses, of which several are verified at once. They want an attention
mask of their own and pay where many requests share a large accelerator.
"""

import dataclasses
from typing import Any

from keras import ops

from codegemma_keras.decoding.sampling import choose
from codegemma_keras.decoding.steps import row_index, write_row

# Tokens guessed at once. By lookup they cost no forward of their own.
LOOKUP_WIDTH = 7
MODEL_WIDTH = 4


@dataclasses.dataclass(frozen=True)
class Lookup:
    """What followed the newest tokens when they stood before, in prompt or answer.

    `memory` is the history, int `[B, S]`: the tokens of each row up to its newest.
    """

    width: int = LOOKUP_WIDTH
    engine: Any = None  # no network of its own

    def guess(self, sampling, rows, memory):
        return lookup_draft(memory, rows.positions, self.width), memory

    def learn(self, memory, chosen, rows, active):
        return write_row(memory, chosen, rows.positions + 1, active)


@dataclasses.dataclass(frozen=True)
class SmallerModel:
    """A model of the same vocabulary decodes the guesses.

    It samples with the noise that the verified tokens are sampled with, so where the
    two models agree it guesses right at any temperature. `memory` is its cache, which
    holds the same tokens as the larger one's.

    Attributes:
        engine: the `Engine` of the smaller model.
    """

    engine: Any
    width: int = MODEL_WIDTH

    def guess(self, sampling, rows, memory):
        backbone = self.engine.backbone

        def forward(token, step, cache):
            index = row_index(rows.positions + step)
            return backbone.forward(token[:, None], cache=cache, cache_index=index)

        def body(step, token, draft, cache):
            hidden, cache = forward(token, step, cache)
            logits = backbone.logits(hidden[:, 0])  # [B, V]
            token = choose(logits, sampling, rows.seeds, rows.counts + step)
            return (
                step + 1,
                token,
                ops.slice_update(draft, [0, step], token[:, None]),
                cache,
            )

        step = ops.zeros_like(rows.tokens[0])
        draft = ops.zeros((rows.tokens.shape[0], self.width), "int32")
        step, token, draft, cache = ops.while_loop(
            lambda step, *rest: step < self.width,
            body,
            (step, rows.tokens, draft, memory),
        )
        # If every guess is right, the last one must be in the cache too.
        _, cache = forward(token, step, cache)
        return draft, cache

    def learn(self, memory, chosen, rows, active):
        return memory  # wrong guesses stand above `positions` and are overwritten


def lookup_draft(history, positions, width, longest=3):
    """Guess the next tokens: what followed the newest tokens when they stood before.

    Of the earlier places that agree with the newest `longest` tokens in the most
    tokens, the latest counts.

        history    a b c d a b c x x    positions 5 (the second b)
        draft      c d a b c d          from after the first b, then round again

    Args:
        history: int `[B, S]`, all tokens of each row up to `positions`, then anything.
        positions: int `[B]`, where the newest token stands.
        width: K, how many to guess.
        longest: how many tokens of agreement are told apart.

    Returns:
        int `[B, K]`; of no worth where nothing agrees.
    """
    size = history.shape[1]
    index = ops.arange(size, dtype="int32")[None, :]  # [1, S]
    agree = ops.ones_like(history, dtype="bool")
    score = ops.zeros_like(history)
    for back in range(longest):
        newest = ops.take_along_axis(
            history, ops.maximum(positions - back, 0)[:, None], axis=1
        )
        # history shifted right by `back`; what comes in at the left agrees with nothing
        shifted = ops.pad(
            history[:, : size - back], [[0, 0], [back, 0]], constant_values=-1
        )
        agree = ops.logical_and(agree, shifted == newest)
        score = score + ops.cast(agree, "int32")
    best = ops.where(index < positions[:, None], score * size + index, -1)
    best = ops.cast(ops.argmax(best, axis=1), "int32")  # [B]
    period = ops.maximum(positions - best, 1)
    ahead = ops.arange(width, dtype="int32")[None, :] % period[:, None]
    return ops.take_along_axis(history, best[:, None] + 1 + ahead, axis=1)
