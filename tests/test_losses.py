"""The loss without logits beside the plain computation, on both backends."""

import keras
import numpy as np
import pytest
from keras import ops

from codegemma_keras import CodeGemmaCausalLM, losses
from codegemma_keras.losses import NextTokenLoss, linear_cross_entropy, mean_loss
from tests.tiny_models import our_backbone

B, T, D, V = 2, 7, 24, 53
rng = np.random.default_rng(11)
HIDDEN = rng.normal(0, 1, (B, T, D)).astype("float32")
EMBEDDING = rng.normal(0, 0.3, (V, D)).astype("float32")
TARGETS = rng.integers(0, V, (B, T)).astype("int32")
WEIGHTS = rng.choice([0.0, 0.5, 1.0, 2.0], (B, T)).astype("float32")
WEIGHTS[0, 0] = 1.0


def plain(hidden, embedding, z_loss):
    """The textbook: all logits at once, autodiff for the rest."""
    logits = ops.cast(ops.matmul(hidden, ops.transpose(embedding)), "float32")
    log_z = ops.logsumexp(logits, axis=-1)
    right = ops.sum(ops.one_hot(TARGETS, V) * logits, axis=-1)
    loss = log_z - right + z_loss * ops.square(log_z)
    return ops.sum(loss * WEIGHTS) / WEIGHTS.sum()


def chunked(hidden, embedding, z_loss, chunk_tokens=None):
    sums = linear_cross_entropy(
        hidden,
        embedding,
        TARGETS,
        WEIGHTS,
        z_loss=z_loss,
        chunk_tokens=chunk_tokens,
    )
    return mean_loss(sums, WEIGHTS)


def value_and_gradients(function, *arrays):
    """Numpy value and gradients, compiled, on whichever backend runs."""
    if keras.backend.backend() == "jax":
        import jax

        places = tuple(range(len(arrays)))
        value, grads = jax.jit(jax.value_and_grad(function, argnums=places))(*arrays)
    else:
        import tensorflow as tf

        @tf.function(jit_compile=True)
        def run(*tensors):
            with tf.GradientTape() as tape:
                tape.watch(tensors)
                value = function(*tensors)
            return value, tape.gradient(value, tensors)

        value, grads = run(*map(tf.constant, arrays))
    return np.asarray(value), [np.asarray(g) for g in grads]


