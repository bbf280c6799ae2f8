"""Packed rows: documents in one row train as if each had a row of its own."""

import keras
import numpy as np
import pytest
from keras import ops

from codegemma_keras import CodeGemmaCausalLM
from codegemma_keras.batches import pack
from tests.tiny_models import our_backbone

V, LENGTH = 53, 17
rng = np.random.default_rng(17)
DOCUMENTS = [rng.integers(3, V, size).tolist() for size in (7, 5, 6, 11, 8)]
ROWS = ([0, 1, 2], [3, 4])  # 15 and 17 of 17 places


def inputs(groups, length):
    """`(x, y, sample_weight)`, one row for each group of documents."""
    return pack(DOCUMENTS, length, rows=groups)


def step(data, remat="none"):
    """Loss, and the weights after one step of plain gradient descent."""
    lm = CodeGemmaCausalLM(our_backbone(vocabulary_size=V, num_layers=2))
    lm.backbone.remat = remat
    lm.compile(optimizer=keras.optimizers.SGD(0.1))
    x, y, weight = data
    logs = lm.train_on_batch(x, y, sample_weight=weight, return_dict=True)
    return float(logs["loss"]), [ops.convert_to_numpy(v) for v in lm.weights]


@pytest.fixture(scope="module")
def packed():
    return step(inputs(ROWS, LENGTH))


def test_packed_loss_and_gradients_equal_unpacked(packed):
    x, y, weight = inputs([[i] for i in range(len(DOCUMENTS))], LENGTH)
    # What a user without packing gives: no positions, no segments.
    plain = {name: x[name] for name in ("token_ids", "padding_mask")}
    loss, variables = step((plain, y, weight))
    assert packed[0] == pytest.approx(loss, rel=1e-5)
    for a, b in zip(packed[1], variables, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_hidden_states_of_each_document_equal_its_own():
    backbone = our_backbone(vocabulary_size=V)
    hidden = ops.convert_to_numpy(backbone(inputs(ROWS, LENGTH)[0]))
    for row, group in enumerate(ROWS):
        start = 0
        for document in (DOCUMENTS[i][:-1] for i in group):  # the last is a target
            ids = np.array([document])
            alone = backbone({"token_ids": ids, "padding_mask": np.ones_like(ids)})
            end = start + len(document)
            np.testing.assert_allclose(
                hidden[row, start:end], ops.convert_to_numpy(alone)[0], atol=1e-5
            )
            start = end


def test_one_document_cannot_see_another():
    backbone = our_backbone(vocabulary_size=V)
    x, _, _ = inputs(ROWS, LENGTH)
    before = ops.convert_to_numpy(backbone(x))
    x["token_ids"][0, :6] = (x["token_ids"][0, :6] + 11) % V
    after = ops.convert_to_numpy(backbone(x))
    np.testing.assert_array_equal(before[0, 6:15], after[0, 6:15])
    assert np.abs(before[0, :6] - after[0, :6]).max() > 0.01


@pytest.mark.parametrize("remat", ["attention", "block"])
def test_rematerialised_gradients_are_equal(packed, remat):
    loss, variables = step(inputs(ROWS, LENGTH), remat)
    assert loss == pytest.approx(packed[0], rel=1e-6)
    for a, b in zip(packed[1], variables, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_unknown_remat_is_refused():
    with pytest.raises(ValueError, match="remat='everything'"):
        our_backbone().remat = "everything"
