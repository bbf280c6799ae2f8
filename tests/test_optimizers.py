"""Training of weights in half precision: what learns, what warns, what is refused."""

import keras
import ml_dtypes
import numpy as np
import pytest
from keras import ops

from codegemma_keras import CodeGemmaCausalLM, lora, optimizers
from tests.tiny_models import TOKEN_IDS, our_backbone

X = {"token_ids": TOKEN_IDS[:, :-1], "padding_mask": np.ones((2, 6), "int32")}
Y = TOKEN_IDS[:, 1:]


def task(dtype, rank=0):
    lm = CodeGemmaCausalLM(our_backbone(dtype=dtype, num_layers=1), dtype=dtype)
    if rank:
        keras.utils.set_random_seed(0)
        lora.add(lm, "a", rank=rank)
    return lm


def values(lm):
    variables = [*lm.trainable_variables, *lm.optimizer.variables]
    return [np.asarray(ops.cast(v, "float32")) for v in variables]


@pytest.fixture(scope="module")
def trained():
    """A model of weights in bfloat16 that `compile()` and twelve steps trained."""
    lm = task("bfloat16")
    lm.compile()
    lm.optimizer.learning_rate = 1e-3
    return lm, [float(lm.train_on_batch(X, Y)[0]) for _ in range(12)]


def test_weights_in_bfloat16_learn_by_default(trained):
    """Steps far below what bfloat16 can hold add up."""
    lm, losses = trained
    assert isinstance(lm.optimizer, optimizers.Float32Adam)
    assert losses[-1] < losses[0] - 0.1
    assert {v.dtype for v in lm.trainable_variables} == {"bfloat16"}


def test_float32_adam_is_saved_and_loaded(trained, tmp_path):
    lm, _ = trained
    lm.save(tmp_path / "m.keras")
    other = keras.saving.load_model(tmp_path / "m.keras")
    assert isinstance(other.optimizer, optimizers.Float32Adam)
    assert [v.path for v in other.optimizer.variables] == [
        v.path for v in lm.optimizer.variables
    ]
    for a, b in zip(values(lm), values(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_adam_on_weights_in_bfloat16_is_warned_of():
    """With Keras's Adam, `beta_2=0.999` rounds to 1 and nothing changes."""
    lm = task("bfloat16")
    lm.compile(optimizer=keras.optimizers.Adam(1e-3))
    with pytest.warns(UserWarning, match=r"Adam rounds its steps.*Float32Adam\(\)"):
        lm.make_train_function()
    lm = task("bfloat16", rank=2)  # an adapter is float32: nothing to warn of
    lm.compile(optimizer=keras.optimizers.Adam(1e-3))
    lm.make_train_function()


def test_weights_in_float16_are_refused():
    lm = task("float16")
    lm.compile()
    with pytest.raises(ValueError, match="dtype='mixed_float16'"):
        lm.train_on_batch(X, Y)


@pytest.mark.parametrize(("dtype", "rank"), [("mixed_float16", 0), ("float16", 2)])
def test_with_activations_in_float16_the_loss_is_scaled(dtype, rank):
    """Gradients below 6e-8 would be zero; an adapter on a float16 base needs it too."""
    lm = task(dtype, rank)
    lm.compile(optimizer=keras.optimizers.Adam(1e-2))
    assert isinstance(lm.optimizer, keras.optimizers.LossScaleOptimizer)
    lm.compile(optimizer=keras.optimizers.Adam(1e-2), auto_scale_loss=False)
    assert isinstance(lm.optimizer, keras.optimizers.Adam)


def test_an_adapter_on_a_float16_base_learns():
    lm = task("float16", rank=2)
    lm.compile(optimizer=keras.optimizers.Adam(1e-2), weighted_metrics=[])
    losses = [float(lm.train_on_batch(X, Y)) for _ in range(8)]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


def variable(values, dtype):
    return keras.Variable(np.asarray(values), dtype=dtype, name="w")


def test_float32_copies_are_what_adamw_of_keras_computes():
    """Twenty steps beside `keras.optimizers.AdamW` on float32 weights, decay included."""
    generator = np.random.default_rng(0)
    start = generator.normal(size=(5, 3)).astype(ml_dtypes.bfloat16).astype("float32")
    low, full = variable(start, "bfloat16"), variable(start, "float32")
    ours = optimizers.Float32Adam(1e-3, weight_decay=0.1)
    theirs = keras.optimizers.AdamW(1e-3, weight_decay=0.1)
    for _ in range(20):
        gradient = generator.normal(size=(5, 3)).astype("float32")
        ours.apply([ops.convert_to_tensor(gradient)], [low])
        theirs.apply([ops.convert_to_tensor(gradient)], [full])
    expected = ops.convert_to_numpy(full)
    (master,) = ours._masters
    np.testing.assert_allclose(ops.convert_to_numpy(master), expected, atol=1e-6)
    np.testing.assert_array_equal(
        np.asarray(ops.cast(low, "float32")),
        ops.convert_to_numpy(master).astype(ml_dtypes.bfloat16).astype("float32"),
    )


def test_a_weight_that_something_else_set_is_taken_over():
    """After `load_weights` the old copy must not come back."""
    low = variable([1.0, 2.0], "bfloat16")
    ours = optimizers.Float32Adam(1e-4)
    ours.apply([ops.ones(2)], [low])
    low.assign([5.0, 2.0])
    ours.apply([ops.ones(2)], [low])
    (master,) = ours._masters
    found = ops.convert_to_numpy(master)
    np.testing.assert_allclose(found, [5.0 - 1e-4, 2.0 - 2e-4], atol=2e-6)
