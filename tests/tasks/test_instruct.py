"""Instruction tasks from functions: what is made, what is dropped, what decides."""

import numpy as np
import pytest

from codegemma_keras import sandbox
from codegemma_keras.data.document import Report
from codegemma_keras.tasks import instruct, small_functions

SOURCE = '''
import math

def gcd(a, b):
    """Return the greatest common divisor of two numbers.

    Works by Euclid's rule.

    >>> gcd(12, 18)
    6
    >>> for n in (3, 7):
    ...     print(gcd(n, 7))
    1
    7
    """
    while b:
        a, b = b, a % b
    return a

def wrong(a):
    """Return one more than the number.

    >>> wrong(1)
    2
    """
    return a

def area(r):
    """Return the area of a circle of radius r.

    >>> round(area(1), 2)
    3.14
    """
    return math.pi * r * r

def silent(a):
    return a

def plain(a):
    """Return the number as it is."""
    return a
'''
PATIENT = sandbox.Limits(seconds=60)


def run_all(programs):
    return sandbox.run_all(programs, PATIENT)


@pytest.fixture(scope="module")
def made():
    report = Report()
    return list(
        instruct.functions([("m.py", SOURCE), ("x.py", "def (")], report)
    ), report


def test_what_is_made_and_what_is_dropped(made):
    tasks, report = made
    assert [t.origin for t in tasks] == ["m.py:gcd", "m.py:wrong"]
    counts = {reason: number for (_, reason), (number, _) in report.counts.items()}
    assert counts == {
        "made": 2,
        "needs other names of its module": 1,
        "no docstring": 1,
        "no doctest": 1,
        "does not parse": 1,
    }


def test_question_and_answer(made):
    (gcd, _), _ = made
    question = gcd.messages()[0]["content"]
    assert question.startswith(
        "Write a Python function `gcd(a, b)`.\nReturn the greatest common divisor of two "
        "numbers.\n\n>>> gcd(12, 18)\n6\n"
    )
    answer = gcd.messages()[1]["content"]
    assert instruct.code_of(answer).strip() == gcd.answer
    assert '"""' not in gcd.answer
    assert ">>>" not in gcd.answer


def test_examples_decide(made):
    tasks, _ = made
    report = Report()
    kept = instruct.keep(tasks, run_all, report)
    assert [t.name for t in kept] == ["gcd"]
    assert report.number("execution", "passed") == 1
    assert report.number("execution", "AssertionError") == 1
    gcd = kept[0]
    answers = {
        "def gcd(a, b):\n    import math\n    return math.gcd(a, b)": True,
        "def gcd(a, b):\n    return 6": False,
        "def other(a, b):\n    return 6": False,
        "": False,
        "def gcd(a, b):\n    return 6\nimport sys; sys.exit(0)": False,
    }
    results = run_all([instruct.program(code, gcd) for code in answers])
    assert [r.passed for r in results] == list(answers.values())


def test_free_names():
    source = "def f(a):\n    import re\n    [b for b in a]\n    return re.sub, g, len"
    assert instruct.free_names(source) == {"g"}


def test_every_small_function_is_right():
    tasks = small_functions.tasks(len(small_functions.FAMILIES) * 3, seed=1)
    assert {t.origin for t in tasks} == set(small_functions.FAMILIES)
    results = run_all([instruct.program(task.answer, task) for task in tasks])
    assert [r.reason for r in results] == ["passed"] * len(tasks)


def test_small_functions_repeat_and_differ():
    first, again, other = (small_functions.tasks(200, seed) for seed in (0, 0, 1))
    assert first == again != other
    assert len({task.name for task in first}) == 200
    with pytest.raises(ValueError, match="not so many names"):
        small_functions.tasks(10_000)
    with pytest.raises(ValueError, match="must be one of"):
        small_functions.generate("magic", np.random.default_rng(0))
