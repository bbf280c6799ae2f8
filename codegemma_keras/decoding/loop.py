"""What runs on the device: prefill of a chunk, the decode loop, scores of given tokens.

Functions of plain tensors and a backbone, compiled by `engine`. Everything that differs
from request to request (offsets, limits, stop ids, seeds, temperature, the number of
steps) is data; only shapes and the `Work` of sampling are constants of a program.

Invariants: a cache is left-aligned, row b holds the tokens of slots below
`positions[b]`; `tokens[b]` is the newest token, known but not yet in the cache, and
belongs into slot `positions[b]`. What slots above hold is never attended to. Integers
are int32 whatever Keras's float type and JAX's 64-bit mode are.
"""

from typing import Any, NamedTuple

from keras import ops

from codegemma_keras.decoding.sampling import Settings, Work, choose, log_probability
from codegemma_keras.ops import loop_chunks, nth_chunk, split_chunks

# Most tokens decoded in one visit of the device; the size of its output.
VISIT = 32


class Rows(NamedTuple):
    """Where each row of a batch stands; arrays `[B]`.

    Attributes:
        tokens: int, the newest token.
        positions: int, its slot.
        counts: int, how many new tokens the row has, `tokens` counted.
        limits: int, how many it may have.
        stopped: bool. A stopped row stays as it is.
        seeds: uint32, of the request.
        stop_ids: int `[B, M]`, padded with -1, which no token equals.
        settings: how tokens are chosen.
    """

    tokens: Any
    positions: Any
    counts: Any
    limits: Any
    stopped: Any
    seeds: Any
    stop_ids: Any
    settings: Settings

    def moved(self, active, count, newest, hit):
        """The rows where `active`, `count` tokens on, the last being `newest`.

        Args:
            active: bool `[B]`.
            count: int `[B]`.
            newest: int `[B]`.
            hit: bool `[B]`, whether `newest` is a stop token.
        """
        count = ops.where(active, count, 0)
        counts = self.counts + count
        ended = ops.logical_or(hit, counts >= self.limits)
        return self._replace(
            tokens=ops.where(active, newest, self.tokens),
            positions=self.positions + count,
            counts=counts,
            stopped=ops.logical_or(self.stopped, ops.logical_and(active, ended)),
        )


def row_index(positions):
    """`positions` `[B]` as the index of a cache write: one row has a scalar.

    A scalar index is a plain slice; a scatter would be slower.
    """
    return positions[0] if positions.shape[0] == 1 else positions


def is_stop(tokens, stop_ids):
    """bool, of the shape of `tokens` `[B, ...]`: which are among `stop_ids` `[B, M]`."""
    shape = (stop_ids.shape[0], *[1] * (len(tokens.shape) - 1), stop_ids.shape[1])
    return ops.any(tokens[..., None] == ops.reshape(stop_ids, shape), axis=-1)


def prefill(backbone, token_ids, offset, lengths, hidden, cache):
    """Put a chunk of the first b rows' prompts into the cache.

    Args:
        token_ids: int `[b, C]`, b <= B: columns offset..offset+C-1 of the prompts.
        offset: int scalar.
        lengths: int `[B]`, of the prompts.
        hidden: `[B, D]`, last hidden state of the prompts that ended in earlier chunks.
        cache: of B rows and S >= offset + C slots.

    Returns:
        The new hidden and cache.
    """
    rows, width = token_ids.shape
    whole = rows == cache[0][0].shape[0]
    part = cache if whole else [(k[:rows], v[:rows]) for k, v in cache]
    last = lengths[:rows] - 1 - offset  # [b]
    states, part = backbone.forward(
        token_ids,
        cache=part,
        cache_index=offset,
        only=ops.clip(last, 0, width - 1),
    )
    taken = states[:, 0]
    here = ops.logical_and(last >= 0, last < width)
    taken = ops.where(here[:, None], taken, hidden[:rows])
    if whole:
        return taken, part
    cache = [
        tuple(ops.slice_update(a, [0, 0, 0, 0], b) for a, b in zip(*pairs, strict=True))
        for pairs in zip(cache, part, strict=True)
    ]
    return ops.concatenate([taken, hidden[rows:]], axis=0), cache


