"""HumanEval: write a function from its signature and docstring (Chen et al. 2021).

164 problems. An answer goes on from the prompt, and the benchmark's `check` judges the
function. Source: openai/human-eval.
"""

import dataclasses
import functools
from collections.abc import Callable

from codegemma_keras.data.clean import decontaminate
from codegemma_keras.evals import data
from codegemma_keras.evals.task import (
    Case,
    Hole,
    Problem,
    Prompt,
    Task,
    choose_convention,
)

SOURCE = data.Source(
    "HumanEval",
    keys=("task_id", "prompt", "canonical_solution", "test", "entry_point"),
    page="https://github.com/openai/human-eval",
    hub=("openai/openai_humaneval", "openai_humaneval", "test"),
)
# Of Codex's report; lm-evaluation-harness uses the same.
STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
BIGCODE_STOPS = (
    *("\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```"),
    "<file_sep>",
)


@dataclasses.dataclass(frozen=True)
class Convention:
    """How one harness asks HumanEval."""

    prompt: Callable[[str], Prompt] = str  # of the benchmark's text
    stops: tuple[str, ...] = STOPS
    strip: bool = False  # white space around the prompt
    max_new_tokens: int = 512
    max_tokens: int | None = None  # prompt and answer together
    notes: tuple[str, ...] = ()


_FREE = (
    "No stops or limit are prescribed. Chosen: the stops of Codex's report, 512 tokens."
)
CONVENTIONS = {
    "paper": Convention(
        notes=(
            "CodeGemma's report states neither stops nor sampling; its percentages are "
            "multiples of 1/164, so one greedy sample a problem. Chosen: the stops of "
            "Codex's report, 512 tokens.",
        )
    ),
    "openai": Convention(notes=(_FREE,)),
    "bigcode": Convention(stops=BIGCODE_STOPS, strip=True, max_tokens=512),
    "lm-eval": Convention(max_new_tokens=1024),
    "editor": Convention(
        prompt=functools.partial(Hole, suffix="", as_typed=True),
        stops=(),
        notes=(
            "Asked as by an editor at the end of the prompt, with complete(prompt, "
            "tidy=True): the answer ends with the function's block.",
        ),
    ),
}


def make(name: str, convention: str, rows: data.Data) -> Task:
    """The task `humaneval`."""
    how = choose_convention(name, convention, CONVENTIONS)
    problems = [Problem(row["task_id"], row) for row in rows.rows(SOURCE)]

    def head(problem):
        text = problem.row["prompt"]
        return text.strip() if how.strip else text

    def program(problem, answer):
        return head(problem) + answer

    def case(problem, program):
        right = problem.row["prompt"] + problem.row["canonical_solution"]
        return function_case(problem.row, program, right)

    return Task(
        name=name,
        convention=convention,
        problems=problems,
        prompt=lambda problem: how.prompt(head(problem)),
        max_new_tokens=how.max_new_tokens,
        max_tokens=how.max_tokens,
        stop_strings=how.stops,
        program=program,
        case=case,
        canonical=lambda problem: canonical(problem, how.strip),
        message=lambda problem: (
            "Complete this function. Answer with the whole function in one code block.\n\n"
            f"```python\n{problem.row['prompt']}```"
        ),
        message_program=whole_function,
        probe=lambda problem: decontaminate.task_of(problem.row, problem.id),
        size=164,
        notes=how.notes,
    )


def canonical(problem: Problem, stripped: bool) -> str:
    """The benchmark's solution; after a stripped prompt it brings the line end along."""
    text = problem.row["prompt"]
    return text[len(text.rstrip()) :] * stripped + problem.row["canonical_solution"]


def whole_function(problem: Problem, answer: str) -> str:
    """The program of an answer that may repeat the function's head, or go on from it."""
    prompt = problem.row["prompt"]
    if f"def {problem.row['entry_point']}(" in answer:
        return f"{prompt}    pass\n\n\n{answer}"  # the later definition counts
    return prompt + answer


def function_case(row, program: str, helpers: str) -> Case:
    """The case of a program that must hold the function `row["entry_point"]`.

    Args:
        row: a problem with `test`, which defines `check(candidate)`.
        program: with the answer in it.
        helpers: the right program: tests may call its other functions.
    """
    name = row["entry_point"]
    return Case(program, f"{row['test']}\ncheck({name})\n", (name,), helpers)
