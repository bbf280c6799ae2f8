"""Exercises out of real code: what is shown, what is understood, what is believed."""

import inspect
import textwrap

import pytest

from codegemma_keras import sandbox
from codegemma_keras.data import Document, Report
from codegemma_keras.tasks import oss_instruct
from codegemma_keras.tasks.oss_instruct import Snippet

ORIGIN = Snippet("lib:a.py:3", "x = 1")
PATIENT = sandbox.Limits(seconds=60)
PROBLEM = "Write a function `double(n)` that returns twice the number n."
SOLUTION = "```python\ndef double(n):\n    return 2 * n\n```"
TESTS = "```python\nassert double(2) == 4\nassert double(-1) == -2\n```"


def answer(problem=PROBLEM, solution=SOLUTION, tests=TESTS, style="[{}]"):
    parts = {"Problem": problem, "Solution": solution, "Tests": tests}
    return "\n\n".join(f"{style.format(name)}\n{text}" for name, text in parts.items())


def file(name, lines=40):
    body = "\n".join(f"    {name}_{i} = work({i})" for i in range(lines))
    return Document(f"def {name}():\n{body}\n", f"{name}.py", "lib", "MIT", "python")


def test_snippets_are_pieces_of_every_file():
    files = [file(name) for name in ("a", "b", "c")]
    found = oss_instruct.snippets(files, 6, lines=5, seed=1)
    assert found == oss_instruct.snippets(files[::-1], 6, lines=5, seed=1)
    assert found != oss_instruct.snippets(files, 6, lines=5, seed=2)
    texts = {f"lib:{d.path}": textwrap.dedent(d.text) for d in files}
    assert [s.name.rpartition(":")[0] for s in found[:3]] != ["lib:a.py"] * 3
    for snippet in found:
        assert 4 <= len(snippet.text.split("\n")) <= 5
        source = texts[snippet.name.rpartition(":")[0]]
        assert all(row.strip() in source for row in snippet.text.split("\n"))
        assert snippet.text in snippet.request()
        assert snippet.licence == "MIT"
    names = [snippet.name.rpartition(":")[0] for snippet in found]
    assert all(names.count(name) == 2 for name in texts)


def test_a_snippet_does_not_end_its_fence():
    text = 'def f():\n    """```\n    a\n    b\n    c\n    ```"""\n'
    [snippet] = oss_instruct.snippets([Document(text, "a.py", "lib")], 1)
    assert snippet.request().count("```") == 2 + 2  # its fence, and the two it asks for


@pytest.mark.parametrize("style", ["[{}]", "## {}", "**{}:**", "{}:", "### [{}]"])
def test_answers_in_the_styles_of_models(style):
    exercise, reason = oss_instruct.parse(answer(style=style), ORIGIN)
    assert reason == ""
    assert exercise.problem == PROBLEM
    assert exercise.names == ("double",)
    assert exercise.tests == ("assert double(2) == 4", "assert double(-1) == -2")
    row = exercise.to_json("a-model")
    assert row["messages"][1]["content"] == SOLUTION
    assert row["seed"] == "lib:a.py:3"
    assert row["generator"] == "a-model"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("I cannot do that.", "no problem"),
        (answer(problem=""), "no problem"),
        (answer().partition("[Tests]")[0], "no tests"),
        (answer(problem="Double it."), "problem too short or too long"),
        (answer(solution="def double(n:\n  return"), "solution does not parse"),
        (answer(solution="\0"), "solution does not parse"),
        (answer(tests="```python\nassert double(\n```"), "tests does not parse"),
        (answer(tests="assert 1 == 1"), "tests call no function of the solution"),
        (answer(tests="print(double(2))"), "tests call no function of the solution"),
        (answer(solution="double = 2"), "tests call no function of the solution"),
    ],
)
def test_what_is_no_exercise(text, reason):
    assert oss_instruct.parse(text, ORIGIN) == (None, reason)


def test_only_what_runs_and_can_fail_is_kept():
    report = Report()
    wrong = answer(solution=SOLUTION.replace("2 *", "3 *"))
    empty = answer(tests="assert double(2) != 5\nassert double(3) != 5")
    rude = answer(solution="import os\nos._exit(0)\ndef double(n): return 2 * n")
    made = [
        oss_instruct.parse(text, Snippet(f"lib:a.py:{i}", ""))[0]
        for i, text in enumerate((answer(), wrong, empty, rude))
    ]
    kept = oss_instruct.passing(made, report, limits=PATIENT)
    assert kept == made[:1]
    counts = {reason: n for (_, reason), (n, _) in report.counts.items()}
    assert counts.pop("tests that nothing fails") == 1
    assert counts.pop("fails its tests: wrong answer") == 1
    assert sum(counts.values()) == 1


def test_the_request_names_what_is_parsed():
    request = inspect.cleandoc(ORIGIN.request())
    for heading in ("[Problem]", "[Solution]", "[Tests]"):
        assert heading in request
