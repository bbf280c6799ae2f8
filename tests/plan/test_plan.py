"""Planning: what is predicted without weights equals what a real program says."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from codegemma_keras import lora, plan
from codegemma_keras.cli import main
from codegemma_keras.cli import plan as cli
from codegemma_keras.plan import fit
from codegemma_keras.training import chips
from tests.tiny_models import our_task

ROOT = pathlib.Path(__file__).parents[2]
SMALL = {
    "vocabulary_size": 512,
    "num_layers": 2,
    "num_query_heads": 4,
    "num_key_value_heads": 1,
    "hidden_dim": 64,
    "intermediate_dim": 256,
    "head_dim": 16,
}
# Planning runs on JAX whatever the tests' backend is, in a process that has no weights.
PROGRAM = """
import json
from codegemma_keras.plan import program, step, estimates, liveness
import jax, jax.numpy as jnp

sizes = json.loads('{sizes}')
out = {{}}
for recipe in ("full", "lora", "qlora"):
    dtype = "bfloat16" if recipe == "qlora" else "float32"
    job = step.Job(recipe=recipe, batch=2, length=24, rank=4, dtype=dtype)
    lm = step.model_of(job, sizes)
    found = program.trace_step(lm, step.batch_of(job))
    out[recipe] = {{
        "arguments": found.arguments,
        "temporaries": found.temporaries,
        "flops": found.flops,
        "variables": [[v.path, list(v.shape), v.dtype] for v in lm.backbone.variables],
        "empty": all(v._value is None for v in lm.backbone.variables),
        **estimates.by_kind(lm, job),
    }}

def scanned(a, b):
    return jax.lax.scan(lambda c, _: (c @ b, None), a, None, length=5)[0]

jaxpr = jax.make_jaxpr(scanned)(jnp.ones((3, 4)), jnp.ones((4, 4))).jaxpr
out["scan"] = program.matrix_flops(jaxpr)

def chain(a, b):  # a product read by two others, each as large
    c = a @ b
    return (c @ b) @ (c @ b)

out["chain"] = liveness.peak_bytes(jax.make_jaxpr(chain)(*[jnp.ones((8, 8))] * 2).jaxpr)
print(json.dumps(out))
"""
# Program text as XLA writes it, made up: one collective outside, one in a loop.
TEXT = """\
HloModule step

%body.1 (p: (f32[8])) -> (f32[8]) {
  %r = f32[8]{0} all-reduce(%x), replica_groups={{0,1}}, to_apply=%add
  ROOT %t = (f32[8]) tuple(%r)
}

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %s = f32[] add(%a, %b)
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %g = (bf16[4,2], bf16[4,16]) all-gather-start(%a), dimensions={1}
  %d = bf16[4,16] all-gather-done(%g)
  %p = (bf16[8]{0:T(8)S(1)}, bf16[8]{0}, u32[]{:S(2)}, u32[]) collective-permute-start(%q)
  ROOT %w = (f32[8]) while(%i), condition=%cond, body=%body.1, \
