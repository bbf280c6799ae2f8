"""25 problems in eight languages, right and wrong: every verdict must be the right one.

    make test-languages
    python benchmarks/sandbox_languages.py [--languages rust go] [--busy]

Each is translated from Python tests (`evals.babelcode`), compiled and run in the sandbox.
The solutions were written by hand and lie in `tests/optional/babelcode/`. `--busy` keeps
twice as many processes busy as there are processors, as on a machine with other work.
A language whose compiler is missing is named, and the rest goes on.
"""

import argparse
import collections
import contextlib
import datetime
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import time

from codegemma_keras import sandbox
from codegemma_keras.evals import babelcode

HERE = pathlib.Path(__file__).parent
DATA = HERE.parent / "tests" / "optional" / "babelcode"
RESULTS = HERE / "results" / "sandbox_languages.json"


def problems() -> dict[str, babelcode.Problem]:
    """The problems by name."""
    space = {}
    exec((DATA / "problems.py").read_text("utf-8"), space)
    rows = [
        {
            "task_id": number,
            "text": text,
            "code": code,
            "test_list": [f"assert {test}" for test in tests],
        }
        for number, (text, code, tests) in enumerate(space["ROWS"])
    ]
    found = map(babelcode.from_mbpp, rows)
    return {problem.name: problem for problem in found}


def solutions(language: str) -> dict[str, tuple[str, str]]:
    """By problem: the right body of the function, and the wrong one."""
    text = (DATA / f"{language}.txt").read_text("utf-8")
    pattern = r"### (\w+)\n(.*?)### wrong: (.*?) => (.*?)\n"
    found = {}
    for name, body, old, new in re.findall(pattern, text, re.DOTALL):
        if body.count(old) < 1:
            raise ValueError(f"{language}, {name}: {old!r} is not there")
        found[name] = (body, body.replace(old, new, 1))
    return found


ENDS = {"csharp": "    }\n", "java": "    }\n", "python": ""}


def answers(language):
    """`(problem, right or wrong, answer)` of each solution."""
    bodies = solutions(language)
    for name, problem in problems().items():
        for right, body in zip((True, False), bodies[name], strict=True):
            ended = babelcode.finished(body + ENDS.get(language, "}\n"), language)
            yield problem, right, babelcode.prompt(problem, language) + ended


def measured(language, workers):
    """Verdicts of a language, and what was wrong with them."""
    cases = list(answers(language))
    started = time.perf_counter()
    programs = [
        (babelcode.program(problem, language, text), language)
        for problem, _, text in cases
    ]
    results = sandbox.execute_all(programs, workers=workers)
    row = {"right": 0, "wrong": 0, "mistakes": []}
    kinds = collections.Counter()
    for (problem, right, _), result in zip(cases, results, strict=True):
        kind, reason = babelcode.verdict(problem, result)
        # A wrong solution is a program all the same.
        if kind == "passed" if right else kind not in ("passed", "syntax"):
            row["right" if right else "wrong"] += 1
        else:
            row["mistakes"].append([problem.name, right, kind, reason])
        if not right:
            kinds[kind] += 1
    row["wrong ones by kind"] = dict(kinds)
    row["seconds"] = round(time.perf_counter() - started, 1)
    return row


@contextlib.contextmanager
def busy(number):
    """Keep so many processes busy."""
    command = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(command) for _ in range(number)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--languages", nargs="+", default=sorted(sandbox.LANGUAGES))
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    args = parser.parse_args()
    missing = sandbox.languages.missing()
    kept = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    rows = kept.get("rows", {})
    others = 2 * os.cpu_count() if args.busy else 0
    mistakes = 0
    with busy(others):
        for language in args.languages:
            if language in missing:
                print(language, "is left out:", missing[language])
                continue
            row = measured(language, args.workers)
            rows.setdefault(language, {})["busy" if args.busy else "alone"] = row
            mistakes += len(row["mistakes"])
            print(language, json.dumps(row), flush=True)
    about = {
        "command": "python benchmarks/sandbox_languages.py; again with --busy",
        "device": f"{os.cpu_count()} {platform.machine()} CPU cores",
        "date": f"{datetime.date.today()}",
        "isolation": sandbox.isolation(),
        "rows": dict(sorted(rows.items())),
    }
    RESULTS.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return 1 if mistakes else 0


if __name__ == "__main__":
    sys.exit(main())
