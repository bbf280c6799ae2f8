"""Tasks for reinforcement learning: checked, and never on both sides of the split."""

import gzip
import json

import pytest

from codegemma_keras import fim, sandbox
from codegemma_keras.tasks import programs, prompts, small_functions

NAMES = tuple(prompts.GROUPS)


@pytest.mark.parametrize("group", NAMES)
def test_what_is_held_out_is_never_trained_on(group):
    train = prompts.made([group], 150)
    held_out = prompts.made([group], 150, seed=1, held_out=True)
    assert not {p.key() for p in train} & {p.key() for p in held_out}
    assert {p.family for p in train} == set(prompts.families([group]))
    assert train == prompts.made([group], 150)


def test_no_rule_with_its_numbers_is_on_both_sides():
    """Another name for the same function is not another task."""
    asked = {False: set(), True: set()}
    for held_out in asked:
        for prompt in prompts.made(["functions/times"], 60, held_out=held_out):
            sentence = prompt.text.split("\n")[1]
            asked[held_out].add(int("".join(filter(str.isdigit, sentence))))
    assert asked[False]
    assert asked[True]
    assert not asked[False] & asked[True]


def test_the_tests_of_a_task_are_not_in_its_question():
    for prompt in prompts.made(["functions", "infilling"], 60):
        for test in prompt.columns["tests"]:
            assert test not in prompt.text


def test_the_rules_own_solutions_pass():
    """Of each family, in the sandbox."""
    cases = []
    for prompt in prompts.made(["functions"], len(programs.FUNCTIONS)):
        name = prompt.columns["names"][0]
        _, sentences, expression, *_ = small_functions.FAMILIES[
            prompt.family.split("/")[1]
        ]
        argument = prompt.text.split("(")[1].split(")")[0]
        sentence = prompt.text.split("\n")[1]
        k = next(
            k
            for k in range(100)
            for each in sentences
            if each.format(a=argument, k=k) == sentence
        )
        body = expression.format(a=argument, k=k)
        program = f"def {name}({argument}):\n    return {body}"
        cases.append((program, "\n".join(prompt.columns["tests"]), [name]))
    assert all(result.passed for result in sandbox.check_all(cases))


def test_infilling_prompts_are_those_of_the_model():
    [prompt] = prompts.made(["infilling"], 1)
    assert prompt.parts() == fim.render(prompt.text, prompt.suffix)


def test_gsm8k_and_prompts_with_columns_are_read(tmp_path):
    lines = [
        {"question": "How many?", "answer": "2 + 3 = 5\n#### 1,005"},
        {"prompt": "Double it.", "tests": ["assert f(1) == 2"], "names": ["f"]},
    ]
    file = tmp_path / "gsm8k.jsonl.gz"
    file.write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    first, second = prompts.read(file)
    assert first == prompts.Prompt("gsm8k", "How many?", None, {"answer": "1005"})
    assert second.columns == {"tests": ["assert f(1) == 2"], "names": ["f"]}
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a"}\n{"text": 3}\n')
    with pytest.raises(ValueError, match=r"bad.jsonl, line 2: it has the columns"):
        prompts.read(tmp_path / "bad.jsonl")
