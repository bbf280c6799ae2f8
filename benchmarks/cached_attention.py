"""A step's attention over its cache, in two orders of the cache's axes.

    KERAS_BACKEND=jax python benchmarks/cached_attention.py
    KERAS_BACKEND=tensorflow python benchmarks/cached_attention.py

`[B, K, S, H]` is what the package has, `[B, S, K, H]` what it had. Each time is that of
the attention of all layers for one new token a row, over 512 slots: queries times keys,
softmax, times values. Random numbers; the two results are compared. The bytes are those of
the cache, which must be read once, so bytes over time is the bandwidth that was reached.
"""

import argparse
import datetime
import json

import _models
import keras
import numpy as np
from _data import RESULTS, device
from keras import ops

from codegemma_keras.ops import attend_to_cache

# Name: layers, query heads, key/value heads, head size.
SHAPES = {
    "smollm2_135m_code": (30, 9, 3, 64),
    "2B": (18, 8, 1, 256),
    "7B": (7, 16, 16, 256),  # a quarter of its layers
}
SLOTS = 512


def by_slot(query, key, value, mask):
    """`attend_to_cache` of keys and values `[B, S, K, H]`, as it was before."""
    batch, length, heads, size = query.shape
    query = query * size**-0.5
    query = ops.reshape(query, (batch, length, key.shape[2], -1, size))
    scores = ops.einsum("btkgh,bskh->bktgs", query, key)
    scores = ops.where(mask[:, None, :, None, :], scores, -1e30)
    weights = ops.softmax(scores, axis=-1)
    attended = ops.einsum("bktgs,bskh->btkgh", weights, value)
    return ops.reshape(attended, (batch, length, heads, size))


WAYS = {"BSKH": by_slot, "BKSH": attend_to_cache}


class Layers:
    """The attention of all layers, one after the other, compiled."""

    def __init__(self, attend, caches, query):
        self.query = ops.convert_to_tensor(query)
        self.caches = [[ops.convert_to_tensor(a) for a in pair] for pair in caches]
        mask = ops.convert_to_tensor(np.ones((query.shape[0], 1, SLOTS), bool))

        def run(query, caches):
            for key, value in caches:
                query = attend(query, key, value, mask)
            return query

        if keras.backend.backend() == "jax":
            import jax

            self.run = jax.jit(run)
        else:
            import tensorflow

            self.run = tensorflow.function(run, jit_compile=True)

    def __call__(self):
        self.result = ops.convert_to_numpy(self.run(self.query, self.caches))


def measure(name, batch, repeats):
    """A row of the table."""
    layers, heads, key_heads, size = SHAPES[name]
    rng = np.random.default_rng(0)
    shape = (batch, key_heads, SLOTS, size)
    arrays = [
        [rng.standard_normal(shape, "float32") for _ in range(2)] for _ in range(layers)
    ]
    query = rng.standard_normal((batch, 1, heads, size), "float32")
    moved = [[a.transpose(0, 2, 1, 3).copy() for a in pair] for pair in arrays]
    functions = {
        order: Layers(WAYS[order], caches, query)
        for order, caches in (("BSKH", moved), ("BKSH", arrays))
    }
    seconds = _models.medians(_models.in_turn(functions, repeats))
    one, other = (f.result for f in functions.values())
    np.testing.assert_allclose(one, other, atol=0.05)  # rounding of many layers
    size_bytes = sum(a.nbytes for pair in arrays for a in pair)
    return {
        "shape": name,
        "rows": batch,
        "megabytes": round(size_bytes / 1e6, 1),
        **{f"{order}_ms": round(1000 * s, 2) for order, s in seconds.items()},
        "gigabytes_per_second": round(size_bytes / seconds["BKSH"] / 1e9, 1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    rows = []
    for name in SHAPES:
        for batch in args.rows:
            rows.append(measure(name, batch, args.repeats))
            print(rows[-1], flush=True)
    about = {
        "command": "python benchmarks/cached_attention.py",
        "device": device(),
        "backend": keras.backend.backend(),
        "date": datetime.date.today().isoformat(),
        "slots": SLOTS,
        "bandwidth": round(_models.bandwidth() / 1e9, 1),
        "rows": rows,
    }
    file = RESULTS / f"cached_attention_{keras.backend.backend()}.json"
    file.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