def first_token(backbone, work: Work, settings, hidden, seeds):
    """The token after each prompt, and its log-probability, each `[B]`."""
    logits = backbone.logits(hidden)
    steps = ops.zeros_like(seeds, dtype="int32")
    token = choose(logits, work, settings, seeds, steps)
    return token, log_probability(logits, token)


def decode(backbone, work: Work, rows: Rows, steps, output, cache):
    """Decode `steps` tokens, or fewer if every row stops before.

    Args:
        rows: of B.
        steps: int scalar, at most N.
        output: int `[B, N]`, of any content: the caller's size of the result.
        cache: S >= positions + steps in rows that go on, S > positions in all.

    Returns:
        tokens `[B, N]` and their log-probabilities `[B, N]`, of which
        `counts - counts before` are valid in each row; counts, cache.
    """

    def running(step, rows, output, scores, cache):
        return ops.logical_and(step < steps, ops.logical_not(ops.all(rows.stopped)))

    def body(step, rows, output, scores, cache):
        hidden, cache = backbone.forward(
            rows.tokens[:, None], cache=cache, cache_index=row_index(rows.positions)
        )
        logits = backbone.logits(hidden[:, 0])  # [B, V]
        token = choose(logits, work, rows.settings, rows.seeds, rows.counts)
        score = log_probability(logits, token)
        column = [ops.zeros_like(step), step]
        output = ops.slice_update(output, column, token[:, None])
        scores = ops.slice_update(scores, column, score[:, None])
        active = ops.logical_not(rows.stopped)
        one = ops.ones_like(rows.counts)
        rows = rows.moved(active, one, token, is_stop(token, rows.stop_ids))
        return step + 1, rows, output, scores, cache

    step = ops.zeros_like(steps)
    scores = ops.zeros_like(output, dtype="float32")
    state = (step, rows, output, scores, cache)
    _, rows, output, scores, cache = ops.while_loop(running, body, state)
    # The cache goes out as well: that is what lets the loop work in its memory.
    return output, scores, rows.counts, cache


def score(backbone, token_ids):
    """Log-probability of each token given those before it, without logits `[B, T, V]`.

    Args:
        backbone: a `CodeGemmaBackbone`.
        token_ids: int `[B, T]`, right-padded.

    Returns:
        float32 `[B, T]`; the first column, which nothing predicts, is 0. And int32
        `[B, T]`: 1 where greedy decoding would take the token.
    """
    hidden = backbone.forward(token_ids)  # [B, T, D]
    targets = ops.concatenate([token_ids[:, 1:], token_ids[:, :1]], axis=1)
    size = backbone.vocabulary_size
    (hidden, targets), _ = split_chunks((hidden, targets), size)

    def body(i, found):
        scores, greedy = found
        logits = ops.cast(backbone.logits(nth_chunk(hidden, i)), "float32")  # [B, C, V]
        wanted = nth_chunk(targets, i)
        picked = ops.take_along_axis(logits, wanted[..., None], axis=-1)[..., 0]
        picked = picked - ops.logsumexp(logits, axis=-1)
        best = ops.cast(ops.argmax(logits, axis=-1), wanted.dtype) == wanted
        best, place = ops.cast(best, "int32"), (0, i, 0)
        return (
            ops.slice_update(scores, place, picked[:, None]),
            ops.slice_update(greedy, place, best[:, None]),
        )

    shape, (rows, length) = ops.shape(targets), token_ids.shape
    found = ops.zeros(shape, "float32"), ops.zeros(shape, "int32")
    found = loop_chunks(targets.shape[1], body, found)
    scores, greedy = (ops.reshape(f, (rows, -1))[:, : length - 1] for f in found)
    return (
        ops.concatenate([ops.zeros((rows, 1), "float32"), scores], axis=1),
        ops.concatenate([ops.zeros((rows, 1), "int32"), greedy], axis=1),
    )
