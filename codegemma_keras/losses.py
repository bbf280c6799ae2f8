"""The loss of next-token training, without the logits.

With 256,000 pieces the logits `[B, T, V]` of two rows of 1,024 tokens take 2 GB in
float32, and a plain step holds several such tensors. `linear_cross_entropy` goes over
the tokens in chunks: logits of a chunk, their softmax, and *at once* both gradients, so
nothing of size `[B, T, V]` exists and nothing is computed twice. What remains of the
backward pass is a multiplication by the incoming gradient. On one device, tokens without a
weight are left out: padding, prompts of which only the answer counts, and what surrounds a
middle.

`CodeGemmaCausalLM.fit()` and `evaluate()` use it when compiled with `loss="auto"` or
`loss=NextTokenLoss(...)`; any other loss of the user gets logits, as always.

Left out: chunks over the vocabulary. They need no `[V, D]` accumulator, but compute the
logits twice, a third more work in the head.

Shape letters: B batch, T tokens, D width, V vocabulary, C tokens of a chunk and row.
"""

import contextlib
import contextvars
import functools

import keras
from keras import ops

from codegemma_keras import platforms
from codegemma_keras.ops import (
    loop_chunks,
    nth_chunk,
    place,
    split_chunks,
)

LANES = 128  # numbers of a line that the matrix units of TPUs and GPUs read
NEVER = -1e30  # the logit of what is no token


def linear_cross_entropy(
    hidden,
    embedding,
    targets,
    weights=None,
    *,
    z_loss=0.0,
    chunk_tokens=None,
    with_gradients=True,
    train_embedding=True,
    rows=None,
):
    """Cross-entropy of `hidden @ embedding.T` against `targets`, in chunks.

    Matrix products take their inputs as they come (bfloat16, float16, float32) and
    accumulate in float32; softmax, sums and the gradients' accumulators are float32.

    Args:
        hidden: `[B, T, D]`.
        embedding: `[V, D]`.
        targets: int `[B, T]`, each below V.
        weights: `[B, T]`, the weight of each target; None: all 1. No gradient flows
            into them. On one device, chunks in which all weights would be 0 are left out.
        z_loss: factor of `log(Z)^2`, added to each token's loss; Z is the sum of the
            exponentials. 1e-4 is usual, and keeps logits from drifting.
        chunk_tokens: tokens of a chunk; default: `ops.tokens_of_a_chunk`.
        with_gradients: False in evaluation, where they would be thrown away.
        train_embedding: False if the embedding is frozen: its gradient, a third of the
            work, is then not computed.
        rows: None, or `(ids [R], values [R, D])`: rows that train though the embedding
            is frozen. `values` must be what `embedding` holds there; their gradient is
            that of these rows.

    Returns:
        float32 `[3]`: the weighted sums of loss (with the z term), of plain
        cross-entropy, and of right guesses. Gradients are those of the first.
    """
    if weights is None:
        weights = ops.ones_like(targets, dtype="float32")
    weights = ops.stop_gradient(ops.cast(weights, "float32"))
    targets = ops.cast(targets, "int32")

    ids, values = rows or (None, ops.zeros((0, hidden.shape[-1]), embedding.dtype))

    def forward(hidden, embedding, values):
        sums, to_hidden, to_embedding, to_rows = all_chunks(
            hidden,
            embedding,
            targets,
            weights,
            z_loss,
            chunk_tokens,
            with_gradients,
            with_gradients and train_embedding,
            ids if with_gradients else None,
        )

        def backward(upstream):
            factor = upstream[0]  # the other sums are reports
            grads = []
            for grad, value in (
                (to_hidden, hidden),
                (to_embedding, embedding),
                (to_rows, values),
            ):
                if grad is None:
                    grads.append(ops.zeros_like(value))
                else:
                    # In float32 up to here: 1 / (sum of weights) would underflow in
                    # float16, whose loss scale is part of `upstream`.
                    grads.append(ops.cast(grad * factor, value.dtype))
            return tuple(grads)

        return sums, backward

    return ops.custom_gradient(forward)(hidden, embedding, values)


