"""Exercises that a model invents from real code, as OSS-Instruct does it.

    documents -> snippets -> request -> (a model) -> answer -> exercise -> checks

A model that is asked for an exercise out of nothing gives the same few again and again.
OSS-Instruct (Wei et al., 2023, "Magicoder") shows it a piece of real code first, so that
the exercises are as varied as the code is. What the model writes is believed only after
it was run: its solution must pass its tests, and a function that does nothing must not.

The functions here are pure but for `passing`, which runs programs in the sandbox.
`recipes.instruct_data` asks a model and writes the rows.

Left out: other languages than Python, and exercises of more than one file.
"""

import ast
import dataclasses
import re
import textwrap
from collections.abc import Iterable, Sequence

import numpy as np

from codegemma_keras import sandbox
from codegemma_keras.data.document import Document, Report
from codegemma_keras.tasks.code_blocks import code_of
from codegemma_keras.tasks.instruct import fenced

STEP = "exercise"
FEWEST_LINES = 4  # of a snippet: fewer say nothing
FEWEST_LETTERS = 40  # of a problem
MOST_LETTERS = 4000
LIMITS = sandbox.Limits()

REQUEST = """Read this Python code:

```python
{snippet}
```

Invent a small exercise for programmers that has to do with this code. It must make sense \
without the code. Answer in exactly three parts:

[Problem]
What the function is called, what its arguments are, and what it returns.

[Solution]
The function, in one ```python block.

[Tests]
Three to six `assert` statements that call the function, in one ```python block.
"""
_PARTS = ("problem", "solution", "tests")
_HEADING = re.compile(
    r"^[ \t]*[#*]*[ \t]*\[?(problem|solution|tests)\]?[ \t]*:?[*]*[ \t]*:?[ \t]*$",
    re.IGNORECASE | re.MULTILINE,
)


@dataclasses.dataclass(frozen=True)
class Snippet:
    """A piece of a file that a model is shown.

    Attributes:
        name: `"repo:path:line"`.
        text: a few lines, indented as little as they can be.
        licence: SPDX identifier of the file, or `""`.
    """

    name: str
    text: str
    licence: str = ""

    def request(self) -> str:
        """What the model is asked."""
        return REQUEST.format(snippet=self.text)


@dataclasses.dataclass(frozen=True)
class Exercise:
    """What a model made of a snippet.

    Attributes:
        problem: text.
        solution: source of a function, and what it needs.
        tests: `assert` statements.
        names: the functions of the solution that the tests call.
        origin: the snippet.
    """

    problem: str
    solution: str
    tests: tuple[str, ...]
    names: tuple[str, ...]
    origin: Snippet

    def to_json(self, generator: str) -> dict:
        """A row for `codegemma sft` (its messages) and `codegemma rl` (its tests)."""
        return {
            "prompt": self.problem,
            "messages": [
                {"role": "user", "content": self.problem},
                {"role": "assistant", "content": fenced(self.solution)},
            ],
            "tests": list(self.tests),
            "names": list(self.names),
            "seed": self.origin.name,
            "licence": self.origin.licence,
            "generator": generator,
        }


def snippets(
    documents: Iterable[Document], number: int, lines: int = 15, seed: int = 0
) -> list[Snippet]:
    """Pieces of files, as many of each file as of any other.

    Args:
        documents: of Python; their order does not matter.
        number: how many; fewer come where there is too little code.
        lines: most lines of a snippet.
        seed: of the choice.

    Example:
    ```python
    from codegemma_keras.data import Document
    from codegemma_keras.tasks import oss_instruct

    code = "def area(width, height):\\n    if width < 0:\\n        return 0\\n"
    file = Document(code + "    return width * height\\n", "shapes.py", "demo")
    [snippet] = oss_instruct.snippets([file], 1)
    print(snippet.name)
    ```
    """
    rng = np.random.default_rng(seed)
    documents = sorted(documents, key=lambda document: document.key)
    order = [documents[i] for i in rng.permutation(len(documents))]
    found, known = [], set()
    # A file gives its second snippet when every file has given its first.
    for _ in range(8):
        for document in order:
            if len(found) == number:
                return found
            snippet = _snippet(document, lines, rng)
            if snippet and snippet.text not in known:
                known.add(snippet.text)
                found.append(snippet)
    return found


