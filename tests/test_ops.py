"""Chunks of tokens: what the loss and the scores go over, one after the other."""

import numpy as np
import pytest
from keras import ops as keras_ops

from codegemma_keras import ops


def test_a_chunk_grows_with_the_devices_that_share_it():
    one = ops.tokens_of_a_chunk(256_000)
    assert one == ops.CHUNK_TOKENS == ops.tokens_of_a_chunk(49_173)
    assert 4 * 256_000 * one <= ops.CHUNK_BYTES
    assert ops.tokens_of_a_chunk(256_000, 8) == 2 * one
    many = ops.tokens_of_a_chunk(10**6)
    assert 4 * 10**6 * many <= ops.CHUNK_BYTES < 4 * 10**6 * (many + 1)
    assert ops.tokens_of_a_chunk(10**9) == 16


@pytest.mark.parametrize("limit", [1, 2, 5, 6, 13, 14, 99])
def test_chunks_hold_every_token_once_and_keep_to_the_limit(limit):
    ids = np.arange(1, 15, dtype="int32").reshape(2, 7)
    hidden = np.stack([ids, -ids], -1).astype("float32")
    (chunked, states), size = ops.split_chunks((ids, hidden), 53, limit)
    rows, count = chunked.shape[:2]
    assert rows * size < limit + rows  # whole columns
    chunks = [
        [np.asarray(ops.nth_chunk(x, i)) for x in (chunked, states)]
        for i in range(count)
    ]
    for part, state in chunks:
        assert part.shape == (rows, size)
        np.testing.assert_array_equal(state, np.stack([part, -part], -1))
    again = np.asarray(keras_ops.reshape(chunked, (2, -1)))
    np.testing.assert_array_equal(again[:, :7], ids)
    assert not again[:, 7:].any()
    total = ops.loop_chunks(
        count,
        lambda i, total: total + keras_ops.sum(ops.nth_chunk(chunked, i)),
        keras_ops.zeros((), "int32"),
    )
    assert int(total) == ids.sum()
