"""Time and peak memory of loading a checkpoint: ours beside KerasHub's, in one run.

    python tools/make_checkpoint.py runs/random-2b
    KERAS_BACKEND=jax python benchmarks/load.py runs/random-2b

Each load is a process of its own, the two in turn, after the files were read once so
that both find them in the page cache. Peak memory is the process's largest resident
set, libraries and mapped file pages included; `imported_bytes` of it are there before
loading starts. `cpu_seconds` is what a busy machine disturbs least. The result goes to
benchmarks/results/.
"""

import argparse
import datetime
import glob
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

import _memory

RESULTS = pathlib.Path(__file__).parent / "results"


def load(library, folder, dtype):
    """Load once, in this process; the figures as a dictionary."""
    import keras
    import keras_hub

    from codegemma_keras import CodeGemmaBackbone

    cls = {"ours": CodeGemmaBackbone, "keras_hub": keras_hub.models.GemmaBackbone}
    imported = _memory.peak_bytes()
    start, cpu_start = time.perf_counter(), time.process_time()
    backbone = cls[library].from_preset(folder, dtype=dtype)
    for variable in backbone.variables:
        if hasattr(variable.value, "block_until_ready"):  # JAX works ahead.
            variable.value.block_until_ready()
    seconds = time.perf_counter() - start
    cpu_seconds = time.process_time() - cpu_start
    peak = _memory.peak_bytes()
    # One number from every variable, so that both are seen to have loaded the same.
    check = sum(
        float(keras.ops.sum(keras.ops.abs(v.value[-1]))) for v in backbone.variables
    )
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "peak_bytes": peak,
        "imported_bytes": imported,
        "check": check,
    }


def measure(library, args):
    """Run `load` in a process of its own."""
    command = [sys.executable, __file__, args.folder, "--dtype", args.dtype]
    result = subprocess.run(
        [*command, "--library", library], capture_output=True, text=True
    )
    if result.returncode:
        raise SystemExit(result.stderr)
    return json.loads(result.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--library", choices=("ours", "keras_hub"), help="internal")
    args = parser.parse_args()
    if args.library:
        print(json.dumps(load(args.library, args.folder, args.dtype)))
        return

    files = glob.glob(os.path.join(args.folder, "*.safetensors"))
    checkpoint = sum(os.path.getsize(file) for file in files)
    for file in files:  # Into the page cache.
        with open(file, "rb", buffering=0) as stream:
            while stream.read(1 << 24):
                pass
    runs = {"ours": [], "keras_hub": []}
    for _ in range(args.repeats):
        for library, results in runs.items():
            results.append(measure(library, args))
            print(library, results[-1], flush=True)
    summary = {
        library: {
            "seconds": statistics.median(r["seconds"] for r in results),
            "cpu_seconds": statistics.median(r["cpu_seconds"] for r in results),
            "peak_bytes": max(r["peak_bytes"] for r in results),
            "peak_over_checkpoint": max(r["peak_bytes"] for r in results) / checkpoint,
        }
        for library, results in runs.items()
    }
    if runs["ours"][0]["check"] != runs["keras_hub"][0]["check"]:
        raise SystemExit("The two loaded different weights; no result written.")
    from importlib.metadata import version

    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    report = {
        "date": datetime.date.today().isoformat(),
        "device": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "backend": backend,
        "dtype": args.dtype,
        "checkpoint_bytes": checkpoint,
        "versions": {
            name: version(name) for name in ("keras", "keras-hub", "jax", "tensorflow")
        },
        "summary": summary,
        "runs": runs,
    }
    path = RESULTS / f"load_{backend}.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