@pytest.mark.parametrize(
    ("chunk_tokens", "z_loss"), [(1, 0.0), (4, 0.01), (5, 0.0), (14, 0.01), (None, 0.0)]
)
def test_equal_to_the_plain_computation(chunk_tokens, z_loss):
    value, grads = value_and_gradients(
        lambda h, e: chunked(h, e, z_loss, chunk_tokens), HIDDEN, EMBEDDING
    )
    expected, expected_grads = value_and_gradients(
        lambda h, e: plain(h, e, z_loss), HIDDEN, EMBEDDING
    )
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(grad, expected_grad, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("weighted", [0, 1, 3, 2 * T])
def test_tokens_without_a_weight_are_not_computed(weighted):
    # Computed, they would make the sums NaN: 0 times NaN is NaN.
    weights = np.zeros(B * T, "float32")
    weights[np.random.default_rng(weighted).permutation(B * T)[:weighted]] = 0.5
    weights = weights.reshape(B, T)
    hidden = np.where(weights[..., None], HIDDEN, np.nan).astype("float32")

    def total(h, e):
        return linear_cross_entropy(h, e, TARGETS, weights, chunk_tokens=1)[0]

    found, grads = value_and_gradients(total, hidden, EMBEDDING)
    expected, expected_grads = value_and_gradients(total, HIDDEN, EMBEDDING)
    np.testing.assert_array_equal(found, expected)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        np.testing.assert_array_equal(grad, expected_grad)


def test_large_logits_stay_finite():
    value, grads = value_and_gradients(
        lambda h, e: chunked(h, e, 0.0, 3), 100 * HIDDEN, EMBEDDING
    )
    expected, _ = value_and_gradients(
        lambda h, e: plain(h, e, 0.0), 100 * HIDDEN, EMBEDDING
    )
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert all(np.isfinite(grad).all() for grad in grads)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision_inputs_accumulate_in_float32(dtype):
    low = [ops.cast(a, dtype) for a in (HIDDEN, EMBEDDING)]
    rounded = [ops.convert_to_numpy(ops.cast(a, "float32")) for a in low]
    # The same rounded numbers, computed in float32 throughout.
    expected, expected_grads = value_and_gradients(
        lambda h, e: plain(h, e, 0.0), *rounded
    )
    value, grads = value_and_gradients(
        lambda h, e: chunked(ops.cast(h, dtype), ops.cast(e, dtype), 0.0, 4), *rounded
    )
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    step = {"bfloat16": 2**-8, "float16": 2**-11}[dtype]
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(
            grad, expected_grad, atol=4 * step * np.abs(expected_grad).max()
        )


def test_float16_gradients_survive_many_tokens():
    # One part in 60 million a token is below what float16 holds; the loss scale of
    # 2**15, which Keras's LossScaleOptimizer starts with, brings it back.
    weight_sum, scale = 6e7, 2.0**15

    def scaled(h):
        sums = linear_cross_entropy(
            ops.cast(h, "float16"), ops.cast(EMBEDDING, "float16"), TARGETS
        )
        return sums[0] / weight_sum * scale

    _, (grad,) = value_and_gradients(scaled, HIDDEN)
    _, (exact,) = value_and_gradients(
        lambda h: linear_cross_entropy(h, EMBEDDING, TARGETS)[0], HIDDEN
    )
    np.testing.assert_allclose(
        grad / scale * weight_sum, exact, atol=0.02 * np.abs(exact).max()
    )


def test_no_weight_is_no_loss():
    sums = linear_cross_entropy(HIDDEN, EMBEDDING, TARGETS, np.zeros((B, T)))
    assert float(mean_loss(sums, np.zeros((B, T)))) == 0.0


def test_counts_right_guesses():
    logits = HIDDEN @ EMBEDDING.T
    right = (logits.argmax(-1) == TARGETS) | (np.arange(T) % 2 == 0)
    targets = np.where(right, logits.argmax(-1), TARGETS).astype("int32")
    sums = linear_cross_entropy(HIDDEN, EMBEDDING, targets, WEIGHTS, chunk_tokens=3)
    assert float(sums[2]) == pytest.approx((right * WEIGHTS).sum())


# In the model


def model(loss="auto", **options):
    lm = CodeGemmaCausalLM(our_backbone(vocabulary_size=V))
    lm.compile(optimizer=keras.optimizers.SGD(0.1), loss=loss, **options)
    return lm


def batch(rows=4):
    generator = np.random.default_rng(5)
    ids = generator.integers(3, V, (rows, T + 1)).astype("int32")
    weights = generator.choice([0.0, 1.0, 2.0], (rows, T)).astype("float32")
    mask = np.ones((rows, T), "int32")
    return {"token_ids": ids[:, :-1], "padding_mask": mask}, ids[:, 1:], weights


def keras_loss(reduction="mean_with_sample_weight"):
    return keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, reduction=reduction
    )


def trained(lm, rows=4, batch_size=2):
    x, y, weights = batch(rows)
    history = lm.fit(
        x,
        y,
        sample_weight=weights,
        batch_size=batch_size,
        epochs=2,
        shuffle=False,
        verbose=0,
    )
    return history.history, [ops.convert_to_numpy(v) for v in lm.trainable_variables]


# Five rows in twos: a last, smaller batch, whose size TensorFlow does not know.
@pytest.mark.parametrize(("rows", "batch_size"), [(4, 4), (5, 2)])
def test_fit_equals_fit_with_logits(rows, batch_size):
    ours, variables = trained(model(), rows, batch_size)
    theirs, expected = trained(model(keras_loss()), rows, batch_size)
    np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=1e-5)
    name = "sparse_categorical_accuracy"
    np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5)
    if rows == batch_size:  # else Keras's mean over batches is not one over weights
        expected_value = np.exp(theirs["loss"])
        np.testing.assert_allclose(ours["perplexity"], expected_value, rtol=1e-4)
    # The first is the tied embedding, whose gradient is of lookup and head together.
    for value, other in zip(variables, expected, strict=True):
        np.testing.assert_allclose(value, other, atol=1e-5)


def test_a_sum_over_the_batch_equals_keras():
    """Of the recipes, whose parts of a batch add up."""
    reduction = "sum_over_batch_size"
    ours, variables = trained(model(NextTokenLoss(reduction=reduction)))
    theirs, expected = trained(model(keras_loss(reduction)))
    np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=1e-5)
    for value, other in zip(variables, expected, strict=True):
        np.testing.assert_allclose(value, other, atol=1e-5)


def test_evaluate_equals_evaluate_with_logits():
    x, y, weights = batch(4)
    results = []
    for loss in ("auto", keras_loss()):
        lm = model(loss)
        results.append(
            lm.evaluate(
                x, y, sample_weight=weights, batch_size=4, verbose=0, return_dict=True
            )
        )
    assert results[0]["loss"] == pytest.approx(results[1]["loss"], rel=1e-5)
    assert results[0]["perplexity"] == pytest.approx(np.exp(results[1]["loss"]), 1e-4)


