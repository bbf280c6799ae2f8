"""Runs: what was killed goes on to the same bytes; a folder answers one question."""

import contextlib
import json
import os
import signal
import subprocess
import sys

import pytest

from codegemma_keras import evals
from codegemma_keras.evals import catalog
from codegemma_keras.evals.data import Data
from codegemma_keras.evals.evaluation import Judging, open_model
from codegemma_keras.evals.run import Run, Settings
from tests.evals import fake_model
from tests.evals.fake_model import FakeModel

FILES = ("samples.jsonl", "verdicts.jsonl", "scores.json", "question.json")


def gsm8k(folder, limit=20, **settings):
    model = FakeModel(lambda prompt: f"The answer is {len(prompt) % 50}.")
    settings = Settings(limit=limit, **{"batch_size": 3, **settings})
    evals.evaluate(["gsm8k"], model, folder, settings=settings)
    return model


def contents(folder):
    """The bytes of a run, but for the speed that scores.json states."""
    found = {name: (folder / "gsm8k" / name).read_bytes() for name in FILES}
    scores = json.loads(found["scores.json"])
    return {**found, "scores.json": scores | {"speed": None}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    gsm8k(folder)
    return folder


@pytest.mark.parametrize(
    ("limit", "batch_size", "portions"),
    [(20, 3, [10, 10]), (13, 3, [6, 7]), (12, 3, [12]), (3, 1, [1, 1, 1])],
)
def test_portions_are_of_one_size(tmp_path, limit, batch_size, portions):
    """A few prompts that are left over would need programs of their own."""
    gsm8k(tmp_path, limit, batch_size=batch_size)
    timings = (tmp_path / "gsm8k" / "timings.jsonl").read_text().splitlines()
    rows = [json.loads(line).get("rows") for line in timings]
    assert [n for n in rows if n] == portions


def test_a_run_of_another_version_is_refused(tmp_path):
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "question.json").write_text('{"format": 3}')
    with pytest.raises(ValueError, match=r"begun by another version.*another folder"):
        gsm8k(tmp_path)


