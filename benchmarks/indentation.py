"""How often `missing_indentation` is right about lines that people wrote.

    python benchmarks/indentation.py

The lines are those of HumanEval's single-line set, and statements of one line in installed
packages. Each is removed, the cursor stands at the beginning of the empty line, and the
rule's white space is compared with that of the line. No model is asked.
"""

import argparse

import infill_ways
from _data import record

from codegemma_keras.decoding.postprocessing import missing_indentation
from codegemma_keras.evals import catalog
from codegemma_keras.evals.data import Data

PACKAGES = "h5py jax keras matplotlib numpy pygments requests rich".split()


def of_humaneval():
    """`(prefix, line, suffix)` of the benchmark's holes, as an editor shows them."""
    task = catalog.make("humaneval-infilling-single", "editor", Data())
    for problem in task.problems:
        hole = task.prompt(problem)
        yield hole.prefix, task.canonical(problem), hole.suffix


def of_packages(count, seed):
    """The same of real files."""
    for prefix, line, suffix, _ in infill_ways.tasks(PACKAGES, count, seed):
        start = prefix.rfind("\n") + 1
        yield prefix[:start], prefix[start:] + line, suffix


def right(cases):
    """`{lines, right, percent}`."""
    found = [
        missing_indentation(prefix, suffix) == line[: len(line) - len(line.lstrip())]
        for prefix, line, suffix in cases
    ]
    percent = round(100 * sum(found) / len(found), 1)
    return {"lines": len(found), "right": sum(found), "percent": percent}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--lines", type=int, default=600, help="of packages")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    record(
        "indentation",
        {
            "humaneval": right(of_humaneval()),
            "packages": right(of_packages(options.lines, options.seed)),
            "names": PACKAGES,
        },
    )


if __name__ == "__main__":
    main()
