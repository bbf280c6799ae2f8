"""MBPP: write a function from a sentence and its tests (Austin et al. 2021).

974 problems; the test set is numbers 11 to 510, which are 500. The data are not shipped.
Source: google-research/mbpp, CC BY 4.0.
"""

import ast
import dataclasses
import re

from codegemma_keras.data.clean import decontaminate
from codegemma_keras.evals import data
from codegemma_keras.evals.task import (
    Case,
    Problem,
    Task,
    choose_convention,
    few_shot,
)
from codegemma_keras.tasks.code_blocks import code_of

KEYS = ("task_id", "text", "code", "test_list")
SOURCE = data.Source(
    "mbpp",
    KEYS,
    page="https://github.com/google-research/google-research/tree/master/mbpp",
    hub=("google-research-datasets/mbpp", "full", "test"),
    tfds=("mbpp/full", "test"),
)
SHOTS = data.Source("mbpp_shots", KEYS, page="this package")
TEST = range(11, 511)
BIGCODE_STOPS = (
    *("\nclass", "\nassert", '\n"""', "\nprint", "\nif", "\n<|/", "\n```"),
)


@dataclasses.dataclass(frozen=True)
class Convention:
    """How one harness asks MBPP."""

    shots: bool = True
    stops: tuple[str, ...] = ("[DONE]",)
    max_new_tokens: int = 512
    max_tokens: int | None = None
    notes: tuple[str, ...] = ()


CONVENTIONS = {
    "paper": Convention(
        notes=(
            "Gemma's report asks MBPP with 3 examples and scores 500 problems; which "
            "examples and limits, it does not state. Chosen: problems 2 to 4 in the words "
            "of MBPP's own prompt, 512 tokens.",
        )
    ),
    "lm-eval": Convention(
        max_new_tokens=256,
        notes=(
            "lm-evaluation-harness judges what stands between ``` marks of an answer; "
            "here an answer without such marks is judged whole.",
        ),
    ),
    # InCoder's prompt: no examples, and the first test only.
    "bigcode": Convention(False, BIGCODE_STOPS, max_tokens=512),
}


def make(name: str, convention: str, rows: data.Data) -> Task:
    """The task `mbpp`."""
    how = choose_convention(
        name, convention, CONVENTIONS, {"openai": "OpenAI has no harness for MBPP"}
    )
    found = [row for row in rows.rows(SOURCE) if int(row["task_id"]) in TEST]
    if not found:
        raise ValueError(
            "The file of mbpp holds no problem of the test set, whose numbers go from 11 "
            "to 510."
        )
    shots = [f"{question(shot)}{shot['code']}\n[DONE]" for shot in rows.rows(SHOTS)]

    def prompt(problem):
        row = problem.row
        if how.shots:
            return few_shot(shots, question(row))
        return f'"""\n{row["text"]}\n{row["test_list"][0]}\n"""\n'

    return Task(
        name=name,
        convention=convention,
        problems=[Problem(f"MBPP/{row['task_id']}", row) for row in found],
        prompt=prompt,
        max_new_tokens=how.max_new_tokens,
        max_tokens=how.max_tokens,
        stop_strings=how.stops,
        answer=lambda problem, text: code_of(text),
        program=lambda problem, answer: answer,
        case=case,
        canonical=lambda problem: problem.row["code"],
        message=lambda problem: question(problem.row).removesuffix("[BEGIN]\n"),
        probe=lambda problem: decontaminate.task_of(problem.row, problem.id),
        size=len(TEST),
        notes=how.notes,
    )


def question(row) -> str:
    """A problem in the words of MBPP's own prompt, up to where code begins."""
    tests = "\n".join(row["test_list"])
    return (
        f"You are an expert Python programmer, and here is your task: {row['text']} "
        f"Your code should pass these tests:\n\n{tests}\n[BEGIN]\n"
    )


def case(problem: Problem, program: str) -> Case:
    """The case of a program: the functions of the right one that the tests call.

    Tests that make objects of the program's own classes cannot judge it from outside, so
    there the tests run with it (`names` is empty).
    """
    row = problem.row
    setup = row.get("test_setup_code") or row.get("test_imports") or ""
    setup = "\n".join(setup) if isinstance(setup, list) else setup
    tests = "\n".join(row["test_list"])
    used = set(re.findall(r"\w+", f"{setup}\n{tests}"))
    body = ast.parse(row["code"].replace("\r\n", "\n")).body
    classes = {n.name for n in body if isinstance(n, ast.ClassDef)} & used
    functions = [n.name for n in body if isinstance(n, ast.FunctionDef)]
    names = tuple(name for name in functions if name in used)
    if classes or not names:
        return Case(program, f"{setup}\n{tests}\n", ())
    return Case(program, tests, names, helpers=setup)
