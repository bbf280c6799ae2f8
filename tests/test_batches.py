"""What `fit` and `evaluate` make of texts and arrays in memory."""

import keras
import numpy as np
import pytest

from codegemma_keras import CodeGemmaFIMPreprocessor, batches
from tests import tiny_models

TEXTS = [f"x = {number}\n" for number in range(10)]


def same(x, y=None, sample_weight=None):
    return keras.utils.pack_x_y_sample_weight(x, y, sample_weight)


def seen(found):
    """Rows of each batch, and all of them in order."""
    rows = [found[n][0]["ids"].tolist() for n in range(len(found))]
    return [len(r) for r in rows], [row for r in rows for row in r]


def test_every_epoch_has_an_order_of_its_own():
    data = {"ids": np.arange(10)}, np.arange(10), None
    found = batches.Batches(same, data, 4, shuffle=True)
    orders = []
    for _ in range(3):
        sizes, order = seen(found)
        assert sizes == [4, 4, 2]
        assert sorted(order) == list(range(10))
        for n in range(len(found)):
            x, y = found[n]
            np.testing.assert_array_equal(x["ids"], y)
        orders.append(order)
        found.on_epoch_end()
    assert orders[0] != orders[1] != orders[2]


def test_the_order_follows_the_seed_and_may_be_kept():
    data = {"ids": np.arange(10)}, np.arange(10), None
    orders = []
    for _ in range(2):
        keras.utils.set_random_seed(3)
        orders.append(seen(batches.Batches(same, data, 4, shuffle=True))[1])
    assert orders[0] == orders[1]
    assert seen(batches.Batches(same, data, 4))[1] == list(range(10))


def test_rows_of_all_that_a_preprocessor_takes():
    assert batches.take(["a", "b", "c"], [2, 0]) == ["c", "a"]
    assert batches.take(np.array([b"a", b"b"], object), [1]) == ["b"]
    pairs = {"prefixes": ["a", "b"], "suffixes": ["c", "d"]}
    assert batches.take(pairs, [1]) == {"prefixes": ["b"], "suffixes": ["d"]}
    assert batches.take(None, [1]) is None


def test_data_that_do_not_fit_together():
    with pytest.raises(ValueError, match=r"equally many rows, and have \[1, 2\]"):
        batches.Batches(same, (["a", "b"], np.zeros(1), None))
    with pytest.raises(ValueError, match="0 rows"):
        batches.Batches(same, ([], None, None))
    with pytest.raises(ValueError, match=r"validation_split=0\.9 leaves 0 of 2 rows"):
        batches.split((["a", "b"], None, None), 0.9)


def test_fit_takes_texts_and_says_nothing():
    """Warnings are errors here: KerasHub's would say that `shuffle` is ignored."""
    lm = tiny_models.our_task()
    lm.compile(optimizer=keras.optimizers.Adam(0.01))
    history = lm.fit(TEXTS, batch_size=4, epochs=2, validation_split=0.3, verbose=0)
    assert sorted(history.history) == [
        "loss",
        "perplexity",
        "sparse_categorical_accuracy",
        "val_loss",
        "val_perplexity",
        "val_sparse_categorical_accuracy",
    ]
    held_out = lm.evaluate(TEXTS[7:], batch_size=4, verbose=0, return_dict=True)
    assert held_out["loss"] == pytest.approx(history.history["val_loss"][-1], rel=1e-4)
    again = lm.fit(
        TEXTS[:7],
        batch_size=4,
        validation_data=(TEXTS[7:],),
        verbose=0,
    )
    assert again.history["loss"][0] < history.history["loss"][0]


def test_fit_takes_what_another_preprocessor_takes():
    lm = tiny_models.our_task()
    lm.preprocessor = CodeGemmaFIMPreprocessor(lm.tokenizer, sequence_length=32)
    lm.compile(optimizer=keras.optimizers.Adam(0.01))
    history = lm.fit(TEXTS * 2, batch_size=5, epochs=6, verbose=0).history["loss"]
    assert history[-1] < history[0]
