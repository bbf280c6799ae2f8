"""What `fit` and `evaluate` make of texts and arrays in memory."""

import keras
import numpy as np
import pytest

from codegemma_keras import (
    CodeGemmaChatPreprocessor,
    CodeGemmaFIMPreprocessor,
    fim,
    in_memory,
)
from tests import tiny_models

TEXTS = [f"x = {number}\n" for number in range(10)]


class Same:
    """A task that gives back what it is given."""

    preprocessor = None

    def preprocess_samples(self, x, y=None, sample_weight=None):
        return keras.utils.pack_x_y_sample_weight(x, y, sample_weight)


class Epochs(Same):
    """A task whose rows are the epoch in which they were made."""

    def preprocess_samples(self, x, y=None, sample_weight=None):
        return np.full(len(x), in_memory.epoch())


def seen(found):
    """Rows of each batch, and all of them in order."""
    rows = [found[n][0]["ids"].tolist() for n in range(len(found))]
    return [len(r) for r in rows], [row for r in rows for row in r]


def test_every_epoch_has_an_order_of_its_own():
    data = {"ids": np.arange(10)}, np.arange(10), None
    found = in_memory.Batches(Same(), data, 4, shuffle=True)
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
        orders.append(seen(in_memory.Batches(Same(), data, 4, shuffle=True))[1])
    assert orders[0] == orders[1]
    assert seen(in_memory.Batches(Same(), data, 4))[1] == list(range(10))


def test_rows_of_all_that_a_preprocessor_takes():
    assert in_memory.take(["a", "b", "c"], [2, 0]) == ["c", "a"]
    assert in_memory.take(np.array([b"a", b"b"], object), [1]) == ["b"]
    pairs = {"prefixes": ["a", "b"], "suffixes": ["c", "d"]}
    assert in_memory.take(pairs, [1]) == {"prefixes": ["b"], "suffixes": ["d"]}
    assert in_memory.take(None, [1]) is None


def test_data_that_do_not_fit_together():
    with pytest.raises(ValueError, match=r"equally many rows, and have \[1, 2\]"):
        in_memory.Batches(Same(), (["a", "b"], np.zeros(1), None))
    with pytest.raises(ValueError, match="0 rows"):
        in_memory.Batches(Same(), ([], None, None))
    with pytest.raises(ValueError, match=r"validation_split=0\.9 leaves 0 of 2 rows"):
        in_memory.split((["a", "b"], None, None), 0.9)


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


def test_only_training_batches_know_the_epoch():
    data = ["a", "b", "c"], None, None
    for training, expected in ((True, [0, 1, 2]), (False, [0, 0, 0])):
        found = in_memory.Batches(Epochs(), data, 3, training=training)
        seen = []
        for _ in range(3):
            seen.append(int(found[0][0]))
            found.on_epoch_end()
        assert seen == expected
    assert in_memory.epoch() == 0


def test_validation_data():
    texts, weights = ["a", "b", "c"], np.ones(3)
    conversation = [{"role": "user", "content": "q"}]
    assert in_memory.unpack(texts) == (texts, None, None)
    assert in_memory.unpack("a") == (["a"], None, None)
    assert in_memory.unpack([("p", "a"), ("q", "b")])[0] == [("p", "a"), ("q", "b")]
    assert in_memory.unpack([conversation])[0] == [conversation]
    assert in_memory.unpack((texts,)) == (texts, None, None)
    assert in_memory.unpack((texts, None, weights)) == (texts, None, weights)
    arrays = np.zeros((3, 2)), np.zeros(3)
    assert in_memory.unpack(list(arrays))[:2] == arrays
    x = {"token_ids": arrays[0]}
    assert in_memory.unpack([x, arrays[1]])[:2] == (x, arrays[1])


def test_validation_texts_are_texts():
    """One text or three: not x, y and sample_weight."""
    lm = tiny_models.our_task()
    lm.compile(optimizer=keras.optimizers.SGD(0.0))
    expected = lm.evaluate(TEXTS[:3], batch_size=3, verbose=0, return_dict=True)
    for texts in (TEXTS[:1], TEXTS[:3]):
        history = lm.fit(TEXTS, batch_size=5, validation_data=texts, verbose=0).history
        single = lm.evaluate(texts, batch_size=3, verbose=0, return_dict=True)
        assert history["val_loss"][-1] == pytest.approx(single["loss"], rel=1e-5)
    assert single["loss"] == pytest.approx(expected["loss"], rel=1e-5)


def test_every_epoch_cuts_files_anew():
    lm = tiny_models.our_task()
    lm.preprocessor = CodeGemmaFIMPreprocessor(lm.tokenizer, 64, fim_rate=1.0)
    batches = in_memory.Batches(lm, (TEXTS, None, None), 10, training=True)
    held_out = in_memory.Batches(lm, (TEXTS, None, None), 10)
    middles, fixed = [], []
    for _ in range(3):
        for found, rows in ((batches, middles), (held_out, fixed)):
            ids = [
                row[mask > 0] for row, mask in zip(*ids_and_mask(found), strict=True)
            ]
            parts = [fim.parse(lm.tokenizer.decode_parts(row)) for row in ids]
            assert sorted(p.prefix + p.middle + p.suffix for p in parts) == TEXTS
            rows.append([p.middle for p in parts])
            found.on_epoch_end()
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert middles[a] != middles[b]
    assert fixed[0] == fixed[1] == fixed[2] == middles[0]


def ids_and_mask(found):
    x, y, _ = found[0]
    # The last id is a target only.
    ids = np.concatenate([x["token_ids"][:, :1], y], 1)
    mask = np.concatenate([np.ones_like(y[:, :1]), x["padding_mask"]], 1)
    return ids, mask


def chat(question, answer):
    return [
        {"role": "user", "content": question},
        {"role": "model", "content": answer},
    ]


def test_conversations_without_an_answer_left_are_dropped_and_counted():
    lm = tiny_models.our_task()
    lm.preprocessor = CodeGemmaChatPreprocessor(lm.tokenizer, 40)
    lm.compile(optimizer=keras.optimizers.Adam(0.01))
    good = [chat(f"What is {i}?", f"It is {i}.") for i in range(4)]
    long, empty = chat("why " * 60, "because"), chat("Well?", "  ")
    with pytest.warns(UserWarning, match="2 of 6 conversations are left out"):
        mixed = lm.evaluate([*good, long, empty], verbose=0, return_dict=True)
    assert mixed == lm.evaluate(good, verbose=0, return_dict=True)
    with pytest.raises(ValueError, match=r"Of 2 .* none can be learnt.*=40"):
        lm.fit([long, empty], verbose=0)
    history = lm.fit(good, epochs=8, verbose=0).history["loss"]
    assert history[-1] < 0.8 * history[0]


def test_fit_takes_what_another_preprocessor_takes():
    lm = tiny_models.our_task()
    lm.preprocessor = CodeGemmaFIMPreprocessor(lm.tokenizer, sequence_length=32)
    lm.compile(optimizer=keras.optimizers.Adam(0.01))
    history = lm.fit(TEXTS * 2, batch_size=5, epochs=6, verbose=0).history["loss"]
    assert history[-1] < history[0]
