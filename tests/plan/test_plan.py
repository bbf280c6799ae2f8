"""Planning: what is predicted without weights equals what a real program says."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from codegemma_keras import lora, plan
from codegemma_keras.plan import reinforcement, supervised
from codegemma_keras.recipes.sft import SFTConfig
from codegemma_keras.training import hardware, memory
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
from codegemma_keras.recipes.sft import SFTConfig
import jax, jax.numpy as jnp

sizes = json.loads('{sizes}')
out = {{}}
for recipe in ("full", "lora", "qlora"):
    config = step.resolved(
        SFTConfig(
            preset="code_gemma_tiny_py",
            lora_rank=0 if recipe == "full" else 4,
            quantize="int8" if recipe == "qlora" else None,
            dtype="bfloat16" if recipe == "qlora" else "float32",
            sequence_length=24,
            batch_tokens=48,
        ),
        "l4",
    )
    lm = step.model_of(config, sizes)
    found = program.trace_step(lm, step.batch_of(config))
    out[recipe] = {{
        "arguments": found.arguments,
        "temporaries": found.temporaries,
        "flops": found.flops,
        "variables": [[v.path, list(v.shape), v.dtype] for v in lm.backbone.variables],
        "empty": all(v._value is None for v in lm.backbone.variables),
        **estimates.by_kind(lm, config),
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
  %c = f32[8,4]{1,0:T(8)} copy(%r)
  %s = (f32[8,4], f32[8,4], u32[]) copy-start(%r)
  %f = f32[2] fusion(%r), calls=%fused
  ROOT %t = (f32[8]) tuple(%r)
}

%fused (q: f32[8]) -> f32[2] {
  ROOT %n = f32[16,2] transpose(%q), dimensions={1,0}
}

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %s = f32[] add(%a, %b)
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %k = f32[64] copy(%a)
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
    # Two slots a weight, and the step.
    assert full["optimizer"] == 8 * weights + 4
    adapters = found["lora"]["gradients"]
    # rank 4: q, o: 128 in + out each; k, v: 80; ffn: 192 each
    assert adapters == 4 * 4 * layers * (2 * 128 + 2 * 80 + 3 * 192)
    assert found["lora"]["weights"] == 4 * weights + adapters
    assert found["qlora"]["weights"] < 0.4 * found["lora"]["weights"]
    assert full["logits"] == 2 * 4 * 48 * v + 4 * 48 * d + 4 * v * d


def test_arithmetic_is_the_formula(found):
    tokens = 2 * 24
    # The formula counts half of the attention, as masks throw the rest away; the
    # program computes it.
    attention = 3 * 2 * 2 * 24 * 4 * 16
    wanted = tokens * (hardware.flops_per_token(SMALL, 24) + attention)
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


def test_a_collective_that_several_fusions_share_counts_once():
    """A TPU begins one in a fusion, goes on in others and ends it in a last one."""
    from codegemma_keras.plan import program

    gather = "  ROOT %g{0} = bf16[4,8] all-gather(%p), channel_id={1}, dimensions={{0}}"
    parts = [
        f"%part.{i} (p: bf16[1,8]) -> bf16[4,8] {{\n{gather.format(i, channel)}\n}}\n"
        for i, channel in enumerate((7, 7, 7, 8))
    ]
    calls = [f"  %f{i} = bf16[4,8] fusion(%a), calls=%part.{i}" for i in range(4)]
    main = "\n".join(["ENTRY %main (a: bf16[1,8]) -> bf16[4,8] {", *calls, "}"])
    found = program.collectives("\n".join([*parts, main]))
    assert found == {"all-gather": (2, 2 * 4 * 8 * 2)}


def test_copies_inside_of_loops_are_found():
    from codegemma_keras.plan import program

    both = {"copy f32[8,4]": 1, "transpose f32[16,2]": 1}
    assert program.loop_copies(TEXT, 128) == both
    assert program.loop_copies(TEXT, 129) == {}


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
    parts = memory.least(lm, 4, 64)
    weights = sum(4 * int(np.prod(v.shape)) for v in lm.trainable_variables)
    assert parts["weights"] == parts["gradients"] == weights
    memory.check(lm, 4, 64, free=sum(parts.values()))
    with pytest.raises(memory.DoesNotFitError) as caught:
        memory.check(lm, 4, 64, free=sum(parts.values()) - 1)
    error = caught.value
    assert (error.needed, error.free) == (sum(parts.values()), sum(parts.values()) - 1)
    for turn in ("2 rows", "remat='block'", "LoRA", "MiB are free", "codegemma plan"):
        assert turn in str(error), turn


def test_advice_names_only_what_can_still_be_turned():
    lm = our_task()
    lora.add(lm, "a")
    lm.compile(optimizer=keras.optimizers.AdamW(1e-3))
    lm.backbone.remat = "block"
    advice = memory.advice(lm, 1, 512)
    assert "quantize='int8'" in advice
    for turned in ("smaller batch", "remat", "LoRA", "shorter"):
        assert turned not in advice


def test_a_machine_with_memory_passes():
    memory.check(compiled_task(), 4, 64)


def test_the_backends_own_error_is_explained():
    lm = compiled_task()
    too_much = pytest.raises(memory.DoesNotFitError, match="remat='block'")
    with too_much as caught, memory.explained(lm, 2, 64):
        keras.ops.zeros((2**46,), "int8")  # 64 TiB
    assert caught.value.__cause__ is not None


def test_tpu_refusals_are_read():
    lm = compiled_task()
    text = "RESOURCE_EXHAUSTED: ... Used 20.50G of 15.75G hbm. Exceeded by 4.75G."
    wanted = pytest.raises(memory.DoesNotFitError, match=r"wanted 20\.5 GiB")
    with wanted, memory.explained(lm, 2, 64):
        raise RuntimeError(text)


def test_other_errors_pass_unchanged():
    lm = compiled_task()
    with pytest.raises(KeyError, match="positions"), memory.explained(lm, 2, 64):
        raise KeyError("positions")


# --- Targets and the command --------------------------------------------------------


def test_targets():
    assert hardware.is_tpu("v5e:2x4")
    assert not hardware.is_tpu("A100-40")
    assert hardware.chip_of("t4").usable < 16e9
    assert hardware.target("v5e-8") == "v5e:2x4"
    assert hardware.target("V6e-1") == "v6e:1x1"
    # Two devices a chip, as libtpu describes a v4; together they are the data sheet's.
    v4 = hardware.chip_of("v4:2x2x1")
    assert (v4.flops, v4.memory, v4.cores) == (275e12, 32.0, 2)
    for wrong in ("v9:2x2", "v5e", "v5e-7", "v4-8"):
        with pytest.raises(ValueError, match=f"'{wrong}' is not known"):
            hardware.target(wrong)


def test_every_column_of_the_table_is_a_target():
    table = next(
        line
        for line in (ROOT / "docs" / "plan.md").read_text().splitlines()
        if line.startswith("| | t4 ")
    )
    columns = [column.strip() for column in table.split("|")[2:-1]]
    assert len(columns) > 5
    for column in columns:
        hardware.target(column)


def test_the_margin_covers_the_measured_error():
    """Compiled steps need at most so much more than the trace of the same step."""
    file = ROOT / "benchmarks" / "results" / "plan_accuracy.json"
    measured = json.loads(file.read_text())["traced"]
    assert {row["recipe"] for row in measured} >= {"full", "lora", "rl"}
    worst = {"rl": 0, "training": 0}
    for row in measured:
        kind = "rl" if row["recipe"] == "rl" else "training"
        ratio = row["compiled_temporaries"] / row["traced_temporaries"]
        worst[kind] = max(worst[kind], ratio)
    assert worst["training"] <= 1 + supervised.TRACE_ERROR <= worst["training"] + 0.1
    assert worst["rl"] <= 1 + reinforcement.TRACE_ERROR <= worst["rl"] + 0.1


def test_on_tensorflow_it_says_what_to_set(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    with pytest.raises(RuntimeError, match="Set KERAS_BACKEND=jax"):
        plan.estimate(SFTConfig(), "l4")
