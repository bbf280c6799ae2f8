"""Log-probabilities of given tokens, without logits of whole rows in memory.

The network runs over `[B, T]`; the logits over `SPAN` positions at a time, of which only
the sum and the one wanted logit stay. For V = 256,000 a row of 8,192 tokens would take
8 GB of float32 logits; a span of 32 takes 33 MB.
"""

from collections.abc import Sequence

import numpy as np
from keras import ops

from codegemma_keras.decoding.buckets import bucket, row_bucket

SPAN = 32


def score_step(backbone, token_ids):
    """Log-probability of each token given those before it.

    Args:
        backbone: a `CodeGemmaBackbone`.
        token_ids: int `[B, T]`, right-padded; SPAN divides T.

    Returns:
        float32 `[B, T]`; the first column, which nothing predicts, is 0.
    """
    hidden = backbone.forward(token_ids)  # [B, T, D]
    rows, length = token_ids.shape
    targets = ops.concatenate([token_ids[:, 1:], token_ids[:, :1]], axis=1)

    def body(start, scores):
        part = ops.slice(hidden, [0, start, 0], [rows, SPAN, hidden.shape[-1]])
        wanted = ops.slice(targets, [0, start], [rows, SPAN])
        logits = ops.cast(backbone.logits(part), "float32")  # [B, SPAN, V]
        picked = ops.take_along_axis(logits, wanted[:, :, None], axis=-1)[..., 0]
        picked = picked - ops.logsumexp(logits, axis=-1)
        return start + SPAN, ops.slice_update(scores, [0, start], picked)

    zeros = ops.zeros((rows, length), "float32")
    start = ops.zeros_like(token_ids[0, 0])
    _, scores = ops.while_loop(lambda start, _: start < length, body, (start, zeros))
    return ops.concatenate([zeros[:, :1], scores[:, :-1]], axis=1)


def score(engine, prompts: Sequence[Sequence[int]], batch_size: int = 8):
    """As `score_step` for rows of any lengths.

    Args:
        engine: an `Engine`.
        prompts: lists of token ids, none empty.
        batch_size: rows at once.

    Returns:
        A float32 array for each row, as long as the row; its first element is 0.
    """
    prompts = [list(p) for p in prompts]
    engine.check_prompts(prompts)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    results = [None] * len(prompts)
    for begin in range(0, len(order), batch_size):
        chosen = order[begin : begin + batch_size]
        length = bucket(max(len(prompts[i]) for i in chosen))
        ids = np.zeros((row_bucket(len(chosen)), length), "int32")
        for row, i in zip(ids, chosen, strict=False):
            row[: len(prompts[i])] = prompts[i]
        scores = engine.score(ids)
        for row, i in zip(scores, chosen, strict=False):
            results[i] = row[: len(prompts[i])].copy()
    return results
