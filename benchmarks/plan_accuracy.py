"""How far the plan is from programs: predicted bytes against what ran and what compiles.

    KERAS_BACKEND=jax python benchmarks/plan_accuracy.py

1. On eight simulated CPU devices: the step planned without weights, against JAX's
   `memory_analysis` of the program that Keras made and ran.
2. The traced estimate that is used for GPUs (`plan/liveness.py`), against XLA's buffer
   assignment for this CPU (float32) and, with libtpu, for one TPU v5e (bfloat16). No GPU
   was at hand. Without rematerialisation only on the CPU: its compiler undoes it.

Memory only: no figure here depends on how busy the machine is.
"""

import json
import os
import pathlib
import platform
import sys
import time

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import importlib.util

import jax
import keras
import numpy as np

from codegemma_keras import CodeGemmaBackbone, CodeGemmaCausalLM, sharding
from codegemma_keras.plan import estimates, program, step
from codegemma_keras.recipes.rl import RLConfig
from codegemma_keras.recipes.sft import SFTConfig
from codegemma_keras.training import hardware, model

SMALL = {
    "vocabulary_size": 512,
    "num_layers": 2,
    "num_query_heads": 8,
    "num_key_value_heads": 1,
    "hidden_dim": 64,
    "intermediate_dim": 256,
    "head_dim": 16,
}
WIDE = {
    "vocabulary_size": 8192,
    "num_layers": 4,
    "num_query_heads": 4,
    "num_key_value_heads": 1,
    "hidden_dim": 256,
    "intermediate_dim": 2048,
    "head_dim": 128,
}
MESHES = ("fsdp=2,model=4", "fsdp=8", "data=2,model=4", "data=8")
# What trains, what is kept, tokens of a row.
ON_CPU = (("full", "none", 1024), ("lora", "none", 1024))
# Of rl, rows of as many tokens in all or fewer, an answer each.
ON_CPU += (("rl", "none", 1024), ("rl", "none", 512), ("rl", "none", 256))
ON_TPU = (
    *ON_CPU,
    ("full", "block", 1024),
    ("lora", "block", 1024),
    ("qlora", "block", 1024),
    ("full", "block", 4096),
    ("lora", "block", 4096),
    ("lora", "attention", 1024),
)


def settings(recipe, rows, length, **more):
    """The recipe's configuration, resolved for a chip with bfloat16."""
    if recipe == "rl":
        config = RLConfig(
            sequence_length=length,
            max_new_tokens=length // 2,
            prompts_per_step=rows * 512 // length,
            group_size=2,
            **more,
        )
        return step.resolved(config, "l4")
    config = SFTConfig(
        lora_rank=0 if recipe == "full" else 16,
        quantize="int8" if recipe == "qlora" else None,
        sequence_length=length,
        batch_tokens=rows * length,
        **more,
    )
    return step.resolved(config, "l4")


def executed(mesh):
    """The real model on a mesh: Keras's own step, and how many bytes it took."""
    config = settings("full", 16, 64, mesh=mesh, dtype="float32")
    chip = hardware.Chip("cpu", ("cpu",), 1.0, 0.0, 1e12, 1e11)
    planned = estimates.on_devices(config, jax.devices(), chip, "cpu", SMALL)
    with sharding.use(mesh, SMALL):
        lm = CodeGemmaCausalLM(CodeGemmaBackbone(**SMALL))
        model.compile_model(lm, config, step.ANY)
        ids = np.ones((16, 64), "int32")
        x = {name: ids for name in step.batch_of(config)[0]}
        weight = np.ones((16, 64), "float32")
        loss = float(lm.train_on_batch(x, ids, weight, return_dict=True)["loss"])
        # The program that ran, asked for again: JAX keeps it.
        state = tuple([v.value for v in g] for g in step.groups_of(lm).values())
        place = jax.tree.map(lambda a: a.sharding, state)
        layout = keras.distribution.distribution()
        rows = jax.tree.map(
            lambda a: jax.device_put(a, layout.get_data_layout(a.shape).backend_layout),
            (x, ids, weight),
        )
        ran = jax.jit(lm.train_step, donate_argnums=0, out_shardings=(None, place))
        compiled = ran.lower(state, rows).compile()
        real = program.read(compiled, 0)
        logs, _ = compiled(state, rows)
    return {
        "mesh": mesh,
        "predicted_bytes": planned.total,
        "executed_bytes": real.total,
        "ratio": planned.total / real.total,
        "collectives": planned.collectives,
        "losses_finite": bool(np.isfinite(loss) and np.isfinite(float(logs["loss"]))),
    }


def traced(recipe, remat, length, device, dtype=None):
    """The traced estimate, without its margin, beside the compiler's for one device."""
    config = settings(recipe, 2, length, remat=remat, dtype=dtype)
    tokens = step.rows_of(config) * length
    lm = step.model_of(config, WIDE)
    # With the attention of a GPU on both sides, since GPUs are what tracing is for.
    guess = program.trace_step(lm, step.batch_of(config), "gpu")
    kinds = estimates.by_kind(lm, config)
    temporaries = max(guess.temporaries, kinds["gradients"] + kinds["logits"])
    real = program.compile_step(
        step.model_of(config, WIDE), step.batch_of(config), None, device, "gpu"
    )
    return {
        "recipe": recipe,
        "remat": remat,
        "length": length,
        "tokens": tokens,
        "dtype": config.dtype,
        "device": device.device_kind,
        "traced_temporaries": temporaries,
        "compiled_temporaries": real.temporaries,
        "compiled_over_traced": real.temporaries / temporaries,
        "total_ratio": (guess.arguments + temporaries) / real.total,
    }


def main(quick=False):
    out = {
        "what": "bytes of one device in a training step: planned, and of the program",
        "device": f"CPU, {platform.machine()}, {os.cpu_count()} cores; TPU compiler only",
        "date": time.strftime("%Y-%m-%d"),
        "small": SMALL,
        "wide": WIDE,
        "executed": [],
        "traced": [],
    }
    file = pathlib.Path(__file__).parent / "results" / "plan_accuracy.json"
    for mesh in MESHES[:1] if quick else MESHES:
        out["executed"].append(executed(mesh))
        if not quick:
            file.write_text(json.dumps(out, indent=1) + "\n")
    cases = [] if quick else [(*case, jax.devices()[0], "float32") for case in ON_CPU]
    if not quick and importlib.util.find_spec("libtpu"):
        tpu = hardware.tpu_devices("v5e-1")[0]
        cases += [(*case, tpu) for case in ON_TPU]
    for case in cases:
        out["traced"].append(traced(*case))
        file.write_text(json.dumps(out, indent=1) + "\n")
    print(json.dumps(out, indent=1))


if __name__ == "__main__":
    main("--quick" in sys.argv[1:])