def all_chunks(
    hidden,
    embedding,
    targets,
    weights,
    z_loss,
    chunk_tokens,
    hidden_gradient,
    embedding_gradient,
    row_ids,
):
    """`sums [3]`, and the gradients to hidden, embedding, rows: float32 or None.

    On a mesh each device computes its part of the vocabulary for all tokens of a chunk.
    Then only hidden states, their gradients and a few sums cross the links. Split along
    the tokens, every chunk would collect the embedding and sum up its gradient.
    """
    vocabulary, width = embedding.shape[0], hidden.shape[2]
    embedding = place(aligned(embedding), "all", None)
    ordered, used, back = weighted_first(hidden, targets, weights)
    (hidden_, targets_, weights_), size = split_chunks(
        ordered, embedding.shape[0], chunk_tokens
    )
    rows, chunks = ops.shape(hidden_)[0], ops.shape(hidden_)[1]

    def body(i, state):
        sums, to_hidden, to_embedding, to_rows = state
        h = place(nth_chunk(hidden_, i), None, None, None)  # [B, C, D]
        chunk, grad_logits = _one_chunk(
            h,
            embedding,
            nth_chunk(targets_, i),
            nth_chunk(weights_, i),
            z_loss,
            vocabulary,
        )
        sums = sums + chunk
        if hidden_gradient:
            low = ops.cast(grad_logits, h.dtype)
            grad = _gradient_einsum("bcv,vd->bcd", low, embedding)
            start = (0, i, 0, 0)
            to_hidden = ops.slice_update(to_hidden, start, grad[:, None])
            if embedding_gradient:
                grad = _gradient_einsum("bcv,bcd->vd", low, h)
                to_embedding = to_embedding + place(grad, "all", None)
            if row_ids is not None:
                low = ops.take(low, row_ids, axis=-1)
                to_rows = to_rows + _gradient_einsum("bcr,bcd->rd", low, h)
        return sums, to_hidden, to_embedding, to_rows

    state = (
        ops.zeros((3,), "float32"),
        ops.zeros((rows, chunks, size, width) if hidden_gradient else (), "float32"),
        place(ops.zeros(embedding.shape, "float32"), "all", None)
        if embedding_gradient
        else ops.zeros((), "float32"),
        ops.zeros(() if row_ids is None else (len(row_ids), width), "float32"),
    )
    sums, to_hidden, to_embedding, to_rows = loop_chunks(
        (used + size - 1) // size, body, state
    )
    return (
        sums,
        back(to_hidden) if hidden_gradient else None,
        to_embedding[:vocabulary] if embedding_gradient else None,
        to_rows if row_ids is not None else None,
    )


def weighted_first(hidden, targets, weights):
    """All tokens in one row, those with a weight before the others.

    On a mesh, which splits the rows, everything stays as it is: no token leaves its device.

    Returns:
        `(hidden, targets, weights)`; how many tokens of a row have to be computed; and a
        function that takes what was computed for them in chunks, `[R, n, C, D]`, to its
        places, `[B, T, D]`.
    """
    batch, length, width = ops.shape(hidden)

    def joined(chunks):
        return ops.reshape(chunks, (ops.shape(chunks)[0], -1, width))

    if keras.distribution.distribution() is not None:
        return (hidden, targets, weights), length, lambda c: joined(c)[:, :length]
    flat = ops.reshape(weights, (-1,))
    order = ops.argsort(ops.cast(flat == 0, "int32"))
    shapes = (hidden, (-1, width)), (targets, (-1,)), (weights, (-1,))
    ordered = [ops.take(ops.reshape(x, s), order, axis=0)[None] for x, s in shapes]

    def back(chunks):
        found = ops.take(joined(chunks)[0], ops.argsort(order), axis=0)
        return ops.reshape(found, (batch, length, width))

    return ordered, ops.sum(ops.cast(flat != 0, "int32")), back


def aligned(embedding):
    """`[V, D]` with rows of zeros up to a multiple of `LANES`, where V is none.

    Matrix units read whole lines, and `smollm2_135m_code` has 49,173 tokens.
    """
    more = -embedding.shape[0] % LANES
    return ops.pad(embedding, ((0, more), (0, 0))) if more else embedding


def logits_of(hidden, embedding, vocabulary):
    """float32 `[B, C, V]` of an `aligned` embedding; what is no token is never likely."""
    logits = einsum32("bcd,vd->bcv", hidden, embedding)
    size = embedding.shape[0]
    if size == vocabulary:
        return logits
    # A finite number, as 0 times infinity is none.
    return ops.where(ops.arange(size) < vocabulary, logits, NEVER)


