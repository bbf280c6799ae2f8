"""Problems of HumanEval and MBPP, with the types that their tests show."""

import ast
import dataclasses
import inspect

from codegemma_keras.evals.babelcode.cases import Case, cases_of
from codegemma_keras.evals.babelcode.types import (
    Type,
    UntranslatableError,
    settled,
    together,
)


@dataclasses.dataclass(frozen=True)
class Problem:
    """A function to be written, whatever the language.

    Attributes:
        task_id: str, that of the set.
        name: str, the function's in Python.
        text: str, what it is to do.
        parameters: of `(name, Type)`.
        returns: a `Type`.
        cases: of `Case`.
        skipped: int, assertions of the Python tests that have no counterpart.
    """

    task_id: str
    name: str
    text: str
    parameters: tuple[tuple[str, Type], ...]
    returns: Type
    cases: tuple[Case, ...]
    skipped: int


def from_humaneval(row: dict) -> Problem:
    """The problem of a row of HumanEval: `task_id`, `prompt`, `entry_point`, `test`.

    Raises:
        UntranslatableError: its types or tests have no counterpart in other languages.
    """
    tree = ast.parse(row["prompt"] + "    pass\n")
    [function] = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name == row["entry_point"]
    ]
    text = ast.get_docstring(function) or ""
    # In the test, the function is called `candidate`.
    return _problem(row["task_id"], function, text, row["test"], "candidate")


def from_mbpp(row: dict) -> Problem:
    """The problem of a row of MBPP: `task_id`, `text` or `prompt`, `code`, `test_list`.

    Raises:
        UntranslatableError: its types or tests have no counterpart in other languages.
    """
    tests = "\n".join(row["test_list"])
    defined = {
        node.name: node
        for node in ast.parse(row["code"]).body
        if isinstance(node, ast.FunctionDef)
    }
    called = [
        node.func.id
        for node in ast.walk(ast.parse(tests))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    function = next((defined[name] for name in called if name in defined), None)
    if function is None:
        raise UntranslatableError("the tests call no function of the solution")
    text = row.get("text") or row["prompt"]
    return _problem(f"MBPP/{row['task_id']}", function, text, tests, function.name)


def _problem(task_id, function, text, tests, called):
    cases, skipped = cases_of(tests, called)
    if not cases:
        raise UntranslatableError("no test is a call with a value that it must give")
    if len({len(case.arguments) for case in cases}) > 1:
        raise UntranslatableError("calls with different numbers of arguments")
    names = [argument.arg for argument in function.args.args]
    given = [
        settled(together(column))
        for column in zip(*(c.arguments for c in cases), strict=True)
    ]
    if len(names) < len(given):
        raise UntranslatableError("any number of arguments")
    parameters = tuple(zip(names, given, strict=False))
    returns = settled(together(case.expected for case in cases))
    text = inspect.cleandoc(text)
    return Problem(
        task_id, function.name, text, parameters, returns, tuple(cases), skipped
    )
