"""Write a random checkpoint of full size, in Transformers' format.

For measuring: a file of a real model's size that needs no download and no licence.

    python tools/make_checkpoint.py runs/random-2b

Memory stays at one tensor, disk takes 5 GB for the 2B and 17 GB for the 7B. Left out: a
tokenizer, since random weights have nothing to say.
"""

import argparse
import math
import time

import numpy as np

from codegemma_keras import export, presets
from codegemma_keras.export.model import parameters
from codegemma_keras.formats import weights

ROWS = 4096  # of a matrix drawn at once: 32 MB of float32 at 2B's width


def draw(shape, rng, dtype):
    """Normal numbers of deviation 1 / sqrt(fan-in), in slices to save memory."""
    value = np.empty(shape, weights.numpy_dtype(dtype))
    scale = np.float32(1 / math.sqrt(shape[-1]))
    rows = value.reshape(-1, shape[-1])
    for start in range(0, len(rows), ROWS):
        part = rows[start : start + ROWS]
        part[...] = rng.standard_normal(part.shape, np.float32) * scale
    return value


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    named = [name for name, preset in presets.PRESETS.items() if preset.config]
    parser.add_argument("--preset", choices=named, default="code_gemma_2b_en")
    parser.add_argument("--shard-gb", type=float, default=1.0)
    parser.add_argument(
        "--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    config = {
        **presets.PRESETS[args.preset].config,
        "layer_norm_epsilon": 1e-6,
        "rope_max_wavelength": 10_000.0,
    }
    rng = np.random.default_rng(args.seed)

    def stream():
        for row in weights.table(config["num_layers"]):
            shape = weights.shape_of(row, config)
            matrix = weights.transformers_shape(row.layout, shape)
            value = draw(matrix, rng, args.dtype)
            yield row.keras, weights.from_transformers(value, row.layout, shape)

    model = export.Model(config, args.dtype, stream)
    start = time.perf_counter()
    export.transformers.write(
        model, args.folder, None, args.shard_gb, export.progress(model)
    )
    seconds = time.perf_counter() - start
    print(f"{parameters(model):,} parameters in {args.folder}, {seconds:.0f} s")


if __name__ == "__main__":
    main()
