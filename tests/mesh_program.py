"""Trains and loads on eight simulated devices; `test_sharding.py` runs it as a program.

Prints one JSON object: for each case the losses without and with the mesh, and how the
variables lay on the devices.
"""

import json
import os
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
import numpy as np

from codegemma_keras import (
    CodeGemmaBackbone,
    CodeGemmaCausalLM,
    lora,
    losses,
    platforms,
    sharding,
)
from codegemma_keras.recipes import profiles
from codegemma_keras.training import model

SIZES = {
    "vocabulary_size": 320,
    "num_layers": 2,
    "num_query_heads": 8,
    "hidden_dim": 64,
    "intermediate_dim": 256,
    "head_dim": 16,
}


def batch(vocabulary_size, rows=8, length=21):
    """Packed rows of two documents, some targets without weight."""
    rng = np.random.default_rng(0)
    ids = rng.integers(3, vocabulary_size, (rows, length + 1))
    segments = np.repeat([1, 2], [9, length - 9])[None].repeat(rows, 0)
    positions = np.concatenate([np.arange(9), np.arange(length - 9)])[None]
    x = {
        "token_ids": ids[:, :-1],
        "padding_mask": np.ones((rows, length), "int32"),
        "positions": positions.repeat(rows, 0),
        "segment_ids": segments,
    }
    return x, ids[:, 1:], (rng.random((rows, length)) > 0.3).astype("float32")


def compiled(lm):
    lm.compile(
        optimizer=keras.optimizers.AdamW(1e-2, weight_decay=0.1, global_clipnorm=1.0),
        # Several chunks, the last one short: 168 targets.
        loss=losses.NextTokenLoss(chunk_tokens=40, z_loss=1e-3),
    )
    return lm


def train(heads, mesh, adapter=False, remat="none", steps=3):
    """Losses of a few steps from the same start, and the layouts."""
    sizes = {**SIZES, "num_key_value_heads": heads}
    with sharding.use(mesh, sizes):
        keras.utils.set_random_seed(0)
        lm = CodeGemmaCausalLM(CodeGemmaBackbone(**sizes))
        if adapter:
            lora.add(lm, "a", rank=4)
        lm.backbone.remat = remat
        compiled(lm)
        x, y, weight = batch(sizes["vocabulary_size"])
        found = [
            float(lm.train_on_batch(x, y, weight, return_dict=True)["loss"])
            for _ in range(steps)
        ]
        return found, sharding.describe(lm.variables + lm.optimizer.variables)


def cut_gradients(mesh):
    """In how many places a step cuts a gradient before anything else is done with it."""
    sizes = {**SIZES, "num_key_value_heads": 8}
    with sharding.use(mesh, sizes):
        lm = compiled(CodeGemmaCausalLM(CodeGemmaBackbone(**sizes)))
        rows = batch(sizes["vocabulary_size"])
        lm.train_on_batch(*rows)  # makes the optimizer's variables
        variables = (
            lm.trainable_variables,
            lm.non_trainable_variables,
            lm.optimizer.variables,
            lm.metrics_variables,
        )
        state = tuple([variable.value for variable in each] for each in variables)
        return str(jax.make_jaxpr(lm.train_step)(state, rows)).count(
            "optimization_barrier"
        )


def with_options(options):
    """`train` as on a TPU, whose compiler is given options: losses, or what it says."""
    ours, platforms.compiler_options = platforms.compiler_options, lambda _: options
    try:
        return train(1, "fsdp=8", steps=2)[0]
    except Exception as error:
        return str(error)
    finally:
        platforms.compiler_options = ours


def load(mesh):
    """The embedded preset, loaded on a mesh: a loss and a completion."""
    with sharding.use(mesh, "code_gemma_tiny_py"):
        lm = compiled(CodeGemmaCausalLM.from_preset("code_gemma_tiny_py"))
        preprocessor, lm.preprocessor = lm.preprocessor, None  # rows are tokens already
        loss = lm.test_on_batch(*batch(lm.backbone.vocabulary_size), return_dict=True)
        lm.preprocessor = preprocessor
        text = lm.infill("def add(a, b):\n    return ", "\n", max_new_tokens=4)
        return float(loss["loss"]), text, sharding.describe(lm.variables)


def profile(mesh):
    """The losses of a profile that is loaded and trained by `fit`, as notebooks do it."""
    found = profiles.find("tiny")
    row = {"sequence_length": 21, "batch_tokens": 8 * 21}
    lm, config = found.load("a", lora_rank=4, mesh=mesh, **row)
    model.compile_model(lm, config, 3)
    lm.preprocessor = None
    x, y, weight = batch(lm.backbone.vocabulary_size)
    return lm.fit(x, y, sample_weight=weight, batch_size=8, epochs=3, verbose=0).history


def main(cases):
    out = {"trained": [], "loaded": []}
    alone = {}
    for heads, mesh, adapter, remat in cases:
        key = (heads, adapter)
        if key not in alone:
            alone[key], _ = train(heads, None, adapter)
        losses_, layout = train(heads, mesh, adapter, remat)
        out["trained"].append(
            {
                "case": [heads, mesh, adapter, remat],
                "alone": alone[key],
                "mesh": losses_,
                "layout": layout,
            }
        )
    for mesh in (None, "fsdp=2,model=4"):
        loss, text, layout = load(mesh) if mesh else (*load(None)[:2], [])
        out["loaded"].append({"loss": loss, "text": text, "layout": layout})
    out["cut"] = {mesh: cut_gradients(mesh) for mesh in ("fsdp=8", "data=8")}
    options = {"xla_cpu_enable_fast_math": False}, {"no_such_option": 1}
    out["with_options"] = [with_options(each) for each in options]
    # A mesh of a profile stays for the rest of the process, so this comes last.
    out["profile"] = {mesh: profile(mesh)["loss"] for mesh in (None, "fsdp=8")}
    json.dump(out, sys.stdout)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
