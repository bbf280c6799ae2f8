"""Training at low precision and with gradient accumulation."""

import keras
import numpy as np
import pytest
from keras import ops

from codegemma_keras import CodeGemmaCausalLM
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


def test_accumulated_gradients_equal_one_large_batch():
    whole = model()
    whole.train_on_batch(X, Y)
    parts = model(gradient_accumulation_steps=2)
    for rows in (slice(0, 2), slice(2, 4)):
        parts.train_on_batch({k: v[rows] for k, v in X.items()}, Y[rows])
    for a, b in zip(whole.trainable_variables, parts.trainable_variables, strict=True):
        np.testing.assert_allclose(
            ops.convert_to_numpy(a), ops.convert_to_numpy(b), atol=2e-5
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
