"""Wrong but plausible answers: the benchmark's own solutions with one thing changed.

    python tools/mutated_answers.py humaneval mutated.jsonl
    python tools/mutated_answers.py humaneval-infilling-single mutated.jsonl --seed 1

One operator, constant, comparison or name of a like function is exchanged, so that the
program still parses and is another program. A benchmark whose tests pass such an answer
is blind to that mistake. Answers in which nothing can be exchanged are left out.
"""

import argparse
import ast
import json
import random
import re

from codegemma_keras.evals import catalog
from codegemma_keras.evals.data import Data

# Text -> what it is exchanged for. Longest first: `<=` before `<`.
EXCHANGES = {
    " <= ": " < ",
    " >= ": " > ",
    " == ": " != ",
    " != ": " == ",
    " < ": " <= ",
    " > ": " >= ",
    " + ": " - ",
    " - ": " + ",
    " * ": " + ",
    " // ": " * ",
    " / ": " * ",
    " % ": " // ",
    " and ": " or ",
    " or ": " and ",
    " not in ": " in ",
    " in ": " not in ",
    "True": "False",
    "False": "True",
    "min(": "max(",
    "max(": "min(",
    "sum(": "len(",
    "sorted(": "list(",
    "[0]": "[-1]",
    "[-1]": "[0]",
    "[::-1]": "[:]",
    "lower()": "upper()",
    " 0": " 1",
    "(0": "(1",
    " 1": " 2",
    "(1": "(2",
    " 2": " 3",
    "(2": "(3",
    "return ": "return not ",
}
_ANY = re.compile("|".join(re.escape(key) for key in EXCHANGES))


def mutate(task, problem, rng: random.Random) -> str | None:
    """A canonical answer with one exchange; None if there is none that makes sense."""
    answer = task.canonical(problem)
    places = list(_ANY.finditer(answer))
    rng.shuffle(places)
    original = _tree(task.program(problem, answer))
    for place in places:
        changed = answer[: place.start()] + EXCHANGES[place[0]] + answer[place.end() :]
        tree = _tree(task.program(problem, changed))
        if tree is not None and tree != original:
            return changed
    return None


def _tree(program):
    try:
        return ast.dump(ast.parse(program))
    except SyntaxError:
        return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("task")
    parser.add_argument("out")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    task, rng = catalog.make(args.task, "openai", Data()), random.Random(args.seed)
    made = [(problem, mutate(task, problem, rng)) for problem in task.problems]
    with open(args.out, "w", encoding="utf-8") as file:
        for problem, answer in made:
            if answer is not None:
                row = {"task_id": problem.id, "completion": answer}
                file.write(json.dumps(row) + "\n")
    left_out = sum(answer is None for _, answer in made)
    print(f"{len(made) - left_out} answers; {left_out} left out")


if __name__ == "__main__":
    main()
