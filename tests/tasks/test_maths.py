"""Problems with steps, and answers compared by what they mean."""

import fractions
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegemma_keras.tasks import answers as evals_maths
from codegemma_keras.tasks import maths, small_functions

ALL = tuple(maths.FAMILIES)


def test_sympy_agrees_with_every_answer():
    problems = maths.problems(ALL, 20 * len(ALL))
    answers = [p.messages()[1]["content"] for p in problems]
    table = evals_maths.exact_match(answers, problems)
    assert set(table) == set(ALL)
    assert all(row["exact_match"] == 1 for row in table.values())
    wrong = [re.sub(r"Answer: (\d+)", r"Answer: 1\1", a) for a in answers]
    table = evals_maths.exact_match(wrong, problems)
    assert all(row["right"] == 0 for row in table.values())


def test_every_line_of_the_steps_is_true():
    problems = maths.problems(ALL, 20 * len(ALL), seed=3)
    checked = 0
    for line in "\n".join(p.steps for p in problems).splitlines():
        if "x" not in line and "=" in line:
            left, right = line.split("=")
            assert evals_maths.value(left) == evals_maths.value(right), line
            checked += 1
    assert checked > 200


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_columns_give_the_digits(a, b):
    def read(steps):
        *lower, top = re.findall(r"=(\d+)", steps)
        return int(top + "".join(total[-1] for total in reversed(lower)))

    assert read(maths.add_steps(a, b)) == a + b
    assert read(maths.subtract_steps(max(a, b), min(a, b))) == abs(a - b)


def test_held_out_numbers_are_not_trained_on():
    def numbers(problem):
        found = [int(n) for n in re.findall(r"\d+", problem.equation)]
        return tuple(sorted([*found, problem.answer]))

    train = {numbers(p) for p in maths.problems(ALL, 900)}
    held_out = {numbers(p) for p in maths.problems(ALL, 180, held_out=True)}
    assert len(held_out) > 100
    assert not train & held_out


def test_problems_are_distinct_and_repeat():
    first, again = (maths.problems(ALL, 300, seed=5) for _ in range(2))
    assert first == again
    assert len({p.question for p in first}) == 300
    with pytest.raises(ValueError, match="must be one of"):
        maths.generate("magic", np.random.default_rng(0))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so x = 3\nAnswer: 28", "28"),
        ("Answer: 1\nno,\nAnswer: x = 28.", "28"),
        ("It is 7 and then 1,234.", "1234"),
        ("#### 72", "72"),
        ("Answer: $5", "5"),
        ("nothing", ""),
    ],
)
def test_answer_of(text, answer):
    assert evals_maths.answer_of(text) == answer


@pytest.mark.parametrize("answer", ["28", "28.0", "56/2", "(20 + 8)", "-(-28)", " 28 "])
def test_equal_answers(answer):
    assert evals_maths.solves(answer, "x + 2 - 30")


@pytest.mark.parametrize(
    "answer",
    ["", "29", "28 28", "x", "1/0", "9**9**9", "((((", "__import__('os')", "28" * 100],
)
def test_what_is_no_answer(answer):
    assert not evals_maths.solves(answer, "x + 2 - 30")


def test_values_are_exact():
    assert evals_maths.value("0.1 + 0.2") == fractions.Fraction(3, 10)
    with pytest.raises(ValueError, match="expression in x"):
        evals_maths.solves("1", "x = 1")


def test_no_family_is_refused():
    for make in (
        lambda: maths.problems((), 3),
        lambda: small_functions.tasks(3, families=()),
    ):
        with pytest.raises(ValueError, match=r"families=\(\): name some of"):
            make()
    with pytest.raises(ValueError, match=r"count=5000: .* at most 3906"):
        small_functions.tasks(5000)
