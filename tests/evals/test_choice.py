"""Choice tasks and MATH from files of their formats."""

import json

import pytest

from codegemma_keras.evals import catalog, run
from codegemma_keras.evals.data import Data

ROWS = {
    "winogrande_validation": [
        {
            "sentence": "The cup fell off the shelf because the _ was loose.",
            "option1": "cup",
            "option2": "shelf",
            "answer": "2",
        }
    ],
    "mmlu_test": [
        {
            "question": " 1 + 1? ",
            "choices": ["1", "2", "3", "4"],
            "answer": 1,
            "subject": "elementary_mathematics",
        }
    ],
    "mmlu_dev": [
        {
            "question": f"{n}?",
            "choices": ["a", "b", "c", "d"],
            "answer": n % 4,
            "subject": "elementary_mathematics" if n < 6 else "anatomy",
        }
        for n in range(12)
    ],
    "hellaswag_validation": [
        {
            "activity_label": "Cooking",
            "ctx_a": "A man [x] cooks.",
            "ctx_b": "he",
            "endings": ["eats [title] soup", "a", "bb", "c"],
            "label": "0",
        }
    ],
    **{
        f"math_{subject}_test": [
            {"problem": "What is $1/2$?", "solution": "It is $\\boxed{\\frac12}$."}
        ]
        for subject in (
            *("algebra", "counting_and_probability", "geometry", "prealgebra"),
            *("intermediate_algebra", "number_theory", "precalculus"),
        )
    },
}


@pytest.fixture
def data(tmp_path):
    for name, rows in ROWS.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text)
    return Data([tmp_path])


def prompt(name, convention, data):
    task = catalog.make(name, convention, data)
    return task.prompt(task.problems[0])


def test_winogrande_scores_what_follows_the_option(data):
    found = prompt("winogrande", "lm-eval", data)
    assert found.contexts == (
        "The cup fell off the shelf because the cup",
        "The cup fell off the shelf because the shelf",
    )
    assert found.continuations == (" was loose.",) * 2
    assert found.gold == 1


def test_mmlu_shows_examples_of_its_subject(data):
    found = prompt("mmlu", "paper", data)
    head = (
        "The following are multiple choice questions (with answers) about elementary "
    )
    assert found.contexts[0].startswith(head + "mathematics.\n\n0?\nA. a\nB. b\n")
    assert found.contexts[0].count("\nAnswer:") == 6
    assert "Answer: B\n\n2?" in found.contexts[0]
    assert found.contexts[0].endswith("\n\n1 + 1?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:")
    assert found.continuations == (" A", " B", " C", " D")
    assert prompt("mmlu", "lm-eval", data).contexts[0].count("Answer:") == 1


def test_hellaswag_is_cleaned(data):
    found = prompt("hellaswag", "lm-eval", data)
    assert found.contexts[0] == "Cooking: A man cooks. He"
    assert found.texts[0] == "eats. soup"


def test_the_best_choice_by_likelihood_and_by_length(data):
    found = prompt("hellaswag", "lm-eval", data)
    values = [-10.0, -2.0, -3.0, -4.0]
    assert run.best(found, values, by_length=False) == 1
    assert run.best(found, values, by_length=True) == 0  # 10 characters


def test_math_is_asked_as_minerva_does_and_judged(data):
    task = catalog.make("math", "paper", data)
    problem = task.problems[0]
    assert len(task.problems) == 7
    text = task.prompt(problem)
    assert text.startswith("Problem:\nFind the domain of the expression")
    assert text.endswith("Problem:\nWhat is $1/2$?\n\nSolution:")
    assert text.count("Problem:") == 5
    assert task.right(problem, task.canonical(problem))
    last = "Final Answer: The final answer is $0.5$. I hope it is correct."
    assert task.right(problem, last)
    assert not task.right(problem, last.replace("0.5", "2"))
    assert not task.right(problem, "")


def test_harnesses_that_measure_code_are_refused(data):
    with pytest.raises(ValueError, match="that harness measures code only"):
        catalog.make("piqa", "openai", data)
