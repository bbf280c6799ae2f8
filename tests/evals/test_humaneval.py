"""HumanEval and its holes: sizes, the official files, conventions, canonical programs."""

import pytest

from codegemma_keras.evals import catalog
from codegemma_keras.evals.data import Data
from codegemma_keras.evals.task import Hole, Message, in_chat

SIZES = {
    "humaneval": 164,
    "humaneval-infilling-single": 1033,
    "humaneval-infilling-multi": 5815,
    "humaneval-infilling-random": 1640,
    "humaneval-infilling-light": 164,
}


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_sizes_and_whole_programs(name, size):
    task = catalog.make(name, "paper", Data())
    assert len(task.problems) == size
    for problem in task.problems[::37]:
        program = task.program(problem, task.canonical(problem))
        compile(program, problem.id, "exec")
        case = task.case(problem, program)
        assert case.names == (problem.row["entry_point"],)


def test_an_editor_asks_in_an_empty_line():
    single = "humaneval-infilling-single"
    task, paper = (catalog.make(single, c, Data()) for c in ("editor", "paper"))
    for ours, theirs in zip(task.problems[::97], paper.problems[::97], strict=True):
        asked, plain = task.prompt(ours), paper.prompt(theirs)
        assert asked == Hole(plain.prefix, "\n" + plain.suffix, as_typed=True)
        text = task.canonical(ours)
        assert "\n" not in text
        whole = task.program(ours, text)
        assert whole.rstrip("\n") == paper.program(theirs, f"{text}\n").rstrip("\n")
        compile(whole, ours.id, "exec")
    # In the sets of spans the cursor stands where the span was.
    spans = catalog.make("humaneval-infilling-light", "editor", Data())
    row = spans.problems[0].row
    assert spans.prompt(spans.problems[0]).suffix == row["suffix"]
    assert spans.canonical(spans.problems[0]) == row["canonical_solution"]
    with pytest.raises(ValueError, match="'editor': an editor asks only for"):
        catalog.make("gsm8k", "editor", Data())
    whole = catalog.make("humaneval", "editor", Data())
    problem = whole.problems[0]
    assert whole.prompt(problem) == Hole(problem.row["prompt"], "", as_typed=True)
    compile(whole.program(problem, whole.canonical(problem)), problem.id, "exec")


def test_lines_are_cut_as_in_the_official_file():
    # As in the files of openai/human-eval-infilling.
    single = catalog.make("humaneval-infilling-single", "paper", Data()).problems
    first, second = single[0].row, single[1].row
    assert single[0].id == "SingleLineInfilling/HumanEval/0/L0"
    assert first["canonical_solution"] == "    for idx, elem in enumerate(numbers):\n"
    assert first["prompt"].endswith('"""\n\n')
    assert second["prompt"].endswith("enumerate(numbers):\n")
    assert second["suffix"].startswith("            if idx != idx2:\n")
    multi = catalog.make("humaneval-infilling-multi", "paper", Data()).problems
    assert multi[1].id == "MultiLineInfilling/HumanEval/0/L0_L1"


def test_prompts_by_convention():
    def task(name, convention):
        return catalog.make(name, convention, Data())

    single = "humaneval-infilling-single"
    paper, theirs = task(single, "paper"), task(single, "lm-eval")
    prompt = paper.prompt(paper.problems[1])
    assert isinstance(prompt, Hole)
    assert (paper.max_new_tokens, paper.stop_strings) == (128, ())
    assert theirs.prompt(theirs.problems[1]) == f"{prompt.suffix}\n\n{prompt.prefix}"
    assert (theirs.max_new_tokens, theirs.stop_strings) == (1024, ("\n",))
    row = paper.problems[0].row
    human = task("humaneval", "openai")
    assert human.prompt(human.problems[0]) in row["prompt"]
    stripped = task("humaneval", "bigcode")
    text = stripped.prompt(stripped.problems[0])
    assert text == text.strip()
    assert stripped.max_tokens == 512
    whole = stripped.program(
        stripped.problems[0], stripped.canonical(stripped.problems[0])
    )
    assert (
        whole
        == human.program(human.problems[0], human.canonical(human.problems[0])).lstrip()
    )


def test_conventions_that_a_task_has_not_are_refused():
    with pytest.raises(ValueError, match="bigcode's harness has no task that fills in"):
        catalog.make("humaneval-infilling-single", "bigcode", Data())
    with pytest.raises(ValueError, match="must be one of"):
        catalog.make("humaneval", "mine", Data())


def test_unknown_tasks_name_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'humaneval'"):
        catalog.names(["humanval"])
    assert (
        len(catalog.names(["humaneval-infilling", "humaneval-infilling-single"])) == 2
    )


def test_in_chat_a_whole_function_or_the_rest_of_one_is_taken():
    plain = catalog.make("humaneval", "paper", Data())
    task = in_chat(plain)
    problem = task.problems[0]
    said = task.prompt(problem)
    assert isinstance(said, Message)
    assert problem.row["prompt"] in said.text
    whole = problem.row["prompt"] + task.canonical(problem)
    for text in (whole, task.canonical(problem)):
        answer = task.answer(problem, f"Sure:\n```python\n{text}```\nThat is it.")
        program = task.program(problem, answer)
        space = {}
        exec(program, space)
        assert space["has_close_elements"]([1.0, 1.1], 0.5)
    with pytest.raises(ValueError, match="asked at a cursor"):
        in_chat(catalog.make("humaneval-infilling-light", "paper", Data()))
