"""Reports: what they say follows from the folder, and nothing in them can act."""

import json

import pytest

from codegemma_keras import evals
from codegemma_keras.evals import report
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
    from codegemma_keras.evals import paper

    assert paper.of(paper.SCORES, "humaneval", "code_gemma_1.1_2b_en") == 37.8
    assert paper.of(paper.SCORES, "gsm8k", "code_gemma_2b_en") is None
    assert paper.of(paper.SCORES, "humaneval", "mine") is None
