"""Make an adapter part of `smollm2_135m_code`, all of it or a share.

    python tools/smollm2_keep.py runs/adapter/adapter --scale 0.8

The products `B @ A` are multiplied by `--scale`: less of an adapter has learned less, and
has forgotten less, too. `benchmarks/adapter_bits.py` and `benchmarks/infill_ways.py` have
the same option, to find the share. The rows of control tokens stay as they are. It is
written in float16 into the assets of this package, where the preset finds it.
"""

import argparse
import pathlib

from codegemma_keras.formats import peft, smollm2

LARGEST = 16 * 2**20  # bytes of a file in the repository


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("adapter", help="a folder in PEFT's format")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--out", type=pathlib.Path, default=smollm2.ASSETS)
    options = parser.parse_args()
    print(
        f"{options.out}: {keep(options.adapter, options.out, options.scale) / 1e6:.1f} MB"
    )


def keep(folder, out, scale=1.0) -> int:
    """Write an adapter in float16, small enough for the repository; its bytes."""
    adapter = peft.read(folder)
    adapter.pairs = {
        path: (a.astype("float16"), (scale * b).astype("float16"))
        for path, (a, b) in adapter.pairs.items()
    }
    if adapter.rows is not None:
        adapter.rows = adapter.rows[0], adapter.rows[1].astype("float16")
    peft.write(out, adapter)
    size = (pathlib.Path(out) / peft.WEIGHTS_FILE).stat().st_size
    if size > LARGEST:
        raise ValueError(f"{out} is larger than {LARGEST} bytes: lower --rank.")
    return size


if __name__ == "__main__":
    main()
