"""Checkpoints: whole or not there, whatever happens while one is written."""

import threading

import keras
import numpy as np
import pytest
import safetensors.numpy
from keras import ops

from codegemma_keras import (
    CodeGemmaBackbone,
    CodeGemmaCausalLM,
    hosts,
    lora,
    optimizers,
)
from codegemma_keras.training.checkpoints import Checkpoints

V = 53
IDS = np.random.default_rng(2).integers(3, V, (2, 8)).astype("int32")
X = {"token_ids": IDS[:, :-1], "padding_mask": np.ones((2, 7), "int32")}


def model(rank=4, dtype=None, trained=1):
    keras.utils.set_random_seed(0)
    backbone = CodeGemmaBackbone(V, 1, 4, 2, 24, 80, 8, dtype=dtype)
    lm = CodeGemmaCausalLM(backbone, dtype=dtype)
    if rank:
        lora.add(lm, "a", rank=rank)
    low = dtype == "bfloat16"  # to which AdamW would round its steps
    adam = optimizers.Float32Adam if low else keras.optimizers.AdamW
    lm.compile(optimizer=adam(0.01), weighted_metrics=[])
    for _ in range(trained):
        lm.train_on_batch(X, IDS[:, 1:])
    return lm


def values(lm):
    variables = [*lm.trainable_variables, *lm.optimizer.variables]
    return [np.array(ops.convert_to_numpy(v.value)) for v in variables]


def assert_equal(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "mixed_float16"])
def test_everything_that_training_changes_comes_back(tmp_path, dtype):
    lm = model(rank=0, dtype=dtype, trained=2)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(lm, 2, {"note": 1})
    other = model(rank=0, dtype=dtype)
    assert Checkpoints(tmp_path).restore(other) == {"step": 2, "note": 1}
    assert_equal(values(other), values(lm))
    steps = [float(m.train_on_batch(X, IDS[:, 1:])) for m in (lm, other)]
    assert steps[0] == steps[1]


def test_what_is_written_is_the_step_that_was_saved(tmp_path, monkeypatch):
    """Training goes on, in place, while the writer has not begun."""
    lm = model()
    expected, position = values(lm), {"note": [1]}
    allowed = threading.Event()
    save_file = safetensors.numpy.save_file

    def slow(*args):
        assert allowed.wait(60)
        save_file(*args)

    monkeypatch.setattr(safetensors.numpy, "save_file", slow)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(lm, 1, position)
        position["note"].append(2)
        for _ in range(3):
            lm.train_on_batch(X, IDS[:, 1:])
        assert checkpoints.steps() == []  # nothing that is half there
        checkpoints.check()  # does not wait
        allowed.set()
    other = model()
    assert Checkpoints(tmp_path).restore(other) == {"step": 1, "note": [1]}
    assert_equal(values(other), expected)


def test_the_newest_are_kept(tmp_path):
    lm = model(trained=0)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2, 10):
            checkpoints.save(lm, step, {})
    assert checkpoints.steps() == [2, 10]


def test_what_a_kill_left_is_removed(tmp_path):
    (tmp_path / "step-00000003.tmp-17").mkdir()
    (tmp_path / "step-00000003.tmp-17" / "variables.safetensors").write_bytes(b"half")
    assert Checkpoints(tmp_path).restore(model(trained=0)) is None
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(model(trained=0), 1, {})
    with pytest.raises(ValueError, match="another model, adapter or optimizer"):
        checkpoints.restore(model(rank=0, trained=0))
    with pytest.raises(ValueError, match="the model of"):
        checkpoints.restore(model(rank=2, trained=0))


def test_a_disk_that_is_full_leaves_the_older_checkpoint(tmp_path, monkeypatch):
    lm = model(trained=0)
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(lm, 1, {})
    checkpoints.wait()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.numpy, "save_file", full)
    checkpoints.save(lm, 2, {})
    with pytest.raises(OSError, match=r"It needs \d+ MiB; .* goes on from step 1"):
        checkpoints.wait()
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]
    monkeypatch.undo()
    checkpoints.save(lm, 3, {})  # after room was made
    checkpoints.wait()
    assert checkpoints.steps() == [3]


def test_weights_that_are_no_numbers_are_not_saved(tmp_path):
    lm = model(trained=0)
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(lm, 1, {})
    good = values(lm)
    variable = lm.trainable_variables[3]
    variable.assign(ops.full(variable.shape, np.nan))
    checkpoints.save(lm, 2, {})
    with pytest.raises(FloatingPointError, match=r"step 2, so it was not .* of step 1"):
        checkpoints.wait()
    checkpoints.restore(lm)
    assert_equal(values(lm), good)


def test_folders_of_others_stay(tmp_path):
    """Removed is what an interrupted save left, by its exact name and contents."""
    for name in (
        "step-data.tmp-1/rows.txt",
        "step-00000007.tmp-1/mine.txt",
        "step-00000008.tmp-1/position.json",
    ):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("x")
    (tmp_path / "step-00000003-kept").mkdir()
    assert Checkpoints(tmp_path).steps() == []
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["step-00000003-kept", "step-00000007.tmp-1", "step-data.tmp-1"]


@pytest.mark.parametrize(("here", "elsewhere"), [(None, 4), (4, -1)])
def test_hosts_that_see_different_checkpoints_all_stop(
    tmp_path, monkeypatch, here, elsewhere
):
    """Each must ask as often as the others, or some would wait for ever."""
    lm = model()
    with Checkpoints(tmp_path) as checkpoints:
        if here:
            checkpoints.save(lm, here, {})
    newest = max(here or -1, elsewhere)
    others = iter([elsewhere, elsewhere != newest])  # what the other host asks
    monkeypatch.setattr(hosts, "largest", lambda number: max(number, next(others)))
    with pytest.raises(
        ValueError, match="Not every host sees the checkpoint of step 4"
    ):
        checkpoints.restore(lm)
    assert next(others, None) is None
