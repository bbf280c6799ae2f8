"""Training at low precision, with gradient accumulation, with dropout recomputed."""

import keras
import numpy as np
import pytest
from keras import ops

from codegemma_keras import CodeGemmaCausalLM, CodeGemmaFIMPreprocessor, lora
from codegemma_keras.losses import linear_cross_entropy
from tests.tiny_models import our_backbone

V = 53
rng = np.random.default_rng(23)
IDS = rng.integers(3, V, (4, 12)).astype("int32")
X = {"token_ids": IDS[:, :-1], "padding_mask": np.ones((4, 11), "int32")}
Y = IDS[:, 1:]


def model(dtype=None, **optimizer):
    lm = CodeGemmaCausalLM(our_backbone(dtype=dtype, num_layers=2), dtype=dtype)
    lm.compile(optimizer=keras.optimizers.Adam(0.01, **optimizer))
    return lm


def losses(lm, steps):
    return [
        float(lm.train_on_batch(X, Y, return_dict=True)["loss"]) for _ in range(steps)
    ]


@pytest.mark.parametrize("kept", [True, False], ids=["preprocessor", "taken away"])
def test_the_network_is_traced_once(monkeypatch, kept):
    # A preprocessor of a preset is a layer that nobody has called; on JAX, Keras used to
    # trace the network at every batch because of it, which took longer than a GPU's step.
    lm = CodeGemmaCausalLM.from_preset("code_gemma_tiny_py")
    if kept:  # its calls do not build what KerasHub's preprocessors build when called
        lm.preprocessor = CodeGemmaFIMPreprocessor(lm.tokenizer, sequence_length=16)
    lm.compile(optimizer=keras.optimizers.SGD(0.01))
    if not kept:
        lm.preprocessor = None
    calls = []
    call = type(lm.backbone).call
    monkeypatch.setattr(
        type(lm.backbone), "call", lambda *a, **k: calls.append(1) or call(*a, **k)
    )
    x = X
    if kept:
        x, y = np.array(["x = 1\n", "y = 2\n"]), None
    else:
        y = Y
    for step in (lm.train_on_batch, lm.test_on_batch):
        step(x, y)
        calls.clear()
        step(x, y)
        assert not calls


def test_accumulated_gradients_equal_one_large_batch():
    # SGD's step is the gradient. Adam's first step is near 0.01 however small a gradient
    # is, so that it would show another order of sums as a difference of weights.
    whole, parts = model(), model()
    whole.compile(optimizer=keras.optimizers.SGD(1.0))
    parts.compile(optimizer=keras.optimizers.SGD(1.0, gradient_accumulation_steps=2))
    whole.train_on_batch(X, Y)
    for rows in (slice(0, 2), slice(2, 4)):
        parts.train_on_batch({k: v[rows] for k, v in X.items()}, Y[rows])
    for a, b in zip(whole.trainable_variables, parts.trainable_variables, strict=True):
        np.testing.assert_allclose(
            ops.convert_to_numpy(a), ops.convert_to_numpy(b), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_low_precision_follows_float32(dtype):
    lm = model(dtype)
    low, full = losses(lm, 8), losses(model(), 8)
    assert low[-1] < low[0] - 0.3
    np.testing.assert_allclose(low, full, rtol=0.02)
    assert all(v.dtype == "float32" for v in lm.trainable_variables)


def test_float16_scales_the_loss_and_skips_an_overflow():
    lm = model("mixed_float16")
    losses(lm, 1)
    scaler = lm.optimizer
    assert isinstance(scaler, keras.optimizers.LossScaleOptimizer)
    before = [ops.convert_to_numpy(v) for v in lm.trainable_variables]
    scaler.dynamic_scale.assign(3e38)  # the gradients overflow
    assert np.isfinite(losses(lm, 1)).all()
    for a, b in zip(before, lm.trainable_variables, strict=True):
        np.testing.assert_array_equal(a, ops.convert_to_numpy(b))
    assert float(scaler.dynamic_scale) < 3e38  # and the scale comes down
    losses(lm, 1)


def gradients(dtype):
    """Of one step, from what plain gradient descent at rate 1 takes away."""
    lm = CodeGemmaCausalLM(our_backbone(dtype=dtype, num_layers=2), dtype=dtype)
    lm.compile(optimizer=keras.optimizers.SGD(1.0))
    before = [ops.convert_to_numpy(v) for v in lm.trainable_variables]
    lm.train_on_batch(X, Y)
    after = [ops.convert_to_numpy(v) for v in lm.trainable_variables]
    paths = [v.path for v in lm.trainable_variables]
    return {p: a - b for p, a, b in zip(paths, before, after, strict=True)}


def test_mixed_bfloat16_gradients_are_those_of_float32_but_for_rounding():
    low, full = gradients("mixed_bfloat16"), gradients("float32")
    for path, expected in full.items():
        error = np.linalg.norm(low[path] - expected) / np.linalg.norm(expected)
        # Forward and back there are some sixteen roundings, each off by at most 2**-9.
        assert error < 16 * 2**-9, path


def test_bfloat16_gradients_are_summed_in_float32():
    """400 like parts: a sum kept in bfloat16 would stop growing at 256."""
    length, width = 400, 24
    hidden = np.ones((1, length, width), "float32")
    embedding = np.zeros((V, width), "float32")
    targets = np.full((1, length), 7, "int32")

    def total(hidden, embedding):
        low = ops.cast(hidden, "bfloat16"), ops.cast(embedding, "bfloat16")
        return linear_cross_entropy(*low, targets, chunk_tokens=1)[0]

    if keras.backend.backend() == "jax":
        import jax

        grad = jax.grad(total, argnums=1)(hidden, embedding)
    else:
        import tensorflow as tf

        variable = tf.constant(embedding)
        with tf.GradientTape() as tape:
            tape.watch(variable)
            value = total(hidden, variable)
        grad = tape.gradient(value, variable)
    grad = np.asarray(grad)
    np.testing.assert_allclose(grad[7], -length * (1 - 1 / V), rtol=2**-7)
    np.testing.assert_allclose(grad[8], length / V, rtol=2**-7)


@pytest.mark.parametrize("adapter", [False, True])
def test_dropout_is_the_same_when_a_block_is_computed_again(adapter):
    def trained(remat):
        keras.utils.set_random_seed(5)
        lm = CodeGemmaCausalLM(our_backbone(num_layers=2, dropout=0.3))
        if adapter:
            lora.add(lm, "a", rank=4, dropout=0.3)
        lm.backbone.remat = remat
        lm.compile(optimizer=keras.optimizers.SGD(0.1), weighted_metrics=[])
        seen = [float(lm.train_on_batch(X, Y)) for _ in range(3)]
        return seen, [ops.convert_to_numpy(v) for v in lm.trainable_variables]

    kept, expected = trained("none")
    again, found = trained("block")
    # Another mask would be another loss, or the loss of one and the gradient of another.
    np.testing.assert_allclose(again, kept, rtol=1e-5)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
