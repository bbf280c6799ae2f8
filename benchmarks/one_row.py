"""A step of one row by the length of its context: with and without copies of the cache.

    KERAS_BACKEND=jax python benchmarks/one_row.py --preset smollm2_135m_code

XLA for CPUs copies the whole cache of a single row several times a step if its new slot is
written by a plain slice. `ops.write_cache` writes it in a loop of one turn. Both run here,
in the same process and in turn; a visit decodes 32 tokens, or one, as it does when the
host looks after each token. Medians of several visits.
"""

import argparse
import statistics
import time

import numpy as np
from _data import record

from codegemma_keras import CodeGemmaCausalLM, ops
from codegemma_keras.decoding import Engine, Row

FORMS = ("plain slice", "loop of one turn")
PROMPTS = (100, 1000, 3000)
VISITS = (32, 1)


def step_ms(engine, prompt, visit, repeats):
    """Milliseconds of a token, in each of some visits."""
    row, generation = Row(prompt, visit * (repeats + 2) + 1), engine.generation()
    generation.join([row])
    while not row.tokens:
        generation.advance()
    found = []
    while generation.running:
        before, count = time.perf_counter(), len(row.tokens)
        generation.advance(visit)
        found.append(1000 * (time.perf_counter() - before) / (len(row.tokens) - count))
    return found[1:]  # the first one may compile


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--preset", default="smollm2_135m_code")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    lm = CodeGemmaCausalLM.from_preset(options.preset, dtype="float32")
    rng = np.random.default_rng(0)
    real, rows = ops._traced_by_jax_for_a_cpu, []
    engines = {form: Engine(lm) for form in FORMS}  # programs of its own for each
    for length in PROMPTS:
        if length + 256 > lm.preprocessor.sequence_length:
            continue
        prompt = rng.integers(300, lm.backbone.vocabulary_size, length).tolist()
        row = {"prompt": length}
        for visit in VISITS:
            times = {form: [] for form in FORMS}
            for form in (*FORMS, *FORMS):
                ops._traced_by_jax_for_a_cpu = (
                    (lambda x: False) if form == FORMS[0] else real
                )
                times[form] += step_ms(engines[form], prompt, visit, options.repeats)
            for form in FORMS:
                row[f"{form}, {visit} a visit"] = round(
                    statistics.median(times[form]), 1
                )
        rows.append(row)
        print(row, flush=True)
    ops._traced_by_jax_for_a_cpu = real
    record(f"one_row_{options.preset}", {"rows": rows})


if __name__ == "__main__":
    main()
