"""Several tokens a forward: who guesses the next ones, and the loop that verifies them.

Guesses come from the text itself (`Lookup`) or from a smaller model (`SmallerModel`).
A drafter is a constant of the compiled program and works on a `memory` that the loop
carries: `guess` gives K tokens a row, `learn` takes in what was verified. Guesses cost
time when they are wrong, never a token.

Left out: trees of guesses, of which several are verified at once. They want an attention
mask of their own and pay where many requests share a large accelerator.
"""

import dataclasses
from typing import Any

from keras import ops, tree

from codegemma_keras.decoding.loop import Rows, is_stop, row_index
from codegemma_keras.decoding.sampling import Work, choose, log_probability

# Tokens guessed at once. By lookup they cost no forward of their own.
LOOKUP_WIDTH = 7
MODEL_WIDTH = 4


def speculate(backbone, work: Work, drafter, rows: Rows, steps, output, memory, cache):
    """As `loop.decode`, but each forward verifies a draft of K tokens.

    A draft is right as far as it equals what `choose` gives at each place with that
    place's own noise; so the tokens are those of `decode`, greedy or sampled, whoever
    guessed and however badly.

    Args:
        drafter: guesses K = `drafter.width` tokens.
        output: int `[B, N]` with N >= steps + K.
        memory: what the drafter knows of the rows.
        cache: S >= positions + steps + 2 K.

    Returns:
        As `loop.decode`, and before the cache the number of forwards and the new memory.
    """
    start = rows.counts
    width = drafter.width
    column = ops.arange(width + 1, dtype="int32")[None, :]

    def active_rows(rows):
        return ops.logical_and(
            ops.logical_not(rows.stopped), rows.counts - start < steps
        )

    def running(forwards, rows, *rest):
        return ops.any(active_rows(rows))

    def body(forwards, rows, output, scores, memory, cache):
        active = active_rows(rows)
        draft, memory = drafter.guess(work, rows, memory)  # [B, K]
        inputs = ops.concatenate([rows.tokens[:, None], draft], axis=1)  # [B, K + 1]
        hidden, cache = backbone.forward(
            inputs, cache=cache, cache_index=row_index(rows.positions)
        )
        chosen, score = _verdict(backbone, work, hidden, rows, column)
        accepted = _leading(draft == chosen[:, :-1])  # [B]
        # The token after the last right one is always good: n = accepted + 1, up to
        # the first stop token and up to the limit.
        before_stop = _leading(ops.logical_not(is_stop(chosen, rows.stop_ids)))
        n = ops.minimum(accepted, before_stop) + 1
        n = ops.minimum(n, rows.limits - rows.counts)
        last = ops.where(n > 0, n - 1, 0)[:, None]
        newest = ops.take_along_axis(chosen, ops.cast(last, "int32"), axis=1)
        output = write_row(output, chosen, rows.counts - start, active)
        scores = write_row(scores, score, rows.counts - start, active)
        memory = drafter.learn(memory, chosen, rows, active)
        rows = rows.moved(active, n, newest[:, 0], before_stop < n)
        return forwards + 1, rows, output, scores, memory, cache

    forwards = ops.zeros_like(steps)
    scores = ops.zeros_like(output, dtype="float32")
    state = (forwards, rows, output, scores, memory, cache)
    forwards, rows, output, scores, memory, cache = ops.while_loop(running, body, state)
    return output, scores, rows.counts, forwards, memory, cache


def _leading(true):
    """How many of each row of bool `[B, K]` are True before the first False, int32."""
    so_far = ops.cumprod(ops.cast(true, "int32"), axis=1)
    return ops.cast(ops.sum(so_far, axis=1), "int32")


def _verdict(backbone, work, hidden, rows, column):
    """The tokens after each of `hidden` `[B, K + 1, D]` and their log-probabilities."""
    batch, width, size = hidden.shape
    logits = backbone.logits(ops.reshape(hidden, (batch * width, size)))

    def each(values):
        return ops.repeat(values, width, axis=0)

    chosen = choose(
        logits,
        work,
        tree.map_structure(each, rows.settings),
        each(rows.seeds),
        ops.reshape(rows.counts[:, None] + column, (-1,)),
    )
    score = ops.reshape(log_probability(logits, chosen), (batch, width))
    return ops.reshape(chosen, (batch, width)), score


@dataclasses.dataclass(frozen=True)
class Lookup:
    """What followed the newest tokens when they stood before, in prompt or answer.

    `memory` is the history, int `[B, S]`: the tokens of each row up to its newest.
    """

    width: int = LOOKUP_WIDTH
    engine: Any = None  # no network of its own

    def guess(self, work, rows, memory):
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

    def guess(self, work, rows, memory):
        backbone = self.engine.backbone

        def forward(token, step, cache):
            index = row_index(rows.positions + step)
            return backbone.forward(token[:, None], cache=cache, cache_index=index)

        def body(step, token, draft, cache):
            hidden, cache = forward(token, step, cache)
            logits = backbone.logits(hidden[:, 0])  # [B, V]
            token = choose(logits, work, rows.settings, rows.seeds, rows.counts + step)
            return (
                step + 1,
                token,
                ops.slice_update(draft, [ops.zeros_like(step), step], token[:, None]),
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
    # No Python numbers in Keras's operations: at some float types they make floats.
    zero = ops.zeros_like(positions)
    for back in range(longest):
        place = ops.maximum(positions - back, zero)
        newest = ops.take_along_axis(history, place[:, None], axis=1)
        # history shifted right by `back`; what comes in at the left agrees with nothing
        shifted = ops.pad(
            history[:, : size - back], [[0, 0], [back, 0]], constant_values=-1
        )
        agree = ops.logical_and(agree, shifted == newest)
        score = score + ops.cast(agree, "int32")
    best = ops.where(
        index < positions[:, None], score * size + index, zero[:, None] - 1
    )
    best = ops.cast(ops.argmax(best, axis=1), "int32")  # [B]
    period = ops.maximum(positions - best, zero + 1)
    ahead = ops.arange(width, dtype="int32")[None, :] % period[:, None]
    return ops.take_along_axis(history, best[:, None] + 1 + ahead, axis=1)


def write_row(array, values, start, where):
    """`array[b, start[b]:start[b]+T] = values[b]` in rows b where `where[b]`.

    Args:
        array: `[B, S]`; S >= start + T in those rows.
        values: `[B, T]`.
        start: int `[B]`.
        where: bool `[B]`.
    """
    index = ops.arange(array.shape[1], dtype="int32")[None, :] - start[:, None]
    width = values.shape[1]
    inside = ops.logical_and(index >= 0, index < width)
    inside = ops.logical_and(inside, where[:, None])
    spread = ops.take_along_axis(values, ops.clip(index, 0, width - 1), axis=1)
    return ops.where(inside, spread, array)
