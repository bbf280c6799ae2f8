"""The whole build over installed permissive Python: speed, memory, cost per step.

    python benchmarks/data_throughput.py [ROW ...] [--benchmark HumanEval.jsonl.gz]

Rows, all by default, each written to the results as it is done:

    reader   the same files read and decoded by a plain loop: what input alone costs
    tenth    a build of a tenth of the corpus, two processes
    half     of half
    all      of all
    steps    each step of a build alone, in one process, on a sample

Builds run in processes of their own, with every step on; peak memory is that of the
largest process. What doubling the input costs is given by the clock and by processor
time, which other programs disturb less.
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import _memory
from _data import RESULTS, package_folder, record, stdlib_folder

from codegemma_keras.batches import plan_rows
from codegemma_keras.data.clean import decontaminate, dedup, filters, secrets
from codegemma_keras.data.document import Report
from codegemma_keras.data.order import imports, order
from codegemma_keras.data.pipeline import build as pipeline
from codegemma_keras.data.pipeline import question
from codegemma_keras.data.pipeline.folder import WORK
from codegemma_keras.data.pipeline.settings import Settings
from codegemma_keras.data.read import sources
from codegemma_keras.data.rows import examples, fim_split, storage
from codegemma_keras.tokenizer.codec import PlainCodec

TENTH = ("networkx", "keras_hub")
HALF = (*TENTH, "keras", "sympy", "jax")
ALL = (*HALF, "numpy", "tensorflow", "scipy", "STDLIB")
FULL = {"tenth": TENTH, "half": HALF, "all": ALL}
# A twelfth of each, for a machine that has other things to do.
SMALL = {
    "tenth": ("grain",),
    "half": ("networkx",),
    "all": ("networkx", "keras_hub"),
}
SAMPLE = "networkx"
ROWS = ("reader", *FULL, "steps")


def sources_of(name):
    """A package, or the folders of the standard library without what is installed in it."""
    if name != "STDLIB":
        return [package_folder(name)]
    folders = (p for p in sorted(stdlib_folder().iterdir()) if p.is_dir())
    return [p for p in folders if p.name not in ("site-packages", "__pycache__")]


def settings(benchmarks):
    return Settings(licences=None, languages=("python",), benchmarks=tuple(benchmarks))


def plain_reader(names):
    start, size = time.perf_counter(), 0
    for name in names:
        for folder in sources_of(name):
            for path in sorted(folder.rglob("*.py")):
                data = path.read_bytes()
                data.decode("utf-8", "replace")
                size += len(data)
    seconds = time.perf_counter() - start
    return {
        "megabytes": round(size / 1e6, 2),
        "seconds": round(seconds, 2),
        "mb_per_s": round(size / 1e6 / seconds, 1),
    }


def build(args):
    """One build, in this process; prints what it measured."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "out"
        start = time.perf_counter()
        report = pipeline.build(
            [s for name in args.build for s in sources_of(name)],
            out,
            args.tokenizer,
            settings(args.benchmark),
            workers=args.workers,
            keep_work=True,
        )
        wall = time.perf_counter() - start
        timings = json.loads((out / WORK / "timings.json").read_text())
        about = json.loads((out / "data.json").read_text())
    mine = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    read = report.counts["read", "in"]
    cpu = sum(u.ru_utime + u.ru_stime for u in (mine, children))
    measured = {
        "packages": list(args.build),
        "workers": args.workers,
        "files": read[0],
        "megabytes": round(read[1] / 1e6, 2),
        "documents_trained_on": sum(
            n for (step, _), (n, _) in report.counts.items() if step == "language"
        ),
        "tokens": about["tokens"],
        "rows": about["rows"],
        "padding": about["padding"],
        "seconds": round(wall, 1),
        "cpu_seconds": round(cpu, 1),
        "mb_per_s": round(read[1] / 1e6 / wall, 3),
        "peak_mb_main": _memory.peak_bytes() // 1_000_000,
        "peak_mb_worker": children.ru_maxrss // 1000,
        "stages_seconds": timings,
    }
    print(json.dumps(measured))


