"""The pretraining recipe, small: rows, schedule, resuming."""

import dataclasses

import keras
import numpy as np
import pytest

from codegemma_keras import CodeGemmaTokenizer
from codegemma_keras.data.packing import pack_documents
from codegemma_keras.recipes import corpus, pretrain
from tests.small_vocabulary import small_vocabulary


def test_pieces_keep_every_character_and_fit():
    tokenizer = CodeGemmaTokenizer(proto=small_vocabulary())
    text = "".join(f"value_{i} = {i}\n" for i in range(100)) + "no newline at the end"
    cut = list(pretrain.pieces(text, tokenizer, 40, np.random.default_rng(0)))
    assert "".join(cut) == text
    assert len(cut) > 5
    assert max(len(tokenizer.encode(piece)) for piece in cut) <= 40


def test_packing_keeps_documents_apart():
    rows = [[2, 5, 6, 1], [2, 7, 1], [2, 8, 9, 10, 1]]
    x, y, weight = pack_documents(((row, [1.0] * len(row)) for row in rows), 6)
    np.testing.assert_array_equal(
        x["token_ids"], [[2, 7, 2, 8, 9, 10], [2, 5, 6, 0, 0, 0]]
    )
    np.testing.assert_array_equal(y, [[7, 1, 8, 9, 10, 1], [5, 6, 1, 0, 0, 0]])
    np.testing.assert_array_equal(
        x["segment_ids"], [[1, 1, 2, 2, 2, 2], [1, 1, 1, 0, 0, 0]]
    )
    np.testing.assert_array_equal(
        x["positions"], [[0, 1, 0, 1, 2, 3], [0, 1, 2, 0, 0, 0]]
    )
    np.testing.assert_array_equal(weight, x["segment_ids"] > 0)


def test_schedule():
    schedule = pretrain.WarmupStableDecay(1.0, steps=100, warmup_steps=10, decay=0.2)
    values = [float(schedule(step)) for step in (0, 9, 50, 79, 90, 100)]
    np.testing.assert_allclose(values, [0.1, 1, 1, 1, 0.5, 0], atol=1e-6)


def test_a_package_that_is_not_there():
    with pytest.raises(ValueError, match="'no_such_package' is not installed"):
        corpus.root_of("no_such_package")


def test_resumed_run_equals_an_unbroken_one(tmp_path, monkeypatch):
    """Stopped after its first save and started again: the same weights at the end."""
    spm = tmp_path / "small.spm"
    spm.write_bytes(small_vocabulary())
    monkeypatch.setattr(pretrain, "SAVE_EVERY", 3)
    monkeypatch.setattr(pretrain, "LOG_EVERY", 1)
    config = pretrain.PretrainConfig(
        out=str(tmp_path / "whole"),
        packages=("rich",),
        held_out=("h5py",),
        tokenizer=str(spm),
        num_layers=1,
        hidden_dim=16,
        intermediate_dim=32,
        num_query_heads=2,
        head_dim=8,
        sequence_length=64,
        batch_size=2,
        tokens=900,  # 7 steps
        dtype="float32",
        warmup_steps=2,
    )
    whole = pretrain.train(config)

    broken = dataclasses.replace(config, out=str(tmp_path / "broken"))
    save = keras.Model.save_weights
    saves = []

    def save_then_die(self, path, **kwargs):
        save(self, path, **kwargs)
        saves.append(path)
        if len(saves) == 2:  # killed while the second state is not yet in place
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(keras.Model, "save_weights", save_then_die)
        with pytest.raises(KeyboardInterrupt):
            pretrain.train(broken)
    resumed = pretrain.train(broken)
    for ours, theirs in zip(resumed.weights, whole.weights, strict=True):
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(ours),
            keras.ops.convert_to_numpy(theirs),
            atol=1e-6,
            err_msg=ours.path,
        )
    curves = [(tmp_path / d / "curve.csv").read_text() for d in ("whole", "broken")]
    losses = [[line.split(",")[:3] for line in c.splitlines()] for c in curves]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 8
