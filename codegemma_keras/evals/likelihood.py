"""Bits per byte: how many bits the model needs for each byte of unseen text.

Unlike loss per token it compares models with different tokenizers.
"""

import math
from collections.abc import Iterable

from codegemma_keras import fim


def bits_per_byte(
    lm, documents: Iterable[tuple[str, str]], *, length=None, batch_size=8
) -> dict:
    """Bits per byte of documents, each piece with its path line as only context.

    Args:
        lm: a `CodeGemmaCausalLM` with a preprocessor.
        documents: `(path, text)` pairs. A text longer than a row is cut into pieces at
            token borders; each piece starts afresh after bos and the path line.
        length: tokens a row; default: the preprocessor's `sequence_length`.

    Returns:
        `{"bits_per_byte", "bytes", "tokens", "nats_per_token"}`.
    """
    length = length or lm.preprocessor.sequence_length
    tokenizer = lm.tokenizer
    nats, size, tokens = 0.0, 0, 0
    batch: list[tuple[list[int], int]] = []

    def flush():
        nonlocal nats
        scores = lm.log_probabilities(
            [piece for piece, _ in batch], batch_size=batch_size
        )
        for row, (_, head) in zip(scores, batch, strict=True):
            nats -= float(row[head:].sum(dtype="float64"))
        batch.clear()

    for path, text in documents:
        head = [tokenizer.start_token_id]
        head += tokenizer.encode(fim.render_plain("", path))
        body = tokenizer.encode(text)
        size += len(text.encode("utf-8", "surrogateescape"))
        tokens += len(body)
        step = length + 1 - len(head)
        if step <= 0:
            raise ValueError(
                f"The path line of {path!r} alone fills a row of {length} tokens. Give a "
                "larger length or a shorter path."
            )
        for start in range(0, len(body), step):
            batch.append((head + body[start : start + step], len(head)))
            if len(batch) == batch_size:
                flush()
    if batch:
        flush()
    return {
        "bits_per_byte": nats / math.log(2) / max(size, 1),
        "bytes": size,
        "tokens": tokens,
        "nats_per_token": nats / max(tokens, 1),
    }