def one_build(names, args):
    command = [sys.executable, __file__, "--build", *names]
    command += ["--tokenizer", args.tokenizer, "--workers", str(args.workers)]
    command += ["--benchmark", *map(str, args.benchmark)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


class Clock(dict):
    """`{step: processor seconds}`."""

    def __call__(self, name, function):
        start = time.process_time()
        result = function()
        self[name] = time.process_time() - start
        return result


def clean_steps(clock, args, plan):
    """`(MB read, documents kept)`."""
    report = Report()
    tasks = [t for path in args.benchmark for t in decontaminate.read_tasks(path)]
    index = decontaminate.Index(tasks)
    folder = package_folder(SAMPLE)
    found = clock(
        "read",
        lambda: list(sources.read_folder(folder, report, languages=plan.languages)),
    )
    size = sum(len(d.text.encode()) for d in found) / 1e6
    for name, step in (
        ("filter", lambda d: filters.filter_documents(d, report, licences=None)),
        (
            "decontaminate",
            lambda d: decontaminate.decontaminate_documents(d, report, index),
        ),
        ("secrets", lambda d: secrets.clean_documents(d, report)),
        ("deduplicate", lambda d: dedup.deduplicate(d, report)),
    ):
        found = clock(name, lambda d=found, step=step: list(step(d)))
    return size, found


def order_steps(clock, kept):
    facts = clock(
        "imports",
        lambda: [imports.read_facts(d.text, d.path, d.language) for d in kept],
    )
    paths = clock("order", lambda: order.order_files(facts).paths)
    by_path = {d.path: d for d in kept}
    return [by_path[path] for path in paths]


def token_steps(clock, ordered, codec, plan):
    clock(
        "of it, splits at the syntax tree",
        lambda: [
            fim_split.syntax_split(
                d.text, d.language, fim_split.document_rng(d, plan.fim)
            )
            # 0.8 of all pieces are FIM, half of them so.
            for d in (*ordered[::5], *ordered[1::5])
        ],
    )
    clock("of it, SentencePiece", lambda: [codec.encode(d.text) for d in ordered])
    return clock(
        "FIM and tokens",
        lambda: list(examples.chunk_repository(ordered, codec, plan.fim, plan.length)),
    )


def row_steps(clock, chunks, plan):
    groups = clock(
        "pack",
        lambda: plan_rows([len(c.token_ids) - 1 for c in chunks], plan.length),
    )
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / storage.shard_name(0, 1)
        storage.write_shard(path, [])  # Loads TFDS.
        clock(
            "write shards",
            lambda: storage.write_shard(
                path,
                (
                    storage.stored_row([chunks[i].token_ids for i in row])
                    for row in groups
                ),
            ),
        )


def steps(args):
    """Processor seconds per MB of each step, and its share."""
    plan, clock = settings(args.benchmark), Clock()
    codec = PlainCodec(question.read_proto(args.tokenizer))
    dedup.signature("import " * 99)  # Loads datasketch,
    secrets.find("AKIA")  # and detect-secrets.
    size, kept = clean_steps(clock, args, plan)
    chunks = token_steps(clock, order_steps(clock, kept), codec, plan)
    row_steps(clock, chunks, plan)
    whole = {k: v for k, v in clock.items() if not k.startswith("of it")}
    return {
        "sample": SAMPLE,
        "megabytes": round(size, 2),
        "seconds_per_mb": {k: round(v / size, 4) for k, v in clock.items()},
        "share": {k: round(v / sum(whole.values()), 3) for k, v in whole.items()},
        "slowest": max(whole, key=whole.get),
    }


def compared(rows):
    """What follows from the rows that there are."""
    found = {}
    if {"half", "all"} <= rows.keys():
        half, whole = rows["half"], rows["all"]
        growth = whole["megabytes"] / half["megabytes"]
        found["input_growth_half_to_all"] = round(growth, 2)
        for name in ("seconds", "cpu_seconds"):
            ratio = whole[name] / half[name]
            found[f"{name}_growth_half_to_all"] = round(ratio, 2)
            found[f"{name}_for_twice_the_input"] = round(ratio * 2 / growth, 2)
    if {"tenth", "all"} <= rows.keys():
        tenth, whole = rows["tenth"], rows["all"]
        found["input_growth_tenth_to_all"] = round(
            whole["megabytes"] / tenth["megabytes"], 2
        )
        for name in {"peak_mb_main", "peak_mb_worker"} & tenth.keys():
            found[f"{name}_growth_tenth_to_all"] = round(whole[name] / tenth[name], 2)
    if {"reader", "all"} <= rows.keys():
        found["build_over_plain_reader"] = round(
            rows["reader"]["mb_per_s"] / rows["all"]["mb_per_s"], 1
        )
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {ROWS}")
    parser.add_argument("--tokenizer", default="code_gemma_tiny_py")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--benchmark", nargs="*", default=[], help="to decontaminate")
    parser.add_argument("--small", action="store_true", help="13 MB instead of 150")
    parser.add_argument("--build", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.build:
        build(args)
        return
    sets, result = FULL, "data_throughput"
    if args.small:
        sets, result = SMALL, "data_throughput_small"
    path = RESULTS / f"{result}.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else {}
    for name in args.rows or ROWS:
        load = os.getloadavg()[0]
        if name == "reader":
            rows[name] = plain_reader(sets["all"])
        elif name == "steps":
            rows[name] = steps(args)
        else:
            rows[name] = one_build(sets[name], args)
        # Above 0, other programs were at work, and the clock says little.
        rows[name]["load_average_before"] = round(load, 1)
        record(result, {"rows": rows, **compared(rows)})


if __name__ == "__main__":
    main()
