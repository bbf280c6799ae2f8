"""Does a CPU train faster in bfloat16? By what instructions it has.

    KERAS_BACKEND=tensorflow python benchmarks/train_dtypes.py

Trains the embedded model in a process of its own for each dtype and backend, 4 rows of 256
tokens, and prints the median tokens a second of its steps. For TensorFlow the variable
`ONEDNN_MAX_CPU_ISA` hides the newer instructions of the processor, so one machine shows
what older ones would do. Writes benchmarks/results/train_dtypes.json.
"""

import os
import statistics
import subprocess
import sys
import time

from _data import record

ROWS, LENGTH, STEPS = 4, 256, 24
INSTRUCTIONS = ("ALL", "AVX512_CORE_BF16", "AVX512_CORE", "AVX2")


def train(dtype):
    """Print the tokens a second of this process's backend."""
    import keras
    import numpy as np

    from codegemma_keras import CodeGemmaCausalLM

    lm = CodeGemmaCausalLM.from_preset("code_gemma_tiny_py", dtype=dtype)
    shape = (STEPS * ROWS, LENGTH)
    generator = np.random.default_rng(0)
    ids = generator.integers(5, lm.backbone.vocabulary_size, shape).astype("int32")
    lm.compile(
        optimizer=keras.optimizers.AdamW(1e-3),
        weighted_metrics=[],
        jit_compile=keras.backend.backend() == "jax",
    )
    lm.preprocessor = None
    times = []
    note = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda *_, **__: times.append(time.perf_counter())
    )
    x = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    lm.fit(x, ids, batch_size=ROWS, shuffle=False, verbose=0, callbacks=[note])
    taken = [b - a for a, b in zip(times, times[1:], strict=False)]
    print(ROWS * LENGTH / statistics.median(taken))


def measured(backend, instructions, dtype):
    """Tokens a second, or None where the process fails."""
    done = subprocess.run(
        [sys.executable, __file__, dtype],
        env={
            **os.environ,
            "KERAS_BACKEND": backend,
            "ONEDNN_MAX_CPU_ISA": instructions,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        print(done.stderr.splitlines()[-1][:200])
        return None
    return round(float(done.stdout.splitlines()[-1]))


def main():
    rows = []
    ways = [("tensorflow", name) for name in INSTRUCTIONS] + [("jax", "ALL")]
    for backend, instructions in ways:
        row = {"backend": backend, "instructions": instructions}
        for dtype in ("mixed_bfloat16", "float32"):
            row[dtype] = measured(backend, instructions, dtype)
        print(row, flush=True)
        rows.append(row)
    record("train_dtypes", {"rows": rows, "tokens_of_a_step": ROWS * LENGTH})


if __name__ == "__main__":
    if len(sys.argv) > 1:
        train(sys.argv[1])
    else:
        main()
