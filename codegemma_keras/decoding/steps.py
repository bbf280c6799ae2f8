"""What runs on the device: prefill of a chunk, the decode loop, moves of cache rows.

Functions of plain tensors and a backbone, compiled by `engine`. Everything that differs
from request to request (offsets, limits, stop ids, seeds, the number of steps) is data;
only shapes and the `Sampling` are constants of a program.

Invariants: a cache is left-aligned, row b holds the tokens of slots below
`positions[b]`; `tokens[b]` is the newest token, known but not yet in the cache, and
belongs into slot `positions[b]`. What slots above hold is never attended to.
"""

from keras import ops, tree

from codegemma_keras.decoding.sampling import choose


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
    states, part = backbone.forward(token_ids, cache=part, cache_index=offset)
    last = lengths[:rows] - 1 - offset  # [b]
    taken = ops.take_along_axis(
        states, ops.clip(last, 0, width - 1)[:, None, None], axis=1
    )[:, 0]
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


def decode(
    backbone,
    sampling,
    tokens,
    positions,
    counts,
    limits,
    stopped,
    seeds,
    stop_ids,
    steps,
    output,
    cache,
):
    """Decode `steps` tokens, or fewer if every row stops before.

    Args:
        tokens: int `[B]`, the newest token of each row.
        positions: int `[B]`, its slot.
        counts: int `[B]`, how many new tokens the row has, `tokens` counted.
        limits: int `[B]`, how many it may have.
        stopped: bool `[B]`. A stopped row stays as it is.
        seeds: uint32 `[B]`.
        stop_ids: int `[M]`, padded with -1.
        steps: int scalar, at most N.
        output: int `[B, N]`, of any content: the caller's size of the result.
        cache: S > positions + steps.

    Returns:
        tokens `[B, N]` and their log-probabilities `[B, N]`, of which
        `counts - counts before` are valid in each row; counts, stopped, cache.
    """
    single = tokens.shape[0] == 1

    def running(step, tokens, positions, counts, stopped, output, scores, cache):
        return ops.logical_and(step < steps, ops.logical_not(ops.all(stopped)))

    def body(step, tokens, positions, counts, stopped, output, scores, cache):
        # A scalar index is a plain slice; a scatter would be slower.
        index = positions[0] if single else positions
        hidden, cache = backbone.forward(
            tokens[:, None], cache=cache, cache_index=index
        )
        logits = backbone.logits(hidden[:, 0])  # [B, V]
        token = choose(logits, sampling, seeds, counts)
        output = ops.slice_update(output, [0, step], token[:, None])
        scores = ops.slice_update(
            scores, [0, step], log_probability(logits, token)[:, None]
        )
        active = ops.logical_not(stopped)
        one = ops.cast(active, "int32")
        counts = counts + one
        hit = ops.any(token[:, None] == stop_ids[None, :], axis=-1)
        ended = ops.logical_or(hit, counts >= limits)
        return (
            step + 1,
            ops.where(active, token, tokens),
            positions + one,
            counts,
            ops.logical_or(stopped, ended),
            output,
            scores,
            cache,
        )

    step = ops.zeros_like(steps)
    scores = ops.zeros_like(output, dtype="float32")
    state = (step, tokens, positions, counts, stopped, output, scores, cache)
    _, _, _, counts, stopped, output, scores, cache = ops.while_loop(
        running, body, state
    )
    # The cache goes out as well: that is what lets the loop work in its memory.
    return output, scores, counts, stopped, cache


def take_rows(arrays, rows):
    """Rows `rows` (int `[B']`, repeats allowed) of a cache or other structure."""
    return tree.map_structure(lambda x: ops.take(x, rows, axis=0), arrays)


def grow(cache, slots):
    """The cache with room for `slots` tokens a row."""

    def pad(x):
        return ops.pad(x, [[0, 0], [0, slots - x.shape[1]], [0, 0], [0, 0]])

    return [(pad(k), pad(v)) for k, v in cache]


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


def speculate(
    backbone,
    sampling,
    width,
    tokens,
    positions,
    counts,
    limits,
    stopped,
    seeds,
    stop_ids,
    steps,
    output,
    history,
    cache,
):
    """As `decode`, but each forward verifies a draft of `width` tokens.

    A draft is right as far as it equals what `choose` gives at each place with that
    place's own noise; so the tokens are those of `decode`, greedy or sampled.

    Args:
        output: int `[B, N]` with N >= steps + width.
        history: int `[B, S]`, the tokens of each row up to its newest.
        cache: S > positions + steps + 2 width.

    Returns:
        As `decode`, and before the cache the number of forwards.
    """
    batch = tokens.shape[0]
    single = batch == 1
    start = counts
    ones = ops.ones((1, width + 1), "int32")
    column = ops.arange(width + 1, dtype="int32")[None, :]

    def active_rows(counts, stopped):
        return ops.logical_and(ops.logical_not(stopped), counts - start < steps)

    def running(forwards, tokens, positions, counts, stopped, *rest):
        return ops.any(active_rows(counts, stopped))

    def body(
        forwards, tokens, positions, counts, stopped, output, scores, history, cache
    ):
        active = active_rows(counts, stopped)
        draft = lookup_draft(history, positions, width)  # [B, K]
        index = positions[0] if single else positions
        hidden, cache = backbone.forward(
            ops.concatenate([tokens[:, None], draft], axis=1),
            cache=cache,
            cache_index=index,
        )
        logits = backbone.logits(hidden)  # [B, K + 1, V]
        logits = ops.reshape(logits, (-1, logits.shape[-1]))
        every = choose(
            logits,
            sampling,
            ops.reshape(seeds[:, None] * ops.cast(ones, "uint32"), (-1,)),
            ops.reshape(counts[:, None] + column, (-1,)),
        )
        score = ops.reshape(log_probability(logits, every), (batch, -1))
        chosen = ops.reshape(every, (batch, -1))  # [B, K + 1]
        right = ops.cast(draft == chosen[:, :-1], "int32")
        accepted = ops.sum(ops.cumprod(right, axis=1), axis=1)  # [B]
        # The token after the last right one is always good: n = accepted + 1, up to
        # the first stop token and up to the limit.
        is_stop = ops.any(chosen[:, :, None] == stop_ids[None, None, :], axis=-1)
        is_stop = ops.cast(is_stop, "int32")
        before_stop = ops.sum(
            ops.cast(ops.cumsum(is_stop, axis=1) == 0, "int32"), axis=1
        )
        n = ops.minimum(accepted, before_stop) + 1
        n = ops.minimum(n, limits - counts)
        n = ops.where(active, n, 0)
        hit = ops.logical_and(before_stop < n, active)
        newest = ops.take_along_axis(chosen, ops.maximum(n - 1, 0)[:, None], axis=1)
        output = write_row(output, chosen, counts - start, active)
        scores = write_row(scores, score, counts - start, active)
        history = write_row(history, chosen, positions + 1, active)
        counts = counts + n
        ended = ops.logical_and(active, ops.logical_or(hit, counts >= limits))
        return (
            forwards + 1,
            ops.where(active, newest[:, 0], tokens),
            positions + n,
            counts,
            ops.logical_or(stopped, ended),
            output,
            scores,
            history,
            cache,
        )

    forwards = ops.zeros_like(steps)
    scores = ops.zeros_like(output, dtype="float32")
    state = (forwards, tokens, positions, counts, stopped, output, scores, history)
    forwards, _, _, counts, stopped, output, scores, _, cache = ops.while_loop(
        running, body, (*state, cache)
    )
    return output, scores, counts, stopped, forwards, cache


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
