"""The whole build over installed permissive Python: speed, memory, cost per stage.

    python benchmarks/data_throughput.py [--tokenizer FILE] [--workers 2]

Three builds: a tenth, a half and all of the packages below and the standard library.
Peak memory is the largest process's. Doubling is judged by processor time, which other
programs on the machine disturb less than the clock; both are given. A plain reader of
the same files in the same run says what input alone costs.
"""

import argparse
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

from _data import package_folder, record, stdlib_folder

TENTH = ("networkx", "keras")
HALF = (*TENTH, "keras_hub", "sympy", "numpy", "jax")
ALL = (*HALF, "tensorflow", "scipy", "STDLIB")
FULL = {"tenth": TENTH, "half": HALF, "all": ALL}
# A fifth of the whole, for a busy machine.
SMALL = {
    "tenth": ("networkx",),
    "half": ("networkx", "keras"),
    "all": ("networkx", "keras", "keras_hub", "numpy"),
}


def folder_of(name):
    return stdlib_folder() if name == "STDLIB" else package_folder(name)


def sources_of(name):
    """A package, or the folders of the standard library without what is installed in it."""
    if name != "STDLIB":
        return [package_folder(name)]
    folders = (p for p in sorted(stdlib_folder().iterdir()) if p.is_dir())
    return [p for p in folders if p.name not in ("site-packages", "__pycache__")]


def python_files(names):
    for name in names:
        folder = folder_of(name)
        for path in sorted(folder.rglob("*.py")):
            if "site-packages" not in path.relative_to(folder).parts:
                yield path


def one_build(names, args):
    """Build in a process of its own; returns what it measured."""
    command = [sys.executable, __file__, "--build", *names]
    command += ["--tokenizer", args.tokenizer, "--workers", str(args.workers)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def build(args):
    from codegemma_keras.data import pipeline
    from codegemma_keras.data.stages import Settings

    settings = Settings(licences=None, languages=("python",), benchmarks=args.benchmark)
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "out"
        sources = [s for name in args.build for s in sources_of(name)]
        start = time.perf_counter()
        report = pipeline.build(
            sources, out, args.tokenizer, settings, workers=args.workers, keep_work=True
        )
        wall = time.perf_counter() - start
        timings = json.loads((out / "work" / "timings.json").read_text())
        about = json.loads((out / "data.json").read_text())
    mine = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    read = report.counts["read", "in"]
    print(
        json.dumps(
            {
                "files": read[0],
                "megabytes": round(read[1] / 1e6, 2),
                "tokens": about["tokens"],
                "rows": about["rows"],
                "padding": about["padding"],
                "seconds": round(wall, 1),
                "cpu_seconds": round(
                    sum(u.ru_utime + u.ru_stime for u in (mine, children)), 1
                ),
                "mb_per_s": round(read[1] / 1e6 / wall, 3),
                "peak_mb_main": mine.ru_maxrss // 1000,
                "peak_mb_worker": children.ru_maxrss // 1000,
                "stages_seconds": timings,
            }
        )
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokenizer", default="code_gemma_tiny_py")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--benchmark", nargs="*", default=())
    parser.add_argument("--small", action="store_true", help="21 MB instead of 107")
    parser.add_argument("--build", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.benchmark = tuple(args.benchmark)
    if args.build:
        build(args)
        return
    start = time.perf_counter()
    sets = SMALL if args.small else FULL
    files = python_files(sets["all"])
    size = sum(len(p.read_bytes().decode("utf-8", "replace")) for p in files)
    plain = time.perf_counter() - start
    runs = {name: one_build(names, args) for name, names in sets.items()}
    peak = {n: max(r["peak_mb_main"], r["peak_mb_worker"]) for n, r in runs.items()}
    growth = runs["all"]["megabytes"] / runs["half"]["megabytes"]
    record(
        "data_throughput",
        {
            "workers": args.workers,
            "sets": {name: list(names) for name, names in sets.items()},
            **runs,
            "plain_reader_mb_per_s": round(size / 1e6 / plain, 1),
            "build_over_plain_reader": round(
                runs["all"]["seconds"] / plain * size / 1e6 / runs["all"]["megabytes"],
                1,
            ),
            "input_growth_half_to_all": round(growth, 2),
            "cpu_growth_half_to_all": round(
                runs["all"]["cpu_seconds"] / runs["half"]["cpu_seconds"], 2
            ),
            "seconds_growth_half_to_all": round(
                runs["all"]["seconds"] / runs["half"]["seconds"], 2
            ),
            "input_growth_tenth_to_all": round(
                runs["all"]["megabytes"] / runs["tenth"]["megabytes"], 2
            ),
            "peak_memory_growth_tenth_to_all": round(peak["all"] / peak["tenth"], 2),
        },
    )


if __name__ == "__main__":
    main()
