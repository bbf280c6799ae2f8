"""`build`: end to end, whatever the workers, killed and resumed; and its command line."""

import dataclasses
import errno
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest

from codegemma_keras.cli import main
from codegemma_keras.data.clean import dedup
from codegemma_keras.data.pipeline import build as pipeline
from codegemma_keras.data.pipeline import question
from codegemma_keras.data.pipeline.folder import BuildFolder
from codegemma_keras.data.pipeline.settings import Settings
from codegemma_keras.data.rows import examples, storage
from codegemma_keras.tokenizer.codec import PlainCodec
from tests.small_vocabulary import small_vocabulary

SETTINGS = Settings(
    length=128, licences=None, shard_bytes=20_000, languages=("python",)
)


@pytest.fixture(scope="module")
def repos(tmp_path_factory):
    """Two small real repositories, with a duplicate, a secret and a generated file.

    A few files of each: every test below builds them, some again and again.
    """
    root = tmp_path_factory.mktemp("sources")
    kept = {
        "json": ("__init__", "decoder", "encoder", "scanner"),
        "email": ("__init__", "charset", "encoders", "errors", "iterators", "parser"),
    }
    for package, names in kept.items():
        (root / package).mkdir()
        for name in names:
            file = pathlib.Path(os.__file__).parent / package / f"{name}.py"
            shutil.copy(file, root / package)
    shutil.copy(root / "json" / "decoder.py", root / "email" / "copied.py")
    (root / "email" / "made.py").write_text("# @generated\n" + "x = 1\n" * 9)
    (root / "email" / "who.py").write_text("MAIL = 'jane.doe@acme-corp.com'\n" * 3)
    (root / "tok.model").write_bytes(small_vocabulary())
    return root


def contents(folder):
    """All files but the two that say when and by which command they were made."""
    of_one_run = ("build.json", "report.html")
    return {
        p.name: p.read_bytes() for p in folder.iterdir() if p.name not in of_one_run
    }


