"""Log-probabilities without logits: values and gradients of the plain computation."""

import keras
import numpy as np
from keras import ops

from codegemma_keras.rl import log_probabilities
from tests.rl.test_losses import value_and_gradient

B, T, D, V = 2, 5, 6, 11


def test_values_and_gradients_are_those_of_the_plain_computation():
    generator = np.random.default_rng(0)
    hidden = generator.normal(size=(B, T, D)).astype("float32")
    table = generator.normal(size=(V, D)).astype("float32")
    targets = generator.integers(0, V, (B, T)).astype("int32")
    weights = generator.normal(size=(B, T)).astype("float32")

    def plain(hidden, table):
        logits = ops.einsum("btd,vd->btv", hidden, table)
        logs = ops.log_softmax(logits, axis=-1)
        picked = ops.take_along_axis(logs, targets[..., None], axis=-1)[..., 0]
        return picked, -ops.sum(ops.exp(logs) * logs, axis=-1)

    def ours(hidden, table):
        return log_probabilities.of_tokens(hidden, table, targets, chunk_tokens=4)

    found, wanted = ours(hidden, table), plain(hidden, table)
    for ours_, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(
            ops.convert_to_numpy(ours_), ops.convert_to_numpy(theirs), atol=1e-5
        )
    for place in range(2):

        def total(x, function, place=place):
            args = [hidden, table]
            args[place] = x
            # Not linear, so that the incoming gradient differs from token to token.
            return ops.sum(weights * ops.exp(function(*args)[0]))

        given = (hidden, table)[place]
        _, found = value_and_gradient(lambda x: total(x, ours), given)
        _, wanted = value_and_gradient(lambda x: total(x, plain), given)
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(found),
            keras.ops.convert_to_numpy(wanted),
            atol=1e-5,
        )
