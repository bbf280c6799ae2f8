"""A row that joins a running batch: in place, and with a copy of the batch's cache.

    KERAS_BACKEND=jax python benchmarks/join_row.py --preset smollm2_135m_code

`cache.put_rows` writes the new row into the memory of the batch. The other form, which the
package had until 2026-11-28, lays both caches one below the other and takes the rows that go
on. Both run here, in the same process and in turn; medians.
"""

import argparse
import statistics
import time

import keras
import numpy as np
from _data import record
from keras import ops, tree

from codegemma_keras import CodeGemmaCausalLM

ROWS = (1, 4, 16)


def copied(batch, other, rows):
    """Rows `rows` of two caches laid one below the other."""
    return tree.map_structure(
        lambda x, y: ops.take(ops.concatenate([x, y], axis=0), rows, axis=0),
        batch,
        other,
    )


def milliseconds(function, *args):
    """What it gives, and how long it takes until all of it is there."""
    before = time.perf_counter()
    result = function(*args)
    for leaf in tree.flatten(result):
        if hasattr(leaf, "block_until_ready"):
            leaf.block_until_ready()  # JAX; TensorFlow on a CPU is done by now
    return result, 1000 * (time.perf_counter() - before)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--preset", default="smollm2_135m_code")
    parser.add_argument("--slots", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    lm = CodeGemmaCausalLM.from_preset(options.preset, dtype="float32")
    engine, found = lm.engine, []
    copy = engine._program("copied", copied)
    _, one = engine.empty(1, options.slots)
    for rows in ROWS:
        _, batch = engine.empty(rows, options.slots)
        times = {"copied": [], "in place": []}
        index = np.array([*range(rows - 1), rows], "int32")
        source, place = np.zeros(1, "int32"), np.array([rows - 1], "int32")
        for _ in range(options.repeats + 1):  # the first one compiles
            _, took = milliseconds(copy, batch, one, index)
            times["copied"].append(took)
            batch, took = milliseconds(engine.put_rows, batch, one, source, place)
            times["in place"].append(took)
        row = {
            "rows": rows,
            "cache_mib": round(engine.cache_bytes(rows, options.slots) / 2**20),
            **{f"{k}_ms": round(statistics.median(v[1:]), 1) for k, v in times.items()},
        }
        found.append(row)
        print(row, flush=True)
    about = {"preset": options.preset, "slots": options.slots}
    record(f"join_row_{keras.backend.backend()}", {**about, "rows": found})


if __name__ == "__main__":
    main()