def test_without_the_extra_nothing_is_asked(tmp_path, monkeypatch):
    """A report needs matplotlib; hours of answers must not come before the news."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"codegemma-keras\[evals\]"):
        gsm8k(tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_finished_run_asks_nothing(whole):
    before = contents(whole)
    assert gsm8k(whole).asked == 0
    assert contents(whole) == before


@pytest.mark.parametrize("share", [0.0, 0.1, 0.35, 0.5, 0.77, 0.999])
@pytest.mark.parametrize("name", ["samples.jsonl", "verdicts.jsonl"])
def test_a_file_that_ends_anywhere_is_gone_on_with(whole, tmp_path, name, share):
    for file in ("question.json", "samples.jsonl", "verdicts.jsonl"):
        data = (whole / "gsm8k" / file).read_bytes()
        if file == name:
            data = data[: int(share * len(data))]
        elif name == "samples.jsonl" and file == "verdicts.jsonl":
            continue  # nothing is judged before all is asked
        (tmp_path / "gsm8k").mkdir(exist_ok=True)
        (tmp_path / "gsm8k" / file).write_bytes(data)
    gsm8k(tmp_path)
    assert contents(tmp_path) == contents(whole)


def test_kill_9(tmp_path):
    """A process that is killed after some samples; another goes on to the end."""
    command = [
        sys.executable,
        "-m",
        "tests.evals.fake_model",
        tmp_path / "killed",
        "90",
    ]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    with subprocess.Popen(command, env=environment) as process:
        file = tmp_path / "killed" / "gsm8k" / "samples.jsonl"
        while not file.exists() or file.stat().st_size < 2_000:
            with contextlib.suppress(subprocess.TimeoutExpired):
                pytest.fail(f"it ended by itself: {process.wait(0.05)}")
        process.send_signal(signal.SIGKILL)
    assert len(file.read_text().splitlines()) < 90
    for name in ("killed", "whole"):
        fake_model.evaluate(tmp_path / name, 90)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_another_question_is_refused_and_nothing_is_lost(whole):
    before = contents(whole)
    with pytest.raises(
        ValueError, match="answers another question: limit is 20, not 10"
    ):
        gsm8k(whole, limit=10)
    assert contents(whole) == before


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="no folder of an evaluation"):
        Run(tmp_path / "gsm8k", {"task": "gsm8k"})
    assert [p.name for p in (tmp_path / "gsm8k").iterdir()] == ["thesis.txt"]


def asked(folder, limit, **settings):
    """Ids of the problems that were asked, as places in the benchmark."""
    gsm8k(folder, limit, **settings)
    lines = (folder / "gsm8k" / "samples.jsonl").read_text().splitlines()
    return {int(json.loads(line)["task_id"].split("/")[1]) for line in lines}


def test_a_limit_takes_the_first_problems(tmp_path):
    assert asked(tmp_path, 20) == set(range(20))
    assert "Only the first 20 of 1,319 problems" in (tmp_path / "report.md").read_text()


def test_a_shuffled_limit_takes_problems_of_all_parts(tmp_path):
    some = asked(tmp_path / "some", 20, shuffle=True)
    assert len(some) == 20
    assert {place // 440 for place in some} == {0, 1, 2}
    assert "Only 20 of 1,319 problems, chosen at random with the seed 0, were" in (
        (tmp_path / "some" / "report.md").read_text()
    )
    assert some < asked(tmp_path / "more", 30, shuffle=True)
    assert some != asked(tmp_path / "others", 20, shuffle=True, seed=1)
    # Recorded: the same problems on every machine and with every release of Python.
    assert sorted(some)[:4] == [6, 8, 35, 139]


def test_a_shuffle_of_all_problems_is_refused():
    with pytest.raises(ValueError, match=r"limit is not set. Set limit"):
        Settings(shuffle=True)


def test_several_samples_have_seeds_of_their_own(tmp_path):
    gsm8k(tmp_path, limit=4, samples=3, temperature=0.5)
    lines = (tmp_path / "gsm8k" / "samples.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert len(records) == 12
    assert {r["index"] for r in records} == {0, 1, 2}
    scores = json.loads((tmp_path / "gsm8k" / "scores.json").read_text())
    assert scores["scores"]["accuracy"]["of"] == 4


def test_settings_out_of_range():
    with pytest.raises(
        ValueError, match="greedy samples of a problem are all the same"
    ):
        Settings(samples=10)
    for options, message in [
        ({"batch_size": 0}, "batch_size=0 must be a whole number, at least 1"),
        ({"limit": 2.5}, "limit=2.5 must be a whole number, at least 1"),
        ({"top_k": 40}, "top_k=40 and top_p=1.0 .* Set a temperature above 0"),
        ({"top_p": 0.9}, "top_k=0 and top_p=0.9 .* or leave both out"),
    ]:
        with pytest.raises(ValueError, match=message):
            Settings(**options)
    assert Settings(temperature=0.8, top_k=40, top_p=0.9).sampling["top_k"] == 40


def test_options_for_a_model_are_refused_where_none_takes_them(tmp_path):
    given = {"convention": "openai", "answers": "canonical"}
    for options, message in [
        ({"dtype": "float16"}, "dtype='float16' .* asks no model"),
        ({"settings": Settings(samples=3, temperature=0.5)}, "samples=3 .* asks none"),
        ({"settings": Settings(temperature=0.5)}, "temperature=0.5 .* Leave"),
    ]:
        with pytest.raises(ValueError, match=message):
            evals.evaluate(
                ["humaneval"],
                None,
                tmp_path / "out",
                judging=Judging("limits"),
                **given,
                **options,
            )
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="dtype='bfloat16' is for a preset"):
        open_model(FakeModel(), dtype="bfloat16")
    with pytest.raises(ValueError, match=r"memory_mb=0 .* Leave it out for 1024"):
        Judging(memory_mb=0)


@pytest.mark.parametrize(("shuffle", "programs"), [(False, 7), (True, 80)])
def test_a_part_of_the_spans_is_of_so_many_programs(shuffle, programs):
    """docs/evaluation.md states both."""
    task = catalog.make("humaneval-infilling-multi", "openai", Data())
    chosen = Settings(limit=200, shuffle=shuffle).chosen(task.problems)
    assert len({"/".join(p.id.split("/")[:3]) for p in chosen}) == programs