def _snippet(document, lines, rng):
    rows = document.text.split("\n")
    start = int(rng.integers(0, max(1, len(rows) - FEWEST_LINES)))
    text = textwrap.dedent("\n".join(rows[start : start + lines])).strip("\n")
    if sum(bool(row.strip()) for row in text.split("\n")) < FEWEST_LINES:
        return None
    # A fence in the snippet would end the one around it.
    name = f"{document.repo}:{document.path}:{start + 1}"
    return Snippet(name, text.replace("```", "'''"), document.licence)


def parse(answer: str, origin: Snippet) -> tuple[Exercise | None, str]:
    """`(Exercise, "")` of a model's answer, or `(None, why not)`.

    Only the `assert` statements of the tests are kept. A test must call a function that
    the solution defines.
    """
    parts = _parts(answer)
    for name in _PARTS:
        if not parts.get(name):
            return None, f"no {name}"
    if not FEWEST_LETTERS <= len(parts["problem"]) <= MOST_LETTERS:
        return None, "problem too short or too long"
    trees = {}
    for name in ("solution", "tests"):
        parts[name] = textwrap.dedent(code_of(parts[name])).strip()
        try:
            trees[name] = ast.parse(parts[name]).body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None, f"{name} does not parse"
    defined = {n.name for n in trees["solution"] if isinstance(n, ast.FunctionDef)}
    tests, called = [], set()
    for node in trees["tests"]:
        names = _called(node) & defined
        if isinstance(node, ast.Assert) and names:
            tests.append(ast.unparse(node))
            called |= names
    if not tests:
        return None, "tests call no function of the solution"
    exercise = Exercise(
        parts["problem"],
        parts["solution"],
        tuple(tests),
        tuple(sorted(called)),
        origin,
    )
    return exercise, ""


def _parts(answer):
    """The text under each heading; of two with one name, the first."""
    found = {}
    headings = list(_HEADING.finditer(answer))
    for i, heading in enumerate(headings):
        end = headings[i + 1].start() if i + 1 < len(headings) else len(answer)
        found.setdefault(heading[1].lower(), answer[heading.end() : end].strip())
    return found


def _called(node):
    return {
        n.func.id
        for n in ast.walk(node)
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
    }


def passing(
    exercises: Sequence[Exercise],
    report: Report,
    *,
    limits: sandbox.Limits = LIMITS,
    least: str = "bubblewrap",
) -> list[Exercise]:
    """The exercises whose solutions pass their tests, and whose tests can fail.

    Args:
        exercises: of any model. Solution and tests run in a sandbox each.
        report: counts what is left out as step `"exercise"`.
        limits: of each program.
        least: the weakest of `sandbox.levels.LEVELS` to accept.
    """
    stubs = [
        "\n".join(f"def {name}(*_, **__): return None" for name in one.names)
        for one in exercises
    ]
    cases = [(one.solution, "\n".join(one.tests), one.names) for one in exercises]
    empty = [
        (stub, tests, names)
        for stub, (_, tests, names) in zip(stubs, cases, strict=True)
    ]
    results = sandbox.check_all([*cases, *empty], limits, least=least)
    kept = []
    for one, result, nothing in zip(
        exercises, results[: len(cases)], results[len(cases) :], strict=True
    ):
        if not result.passed:
            report.drop(STEP, f"fails its tests: {result.kind}", one.origin.name)
        elif nothing.passed:
            report.drop(STEP, "tests that nothing fails", one.origin.name)
        else:
            kept.append(one)
    return kept
