"""What runs on the device: prefill of a chunk, the decode loop, moves of cache rows.

Functions of plain tensors and a backbone, compiled by `engine`. Everything that differs
from request to request (offsets, limits, stop ids, seeds, the number of steps) is data;
only shapes, the `Sampling` and the kind of draft are constants of a program.

Invariants: a cache is left-aligned, row b holds the tokens of slots below
`positions[b]`; `tokens[b]` is the newest token, known but not yet in the cache, and
belongs into slot `positions[b]`. What slots above hold is never attended to.
"""

from typing import Any, NamedTuple

from keras import ops, tree

from codegemma_keras.decoding.sampling import choose


class Rows(NamedTuple):
    """Where each row of a batch stands; arrays `[B]`.

    Attributes:
        tokens: int, the newest token.
        positions: int, its slot.
        counts: int, how many new tokens the row has, `tokens` counted.
        limits: int, how many it may have.
        stopped: bool. A stopped row stays as it is.
        seeds: uint32, of the request.
    """

    tokens: Any
    positions: Any
    counts: Any
    limits: Any
    stopped: Any
    seeds: Any

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
    """bool, of the shape of `tokens`: which are among `stop_ids` `[M]`."""
    return ops.any(tokens[..., None] == stop_ids, axis=-1)


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


def first_token(backbone, sampling, hidden, seeds):
    """The token after each prompt, and its log-probability, each `[B]`."""
    logits = backbone.logits(hidden)
    token = choose(logits, sampling, seeds, ops.zeros_like(seeds, dtype="int32"))
    return token, log_probability(logits, token)


def log_probability(logits, token):
    """Of `token` `[B]` in the model's own distribution (temperature 1), float32 `[B]`."""
    logits = ops.cast(logits, "float32")
    picked = ops.take_along_axis(logits, token[:, None], axis=-1)[:, 0]
    return picked - ops.logsumexp(logits, axis=-1)


def decode(backbone, sampling, rows: Rows, stop_ids, steps, output, cache):
    """Decode `steps` tokens, or fewer if every row stops before.

    Args:
        rows: of B.
        stop_ids: int `[M]`, padded with -1.
        steps: int scalar, at most N.
        output: int `[B, N]`, of any content: the caller's size of the result.
        cache: S > positions + steps.

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
        token = choose(logits, sampling, rows.seeds, rows.counts)
        output = ops.slice_update(output, [0, step], token[:, None])
        scores = ops.slice_update(
            scores, [0, step], log_probability(logits, token)[:, None]
        )
        active = ops.logical_not(rows.stopped)
        one = ops.ones_like(rows.counts)
        rows = rows.moved(active, one, token, is_stop(token, stop_ids))
        return step + 1, rows, output, scores, cache

    step = ops.zeros_like(steps)
    scores = ops.zeros_like(output, dtype="float32")
    state = (step, rows, output, scores, cache)
    _, rows, output, scores, cache = ops.while_loop(running, body, state)
    # The cache goes out as well: that is what lets the loop work in its memory.
    return output, scores, rows.counts, cache


def speculate(
    backbone, sampling, drafter, rows: Rows, stop_ids, steps, output, memory, cache
):
    """As `decode`, but each forward verifies a draft of K tokens.

    A draft is right as far as it equals what `choose` gives at each place with that
    place's own noise; so the tokens are those of `decode`, greedy or sampled, whoever
    guessed and however badly.

    Args:
        drafter: guesses K = `drafter.width` tokens; see `drafts`.
        output: int `[B, N]` with N >= steps + K.
        memory: what the drafter knows of the rows.
        cache: S > positions + steps + 2 K.

    Returns:
        As `decode`, and before the cache the number of forwards and the new memory.
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
        draft, memory = drafter.guess(sampling, rows, memory)  # [B, K]
        inputs = ops.concatenate([rows.tokens[:, None], draft], axis=1)  # [B, K + 1]
        hidden, cache = backbone.forward(
            inputs, cache=cache, cache_index=row_index(rows.positions)
        )
        chosen, score = _verdict(backbone, sampling, hidden, rows, column)
        right = ops.cast(draft == chosen[:, :-1], "int32")
        accepted = ops.sum(ops.cumprod(right, axis=1), axis=1)  # [B]
        # The token after the last right one is always good: n = accepted + 1, up to
        # the first stop token and up to the limit.
        stops = ops.cast(is_stop(chosen, stop_ids), "int32")
        before_stop = ops.sum(ops.cast(ops.cumsum(stops, axis=1) == 0, "int32"), axis=1)
        n = ops.minimum(accepted, before_stop) + 1
        n = ops.minimum(n, rows.limits - rows.counts)
        newest = ops.take_along_axis(chosen, ops.maximum(n - 1, 0)[:, None], axis=1)
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


def _verdict(backbone, sampling, hidden, rows, column):
    """The tokens after each of `hidden` `[B, K + 1, D]` and their log-probabilities."""
    batch, width, size = hidden.shape
    ones = ops.ones((1, width), "uint32")
    logits = backbone.logits(ops.reshape(hidden, (batch * width, size)))
    chosen = choose(
        logits,
        sampling,
        ops.reshape(rows.seeds[:, None] * ones, (-1,)),
        ops.reshape(rows.counts[:, None] + column, (-1,)),
    )
    score = ops.reshape(log_probability(logits, chosen), (batch, width))
    return ops.reshape(chosen, (batch, width)), score


def take_rows(arrays, rows):
    """Rows `rows` (int `[B']`, repeats allowed) of a cache or other structure."""
    return tree.map_structure(lambda x: ops.take(x, rows, axis=0), arrays)


def grow(cache, slots):
    """The cache with room for `slots` tokens a row."""

    def pad(x):
        return ops.pad(x, [[0, 0], [0, slots - x.shape[1]], [0, 0], [0, 0]])

    return tree.map_structure(pad, cache)


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