@pytest.fixture(scope="module")
def built(repos, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "out"
    report = pipeline.build(
        [repos / "json", repos / "email"], out, repos / "tok.model", SETTINGS
    )
    return out, report


def test_what_comes_out_is_what_went_in(built, repos):
    out, report = built
    assert report.number("dedup", "exact duplicate") == 1
    assert report.number("filter", "generated") == 1
    assert report.number("secrets", "email replaced") >= 3
    codec = PlainCodec((out / "tokenizer.model").read_bytes())
    rows = storage.Rows(out)
    texts = {}
    for index in range(len(rows)):
        for segment in rows[index]:
            for path, text in examples.read_segment(codec.decode_parts(segment)):
                texts.setdefault(path, []).append(text)
    decoder = (repos / "json" / "decoder.py").read_text()
    kept = "copied.py" if "copied.py" in texts else "decoder.py"
    # Pieces of one file lie in several rows; together they are the file.
    assert sorted("".join(texts[kept])) == sorted(decoder)
    assert all(piece in decoder for piece in texts[kept])
    assert "<EMAIL>" in "".join(texts["who.py"])
    assert "made.py" not in texts
    lines = (out / "dropped.jsonl").read_text().splitlines()
    dropped = [json.loads(line) for line in lines]
    assert {"email:made.py"} <= {d["name"] for d in dropped}
    assert len(dropped) == sum(
        row["documents"]
        for row in report.to_json()
        if row["step"] in ("source", "filter", "decontaminate", "dedup")
    )


def test_order_and_workers_change_nothing(built, repos, tmp_path):
    other = tmp_path / "out"
    pipeline.build(
        [repos / "email", repos / "json"],
        other,
        repos / "tok.model",
        SETTINGS,
        workers=2,
    )
    assert contents(other) == contents(built[0])


def test_a_failure_at_any_task_is_resumed_to_the_same_bytes(
    built, repos, tmp_path, monkeypatch
):
    """Every file operation that publishes a result fails once, in turn."""
    out = tmp_path / "out"
    rename, replace = os.rename, os.replace
    state = {"calls": 0, "fail": 0}

    def failing(original):
        def wrapper(*args):
            state["calls"] += 1
            if state["calls"] == state["fail"]:
                raise OSError(errno.ENOSPC, "No space left on device")
            return original(*args)

        return wrapper

    monkeypatch.setattr(os, "rename", failing(rename))
    monkeypatch.setattr(os, "replace", failing(replace))
    sources = [repos / "json", repos / "email"]
    failures = 0
    while failures < 100:
        # Attempts fail at their 2nd, 3rd, ... 13th rename: early ones get nowhere, late
        # ones finish some tasks and the next early one fails at another place.
        state.update(calls=0, fail=2 + failures % 12)
        try:
            pipeline.build(sources, out, repos / "tok.model", SETTINGS)
            break
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            failures += 1
    assert failures >= 5
    assert contents(out) == contents(built[0])


SCRIPT = """
import sys
from codegemma_keras.data.pipeline import build as pipeline, settings as s
if __name__ == "__main__":
    settings = s.Settings(
        length=128, licences=None, shard_bytes=20_000, languages=("python",)
    )
    def progress(stage, done, total):
        print(stage, done, total, flush=True)
    pipeline.build(sys.argv[3:], sys.argv[1], sys.argv[2], settings, progress=progress)
"""


def test_kill_9_between_stages(built, repos, tmp_path):
    """Killed as each stage reports; benchmarks/data_resume.py kills at random moments."""
    out = tmp_path / "out"
    command = [sys.executable, "-c", SCRIPT, str(out), str(repos / "tok.model")]
    command += [str(repos / "json"), str(repos / "email")]
    for stage in ("read 1", "tokens 1", "shards 1"):
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            for line in process.stdout:
                if line.startswith(stage):
                    process.send_signal(signal.SIGKILL)
                    break
        assert not (out / "data.json").exists()
    pipeline.build(
        [repos / "json", repos / "email"], out, repos / "tok.model", SETTINGS
    )
    assert contents(out) == contents(built[0])


def test_a_build_loads_no_framework(repos, tmp_path):
    """Each worker starts in a second and 100 MB; with TensorFlow, in 5 and 600."""
    code = (
        "import sys\n"
        "from codegemma_keras.data.pipeline import build as pipeline, settings\n"
        "plan = settings.Settings(length=512, licences=None)\n"
        "pipeline.build(sys.argv[1:2], sys.argv[2], 'code_gemma_tiny_py', plan)\n"
        "heavy = {'jax', 'keras', 'keras_hub', 'tensorflow', 'torch'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    (tmp_path / "r").mkdir()
    shutil.copy(repos / "json" / "decoder.py", tmp_path / "r")
    command = [sys.executable, "-c", code, tmp_path / "r", tmp_path / "out"]
    subprocess.run(command, check=True)
    embedded = question.read_proto("code_gemma_tiny_py")
    assert (tmp_path / "out" / "tokenizer.model").read_bytes() == embedded


def test_other_settings_in_the_same_folder_are_refused(built, repos):
    with pytest.raises(ValueError, match="differs: it has the source email"):
        pipeline.build([repos / "json"], built[0], repos / "tok.model", SETTINGS)


def test_two_builds_at_once_are_refused(built, repos, tmp_path):
    out = tmp_path / "out"
    folder = BuildFolder(out, ())
    with (
        folder.lock(),
        pytest.raises(ValueError, match="Another build is at work"),
    ):
        pipeline.build([repos / "json"], out, repos / "tok.model", SETTINGS)


def test_nothing_left_says_why(repos, tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "a.py").write_text("")
    with pytest.raises(ValueError, match=r"nearly empty \(1\)"):
        pipeline.build(
            [tmp_path / "r"], tmp_path / "out", repos / "tok.model", SETTINGS
        )


def test_nothing_left_leaves_the_folder_for_other_settings(repos, tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "a.py").write_text("def double(x):\n    return 2 * x\n")
    asked = [tmp_path / "r"], tmp_path / "out", repos / "tok.model"
    with pytest.raises(ValueError, match=r"licence unknown \(1\)"):
        pipeline.build(*asked, dataclasses.replace(SETTINGS, licences=("MIT",)))
    pipeline.build(*asked, dataclasses.replace(SETTINGS, licences=None))
    assert (tmp_path / "out" / "data.json").exists()


def test_no_source_is_found_missing_late(repos, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        pipeline.build(["/no/such"], tmp_path / "out", repos / "tok.model", SETTINGS)


def command(*args):
    """Exit code of `codegemma data ...` in this process."""
    return main(["data", *map(str, args)])


def test_command_line(repos, tmp_path, capsys):
    out = tmp_path / "out"
    code = command(
        "build", repos / "json", "--out", out, "--tokenizer", repos / "tok.model",
        "--length", 256, "--any-licence", "--threshold", dedup.THRESHOLD,
    )  # fmt: skip
    assert code == 0
    assert "documents kept" in capsys.readouterr().out
    page = (out / "report.html").read_text()
    assert "<svg" in page
    assert "decoder.py" in page
    assert command("show", out, "--rows", 2, "--color", "always") == 0
    shown = capsys.readouterr().out
    assert "<|fim_middle|>" in shown
    assert "\x1b[1;32m" in shown
    assert command("show", out, "--start", 10_000) == 2
    assert "must be from 0 to" in capsys.readouterr().err
    assert command("build", repos / "json", "--out", out, "--language", "cobol") == 2
    assert "cobol" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--runner", "flink", "--workers", 3], "parallelism"),
        (["--runner", "direct", "--keep-work"], "--keep-work is for a build without"),
        (["--beam-option", "a=b"], "--beam-option needs --runner"),
    ],
)
def test_options_that_would_do_nothing_are_refused(
    repos, tmp_path, capsys, options, said
):
    assert command("build", repos / "json", "--out", tmp_path / "o", *options) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
