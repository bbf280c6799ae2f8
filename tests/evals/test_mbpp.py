"""MBPP from a file of its format: prompts, cases, and the sandbox's verdicts."""

import json

import pytest

from codegemma_keras.evals import catalog
from codegemma_keras.evals.data import Data
from codegemma_keras.evals.evaluation import Judging

# Problems of our own in MBPP's format; numbers outside 11 to 510 are not of its test set.
ROWS = [
    {
        "task_id": 11,
        "text": "Write a function to double a number.",
        "code": "def double(n):\r\n  return 2 * n",
        "test_list": ["assert double(2) == 4", "assert double(-1) == -2"],
        "test_setup_code": "",
    },
    {
        "task_id": 12,
        "text": "Write a function to find the depth of a tree.",
        "code": (
            "class Node:\n  def __init__(self, left=None):\n    self.left = left\n"
            "def depth(node):\n  return 0 if node is None else 1 + depth(node.left)"
        ),
        "test_list": ["assert depth(root) == 2"],
        "test_setup_code": "root = Node(Node())",
    },
    {
        "task_id": 13,
        "text": "Write a function to find the mean.",
        "code": "def total(v):\n  return sum(v)\ndef mean(v):\n  return total(v) / len(v)",
        "test_list": ["assert math.isclose(mean([1, 2]), 1.5)"],
        "test_setup_code": "import math",
    },
    {"task_id": 601, "text": "", "code": "", "test_list": []},
]


@pytest.fixture
def data(tmp_path):
    (tmp_path / "mbpp.jsonl").write_text("".join(json.dumps(r) + "\n" for r in ROWS))
    return Data([tmp_path])


def test_prompts_are_those_of_the_harnesses(data):
    task = catalog.make("mbpp", "lm-eval", data)
    assert [p.id for p in task.problems] == ["MBPP/11", "MBPP/12", "MBPP/13"]
    prompt = task.prompt(task.problems[0])
    assert prompt.count("You are an expert Python programmer") == 4
    assert prompt.startswith(
        "You are an expert Python programmer, and here is your task: Write a function to "
        "find the similar elements from the given two tuple lists. Your code should pass "
        "these tests:\n\nassert similar_elements((3, 4, 5, 6),(5, 7, 4, 10)) == (4, 5)\n"
    )
    assert prompt.endswith(
        "Write a function to double a number. Your code should pass these tests:\n\n"
        "assert double(2) == 4\nassert double(-1) == -2\n[BEGIN]\n"
    )
    bigcode = catalog.make("mbpp", "bigcode", data)
    assert bigcode.prompt(bigcode.problems[0]) == (
        '"""\nWrite a function to double a number.\nassert double(2) == 4\n"""\n'
    )


def test_right_and_wrong_programs(data):
    task = catalog.make("mbpp", "paper", data)
    first, second, third = task.problems
    answers = [
        *((problem, task.canonical(problem), True) for problem in task.problems),
        (first, "def double(n):\n  return 2 + n", False),
        (first, "Sure:\n```python\ndef double(n):\n    return n + n\n```\nDone.", True),
        (second, task.canonical(second).replace("1 +", "2 +"), False),
        (second, "import os\nos._exit(0)", False),
        (third, "def mean(v):\n  return 1", False),
        (third, "", False),
    ]
    cases = [
        task.case(p, task.program(p, task.answer(p, text))) for p, text, _ in answers
    ]
    assert [case.names for case in cases[:3]] == [("double",), (), ("mean",)]
    with Judging().opened() as check:
        results = check(cases)
    for (problem, text, right), result in zip(answers, results, strict=True):
        assert result.passed == right, (problem.id, text, result.reason)


def test_answers_that_are_large_or_binary_are_only_wrong(data):
    task = catalog.make("mbpp", "paper", data)
    problem = task.problems[0]
    texts = [
        "def double(n):\n  return 2 * n\n#" + "x" * 1_000_000,
        "import sys\nsys.stdout.buffer.write(bytes(range(256)))\ndef double(n): return 2 * n",
        "\x00\x01\x02",
        "def double(n): return '\ud800'",
        "x = '" + "y" * 1_000_000,
    ]
    with Judging().opened() as check:
        results = check([task.case(problem, text) for text in texts])
    assert [result.passed for result in results] == [True, True, False, False, False]


def test_a_file_of_other_numbers_is_refused(tmp_path):
    (tmp_path / "mbpp.jsonl").write_text(json.dumps(ROWS[-1]) + "\n")
    with pytest.raises(ValueError, match="no problem of the test set"):
        catalog.make("mbpp", "paper", Data([tmp_path]))
