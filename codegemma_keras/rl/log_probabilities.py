"""Log-probabilities of given tokens with a gradient, without logits `[B, T, V]`.

Every loss here is a function of the tokens' log-probabilities alone. Their gradient to
the hidden states is that of a cross-entropy whose weights are minus the incoming gradient,
so the backward pass is the chunked one of `losses`, and only a chunk's logits exist at a
time.

Left out: keeping the chunks' softmax from the forward pass. The head is computed twice,
because the weights are known only after the loss.

Shape letters: B rows, T tokens, D width, V vocabulary, C tokens of a chunk and row.
"""

from keras import ops

from codegemma_keras import losses


def of_tokens(
    hidden,
    embedding,
    targets,
    *,
    chunk_tokens=None,
    train_embedding=True,
    rows=None,
):
    """Log-probability of each target, and the entropy of the distribution it is from.

    Args:
        hidden: `[B, T, D]`.
        embedding: `[V, D]`.
        targets: int `[B, T]`, each below V.
        chunk_tokens, train_embedding, rows: as of `losses.linear_cross_entropy`.

    Returns:
        float32 `[2, B, T]`: log-probabilities, entropies in nats. Only the first have a
        gradient.
    """
    targets = ops.cast(targets, "int32")
    ids, values = rows or (None, ops.zeros((0, hidden.shape[-1]), embedding.dtype))

    def forward(hidden, embedding, values):
        def backward(upstream):
            _, *grads = losses.all_chunks(
                hidden,
                embedding,
                targets,
                -ops.cast(upstream[0], "float32"),
                0.0,
                chunk_tokens,
                True,
                train_embedding,
                ids,
            )
            pairs = zip(grads, (hidden, embedding, values), strict=True)
            return tuple(
                ops.zeros_like(value) if grad is None else ops.cast(grad, value.dtype)
                for grad, value in pairs
            )

        return _in_chunks(hidden, embedding, targets, chunk_tokens), backward

    return ops.custom_gradient(forward)(hidden, embedding, values)


def of_model(lm, hidden, targets):
    """`of_tokens` with the head of a `CodeGemmaCausalLM`, its adapter included."""
    layer = lm.backbone.token_embedding
    return of_tokens(
        hidden,
        layer.table(),
        targets,
        train_embedding=layer.trains_table,
        rows=layer.trained_rows,
    )


def _in_chunks(hidden, embedding, targets, chunk_tokens):
    rows, length = ops.shape(hidden)[0], ops.shape(hidden)[1]
    padded = losses.aligned(embedding)
    (hidden_, targets_), size = losses.split_chunks(
        (hidden, targets), embedding.shape[0], chunk_tokens
    )
    shape = (2, ops.shape(hidden_)[0], ops.shape(hidden_)[1], size)

    def body(i, state):
        chunk = losses.nth_chunk(hidden_, i)
        logits = losses.logits_of(chunk, padded, embedding.shape[0])
        wanted = losses.nth_chunk(targets_, i)[..., None]
        log_z = ops.logsumexp(logits, axis=-1)  # [B, C]
        picked = ops.take_along_axis(logits, wanted, axis=-1)[..., 0] - log_z
        probabilities = ops.exp(logits - log_z[..., None])
        entropy = log_z - ops.sum(probabilities * logits, axis=-1)
        both = ops.stack([picked, entropy])[:, :, None]  # [2, B, 1, C]
        return (ops.slice_update(state[0], (0, 0, i, 0), both),)

    [out] = losses.loop_chunks(shape[2], body, (ops.zeros(shape, "float32"),))
    return ops.reshape(out, (2, rows, -1))[:, :, :length]