backend_config={"known_trip_count":{"n":"6"}}
}
"""


@pytest.fixture(scope="module")
def found():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(sizes=json.dumps(SMALL))],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_models_without_memory_have_the_variables_of_real_ones(found):
    from codegemma_keras import CodeGemmaBackbone

    for recipe in ("full", "lora", "qlora"):
        dtype = "bfloat16" if recipe == "qlora" else "float32"
        backbone = CodeGemmaBackbone(**SMALL, dtype=dtype)
        if recipe == "qlora":
            lora.quantize_base(backbone, "int8")
        if recipe != "full":
            lora.add(backbone, "plan", rank=4)
        real = [[v.path, list(v.shape), v.dtype] for v in backbone.variables]
        assert found[recipe]["variables"] == real
        assert found[recipe]["empty"]


def test_bytes_by_kind(found):
    d, f, v, layers = 64, 128, 512, 2
    block = 64 * d * 2 + 16 * d * 2 + 3 * d * f + 2 * d  # q, o; k, v; ffn; norms
    weights = v * d + layers * block + d
    full = found["full"]
    assert full["weights"] == full["gradients"] == 4 * weights
    # Two slots a weight, the step and the learning rate.
    assert full["optimizer"] == 8 * weights + 4 + 4
    adapters = found["lora"]["gradients"]
    # rank 4: q, o: 128 in + out each; k, v: 80; ffn: 192 each
    assert adapters == 4 * 4 * layers * (2 * 128 + 2 * 80 + 3 * 192)
    assert found["lora"]["weights"] == 4 * weights + adapters
    assert found["qlora"]["weights"] < 0.4 * found["lora"]["weights"]
    assert full["logits"] == 2 * 4 * 48 * v + 4 * 48 * d + 4 * v * d


def test_arithmetic_is_the_formula(found):
    from codegemma_keras.training import flops

    sizes = flops.Sizes.of(SMALL)
    tokens = 2 * 24
    # The formula counts half of the attention, as masks throw the rest away; the
    # program computes it.
    attention = 3 * 2 * 2 * 24 * 4 * 16
    wanted = tokens * (flops.flops_per_token(sizes, 24) + attention)
    assert found["full"]["flops"] == pytest.approx(wanted, rel=0.01)
    assert found["scan"] == 5 * 2 * 3 * 4 * 4


def test_liveness_of_a_chain_of_products(found):
    assert found["chain"] == 3 * 8 * 8 * 4  # c and both factors; then the result


def test_collectives_count_the_turns_of_a_loop():
    from codegemma_keras.plan import program

    assert program.collectives(TEXT) == {
        "all-gather": (1, 4 * 16 * 2),
        "all-reduce": (6, 6 * 32),
        "collective-permute": (1, 16),
    }


def test_predicted_bytes_are_those_of_the_executed_program():
    done = subprocess.run(
        [sys.executable, "benchmarks/plan_accuracy.py", "--quick"],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    row = json.loads(done.stdout)["executed"][0]
    assert row["losses_finite"]
    assert row["predicted_bytes"] == pytest.approx(row["executed_bytes"], rel=0.05)


# --- A batch that does not fit ------------------------------------------------------


def compiled_task():
    lm = our_task()
    lm.compile(optimizer=keras.optimizers.AdamW(1e-3))
    return lm


def test_what_cannot_fit_is_refused_before_the_first_step():
    lm = compiled_task()
    parts = fit.least(lm, 4, 64)
    weights = sum(4 * int(np.prod(v.shape)) for v in lm.trainable_variables)
    assert parts["weights"] == parts["gradients"] == weights
    plan.check(lm, 4, 64, free=sum(parts.values()))
    with pytest.raises(plan.DoesNotFitError) as caught:
        plan.check(lm, 4, 64, free=sum(parts.values()) - 1)
    error = caught.value
    assert (error.needed, error.free) == (sum(parts.values()), sum(parts.values()) - 1)
    for turn in ("2 rows", "remat='block'", "LoRA", "MiB are free", "codegemma plan"):
        assert turn in str(error), turn


def test_advice_names_only_what_can_still_be_turned():
    lm = our_task()
    lora.add(lm, "a")
    lm.compile(optimizer=keras.optimizers.AdamW(1e-3))
    lm.backbone.remat = "block"
    advice = fit.advice(lm, 1, 512)
    assert "quantize='int8'" in advice
    for turned in ("smaller batch", "remat", "LoRA", "shorter"):
        assert turned not in advice


def test_a_machine_with_memory_passes():
    plan.check(compiled_task(), 4, 64)


def test_the_backends_own_error_is_explained():
    lm = compiled_task()
    too_much = pytest.raises(plan.DoesNotFitError, match="remat='block'")
    with too_much as caught, plan.explained(lm, 2, 64):
        keras.ops.zeros((2**46,), "int8")  # 64 TiB
    assert caught.value.__cause__ is not None


def test_tpu_refusals_are_read():
    lm = compiled_task()
    text = "RESOURCE_EXHAUSTED: ... Used 20.50G of 15.75G hbm. Exceeded by 4.75G."
    wanted = pytest.raises(plan.DoesNotFitError, match=r"wanted 20\.5 GiB")
    with wanted, plan.explained(lm, 2, 64):
        raise RuntimeError(text)


def test_other_errors_pass_unchanged():
    lm = compiled_task()
    with pytest.raises(KeyError, match="positions"), plan.explained(lm, 2, 64):
        raise KeyError("positions")


# --- Targets and the command --------------------------------------------------------


def test_targets():
    assert chips.is_tpu("v5e:2x4")
    assert not chips.is_tpu("A100-40")
    assert chips.of("t4").usable < 16e9
    with pytest.raises(ValueError, match="'v9:2x2' is not known"):
        chips.of("v9:2x2")


def test_command_on_a_gpu(capsys, monkeypatch):
    if keras.backend.backend() != "jax":
        return  # a process has one backend, and `codegemma plan` wants JAX
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    command = ["plan", "code_gemma_tiny_py", "--on", "l4", "--batch", "2", "--length"]
    assert main([*command, "64", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["fits"]
    assert shown["how"] == "traced"
    assert shown["total"] >= shown["weights"] + shown["optimizer"]
    assert main([*command, "64"]) == 0
    assert "usable: fits" in capsys.readouterr().out
    assert main([*command, "64", "--mesh", "data=2"]) == 2
    assert "planned for alone" in capsys.readouterr().err


def test_largest_batch_is_the_last_that_fits(monkeypatch):
    if keras.backend.backend() != "jax":
        return
    chip = chips.Chip("tiny", 0.02, 0.0, 1e12, 1e11)
    monkeypatch.setitem(chips.CHIPS, "tiny", chip)
    job = plan.Job(recipe="full", length=64, dtype="float32")
    rows, found = plan.largest_batch(job, "tiny", config=SMALL)
    assert rows > 1
    assert found.fits
    assert found.job.batch == rows
    more = dataclasses.replace(job, batch=rows + 1)
    assert not plan.estimate(more, "tiny", SMALL).fits
    assert cli.as_json(found, rows)["largest_batch"] == rows


@pytest.mark.parametrize(
    "wrong", [{"recipe": "sft"}, {"batch": 0}, {"length": 0}, {"mesh": "data=3"}]
)
def test_malformed_jobs(wrong):
    if keras.backend.backend() != "jax":
        return
    with pytest.raises(ValueError, match=next(iter(wrong))):
        plan.Job(**wrong)
