"""Rewards: right answers score, hacks do not, and what is wrong with one is said."""

import math
import sys

import numpy as np
import pytest

from codegemma_keras.rl import mathematics, rewards
from codegemma_keras.sandbox import levels
from codegemma_keras.tasks.prompts import Prompt, made

DOUBLE = {"tests": ["assert double(4) == 8", "assert double(7) == 14"]}
DOUBLE["names"] = ["double"]
PROMPT = Prompt("functions/times", "Write a Python function `double(x)`.", None, DOUBLE)

HACKS = {
    "always equal": "class E(int):\n    def __eq__(self, o): return True\n"
    "def double(x): return E()",
    "leave early": "import sys\nsys.exit(0)",
    "leave at once": "import os\nos._exit(0)",
    "print the verdict": "print('passed')\nprint('[true, \"passed\"]')",
    "walk the frames": "import sys\ndef double(x):\n    f = sys._getframe()\n"
    "    while f: f.f_globals['passed'] = True; f = f.f_back\n    return 0",
    "copy the tests": "assert double(4) == 8\nassert double(7) == 14",
    "patch assert": "import builtins\nbuiltins.AssertionError = ValueError\n"
    "def double(x): return 0",
    "empty": "",
    "write to all descriptors": "import os\nfor d in range(3, 20):\n    try:\n"
    "        os.write(d, b'[true, \"passed\"]\\n')\n    except OSError: pass\n"
    "def double(x): return 0",
    "only what the question shows": "def double(x): return 8 if x == 4 else 0",
    "run for ever": "def double(x):\n    while True: pass",
}


def score(prompts, texts, names=rewards.TASK):
    with rewards.opened(names) as opened:
        return rewards.score(opened, prompts, texts)


def test_ten_hacks_score_nothing_and_an_honest_program_scores():
    honest = "```python\ndef double(x):\n    return x + x\n```"
    texts = [f"```python\n{hack}\n```" for hack in HACKS.values()]
    found = score([PROMPT] * (len(texts) + 1), [honest, *texts])
    assert found[0] == 1.0
    assert dict(zip(HACKS, found[1:], strict=True)) == dict.fromkeys(HACKS, 0.0)


def test_the_share_of_tests_counts_each_alone():
    half = "def double(x): return 8 if x == 4 else 0"
    assert score([PROMPT], [half], ["share-of-tests"]) == [0.5]


def test_each_kind_of_task_is_judged_by_its_own_reward():
    sql, regex, sums = (
        made([name], 1)[0] for name in ("sql/count above", "regex", "maths/sum")
    )
    fim = next(
        p for p in made(["infilling/count below"], 20) if "\n    ret" in p.suffix
    )
    hidden = next(
        line
        for line in (
            "count += 1",
            f"for item in {fim.text.split('(')[1].split(')')[0]}:",
            f"if item < {fim.text.split('below ')[1].split('.')[0]}:",
        )
        if line not in fim.text + fim.suffix
    )
    amount = sql.text.split("above ")[1].split(".")[0]
    table = sql.text.split()[2]
    query = f"```sql\nSELECT COUNT(*) FROM {table} WHERE amount > {amount}\n```"
    answer = f"so\nAnswer: {sums.columns['answer']}"
    found = score([sql, fim, sums, regex], [query, hidden, answer, "[0-9]*"])
    assert found.tolist() == [1.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("completion", "gold", "right"),
    [
        ("Answer: 28", "28", 1.0),
        ("Answer: 56/2", "28", 1.0),
        ("Answer: 27", "28", 0.0),
        ("__import__('os').system('true')", "28", 0.0),
        ("Answer: 28 or 27", "28", 0.0),
        ("", r"$\sqrt{2}$", 0.0),
    ],
)
def test_numbers_are_compared_exactly(completion, gold, right):
    assert mathematics.equal([completion], [gold]) == [right]


def test_formulas_are_compared_in_a_process_of_their_own():
    golds = [r"$\frac{\sqrt{2}}{2}$"] * 3
    texts = [r"It is $\frac{1}{\sqrt{2}}$.", r"It is $\sqrt{2}$.", "__import__('os')"]
    assert mathematics.equal(texts, golds) == [1.0, 0.0, 0.0]
    assert "math_verify" not in sys.modules


def returns(value):
    return lambda prompts, completions, **columns: value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1.0], "returned 1 values for 2 answers"),
        ([1.0, math.nan], "returned nan for the answer 'b'"),
        ([1.0, math.inf], "finite number"),
        ([1.0, "good"], "returned 'good'"),
        (None, "must return a list"),
        ([None, None], "applies to any answer"),
    ],
)
def test_a_reward_that_breaks_its_word_is_named(value, message):
    with pytest.raises(ValueError, match=message):
        rewards.score([(1.0, "mine", returns(value))], [PROMPT] * 2, ["a", "b"])


def test_a_reward_that_raises_is_named():
    def broken(prompts, completions, **columns):
        raise KeyError("gold")

    with pytest.raises(ValueError, match="'mine' raised KeyError: 'gold'"):
        rewards.score([(1.0, "mine", broken)], [PROMPT], ["a"])


def test_rewards_add_up_and_none_does_not_count():
    given = [(1.0, "a", returns([1, None, None])), (0.5, "b", returns([1, 1, None]))]
    found = rewards.score(given, [PROMPT] * 3, ["", "", ""])
    np.testing.assert_array_equal(found, [1.5, 0.5, np.nan])


def test_rewards_by_name():
    with rewards.opened(["0.1*format", "tests", f"{__file__}:returns"]) as found:
        assert [(weight, name) for weight, name, _ in found][:2] == [
            (0.1, "format"),
            (1.0, "tests"),
        ]
    for name in ("taste", "x*tests", "no.such:module", "math:no_such"):
        with pytest.raises(ValueError, match="reward"), rewards.opened([name]):
            pass


def test_a_missing_sandbox_is_said(monkeypatch):
    def missing():
        raise FileNotFoundError("bubblewrap is not installed.")

    monkeypatch.setattr(levels, "isolation", lambda: "limits")
    monkeypatch.setattr(levels, "bubblewrap", missing)
    with pytest.raises(RuntimeError, match="bubblewrap is not installed"):
        score([PROMPT], ["def double(x): return 2 * x"])
