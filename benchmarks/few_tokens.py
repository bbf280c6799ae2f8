"""Programs that read few tokens at a time on a CPU: rows that decode, ends of prompts.

    KERAS_BACKEND=jax python benchmarks/few_tokens.py
    KERAS_BACKEND=jax python benchmarks/few_tokens.py --preset code_gemma_tiny_py

XLA for CPUs copies the kernels of queries, keys and values in every step, unless heads are
a batch of the product; and it has a fast form of that for one token only. So up to
`layers.TOKENS_APART` tokens have a product each. Here the same engine runs with two
settings of it:

* `as written`: the einsum for more than one token;
* `apart`: up to eight tokens have a product each, in a loop.

Reported for each: milliseconds of a step by number of rows, and of a prompt by its tokens,
medians of several calls; seconds of the calls that compile the programs. Only presets are
measured: the shapes of the 2B and the 7B take too long on two cores.
"""

import argparse
import statistics
import time

import keras
import numpy as np
from _data import record

from codegemma_keras import CodeGemmaCausalLM, layers
from codegemma_keras.decoding import Engine

NEW = 17
ROWS = (1, 2, 4, 8)
PROMPTS = (8, 30)
FORMS = {"as written": 1, "apart": 8}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--preset", default="smollm2_135m_code")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    lm = CodeGemmaCausalLM.from_preset(options.preset, dtype="float32")
    engines, found = {}, {}
    for form, limit in FORMS.items():
        begin = time.perf_counter()
        engines[form] = warm(lm, limit)
        seconds = round(time.perf_counter() - begin, 1)
        found[form] = {"compile_s": seconds, "step_ms": {}, "prompt_ms": {}}
    for rows in ROWS:
        for form, (_, step) in taken(engines, [30] * rows, options).items():
            found[form]["step_ms"][rows] = step
    for length in PROMPTS:
        for form, (first, _) in taken(engines, [length], options).items():
            found[form]["prompt_ms"][length] = first
    backend = f"keras {keras.version()} on {keras.config.backend()}"
    record(f"few_tokens_{options.preset}", {"backend": backend, "forms": found})


def warm(lm, limit):
    """An engine whose programs were compiled with this limit."""
    layers.TOKENS_APART = limit
    engine = Engine(lm)
    for lengths in [[30] * rows for rows in ROWS] + [[length] for length in PROMPTS]:
        for new in (1, NEW):
            engine.generate(prompts(lengths), new)
    return engine


def prompts(lengths):
    """Random token ids, other ones in every row, so that no two rows share a prefill."""
    random = np.random.default_rng(0)
    return [random.integers(300, 8000, length).tolist() for length in lengths]


def taken(engines, lengths, options):
    """`form: (ms to the first token, ms of each further one)`, forms in turns."""
    times = {(form, new): [] for form in engines for new in (1, NEW)}
    for _ in range(options.repeats):
        for form, engine in engines.items():
            for new in (1, NEW):
                begin = time.perf_counter()
                engine.generate(prompts(lengths), new)
                times[form, new].append(time.perf_counter() - begin)
    found = {}
    for form in engines:
        first, all_ = (statistics.median(times[form, n]) * 1e3 for n in (1, NEW))
        found[form] = round(first, 1), round((all_ - first) / (NEW - 1), 1)
    return found


if __name__ == "__main__":
    main()
