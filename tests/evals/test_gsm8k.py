"""GSM8K's answers: every gold one is right, written in any way; wrong ones are wrong."""

import fractions
import random

import pytest

from codegemma_keras.evals import catalog, gsm8k
from codegemma_keras.evals.data import Data
from codegemma_keras.tasks import answers


@pytest.fixture(scope="module")
def task():
    return catalog.make("gsm8k", "paper", Data())


WAYS = (
    "#### {n}",
    "So that makes 3 + 4 things.\nThe answer is {n}.",
    "The answer is: ${n}.",
    "The answer is **{n}** dollars.",
    "Thus the answer is \\boxed{{{n}}}.",
    "That is 12 a day, hence the final answer is $\\boxed{{{tex}}}$.",
    "Answer: x = {n}",
    "Answer: {n} kilometres per hour, because 3 x 4 is 12",
    "She pays 7 dollars and keeps {n}",
    "#### {n}.00",
    "The answer is {spaced} people.",
    "The answer is 2 * 0 + {n} = {n}.",
    "#### ${n}",
    "The answer is {n}%",
)


def written(way, number):
    """A number in one of these ways; groups of thousands at times."""
    plain = number.replace(",", "")
    groups = f"{int(plain):,}" if plain.lstrip("-").isdigit() else plain
    return way.format(
        n=groups if len(way) % 2 else plain,
        tex=groups.replace(",", "{,}"),
        spaced=groups.replace(",", "\u202f"),
    )


def test_all_gold_answers_are_right(task):
    assert len(task.problems) == 1319
    assert all(task.right(p, task.canonical(p)) for p in task.problems)
    strict = catalog.make("gsm8k", "lm-eval", Data())
    assert all(strict.right(p, strict.canonical(p)) for p in strict.problems)


def test_a_thousand_reformatted_answers_are_right(task):
    rng = random.Random(0)
    for number in range(1000):
        problem = rng.choice(task.problems)
        text = written(WAYS[number % len(WAYS)], gsm8k.gold(problem))
        assert task.right(problem, text), (text, gsm8k.gold(problem))


def test_a_thousand_wrong_answers_are_wrong(task):
    rng = random.Random(1)
    changes = (
        lambda n: n + 1,
        lambda n: -n if n else 1,
        lambda n: 10 * n if n else 7,
        lambda n: n - 1,
        lambda n: n * 1000 if n else 5,
    )
    for number in range(1000):
        problem = rng.choice(task.problems)
        gold = int(answers.number(gsm8k.gold(problem)))
        wrong = changes[number % len(changes)](gold)
        text = written(WAYS[number % len(WAYS)], str(wrong))
        assert not task.right(problem, text), (text, gold)


@pytest.mark.parametrize(
    "text", ["", "I do not know", "####", "The answer is", "1e", "\x00"]
)
def test_no_answer_is_wrong(task, text):
    assert not task.right(task.problems[1], text)  # its answer is 3


def test_an_answer_of_a_megabyte_is_read_quickly(task):
    assert not task.right(task.problems[0], "#### 1" + "0" * 1_000_000)
    assert task.right(task.problems[0], "1 + " * 250_000 + "\n#### 18")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1/2", "0.5"),
        ("\\frac{1}{2}", "0.5"),
        (".5", "0.5"),
        ("-$1,234.50", "-1234.5"),
        ("−3", "-3"),
        ("5/0", None),
        ("ten", None),
    ],
)
def test_number(text, value):

    assert answers.number(text) == (
        value if value is None else fractions.Fraction(value)
    )