def test_calling_the_model_still_gives_logits():
    lm = model()
    x, y, weights = batch()
    lm.train_on_batch(x, y, sample_weight=weights)
    assert lm(x).shape == (4, T, V)
    assert lm.predict(x, verbose=0).shape == (4, T, V)


def test_a_loss_and_a_metric_of_the_user_get_logits():
    shapes = []

    def metric(y_true, y_pred):
        shapes.append(y_pred.shape[-1])
        return ops.zeros_like(y_true, dtype="float32")

    x, y, _ = batch()
    lm = model(weighted_metrics=[metric])
    # Keras weighs such a function by sample_weight; without one both means are plain.
    logs = lm.train_on_batch(x, y, return_dict=True)
    plain_logs = model(keras_loss()).train_on_batch(x, y, return_dict=True)
    assert set(shapes) == {V}
    assert logs["loss"] == pytest.approx(plain_logs["loss"], rel=1e-5)

    def own_loss(y_true, y_pred):
        shapes.append(("loss", y_pred.shape[-1]))
        return ops.mean(y_pred, axis=-1)

    model(own_loss).train_on_batch(x, y)
    assert ("loss", V) in shapes


def test_no_tensor_of_the_size_of_the_logits():
    # From the compiler itself: the shapes that occur in the compiled step.
    vocabulary, rows, length = 512, 2, 64

    def compiled(loss):
        lm = CodeGemmaCausalLM(our_backbone(vocabulary_size=vocabulary, num_layers=1))
        lm.compile(optimizer="sgd", loss=loss, jit_compile=True)
        x = {n: np.ones((rows, length), "int32") for n in ("token_ids", "padding_mask")}
        return step_text(lm, x, np.ones((rows, length), "int32"))

    shape = f"f32[{rows},{length},{vocabulary}]"
    assert shape in compiled(keras_loss())
    assert shape not in compiled(NextTokenLoss(chunk_tokens=16))


def step_text(lm, x, y):
    """The compiled training step as XLA's text."""
    weights = np.ones(y.shape, "float32")
    if keras.backend.backend() == "jax":
        import jax

        lm.optimizer.build(lm.trainable_variables)
        state = [
            [v.value for v in group]
            for group in (
                lm.trainable_variables,
                lm.non_trainable_variables,
                lm.optimizer.variables,
                lm.metrics_variables,
            )
        ]
        step = jax.jit(lm.train_step)
        return step.lower(tuple(state), (x, y, weights)).compile().as_text()
    import tensorflow as tf

    lm.train_on_batch(x, y, sample_weight=weights)

    @tf.function(jit_compile=True)
    def step(x, y, weights):
        return lm.train_step((x, y, weights))

    x = {name: tf.constant(value) for name, value in x.items()}
    data = x, tf.constant(y), tf.constant(weights)
    return step.experimental_get_compiler_ir(*data)(stage="optimized_hlo")


@pytest.mark.parametrize("size", [1, 127, 128, 129])
def test_any_size_of_the_vocabulary(size):
    embedding = rng.normal(0, 0.3, (size, D)).astype("float32")
    targets = rng.integers(0, size, (B, T)).astype("int32")

    def ours(h, e):
        return linear_cross_entropy(h, e, targets, WEIGHTS)[0]

    def textbook(h, e):
        logits = ops.matmul(h, ops.transpose(e))
        right = ops.sum(ops.one_hot(targets, size) * logits, axis=-1)
        return ops.sum((ops.logsumexp(logits, axis=-1) - right) * WEIGHTS)

    found, grads = value_and_gradients(ours, HIDDEN, embedding)
    expected, expected_grads = value_and_gradients(textbook, HIDDEN, embedding)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(grad, expected_grad, atol=1e-5)


@pytest.mark.parametrize("lacking", [False, True])
def test_products_of_bfloat16_are_added_in_float32(monkeypatch, lacking):
    """Also where JAX has no such product, as on a CPU with its older releases."""
    if lacking:
        monkeypatch.setattr(losses, "_adds_in_float32", lambda: False)
    rng = np.random.default_rng(0)
    x, table = (
        ops.cast(rng.standard_normal(shape).astype("float32"), "bfloat16")
        for shape in ((2, 3, 64), (32, 64))
    )
    found = losses.einsum32("btd,vd->btv", x, table)
    x, table = (ops.convert_to_numpy(ops.cast(each, "float32")) for each in (x, table))
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    found = ops.convert_to_numpy(found)
    np.testing.assert_allclose(found, x.astype("float64") @ table.T, atol=1e-4)
