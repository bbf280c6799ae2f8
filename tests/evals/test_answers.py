"""Samples from files: the three formats there and back, and files that are wrong."""

import contextlib
import gzip
import json

import pytest

from codegemma_keras import evals
from codegemma_keras.evals import answers, catalog
from codegemma_keras.evals.data import Data
from codegemma_keras.evals.run import Settings
from codegemma_keras.sandbox import Result

LIMIT = 4


class NothingRuns:
    """In place of the sandbox: a program passes if it holds the word `right`."""

    least = "limits"
    seconds = 1.0

    @contextlib.contextmanager
    def opened(self):
        yield self.check_all

    def check_all(self, cases):
        kinds = ["passed" if "right" in c.program else "exception" for c in cases]
        return [Result(kind, "no", "", 0, "limits") for kind in kinds]


@pytest.fixture
def task():
    return catalog.make("humaneval", "openai", Data())


def evaluate(file, out, limit=LIMIT):
    found = evals.evaluate(
        ["humaneval"],
        None,
        out,
        convention="openai",
        settings=Settings(limit=limit),
        answers=str(file),
        judging=NothingRuns(),
    )
    return found["humaneval"]


def put(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_all_formats_give_the_same_scores(task, tmp_path):
    problems = task.problems[:LIMIT]
    texts = ["    # right\n", "    pass\n", "    # right\n", "    return\n"]
    pairs = list(zip(problems, texts, strict=True))
    human_eval = [{"task_id": p.id, "completion": t} for p, t in pairs]
    evalplus = [{"task_id": p.id, "solution": p.row["prompt"] + t} for p, t in pairs]
    bigcode = [[p.row["prompt"] + t] for p, t in pairs]
    (tmp_path / "b.json").write_text(json.dumps(bigcode))
    files = [
        put(tmp_path / "h.jsonl", human_eval),
        put(tmp_path / "e.jsonl", evalplus),
        tmp_path / "b.json",
    ]
    for file in files:
        found = evaluate(file, tmp_path / f"out-{file.name}")
        assert found["scores"]["pass@1"]["right"] == 2
        # What is written is read by the other harnesses: here by ourselves.
        folder = tmp_path / f"out-{file.name}" / "humaneval"
        assert json.loads((folder / "bigcode.json").read_text()) == bigcode
        again = evaluate(folder / "samples.jsonl", tmp_path / f"again-{file.name}")
        assert again["scores"] == found["scores"]


def test_several_samples_a_problem(task, tmp_path):
    rows = [
        {"task_id": p.id, "completion": "    # right\n" if i < 3 else "    pass\n"}
        for i in range(10)
        for p in task.problems[:LIMIT]
    ]
    scores = evaluate(put(tmp_path / "s.jsonl", rows), tmp_path / "out")["scores"]
    assert scores["pass@1"]["percent"] == 30
    assert scores["pass@10"]["percent"] == 100


def one(task_id="HumanEval/0", **fields):
    return {"task_id": task_id, "completion": "", **fields}


ALL = [one(f"HumanEval/{i}") for i in range(LIMIT)]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([one("SingleLineInfilling/HumanEval/0/L0")], "samples of another task"),
        (ALL[:-1], "has no sample for 1 problem, such as 'HumanEval/3'"),
        (ALL[:1], "has no sample for 3 problems, such as 'HumanEval/1'"),
        ([*ALL, one()], "Give every problem the same number of samples"),
        ([*ALL, one()], "1 samples of 'HumanEval/1' but 2 of others"),
        ([{"completion": ""}], "sample 1 has no task_id"),
        (
            [{"task_id": "HumanEval/0", "completion": None}, *ALL[1:]],
            "has no text under",
        ),
        ([*ALL[:3], {"task_id": "HumanEval/3"}], "has no text under"),
    ],
)
def test_wrong_files(task, tmp_path, rows, said):
    with pytest.raises(ValueError, match=said):
        answers.read(str(put(tmp_path / "s.jsonl", rows)), task, task.problems[:LIMIT])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": [1]}', "a list with a list of programs"),
        ("[[]]", "a list with a list of programs"),
        ('[["a"]]', "programs for 1 problems, and humaneval has 4"),
        ('[["a"], ["b"], ["c"], ["d", "e"]]', "not the same number"),
        ("no JSON", r"b\.json is no JSON"),
        ("[" * 100_000, r"b\.json is no JSON"),
    ],
)
def test_wrong_lists(task, tmp_path, text, said):
    (tmp_path / "b.json").write_text(text)
    with pytest.raises(ValueError, match=said):
        answers.read(str(tmp_path / "b.json"), task, task.problems[:LIMIT])


def test_files_that_are_no_json(task, tmp_path):
    (tmp_path / "s.jsonl").write_bytes(b'{"task_id": "HumanEval/0"}\nrubbish\n')
    with pytest.raises(ValueError, match=r"line 2 is no JSON"):
        answers.read(str(tmp_path / "s.jsonl"), task, task.problems)
    (tmp_path / "s.jsonl").write_bytes(b"\xff\xfe\x00binary")
    with pytest.raises(ValueError, match="is not text in UTF-8"):
        answers.read(str(tmp_path / "s.jsonl"), task, task.problems)
    (tmp_path / "b.json").write_bytes(b"\xff\xfe\x00binary")
    with pytest.raises(ValueError, match=r"b\.json is no JSON"):
        answers.read(str(tmp_path / "b.json"), task, task.problems)
    (tmp_path / "s.jsonl.gz").write_bytes(gzip.compress(b"{}\n" * 99)[:-4])
    with pytest.raises(ValueError, match="no whole gzip file"):
        answers.read(str(tmp_path / "s.jsonl.gz"), task, task.problems)
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        answers.describe(str(tmp_path / "none.jsonl"))
