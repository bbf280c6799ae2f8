"""Memory and time of a training step beside KerasHub's `fit`, same weights and batch.

    python benchmarks/train_memory.py                # all rows, a process each
    python benchmarks/train_memory.py jax keras_hub  # one row

Each row builds the model (V=256,000 D=1,024 L=2, float32), then calls `fit`: a first step
compiles, then `STEPS` steps are timed. Peak memory is the largest resident set of the
process during `fit` less the one when the weights stood, as the kernel counts it; with
JAX also the temporaries of the program as XLA assigned them. Plain gradient descent, so
that no optimizer state hides the difference. Linux only.

Left out: accelerators, where the allocator of the backend hides what is resident.
"""

import json
import os
import subprocess
import sys
import time
import zlib

import _memory
from _data import RESULTS, record

SIZES = {
    "vocabulary_size": 256_000,
    "num_layers": 2,
    "num_query_heads": 8,
    "num_key_value_heads": 1,
    "hidden_dim": 1024,
    "intermediate_dim": 8192,
    "head_dim": 128,
}
BATCH, LENGTH, STEPS = 2, 1024, 2
NAME = "train_memory"
ROWS = [(b, m) for b in ("jax", "tensorflow") for m in ("keras_hub", "codegemma_keras")]


def build(library):
    """The model with weights that depend on their names only."""
    import numpy as np

    if library == "keras_hub":
        import keras_hub

        backbone = keras_hub.models.GemmaBackbone(**SIZES)
        lm = keras_hub.models.GemmaCausalLM(backbone=backbone, preprocessor=None)
    else:
        import codegemma_keras

        backbone = codegemma_keras.CodeGemmaBackbone(**SIZES)
        lm = codegemma_keras.CodeGemmaCausalLM(backbone)
    for variable in backbone.weights:
        rng = np.random.default_rng(zlib.crc32(variable.path.encode()))
        value = rng.standard_normal(variable.shape, "float32")
        variable.assign(0.02 * value)
    return lm


def batch():
    import numpy as np

    ids = np.random.default_rng(0).integers(3, 256_000, (BATCH, LENGTH + 1))
    ids = ids.astype("int32")
    mask = np.ones((BATCH, LENGTH), "int32")
    x = {"token_ids": ids[:, :-1], "padding_mask": mask}
    return x, ids[:, 1:], mask.astype("float32")


def measure(library):
    """One row, in this process."""
    import keras

    lm = build(library)
    lm.compile(optimizer=keras.optimizers.SGD(1e-3))
    x, y, weight = batch()

    def fit(epochs):
        began = time.perf_counter()
        history = lm.fit(
            x,
            y,
            sample_weight=weight,
            batch_size=BATCH,
            epochs=epochs,
            shuffle=False,
            verbose=0,
        )
        return time.perf_counter() - began, history.history["loss"]

    before = _memory.resident_bytes()
    _memory.start_again()
    first, losses = fit(1)
    seconds, more = fit(STEPS)
    found = {
        "peak_above_weights_gib": (_memory.peak_bytes() - before) / 2**30,
        "resident_with_weights_gib": before / 2**30,
        "seconds_per_step": seconds / STEPS,
        "seconds_of_the_first_with_compilation": first,
        "losses": losses + more,
    }
    if keras.backend.backend() == "jax":
        found["temporaries_gib"] = temporaries(lm, (x, y, weight))
    return found


def temporaries(lm, data):
    """GiB that the compiled step needs beside its arguments, from XLA."""
    import jax

    state = tuple(
        [jax.ShapeDtypeStruct(tuple(v.shape), v.dtype) for v in group]
        for group in (
            lm.trainable_variables,
            lm.non_trainable_variables,
            lm.optimizer.variables,
            lm.metrics_variables,
        )
    )
    step = jax.jit(lm.train_step, donate_argnums=0)
    memory = step.lower(state, data).compile().memory_analysis()
    return memory.temp_size_in_bytes / 2**30


def main():
    if len(sys.argv) == 4:  # the process of a row
        print("RESULT" + json.dumps(measure(sys.argv[2])))
        return
    rows = [tuple(sys.argv[1:])] if len(sys.argv) == 3 else ROWS
    for backend, library in rows:
        command = [sys.executable, __file__, backend, library, "here"]
        output = subprocess.run(
            command,
            env={**os.environ, "KERAS_BACKEND": backend},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
        found = json.loads(output.split("RESULT")[1])
        file = RESULTS / f"{NAME}.json"
        old = json.loads(file.read_text())["rows"] if file.exists() else {}
        old[f"{backend}/{library}"] = found
        record(
            NAME,
            {
                "sizes": {
                    **SIZES,
                    "batch": BATCH,
                    "length": LENGTH,
                    "dtype": "float32",
                },
                "rows": old,
                "ratios": ratios(old),
            },
        )


def ratios(rows):
    """Ours over KerasHub's, for each backend that has both."""
    found = {}
    for backend in ("jax", "tensorflow"):
        theirs = rows.get(f"{backend}/keras_hub")
        ours = rows.get(f"{backend}/codegemma_keras")
        if not (ours and theirs):
            continue
        names = ("peak_above_weights_gib", "seconds_per_step", "temporaries_gib")
        found[backend] = {n: ours[n] / theirs[n] for n in names if n in ours}
        found[backend]["largest_difference_of_a_loss"] = max(
            abs(a - b) / b
            for a, b in zip(ours["losses"], theirs["losses"], strict=True)
        )
    return found


if __name__ == "__main__":
    main()
