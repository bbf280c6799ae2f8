"""What is wrong with a request is said before the model is asked, and in one sentence."""

import json

import pytest

from codegemma_keras import evals
from codegemma_keras.evals import babelcode, catalog, comparison
from codegemma_keras.evals.babelcode import task as babelcode_task
from codegemma_keras.evals.data import Data
from codegemma_keras.evals.run import Run, Settings
from codegemma_keras.sandbox import MissingToolchainError
from tests.evals.fake_model import FakeModel


def refused(kind, match, tasks, out, *, limit=2, **options):
    """An evaluation that must fail before the model is asked and anything is written."""
    model = FakeModel(lambda prompt: "The answer is 18.")
    with pytest.raises(kind, match=match):
        evals.evaluate(tasks, model, out, settings=Settings(limit=limit), **options)
    assert model.asked == 0
    assert not out.exists()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("other")
    model = FakeModel(lambda prompt: "The answer is 18.")
    evals.evaluate(["gsm8k"], model, out, settings=Settings(limit=2))
    return out


def test_another_evaluation_that_cannot_be_compared_with(finished, tmp_path):
    out = tmp_path / "out"
    missing = FileNotFoundError, "there is no such folder"
    refused(*missing, ["gsm8k"], out, compared_with=tmp_path / "none")
    missing = (
        FileNotFoundError,
        r"no finished run of humaneval to compare with\. Finish",
    )
    refused(*missing, ["gsm8k", "humaneval"], out, compared_with=finished)
    other = ValueError, "different problems cannot be compared: 3 and 2"
    refused(*other, ["gsm8k"], out, limit=3, compared_with=finished)


def test_a_damaged_evaluation_is_not_compared_with(tmp_path):
    folder = tmp_path / "gsm8k"
    folder.mkdir()
    for text in ("no JSON", "[]", "{}"):
        (folder / "scores.json").write_text(text)
        with pytest.raises(ValueError, match=r"scores\.json is no JSON|is damaged"):
            comparison.check(tmp_path, {"gsm8k": ["GSM8K/0"]})


def test_sources_that_cannot_be_read(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    out = tmp_path / "out"
    missing = tmp_path / "none.jsonl"
    refused(
        FileNotFoundError,
        "no such folder or file",
        ["gsm8k"],
        out,
        trained_on=[str(missing)],
    )
    refused(
        ValueError,
        "neither a folder nor a file",
        ["gsm8k"],
        out,
        trained_on=[str(tmp_path / "notes.txt")],
    )


def put(folder, name):
    folder.mkdir(exist_ok=True)
    row = {"question": "1 + 1?", "answer": "#### 2"}
    (folder / name).write_text(json.dumps(row) + "\n")
    return folder / name


def test_data_that_no_task_reads(tmp_path):
    file = put(tmp_path / "data", "mine.jsonl")
    out = tmp_path / "out"
    named = ValueError, r"no task .* reads 'gsm8k'\. They read gsm8k_shots, gsm8k_test"
    refused(*named, ["gsm8k"], out, data=Data([f"gsm8k={file}"]))
    empty = (
        ValueError,
        r"nothing in this folder was read\. .*read gsm8k_shots, gsm8k_te",
    )
    refused(*empty, ["gsm8k"], out, data=Data([file.parent]))
    # What is read is not refused, by name and by folder.
    put(tmp_path / "data", "gsm8k_test.jsonl")
    for place in (f"gsm8k_test={file}", file.parent):
        data = Data([place])
        assert len(catalog.make("gsm8k", "paper", data).problems) == 1
        data.check_used()


# Compilers

RUST = "Rust needs `rustc`, which is not on PATH. On Debian: apt-get install rustc"


@pytest.fixture
def no_rust(monkeypatch):
    lacking = babelcode_task.lacking

    def without(language):
        return RUST if language == "rust" else lacking(language)

    monkeypatch.setattr(babelcode_task, "lacking", without)


def test_a_language_without_a_compiler_is_left_out(no_rust, tmp_path, capsys):
    tasks = ["babelcode-humaneval-rust", "babelcode-humaneval-python"]
    model = FakeModel(lambda prompt: "    pass")
    found = evals.evaluate(tasks, model, tmp_path, settings=Settings(limit=2))
    assert list(found) == tasks[1:]
    assert model.asked == 2
    said = f"babelcode-humaneval-rust is left out. {RUST}\n"
    assert said in capsys.readouterr().err
    for page in ("report.md", "report.html"):
        text = (tmp_path / page).read_text()
        assert "babelcode-humaneval-rust" in text
        assert "left out. Rust needs `rustc`" in text
    # It stays said where the folder goes on with another task.
    evals.evaluate(["gsm8k"], model, tmp_path, settings=Settings(limit=2))
    assert "left out. Rust needs" in (tmp_path / "report.md").read_text()


def test_without_any_compiler_nothing_is_asked(no_rust, tmp_path):
    refused(
        MissingToolchainError,
        "apt-get install rustc",
        ["babelcode-humaneval-rust"],
        tmp_path / "out",
    )


def test_the_compiler_is_looked_for_in_the_sandbox_s_list(monkeypatch):
    def missing(language):
        raise MissingToolchainError(f"no {language}")

    monkeypatch.setattr(babelcode_task, "toolchain", missing)
    for name in babelcode.NAMES[:8]:
        task = catalog.make(name, "paper", Data())
        assert task.lacking() == f"no {name.rpartition('-')[2]}"
    assert catalog.make("humaneval", "paper", Data()).lacking() is None


# Values and files

BAD = [
    ({"seconds": 0}, r"seconds=0 must be above 0"),
    ({"seconds": -1.5}, r"seconds=-1\.5 must be above 0"),
    ({"seconds": float("nan")}, r"seconds=nan must be above 0"),
    ({"seconds": float("inf")}, r"seconds=inf must be above 0"),
    ({"workers": -1}, r"workers=-1 must be at least 1"),
    ({"workers": 0}, r"workers=0 must be at least 1"),
    ({"memory_mb": 0}, r"memory_mb=0 must be at least 1"),
]


@pytest.mark.parametrize(("values", "said"), BAD)
def test_values_out_of_range(values, said):
    with pytest.raises(ValueError, match=said):
        evals.Judging(**values)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("question.json", b"{", r"question\.json is no JSON.*Name another folder"),
        ("question.json", b"[1]", r"must be a JSON object.*Name another folder"),
        ("question.json", b"\xff\xfe\x00", r"question\.json is no JSON"),
        ("samples.jsonl", b"rubbish\n", r"samples\.jsonl, line 1 is no JSON.*Remove"),
        ("samples.jsonl", b"{}\n", r"line 1 must be a JSON object with task_id, index"),
        ("samples.jsonl", b"\xff\xfe\n", r"samples\.jsonl, line 1 is no JSON"),
        (
            "verdicts.jsonl",
            b'{"task_id": "a", "index": 0}\n',
            r"verdicts\.jsonl, line 1 must .*passed, kind",
        ),
        ("timings.jsonl", b"7\n", r"timings\.jsonl, line 1 must be a JSON object\."),
    ],
)
def test_a_damaged_folder_is_named(tmp_path, name, text, said):
    question = {"task": "gsm8k"}
    Run(tmp_path / "gsm8k", question)
    (tmp_path / "gsm8k" / name).write_bytes(text)
    with pytest.raises(ValueError, match=said):
        Run(tmp_path / "gsm8k", question)
