"""The tasks by name. A task's module is imported when it is asked for."""

import difflib
import importlib
from collections.abc import Sequence

from codegemma_keras.evals import babelcode
from codegemma_keras.evals.data import Data
from codegemma_keras.evals.task import Task

# Name on the command line -> module of this package, and its function that makes it.
TASKS = {
    "humaneval": "humaneval:make",
    "humaneval-infilling-single": "humaneval_infilling:make",
    "humaneval-infilling-multi": "humaneval_infilling:make",
    "humaneval-infilling-random": "humaneval_infilling:make",
    "humaneval-infilling-light": "humaneval_infilling:make",
    "mbpp": "mbpp:make",
    "gsm8k": "gsm8k:make",
    "math": "competition_math:make",
    "boolq": "choice:make",
    "piqa": "choice:make",
    "hellaswag": "choice:make",
    "arc-easy": "choice:make",
    "arc-challenge": "choice:make",
    "winogrande": "choice:make",
    "mmlu": "choice:make",
    "triviaqa": "choice:make_triviaqa",
    **dict.fromkeys(babelcode.NAMES, "babelcode.task:make"),
}
# A name for several.
GROUPS = {
    "humaneval-infilling": ("humaneval-infilling-single", "humaneval-infilling-multi"),
    "choice": (
        *("boolq", "piqa", "hellaswag", "arc-easy", "arc-challenge", "winogrande"),
        *("mmlu", "triviaqa"),
    ),
    "babelcode-humaneval": babelcode.NAMES[:8],
    "babelcode-mbpp": babelcode.NAMES[8:],
}


def names(asked: Sequence[str]) -> list[str]:
    """The names of single tasks that `asked` stands for, each once.

    Raises:
        ValueError: an unknown name; says which is near.
    """
    found = []
    for name in asked:
        if name not in TASKS and name not in GROUPS:
            near = difflib.get_close_matches(name, [*TASKS, *GROUPS], 1, 0.5)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"There is no task {name!r}.{hint} There are "
                f"{', '.join([*TASKS, *GROUPS])}."
            )
        found += GROUPS.get(name, (name,))
    return list(dict.fromkeys(found))


def make(name: str, convention: str, data: Data) -> Task:
    """A task with its problems.

    Args:
        name: one of `TASKS`.
        convention: one of `task.CONVENTIONS`.
        data: where rows come from.

    Raises:
        ValueError: the task knows no such convention, or the rows are not its own.
        FileNotFoundError: the rows are nowhere.
    """
    module, _, function = TASKS[name].partition(":")
    module = importlib.import_module(f"{__package__}.{module}")
    task = getattr(module, function)(name, convention, data)
    ids = [problem.id for problem in task.problems]
    if len(set(ids)) < len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise ValueError(f"The data of {name} hold the problem {twice!r} twice.")
    return task