def _one_chunk(hidden, embedding, targets, weights, z_loss, vocabulary):
    """Sums `[3]` of a chunk, and the gradient of their first to its logits."""
    logits = logits_of(hidden, embedding, vocabulary)
    logits = place(logits, None, None, "all")
    is_target = ops.arange(embedding.shape[0], dtype="int32") == targets[..., None]
    if keras.distribution.distribution() is None:
        right = ops.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    else:  # a sum over the parts of the vocabulary, where a lookup would collect them
        right = ops.sum(ops.where(is_target, logits, 0.0), axis=-1)
    top = ops.max(logits, axis=-1)
    exponentials = ops.exp(logits - top[..., None])
    total = ops.sum(exponentials, axis=-1)
    log_z = top + ops.log(total)  # [B, C]
    entropy = log_z - right
    loss = entropy + z_loss * ops.square(log_z)
    hits = ops.cast(right >= top, "float32")
    sums = ops.stack([ops.sum(weights * value) for value in (loss, entropy, hits)])
    # softmax * (1 + 2 z log Z) - one_hot, times the weight
    scale = weights * (1.0 + 2.0 * z_loss * log_z) / total
    grad = exponentials * scale[..., None]
    return sums, grad - ops.where(is_target, weights[..., None], 0.0)


def einsum32(equation, a, b):
    """`einsum` with a float32 result, accumulated in float32."""
    if keras.backend.backend() == "jax":
        import jax.numpy as jnp

        if platforms.platform() != "cpu" or _adds_in_float32():
            return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)
    # TensorFlow has no such option; a bfloat16 result would cost the loss 3 digits.
    return ops.einsum(equation, ops.cast(a, "float32"), ops.cast(b, "float32"))


@functools.cache
def _adds_in_float32():
    """Whether JAX has products of bfloat16 with a float32 result on this CPU.

    Older releases compile them, and fail where they run. Where they exist, they are faster
    than products of float32, so they are tried and not avoided.
    """
    import jax
    import jax.numpy as jnp

    def product(x, table):
        equation = "btd,vd->btv"
        return jnp.einsum(equation, x, table, preferred_element_type=jnp.float32)

    with jax.ensure_compile_time_eval():
        x, table = (jnp.ones(shape, "bfloat16") for shape in ((2, 3, 64), (64, 64)))
        try:
            jax.jit(product)(x, table).block_until_ready()
        except jax.errors.JaxRuntimeError:
            return False
    return True


def _gradient_einsum(equation, a, b):
    """`einsum32` for gradients: TensorFlow may round a bfloat16 product.

    It sums in float32 and rounds once, as every other gradient of a bfloat16 step does,
    and a processor with bfloat16 instructions is three times faster than in float32.
    float16 is left out: a sum over a chunk could overflow it.
    """
    if keras.backend.backend() == "tensorflow" and a.dtype == b.dtype == "bfloat16":
        return ops.cast(ops.einsum(equation, a, b), "float32")
    return einsum32(equation, a, b)


def mean_loss(sums, weights):
    """Mean over the weights, as Keras's `"mean_with_sample_weight"`; 0 if they sum to 0."""
    return ops.divide_no_nan(sums[0], ops.sum(ops.cast(weights, "float32")))


@keras.saving.register_keras_serializable(package="codegemma_keras")
class NextTokenLoss(keras.losses.Loss):
    """Cross-entropy of the next token, by default averaged over the sample weights.

    Compiled into `CodeGemmaCausalLM`, it never makes logits. Called by itself it takes
    targets `[B, T]` and logits `[B, T, V]` and is the plain computation.

    Args:
        z_loss: as in `linear_cross_entropy`.
        chunk_tokens: as in `linear_cross_entropy`.
        reduction: `"mean_with_sample_weight"`, the weighted sum over the sum of the
            weights; or Keras's `"sum_over_batch_size"`, over the number of targets,
            which adds up right over the parts of an accumulated batch.
    """

    def __init__(
        self,
        z_loss=0.0,
        chunk_tokens=None,
        reduction="mean_with_sample_weight",
        name="next_token_loss",
        **kwargs,
    ):
        super().__init__(name=name, reduction=reduction, **kwargs)
        if reduction not in ("mean_with_sample_weight", "sum_over_batch_size"):
            raise ValueError(
                f"reduction={reduction!r}: NextTokenLoss divides by the sum of the "
                "weights ('mean_with_sample_weight') or by the number of targets "
                "('sum_over_batch_size'). For another reduction use "
                "keras.losses.SparseCategoricalCrossentropy(from_logits=True)."
            )
        if z_loss < 0:
            raise ValueError(f"z_loss={z_loss} must not be negative.")
        self.z_loss = z_loss
        self.chunk_tokens = chunk_tokens

    def call(self, y_true, y_pred):
        logits = ops.cast(y_pred, "float32")
        log_z = ops.logsumexp(logits, axis=-1)
        index = ops.cast(y_true, "int32")[..., None]
        right = ops.take_along_axis(logits, index, axis=-1)[..., 0]
        return log_z - right + self.z_loss * ops.square(log_z)

    def get_config(self):
        return {
            **super().get_config(),
            "z_loss": self.z_loss,
            "chunk_tokens": self.chunk_tokens,
        }


