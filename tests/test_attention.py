"""Attention by device: every way computes what the einsum does, and when it is taken."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

from codegemma_keras import attention, platforms

ROOT = pathlib.Path(__file__).parent.parent
# way, query heads, key/value heads, head size, tokens, dtype, mesh of four devices
CASES = (
    ("splash", 3, 3, 64, 300, "float32", None),  # neither is a multiple of 128
    ("splash", 4, 1, 64, 256, "bfloat16", "fsdp=2,model=2"),
    ("in_blocks", 6, 2, 64, 600, "float32", "fsdp=2,model=2"),
)
# platform, mesh, rematerialisation: of a training step
STEPS = (
    ("cpu", None, "none"),
    ("tpu", "data=2,model=2", "block"),
    ("gpu", None, "attention"),
)


@pytest.fixture(scope="module")
def found():
    done = subprocess.run(
        [sys.executable, "-m", "tests.attention_program", json.dumps([CASES, STEPS])],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_results_and_gradients_are_those_of_the_einsum(found):
    for case, errors in zip(CASES, found["errors"], strict=True):
        # bfloat16 keeps 8 bits; a gradient is a sum of several such roundings.
        limit = 2e-2 if "bfloat16" in case else 1e-5
        assert max(errors) < limit, (case, errors)


def test_a_training_step_is_the_same_by_every_way(found):
    (_, (loss, weights)), *others = found["steps"]
    for step, (other, moved) in others:
        assert other == pytest.approx(loss, rel=1e-5), step
        for a, b in zip(moved, weights, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5, err_msg=str(step))


def test_both_masks_say_the_same_of_tokens():
    """`documents` and causality allow exactly what `allowed` does, padding aside."""
    slots = ops.arange(7, dtype="int32")[None]
    padding = ops.convert_to_tensor([[1, 1, 1, 1, 1, 0, 0], [1, 0, 1, 1, 1, 1, 1]])
    segments = ops.convert_to_tensor([[1, 1, 2, 2, 2, 0, 0], [1, 1, 1, 1, 2, 2, 2]])
    for given in (None, padding), (segments, None), (segments, padding), (None, None):
        mask = attention.mask_of(slots, slots, given[1], given[0])
        documents = ops.convert_to_numpy(mask.documents)
        same = documents[:, :, None] == documents[:, None, :]
        seen = np.tril(np.ones((7, 7), bool)) & same
        allowed = ops.convert_to_numpy(mask.allowed)
        seen, allowed, documents = np.broadcast_arrays(
            seen, allowed, documents[:, :, None]
        )
        real = documents != attention.PADDING
        np.testing.assert_array_equal(seen[real], allowed[real])


def test_with_a_cache_only_the_einsum_knows_who_sees_what():
    slots = ops.arange(7, dtype="int32")[None]
    assert attention.mask_of(slots[:, :2], slots, cached=True).documents is None


def way(length, platform, heads=4, cached=False, mesh_rows=2):
    query = keras.ops.zeros((mesh_rows, length, heads, 8))
    slots = ops.arange(length, dtype="int32")[None]
    with platforms.planned_for(platform):
        mask = attention.mask_of(slots, slots, cached=cached)
        return attention._way(query, query[:, :, :1], mask)


def test_the_way_is_that_of_the_device():
    on_jax = keras.backend.backend() == "jax"
    long = attention.FUSED_FROM
    assert way(long, "tpu") is (attention.splash if on_jax else None)
    assert way(long, "gpu") is (attention.in_blocks if on_jax else None)
    assert way(long, "cpu") is None
    assert way(long - 1, "tpu") is None
    assert way(long, "tpu", cached=True) is None


def test_a_machine_without_cudnn_says_so():
    if keras.backend.backend() == "jax":
        assert not attention._cudnn_takes("bfloat16", 4, 1, 256)
    assert not platforms.is_planned()
