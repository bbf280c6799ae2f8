"""Memory of a training step beside KerasHub's, as XLA's buffer assignment states it.

    KERAS_BACKEND=jax python benchmarks/train_memory.py

Compiles the real step of both models, and reads how many bytes the program needs beyond
its arguments (weights, batch) and the results that replace them. Plain gradient descent,
so that no optimizer state hides the difference; float32, on the machine's own device.
Left out: running it (time, resident memory), and TensorFlow.
"""

import json
import os
import pathlib
import platform
import time

import jax
import keras
import keras_hub
import numpy as np

import codegemma_keras

SIZES = {
    "vocabulary_size": 256_000,
    "num_layers": 2,
    "num_query_heads": 8,
    "num_key_value_heads": 1,
    "hidden_dim": 1024,
    "intermediate_dim": 8192,
    "head_dim": 128,
}
BATCH, LENGTH = 2, 1024


def keras_hub_model():
    backbone = keras_hub.models.GemmaBackbone(**SIZES)
    return keras_hub.models.GemmaCausalLM(backbone=backbone, preprocessor=None)


def our_model():
    return codegemma_keras.CodeGemmaCausalLM(codegemma_keras.CodeGemmaBackbone(**SIZES))


def analyse(lm):
    """GiB of temporaries and of arguments of the compiled training step."""
    lm.compile(optimizer=keras.optimizers.SGD(1e-3))
    lm.optimizer.build(lm.trainable_variables)
    ids = np.zeros((BATCH, LENGTH), "int32")
    weight = np.ones((BATCH, LENGTH), "float32")
    batch = {"token_ids": ids, "padding_mask": ids}, ids, weight
    lm._symbolic_build(data_batch=batch)  # makes the metrics' variables
    groups = (
        lm.trainable_variables,
        lm.non_trainable_variables,
        lm.optimizer.variables,
        lm.metrics_variables,
    )
    state = tuple(
        [jax.ShapeDtypeStruct(tuple(v.shape), v.dtype) for v in group]
        for group in groups
    )
    step = jax.jit(lm.train_step, donate_argnums=0)
    memory = step.lower(state, batch).compile().memory_analysis()
    return {
        "temporaries_gib": memory.temp_size_in_bytes / 2**30,
        "arguments_gib": memory.argument_size_in_bytes / 2**30,
    }


def main():
    out = {
        "what": "temporaries of a compiled training step, XLA's buffer assignment",
        "device": f"CPU, {platform.machine()}, {os.cpu_count()} cores",
        "date": time.strftime("%Y-%m-%d"),
        "sizes": {**SIZES, "batch": BATCH, "length": LENGTH, "dtype": "float32"},
        "keras_hub": analyse(keras_hub_model()),
        "codegemma_keras": analyse(our_model()),
    }
    ours, theirs = out["codegemma_keras"], out["keras_hub"]
    out["ratio"] = ours["temporaries_gib"] / theirs["temporaries_gib"]
    file = pathlib.Path(__file__).parent / "results" / "train_memory_jax.json"
    file.write_text(json.dumps(out, indent=1) + "\n")
    print(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()