@keras.saving.register_keras_serializable(package="codegemma_keras")
class Perplexity(keras.metrics.Mean):
    """`exp` of the mean cross-entropy (without the z term) over all target weights."""

    def __init__(self, name="perplexity", dtype=None):
        super().__init__(name=name, dtype=dtype)

    def result(self):
        return ops.exp(super().result())


class TokenMetrics:
    """Accuracy and perplexity from the same pass as the loss.

    Not a Keras object: Keras would track the metrics a second time.

    Attributes:
        shown: the metrics of a step; none if the user wanted none.
    """

    def __init__(self, shown=True):
        # KerasHub's name for the same figure.
        self._accuracy = keras.metrics.Mean(name="sparse_categorical_accuracy")
        self._perplexity = Perplexity()
        self.shown = [self._accuracy, self._perplexity] if shown else []

    def update(self, sums, weights):
        """Add a batch; `sums` as from `linear_cross_entropy`."""
        if not self.shown:
            return
        total = ops.sum(ops.cast(weights, "float32"))
        self._accuracy.update_state(ops.divide_no_nan(sums[2], total), total)
        self._perplexity.update_state(ops.divide_no_nan(sums[1], total), total)


def model_loss(lm, y, hidden, sample_weight=None, training=True):
    """The loss of a training or test step of a model that a `NextTokenLoss` is for.

    Args:
        lm: the `CodeGemmaCausalLM`; its metrics are updated.
        y: targets, int `[B, T]`.
        hidden: `[B, T, D]`.
        sample_weight: `[B, T]`, or None.
        training: whether gradients are wanted.
    """
    layer = lm.backbone.token_embedding
    if sample_weight is None:
        sample_weight = ops.ones_like(y, dtype="float32")
    sums = linear_cross_entropy(
        hidden,
        layer.table(),
        y,
        sample_weight,
        z_loss=lm.loss.z_loss,
        chunk_tokens=lm.loss.chunk_tokens,
        with_gradients=training,
        train_embedding=layer.trains_table,
        rows=layer.trained_rows,
    )
    lm._token_metrics.update(ops.stop_gradient(sums), sample_weight)
    if lm.loss.reduction == "sum_over_batch_size":
        total = sums[0] / ops.cast(ops.size(y), "float32")
    else:
        total = mean_loss(sums, sample_weight)
    for extra in lm.losses:  # regularisers and add_loss()
        total = total + ops.sum(ops.cast(extra, "float32"))
    return total


class LossOfHidden:
    """A loss that is computed from hidden states, so that logits need not exist.

    For `CodeGemmaCausalLM.compile`. Not a Keras loss: its targets may be any structure.

    Attributes:
        shown: Keras metrics that `of` updates.
    """

    shown = ()

    def of(self, lm, y, hidden):
        """The loss, a float32 scalar.

        Args:
            lm: the model.
            y: targets, as given to `fit` or `train_on_batch`.
            hidden: `[B, T, D]`.
        """
        raise NotImplementedError


# While a step is traced, the model's call returns hidden states, not logits. Of the
# context, not of the model: another thread may be calling the same model meanwhile.
_stepping = contextvars.ContextVar("stepping", default=None)


@contextlib.contextmanager
def hidden_states_only(lm, wanted=True):
    """Inside, `lm(x)` gives hidden states, if `wanted`."""
    token = _stepping.set(lm if wanted else None)
    try:
        yield
    finally:
        _stepping.reset(token)


def wants_hidden_states(lm) -> bool:
    """Whether we are inside `hidden_states_only(lm)`."""
    return _stepping.get() is lm
