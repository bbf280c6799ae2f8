"""Reports: what they say follows from the folder, and nothing in them can act."""

import dataclasses
import json

import pytest

from codegemma_keras import evals
from codegemma_keras.evals import catalog, paper, report
from codegemma_keras.evals.data import Data
from codegemma_keras.evals.run import Settings
from tests.evals.fake_model import FakeModel

NASTY = "<script>alert(1)</script>\x1b[2J‮| The answer is 18."


def run(folder, answer, **options):
    model = FakeModel(answer)
    evals.evaluate(["gsm8k"], model, folder, settings=Settings(limit=12), **options)
    return (folder / "report.md").read_text(), (folder / "report.html").read_text()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    trained = folder / "trained.jsonl"
    question = json.loads(_gsm8k_row(3))["question"]
    row = {"text": f"# {question}\nx = 1\n", "path": "a.py", "repo": "r"}
    trained.write_text(json.dumps(row) + "\n")
    right = run(folder / "right", lambda prompt: "The answer is 18.")
    both = run(
        folder / "nasty",
        lambda prompt: NASTY,
        trained_on=[str(trained)],
        compared_with=folder / "right",
    )
    return {"folder": folder, "right": right, "nasty": both}


def _gsm8k_row(number):
    import gzip

    from codegemma_keras.evals.data import SHIPPED

    with gzip.open(SHIPPED / "gsm8k_test.jsonl.gz", "rt") as file:
        return file.read().splitlines()[number]


def test_the_table_states_counts_interval_and_convention(pages):
    markdown, _ = pages["right"]
    assert (
        "| gsm8k | paper | fake | accuracy | 1/12 | 8.3 | 1.5 to 35.4 | - |" in markdown
    )
    assert "Only the first 12 of 1,319 problems were asked" in markdown
    assert "Greedy, one sample a problem." in markdown
    assert "| gsm8k | wrong answer | 11 |" in markdown
    assert "keras 3" in markdown


def test_pictures_and_failures_are_on_the_page(pages):
    _, html = pages["right"]
    assert html.count("<svg") == 4
    assert "percent right, by tokens of the prompt" in html
    assert "GSM8K/1: wrong answer" in html


def test_text_of_a_model_cannot_act(pages):
    _, html = pages["nasty"]
    assert "<script>alert" not in html
    assert "\x1b" not in html
    assert "\u202e" not in html
    assert "&lt;script&gt;" in html


def test_contamination_and_the_paired_test_are_said(pages):
    markdown, _ = pages["nasty"]
    assert "gsm8k: 1 of 12 problems stand in 1 documents of trained.jsonl" in markdown
    assert "without them the score is 1/11" in markdown
    assert "1 by both, 11 by neither: no more than chance" in markdown


def test_a_report_can_be_made_again(pages):
    folder = pages["folder"] / "right"
    before = pages["right"]
    (folder / "report.md").unlink()
    report.write(folder)
    assert (folder / "report.md").read_text() == before[0]
    assert (folder / "report.html").read_text() == before[1]


def test_the_papers_column_is_there_for_official_presets():
    assert paper.of(paper.SCORES, "humaneval", "code_gemma_1.1_2b_en") == 37.8
    assert paper.of(paper.SCORES, "gsm8k", "code_gemma_2b_en") is None
    assert paper.of(paper.SCORES, "humaneval", "mine") is None


@pytest.mark.parametrize(
    ("preset", "figure"),
    [
        ("kaggle://keras/codegemma/keras/code_gemma_1.1_2b_en/2", 37.8),
        ("kaggle://keras/codegemma/keras/code_gemma_1.1_2b_en", 37.8),
        ("hf://google/codegemma-1.1-2b", 37.8),
        ("hf://somebody/code_gemma_7b_en", 44.5),
        ("hf://somebody/mine", None),
        ("code_gemma_2b_en with adapters/code_gemma_2b_en", None),
        ("runs/code_gemma_2b_en", None),
        (None, None),
    ],
)
def test_a_handle_is_told_by_its_last_name(preset, figure):
    assert paper.of(paper.SCORES, "humaneval", preset) == figure


def about(**changed):
    run = {"task": "humaneval", "convention": "paper", "preset": "code_gemma_2b_en"}
    return {**run, "problems": 164, **changed}


@pytest.mark.parametrize(
    ("changed", "figure"),
    [
        ({}, 31.1),
        ({"problems": 20}, None),
        ({"convention": "openai"}, None),
        ({"task": "mbpp", "problems": 2}, None),
        ({"task": "mbpp", "problems": 500}, 43.6),
        ({"task": "babelcode-humaneval-rust", "problems": 149}, None),
        ({"task": "boolq", "problems": 164}, None),
    ],
)
def test_the_papers_figure_stands_beside_the_same_problems_only(changed, figure):
    assert paper.beside(paper.SCORES, about(**changed)) == figure


def test_a_part_has_no_figure_of_the_paper(tmp_path):
    model = FakeModel(lambda prompt: "    return 1 / 0")
    model.name = "code_gemma_2b_en"
    tasks = ["humaneval", "babelcode-humaneval-python"]
    evals.evaluate(tasks, model, tmp_path, settings=Settings(limit=2))
    text = (tmp_path / "report.md").read_text()
    for task in tasks:
        row = next(r for r in text.splitlines() if r.startswith(f"| {task} | paper"))
        assert row.endswith("| - |")
    assert "report gives 21.7 % of 161 problems, which are not the same ones" in text


def test_a_file_with_a_part_of_a_benchmark_is_said_to_be_one(tmp_path):
    row = {"text": "Double n.", "code": "def double(n): return 2 * n"}
    row |= {"test_list": ["assert double(2) == 4"], "test_setup_code": ""}
    rows = "".join(json.dumps({**row, "task_id": n}) + "\n" for n in (11, 12))
    (tmp_path / "mbpp.jsonl").write_text(rows)
    evals.evaluate(
        ["mbpp"],
        None,
        tmp_path / "out",
        answers="canonical",
        data=Data([tmp_path]),
    )
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| mbpp | paper | canonical answers | pass@1 | 2/2 |" in text
    assert "hold 2 of the benchmark's 500 problems, so this is no score of the" in text
    assert "were the answers canonical, one sample a problem" in text
    scores = json.loads((tmp_path / "out" / "mbpp" / "scores.json").read_text())
    assert scores["of_the_benchmark"] == 500


def test_what_cannot_be_looked_for_is_not_checked(tmp_path, monkeypatch):
    make = catalog.make

    def without(name, *rest):
        task = make(name, *rest)
        return dataclasses.replace(task, probe=None) if name == "gsm8k" else task

    monkeypatch.setattr(catalog, "make", without)
    (tmp_path / "seen.jsonl").write_text('{"text": "x = 1", "path": "a.py"}\n')
    evals.evaluate(
        ["gsm8k", "humaneval"],
        FakeModel(lambda prompt: "    pass"),
        tmp_path / "out",
        settings=Settings(limit=2),
        trained_on=[str(tmp_path / "seen.jsonl")],
    )
    text = (tmp_path / "out" / "report.md").read_text()
    assert "* gsm8k: not checked, for it has no text to look for." in text
    assert "* humaneval: 0 of 2 problems stand in" in text
