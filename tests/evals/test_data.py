"""Where data come from: what is shipped, what is named, and what is missing."""

import csv
import gzip
import json

import pytest

from codegemma_keras.evals import babelcode, catalog, data
from codegemma_keras.evals.data import Data

SHIPPED = {
    "humaneval",
    "humaneval-infilling-single",
    "humaneval-infilling-multi",
    "humaneval-infilling-random",
    "humaneval-infilling-light",
    "gsm8k",
    *(name for name in babelcode.NAMES if "humaneval" in name),
}


@pytest.mark.parametrize("name", sorted(set(catalog.TASKS) - SHIPPED))
def test_what_is_missing_is_said_with_where_to_get_it(name):
    with pytest.raises(FileNotFoundError, match=r"not shipped.*https://.*--data.*hub"):
        catalog.make(name, "paper", Data())


SOURCE = data.Source("toy", ("a", "b"), "https://example.org")
ROWS = [{"a": "1", "b": "x\ny"}, {"a": "2", "b": "ü"}]


def test_every_kind_of_file(tmp_path):
    import pyarrow
    import pyarrow.parquet

    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    for name, write in {
        "toy.jsonl": lambda p: p.write_text(lines),
        "toy.jsonl.gz": lambda p: p.write_bytes(gzip.compress(lines.encode())),
        "toy.json": lambda p: p.write_text(json.dumps(ROWS)),
        "toy.parquet": lambda p: pyarrow.parquet.write_table(
            pyarrow.Table.from_pylist(ROWS), p
        ),
        "toy.csv": write_csv,
    }.items():
        folder = tmp_path / name
        folder.mkdir()
        write(folder / name)
        assert Data([folder]).rows(SOURCE) == ROWS, name
        assert Data([f"toy={folder / name}"]).rows(SOURCE) == ROWS, name


def write_csv(path):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["a", "b"])
        writer.writeheader()
        writer.writerows(ROWS)


def test_wrong_rows_are_named(tmp_path):
    (tmp_path / "toy.jsonl").write_text('{"a": 1, "b": 2}\n{"a": 1}\n')
    with pytest.raises(ValueError, match=r"row 2 has no b .*Get them from https"):
        Data([tmp_path]).rows(SOURCE)
    (tmp_path / "toy.jsonl").write_text("")
    with pytest.raises(ValueError, match="holds no rows"):
        Data([tmp_path]).rows(SOURCE)
    (tmp_path / "toy.jsonl").write_text("[1]\n")
    with pytest.raises(ValueError, match="one JSON object for each problem"):
        Data([tmp_path]).rows(SOURCE)


def test_places_that_are_none():
    with pytest.raises(FileNotFoundError, match="no folder with benchmark files"):
        Data(["/no/such/place"])


def test_doubled_problems_are_refused(tmp_path):
    rows = Data().rows(data.Source("HumanEval", ("task_id",), ""))
    text = "".join(json.dumps(row) + "\n" for row in [*rows[:3], rows[1]])
    (tmp_path / "HumanEval.jsonl").write_text(text)
    with pytest.raises(ValueError, match="hold the problem 'HumanEval/1' twice"):
        catalog.make("humaneval", "paper", Data([tmp_path]))


def test_the_hub_is_asked_only_if_it_is_named(tmp_path, monkeypatch):
    import huggingface_hub
    import pyarrow.parquet

    row = {"question": "1 + 1?", "answer": {"value": "2", "aliases": ["2", "two"]}}
    asked = []

    def download(repository, path, *, repo_type, revision):
        asked.append((repository, path, repo_type, revision))
        pyarrow.parquet.write_table(
            pyarrow.Table.from_pylist([row]), tmp_path / "p.parquet"
        )
        return str(tmp_path / "p.parquet")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    task = catalog.make("triviaqa", "lm-eval", Data(["hub"]))
    assert asked == [
        (
            *("mandarjoshi/trivia_qa", "rc.nocontext/validation/0000.parquet"),
            *("dataset", "refs/convert/parquet"),
        )
    ]
    assert task.prompt(task.problems[0]) == "Question: 1 + 1??\nAnswer:"
    assert task.right(task.problems[0], " TWO! ")
    assert not task.right(task.problems[0], "three")
