"""BabelCode's tasks as the others see them: what is looked for, and their limits."""

import dataclasses
import json

import pytest

from codegemma_keras import evals
from codegemma_keras.evals import catalog, contamination
from codegemma_keras.evals.babelcode import task as babelcode_task
from codegemma_keras.evals.data import Data
from codegemma_keras.evals.run import Settings
from codegemma_keras.sandbox import LANGUAGES, Result
from tests.evals.fake_model import FakeModel

RUST = "babelcode-humaneval-rust"
DONE = Result("passed", "passed", "", 0.0, "bubblewrap")


def test_humanevals_own_solutions_are_found(tmp_path):
    """Once they were not looked for, and the report said that there were none."""
    humaneval = catalog.make("humaneval", "paper", Data())
    with open(tmp_path / "trained.jsonl", "w") as file:
        for problem in humaneval.problems[:20]:
            text = humaneval.program(problem, humaneval.canonical(problem))
            file.write(json.dumps({"text": text, "path": "a.py", "repo": "r"}) + "\n")
    tasks = [humaneval, catalog.make(RUST, "paper", Data())]
    found, _ = contamination.find(tasks, [tmp_path / "trained.jsonl"])
    asked = {problem.id for problem in tasks[1].problems[:15]}
    theirs = {problem for task, problem in found if task == RUST}
    assert len(asked & theirs) >= 14
    assert theirs == {p for t, p in found if t == "humaneval"} & {
        problem.id for problem in tasks[1].problems
    }


def test_the_size_is_that_of_the_shipped_set():
    task = catalog.make(RUST, "paper", Data())
    assert task.size == len(task.problems) == 149


@pytest.mark.parametrize(("asked", "seconds"), [(None, 15.0), (3.0, 3.0)])
def test_seconds_are_those_of_the_question(monkeypatch, tmp_path, asked, seconds):
    """They had no effect, and the question recorded them all the same."""
    used = []

    def judged(cases, limits, **how):
        used.append(limits)
        return [dataclasses.replace(DONE) for _ in cases]

    monkeypatch.setattr(babelcode_task.babelcode, "judge_all", judged)
    model = FakeModel(lambda prompt: "")
    judging = evals.Judging(seconds=asked)
    settings = Settings(limit=2)
    name = "babelcode-humaneval-python"
    evals.evaluate([name], model, tmp_path, settings=settings, judging=judging)
    [limits] = used
    assert limits == dataclasses.replace(LANGUAGES["python"].limits, seconds=seconds)
    question = json.loads((tmp_path / name / "question.json").read_text())
    assert question["seconds"] == seconds
