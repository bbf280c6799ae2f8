"""`codegemma eval`: a whole evaluation of a tiny random model, and bad requests."""

import contextlib
import json
import signal

import pytest

from codegemma_keras import CodeGemmaCausalLM, lora
from codegemma_keras.cli import eval as eval_command
from codegemma_keras.cli import main
from codegemma_keras.evals import evaluate, paper
from codegemma_keras.presets import PRESETS
from codegemma_keras.sandbox import levels
from tests import tiny_models


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preset")
    tiny_models.our_task().save_to_preset(str(folder))
    return str(folder)


def run(capsys, *args):
    """Exit code, stdout, stderr of the command in this process."""
    try:
        code = main(["eval", *map(str, args)])
    except SystemExit as exit_:
        code = exit_.code
    return code, *capsys.readouterr()


def test_from_a_preset_to_a_report(preset, tmp_path, capsys):
    ask = ["humaneval-infilling-single", "humaneval", "--preset", preset, "--limit", 2]
    code, out, err = run(capsys, *ask, "--out", tmp_path / "o")
    assert code == 0, err
    assert "| humaneval-infilling-single | paper |" in out
    assert "/2 |" in out
    assert (tmp_path / "o" / "report.html").exists()
    folder = tmp_path / "o" / "humaneval-infilling-single"
    [first, _] = (folder / "samples.jsonl").read_text().splitlines()
    record = json.loads(first)
    assert record["completion"] in record["solution"]
    verdict = json.loads((folder / "verdicts.jsonl").read_text().splitlines()[0])
    assert verdict["passed"] in (True, False)


def test_an_adapter_makes_another_model(preset, tmp_path, capsys):
    lm = CodeGemmaCausalLM.from_preset(preset)
    lora.add(lm, "mine", rank=2)
    for variable in lm.trainable_variables:
        variable.assign(variable + 0.1)
    lora.save(lm, tmp_path / "adapter", "mine")
    ask = ["humaneval-infilling-light", "--preset", preset, "--limit", 1]
    questions = []
    for name, more in (("plain", []), ("tuned", ["--adapter", tmp_path / "adapter"])):
        code, out, err = run(capsys, *ask, *more, "--out", tmp_path / name)
        assert code == 0, err
        file = tmp_path / name / "humaneval-infilling-light" / "question.json"
        questions.append(json.loads(file.read_text()))
    assert f"with {tmp_path / 'adapter'}" in out  # in the report
    assert questions[0]["weights"] != questions[1]["weights"]
    code, _, err = run(capsys, *ask, *more, "--out", tmp_path / "plain")
    assert code == 2
    assert "weights" in err
    ask = ["humaneval", "--answers", "empty", "--limit", 1]
    code, _, err = run(capsys, *ask, *more, "--out", tmp_path / "o")
    assert code == 2
    assert "asks none" in err
    with pytest.raises(ValueError, match=r"Call lora\.use"):
        evaluate(["humaneval"], lm, tmp_path / "o", adapter=tmp_path / "adapter")


def test_canonical_answers_pass_and_empty_ones_do_not(tmp_path, capsys):
    for answers, right in (("canonical", 3), ("empty", 0)):
        ask = ["humaneval", "--limit", 3, "--answers", answers]
        code, _, err = run(capsys, *ask, "--out", tmp_path / answers)
        assert code == 0, err
        scores = json.loads(
            (tmp_path / answers / "humaneval" / "scores.json").read_text()
        )
        assert scores["scores"]["pass@1"]["right"] == right


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["humanevall"], "Did you mean 'humaneval'"),
        (["humaneval", "--sandbox", "none"], "--answers canonical only"),
        (
            ["humaneval", "--samples", "5"],
            "greedy samples of a problem are all the same",
        ),
        (["mbpp"], "not shipped with this package"),
        (
            ["humaneval-infilling", "--convention", "bigcode"],
            "bigcode's harness has no",
        ),
        (["gsm8k", "--answers", "no.jsonl"], "there is no such file"),
        (["gsm8k", "--chat", "--limit", "1"], "never taught to chat"),
        (["humaneval-infilling-light", "--chat"], "asked at a cursor"),
        (["gsm8k", "--data", "/nowhere"], "no folder with benchmark files"),
        (["humaneval", "--seconds", "0"], "seconds=0 must be above 0"),
        (["humaneval", "--workers", "-1"], "workers=-1 must be at least 1"),
        (
            ["babelcode-humaneval-python", "--answers", "canonical"],
            "has no answers of its own",
        ),
        (["gsm8k", "--compare", "/nowhere"], "there is no such folder"),
        (["gsm8k", "--trained-on", "/nowhere"], "no such folder or file"),
    ],
)
def test_bad_requests_are_one_line(arguments, said, tmp_path, capsys):
    preset = ["--preset", "code_gemma_tiny_py"]  # nothing is fetched
    code, _, err = run(capsys, *arguments, *preset, "--out", tmp_path / "o")
    assert code == 2
    last = err.strip().splitlines()[-1]
    assert last.startswith("codegemma: ")
    assert said in last


def test_the_papers_names_are_those_of_the_presets():
    names = {
        entry.transformers: n for n, entry in PRESETS.items() if n in paper.PRESETS
    }
    assert {
        f"hf://google/{theirs}": ours for theirs, ours in paper.HUB.items()
    } == names


def test_without_a_sandbox_nothing_is_asked(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(levels, "isolation", lambda: "limits")
    code, _, err = run(capsys, "humaneval", "--out", tmp_path / "o")
    assert code == 2
    assert "enable user namespaces" in err
    assert "--sandbox none is for --answers canonical only" in err
    assert not (tmp_path / "o").exists()


def test_the_help_says_what_is_required(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    text = " ".join(out.replace("│", " ").split())
    assert text.startswith("usage: codegemma eval [-h] [OPTIONS] TASK...")
    assert "triviaqa). (required)" in text
    assert "Use only the first so many problems of each task." in text
    assert "as root, every file of the machine" in text


def interrupted(out, calls, lost):
    with eval_command.stoppable(lambda *a: calls.append(a), out) as progress:
        progress("asking", 0, 3)
        # Lost: as in a callback of the garbage collector, where nothing can be raised.
        with contextlib.suppress(KeyboardInterrupt if lost else ()):
            signal.raise_signal(signal.SIGINT)
        progress("asking", 1, 3)


@pytest.mark.parametrize("lost", [False, True])
def test_an_interrupt_is_not_lost_and_says_how_to_go_on(tmp_path, lost):
    calls = []
    with pytest.raises(KeyboardInterrupt, match="same command goes on from") as raised:
        interrupted(tmp_path, calls, lost)
    assert str(tmp_path) in str(raised.value)
    assert calls == [("asking", 0, 3)]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
