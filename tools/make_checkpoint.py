"""Write a random checkpoint of full size, in Transformers' format.

For measuring: a file of a real model's size that needs no download and no licence.

    python tools/make_checkpoint.py runs/random-2b

Memory stays at one tensor, disk takes 5 GB for the 2B and 17 GB for the 7B. Left out: a
tokenizer, since random weights have nothing to say.
"""

import argparse
import math
import os
import time

import numpy as np
from rich.progress import track

from codegemma_keras import presets
from codegemma_keras.backbone import CodeGemmaBackbone
from codegemma_keras.formats import transformers as transformers_format
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

    config = presets.PRESETS[args.preset].config
    backbone = weights.build_empty(lambda: CodeGemmaBackbone(**config))
    shapes = transformers_format.tensor_shapes(backbone)
    rng = np.random.default_rng(args.seed)
    progress = iter(track(list(shapes), description="Tensors"))

    def read(name):
        next(progress)
        return draw(shapes[name], rng, args.dtype)

    os.makedirs(args.folder, exist_ok=True)
    start = time.perf_counter()
    transformers_format.write_tensors(
        args.folder,
        transformers_format.from_backbone(backbone, args.dtype),
        shapes,
        read,
        args.shard_gb,
    )
    next(progress, None)  # Lets the bar finish.
    numbers = sum(math.prod(shape) for shape in shapes.values())
    seconds = time.perf_counter() - start
    print(f"{numbers:,} parameters in {args.folder}, {seconds:.0f} s")


if __name__ == "__main__":
    main()
