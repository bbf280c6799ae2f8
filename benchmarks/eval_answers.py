"""Answers whose score is known: canonical, empty and mutated ones of every set.

    python benchmarks/eval_answers.py
    python benchmarks/eval_answers.py --tasks humaneval humaneval-infilling-single

Canonical answers must all pass and empty ones must all fail; mutated ones (see
tools/mutated_answers.py) are caught at the rate at which the tests can tell. Where an
empty answer passes, the hole was not needed: such problems are listed.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import random
import sys
import time

from codegemma_keras.evals import catalog
from codegemma_keras.evals.data import Data
from codegemma_keras.evals.evaluation import Judging
from codegemma_keras.sandbox import isolation

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "eval_answers.json"
sys.path.insert(0, str(ROOT / "tools"))
from mutated_answers import mutate  # noqa: E402

TASKS = (
    "humaneval",
    "humaneval-infilling-single",
    "humaneval-infilling-multi",
    "humaneval-infilling-random",
    "humaneval-infilling-light",
)


def measure(task, kind, judging):
    """How many answers of one kind pass."""
    rng = random.Random(0)
    make = {
        "canonical": task.canonical,
        "empty": lambda problem: "",
        "mutated": lambda problem: mutate(task, problem, rng),
    }[kind]
    answers = [(problem, make(problem)) for problem in task.problems]
    answers = [(problem, answer) for problem, answer in answers if answer is not None]
    cases = [task.case(p, task.program(p, answer)) for p, answer in answers]
    started = time.perf_counter()
    with judging.opened() as check:
        results = check(cases)
    seconds = time.perf_counter() - started
    odd = kind == "canonical"
    return {
        "passed": sum(result.passed for result in results),
        "of": len(results),
        "a_second": round(len(results) / seconds, 1),
        "surprises": [
            f"{problem.id}: {result.reason}"[:200]
            for (problem, _), result in zip(answers, results, strict=True)
            if result.passed != odd and kind != "mutated"
        ],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS)
    parser.add_argument("--kinds", nargs="+", default=("canonical", "empty", "mutated"))
    args = parser.parse_args()
    judging = Judging(seconds=20)
    about = {}
    if RESULTS.exists():
        about = json.loads(RESULTS.read_text())
    rows = about.get("rows", {})
    for name in args.tasks:
        task = catalog.make(name, "openai", Data())
        for kind in args.kinds:
            found = measure(task, kind, judging)
            rows.setdefault(name, {})[kind] = found
            print(
                name, kind, {**found, "surprises": found["surprises"][:3]}, flush=True
            )
            about = {
                "command": "python benchmarks/eval_answers.py",
                "device": f"{os.cpu_count()} {platform.machine()} CPU cores",
                "date": f"{datetime.date.today()}",
                "isolation": isolation(),
                "rows": rows,
            }
            RESULTS.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
