"""Estimates of whole runs, and the command: what `planned.py` found on JAX."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import pytest

from codegemma_keras.plan import estimates, reinforcement, supervised
from codegemma_keras.training import hardware


@pytest.fixture(scope="module")
def planned():
    done = subprocess.run(
        [sys.executable, "-m", "tests.plan.planned"],
        cwd=pathlib.Path(__file__).parents[2],
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_command_on_a_gpu(planned):
    code, out, _ = planned["json"]
    shown = json.loads(out)
    assert code == 0
    assert shown["fits"]
    assert shown["how"] == "traced"
    assert shown["rows"] == 2
    assert shown["config"]["dtype"] == "bfloat16"
    assert shown["total"] >= shown["weights"] + shown["optimizer"]
    code, out, _ = planned["text"]
    assert code == 0
    assert "usable: fits" in out
    assert f"too low by up to {supervised.TRACE_ERROR:.0%}" in out
    code, _, err = planned["mesh"]
    assert code == 2
    assert "on GPUs only data=N is planned" in err


def test_two_gpus_with_all_weights_each_compute_half_of_the_rows(planned):
    code, out, _ = planned["copies"]
    two, one = json.loads(out), json.loads(planned["json"][1])
    assert code == 0
    assert two["devices"] == 2
    assert two["rows"] == one["rows"] == 2
    assert two["config"]["mesh"] == "data=2"
    for kind in ("weights", "optimizer", "gradients"):
        assert two[kind] == one[kind]
    assert two["total"] < one["total"]
    # All the products of half of the rows each; what does not depend on rows is twice.
    assert one["flops"] <= two["flops"] < 1.01 * one["flops"]
    assert two["seconds"]["arithmetic"] < 0.51 * one["seconds"]["arithmetic"]
    code, _, err = planned["odd"]
    assert code == 2
    assert "does not divide a batch of 2 rows" in err


def test_largest_batch_is_the_last_that_fits(planned):
    found = planned["largest"]
    assert found["rows"] > 1
    assert found["found"]["fits"]
    assert found["found"]["rows"] == found["found"]["largest_batch"] == found["rows"]
    assert not found["more"]["fits"]


def test_state_is_never_planned_too_small(planned):
    """The 2B with all weights on 40 GiB: weights, Adam and gradients alone are 37.3."""
    found = planned["full"]
    assert found["config"]["dtype"] == "mixed_bfloat16"
    state = found["weights"] + found["optimizer"] + found["gradients"]
    assert state / hardware.GIB == pytest.approx(37.3, abs=0.1)
    assert found["total"] > state
    assert not found["fits"]


def test_what_cannot_be_loaded_does_not_fit(planned):
    """An integer 7B would fit a T4; but it is loaded as floats first."""
    found = planned["integer"]
    assert found["config"]["dtype"] == "float16"
    assert found["loading"] > found["usable"] > found["weights"]
    assert not found["fits"]
    assert "cannot be loaded there" in planned["integer_text"]
    assert "quantize='int4'" in planned["int8"]


def test_sums_of_gradients_of_several_parts_are_planned(planned):
    one, four = planned["parts"]
    assert (one["rows"], four["rows"]) == (4, 1)
    assert four["optimizer"] - one["optimizer"] == four["gradients"]


@pytest.mark.parametrize("loss", ["reinforce", "dpo"])
def test_an_update_of_rl_is_planned_as_it_is_made(planned, loss):
    found = planned["rl"][loss]
    assert found["planned"] == found["real"]
    adapter, full = found["adapter"], found["full"]
    assert adapter["rollout"] == full["rollout"] > 0
    # The first model is the base without its adapter; a base that moves is there twice.
    assert full["weights"] == 2 * full["gradients"] > adapter["weights"]
    fields = {field.name for field in dataclasses.fields(estimates.Estimate)}
    known = {name: adapter[name] for name in fields}
    assert estimates.Estimate(**known).fits
    assert not estimates.Estimate(**known | {"rollout": known["usable"]}).fits


def test_the_command_plans_rl(planned):
    code, out, _ = planned["rl"]["text"]
    assert code == 0
    assert "8 rows of 300 tokens at once" in out
    assert "while answers are sampled" in out
    assert f"too low by up to {reinforcement.TRACE_ERROR:.0%}" in out
    code, _, err = planned["rl"]["no length"]
    assert code == 2
    assert "Give sequence_length" in err
