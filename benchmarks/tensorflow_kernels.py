"""TensorFlow on a CPU: its own kernels beside XLA's, and blocks that share one trace.

    KERAS_BACKEND=tensorflow python benchmarks/tensorflow_kernels.py
    KERAS_BACKEND=tensorflow python benchmarks/tensorflow_kernels.py --preset code_gemma_tiny_py

Three questions, each answered both ways in one process:

* `products`: GFLOP/s of single matrix products of 512 tokens, in float32 and bfloat16;
* `programs`: seconds of log-probabilities of 4 rows of 512 tokens, and of the first token
  after 8 prompts of 240, the first time (with tracing and compiling) and then;
* `first_step`: seconds of the first training step of a LoRA adapter, with a trace of each
  block and with one for all.

Writes benchmarks/results/tensorflow_kernels.json.
"""

import argparse
import time

import keras
import numpy as np
import tensorflow as tf
from _data import record

from codegemma_keras import CodeGemmaCausalLM, backbone, lora, tracing
from codegemma_keras.batches import pack
from codegemma_keras.decoding import Sampling, compilation, engine

SHAPES = ((512, 576, 1536), (512, 1536, 576), (512, 576, 49152), (512, 2048, 2048))
DTYPES = ("float32", "bfloat16")
REPEATS = 5


def timed(function):
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def product(shape, dtype, xla):
    """GFLOP/s of one product."""
    m, k, n = shape
    draw = np.random.default_rng(0).normal
    a, b = (tf.cast(draw(size=size), dtype) for size in ((m, k), (k, n)))
    multiply = tf.function(lambda a, b: a @ b, jit_compile=xla)
    multiply(a, b)
    seconds = min(timed(lambda: multiply(a, b).numpy()) for _ in range(REPEATS))
    return round(2e-9 * m * k * n / seconds)


def programs(preset, dtype, xla):
    """Seconds of scores and of first tokens: the first time, and the least of others."""
    compile_program = compilation.compile_program
    if xla:  # as if no program had large products
        engine.compile_program = lambda *args: compile_program(*args[:5])
    lm = CodeGemmaCausalLM.from_preset(preset, dtype=dtype)
    draw = np.random.default_rng(0).integers

    def rows(count, length):
        return draw(200, lm.backbone.vocabulary_size, (count, length)).tolist()

    kinds = {
        "scores": lambda: lm.log_probabilities(rows(4, 512)),
        "first_token": lambda: lm.engine.generate(rows(8, 240), 1, (), Sampling()),
    }
    found = {}
    for name, call in kinds.items():
        first, *others = (round(timed(call), 1) for _ in range(1 + REPEATS))
        found[name] = {"first": first, "then": min(others)}
    engine.compile_program = compile_program
    return found


def first_step(preset, shared):
    """Seconds of the first step, and the least of others."""
    backbone.traced_once = (
        tracing.traced_once if shared else lambda layers: tracing.traced_apart
    )
    lm = CodeGemmaCausalLM.from_preset(preset, dtype="float32")
    lora.add(lm, "a", rank=16)
    lm.compile(optimizer=keras.optimizers.AdamW(1e-4), weighted_metrics=[])
    lm.preprocessor = None
    ids = np.random.default_rng(0).integers(200, 1000, 513).tolist()
    x, y, weight = pack([ids], 512)
    times = [
        round(timed(lambda: lm.train_on_batch(x, y, sample_weight=weight)), 1)
        for _ in range(4)
    ]
    return {"first": times[0], "then": min(times[1:])}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="smollm2_135m_code")
    preset = parser.parse_args().preset
    ways = {"own kernels": False, "XLA": True}
    products = {
        f"{'x'.join(map(str, shape))} {dtype}": {
            way: product(shape, dtype, xla) for way, xla in ways.items()
        }
        for shape in SHAPES
        for dtype in DTYPES
    }
    found = {
        "preset": preset,
        "products_gflops": products,
        "programs_s": {
            f"{dtype}, {way}": programs(preset, dtype, xla)
            for dtype in DTYPES
            for way, xla in ways.items()
        },
        "first_step_s": {
            "a trace of each block": first_step(preset, False),
            "one for all": first_step(preset, True),
        },
    }
    record("tensorflow_kernels", found)


if __name__ == "__main__":
    main()
