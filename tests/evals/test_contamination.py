"""Contamination: planted problems are found in sources and in finished datasets."""

import pytest

from codegemma_keras.data.pipeline.build import build
from codegemma_keras.data.pipeline.settings import Settings
from codegemma_keras.data.rows.fim_split import FimSettings
from codegemma_keras.evals import catalog, contamination
from codegemma_keras.evals.data import Data
from tests.small_vocabulary import small_vocabulary, source


@pytest.fixture(scope="module")
def task():
    return catalog.make("humaneval", "paper", Data())


@pytest.fixture(scope="module")
def repository(task, tmp_path_factory):
    """Two files, one of which holds HumanEval/2 under other names and HumanEval/4."""
    folder = tmp_path_factory.mktemp("repository")
    (folder / "clean.py").write_text(source())
    planted = [
        task.program(problem, task.canonical(problem))
        for problem in (task.problems[2], task.problems[4])
    ]
    (folder / "planted.py").write_text("\n\n".join(planted).replace("numbers", "xs"))
    return folder


def names(found):
    return {problem for _, problem in found}


def test_in_a_folder(task, repository):
    found, documents = contamination.find([task], [repository])
    assert documents == 2
    assert names(found) == {"HumanEval/2", "HumanEval/4"}
    [place, *_] = found["humaneval", "HumanEval/4"]
    assert "planted.py (" in place


def test_in_a_finished_dataset(task, repository, tmp_path):
    vocabulary = tmp_path / "tokenizer.model"
    vocabulary.write_bytes(small_vocabulary())
    settings = Settings(
        length=4096,
        licences=None,
        languages=("python",),
        fim=FimSettings(rate=0.9, seed=3),
    )
    build([repository], tmp_path / "out", str(vocabulary), settings)
    found, documents = contamination.find([task], [tmp_path / "out"])
    assert documents >= 2
    assert names(found) == {"HumanEval/2", "HumanEval/4"}


def test_the_score_without_them(task, repository):
    found, documents = contamination.find([task], [repository])
    counts = {
        problem.id: (1, problem.id.endswith("4")) for problem in task.problems[:10]
    }
    about = contamination.about(task, counts, found, documents, [repository])
    assert list(about["problems"]) == ["HumanEval/2", "HumanEval/4"]
    assert (about["without"]["right"], about["without"]["of"]) == (0, 8)


def test_holes_of_one_program_are_found_together(repository):
    light = catalog.make("humaneval-infilling-light", "paper", Data())
    found, _ = contamination.find([light], [repository])
    assert names(found) == {
        "RandomSpanInfillingLight/HumanEval/2/1",
        "RandomSpanInfillingLight/HumanEval/4/1",
    }
