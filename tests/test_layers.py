"""Gradients of the embedding in low precision, on both backends."""

import keras
import ml_dtypes
import numpy as np
import pytest
from keras import ops

from codegemma_keras import platforms
from codegemma_keras.layers import TOKENS_APART, Linear, ReversibleEmbedding

V, D, TOKENS = 11, 6, 4096


def gradients(layer, variable, ids, upstream):
    """Numpy gradient of `sum(layer(ids) * upstream)` with respect to one variable."""
    if keras.backend.backend() == "jax":
        import jax

        def loss(value):
            with keras.StatelessScope(state_mapping=[(variable, value)]):
                return ops.sum(ops.cast(layer(ids), "float32") * upstream)

        found = jax.jit(jax.grad(loss))(variable.value)
    else:
        import tensorflow as tf

        @tf.function(jit_compile=True)
        def run():
            with tf.GradientTape() as tape:
                value = ops.sum(ops.cast(layer(ids), "float32") * upstream)
            return tf.convert_to_tensor(tape.gradient(value, variable.value))

        found = run()
    return ops.convert_to_numpy(ops.cast(found, "float32"))


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "bfloat16"])
@pytest.mark.parametrize("rows", [None, [3, 7]], ids=["table", "adapter of rows"])
def test_gradients_of_a_frequent_token_add_up(dtype, rows):
    # A sum of bfloat16 numbers, one after the other, stays at 256 times its terms.
    layer = ReversibleEmbedding(V, D, dtype=dtype)
    layer.build((None, None))
    variable = layer._embeddings
    if rows:
        layer.add_adapter("a", rows)
        layer.active_adapter = "a"
        variable = layer.adapters["a"].values
    rng = np.random.default_rng(0)
    ids = rng.integers(0, V, (2, TOKENS // 2))
    ids[:, ::2] = 3
    upstream = rng.normal(1.0, 0.1, (2, TOKENS // 2, D)).astype("float32")
    if dtype != "float32":  # what reaches the layer is rounded already
        upstream = upstream.astype(ml_dtypes.bfloat16).astype("float32")
    expected = np.zeros((V, D))
    np.add.at(expected, ids, upstream)
    found = gradients(layer, variable, ids.astype("int32"), upstream)
    if rows:
        expected = expected[rows]
    step = 1e-5 if dtype == "float32" else 2**-7
    np.testing.assert_allclose(found, expected, rtol=step)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize("batch", [1, 3, TOKENS_APART + 1])
def test_products_of_few_tokens_are_those_of_many(batch, platform):
    layer = Linear("btd,ndh->btnh", (None, 3, 8))
    layer.build((None, None, 16))
    x = np.random.default_rng(batch).standard_normal((batch, 40, 16), "float32")
    with platforms.planned_for(platform):
        whole = ops.convert_to_numpy(layer(x))
        for length in (1, 2, 3, TOKENS_APART, TOKENS_APART + 1):
            few = ops.convert_to_numpy(layer(x[:, :length]))
            np.testing.assert_allclose(few, whole[:, :length], atol=1e-5)
    kernel = ops.convert_to_numpy(layer.kernel)  # [N, D, H]
    np.testing.assert_allclose(whole, np.einsum("btd,ndh->btnh", x, kernel), atol=1e-5)
