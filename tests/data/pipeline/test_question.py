"""A finished folder answers the same question only, and says what differs."""

import dataclasses
import json
import os
import shutil

import pytest

from codegemma_keras.data.pipeline import build as pipeline
from codegemma_keras.data.pipeline import question
from codegemma_keras.data.pipeline.folder import WORK
from codegemma_keras.data.pipeline.settings import Settings
from codegemma_keras.data.rows.examples import FimSettings
from tests.small_vocabulary import small_vocabulary

SETTINGS = Settings(length=128, licences=None, languages=("python",), threshold=0.0)


@pytest.fixture
def source(tmp_path):
    root = tmp_path / "a" / "lib"
    root.mkdir(parents=True)
    for number in range(3):
        lines = [f"def f{i}(x):\n    return x + {i * number}\n" for i in range(9)]
        (root / f"m{number}.py").write_text("\n".join(lines))
    (tmp_path / "tok.model").write_bytes(small_vocabulary())
    return root


def build(source, settings=SETTINGS, **options):
    top = source.parents[1]
    calls = []
    pipeline.build(
        [source], top / "out", top / "tok.model", settings,
        progress=lambda *call: calls.append(call), **options,
    )  # fmt: skip
    return calls


def test_a_finished_build_is_left_as_it_is(source):
    assert build(source)
    out = source.parents[1] / "out"
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in out.iterdir()}
    (source / "left.txt").write_text("of no language that is read")
    assert build(source) == []
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in out.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(length=256), "length is 128, not 256"),
        (dict(fim=FimSettings(seed=3)), "fim.seed is 0, not 3"),
        (dict(languages=("python", "go")), "languages is"),
    ],
)
def test_other_settings_are_refused_by_name(source, change, said):
    build(source)
    with pytest.raises(ValueError, match=f"differs: {said}"):
        build(source, dataclasses.replace(SETTINGS, **change))


def test_other_contents_are_refused_by_name(source):
    """Of a source, of the tokenizer, and of another folder with the same name."""
    build(source)
    top = source.parents[1]
    other = shutil.copytree(source, top / "b" / "lib")
    with pytest.raises(ValueError, match=r"its source lib is .*/a/lib, not .*/b/lib"):
        build(other)
    (top / "tok.model").write_bytes(small_vocabulary(600))
    with pytest.raises(ValueError, match="the tokenizer has other contents"):
        build(source)
    (top / "tok.model").write_bytes(small_vocabulary())
    (source / "m3.py").write_text("x = 1\n")
    with pytest.raises(ValueError, match=r"lib has changed since \(3 files .* 4 of "):
        build(source)
    (source / "m3.py").unlink()
    assert build(source) == []
    os.utime(source / "m0.py", (1, 1))
    with pytest.raises(ValueError, match="lib has changed since"):
        build(source)


def test_a_benchmark_of_other_contents(source):
    path = source.parents[1] / "tasks.jsonl"
    task = {"question": "What is the sum of the first nine squares?", "answer": "285"}
    path.write_text(json.dumps(task))
    settings = dataclasses.replace(SETTINGS, benchmarks=(str(path),))
    build(source, settings)
    path.write_text(json.dumps(task | {"question": "And of the first ten of them?"}))
    with pytest.raises(ValueError, match=r"tasks.jsonl has other contents"):
        build(source, settings)


def test_a_source_that_changes_during_an_interruption_is_noticed(source, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "_finish", stop)
    with pytest.raises(KeyboardInterrupt):
        build(source)
    monkeypatch.undo()
    (source / "m0.py").write_text("changed = True\n")
    with pytest.raises(ValueError, match="lib has changed since"):
        build(source)


def test_what_was_deleted_is_made_again(source):
    build(source)
    out = source.parents[1] / "out"
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    for path in out.glob("*array_record*"):
        path.unlink()
    (out / "report.html").unlink()
    assert build(source)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def test_a_shard_that_was_cut_off_is_no_answer(source):
    build(source)
    out = source.parents[1] / "out"
    (shard,) = out.glob("*array_record*")
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(ValueError, match="is in the way"):
        build(source)
    assert not (out / WORK / "lock").read_text()


def test_sources_of_one_name_are_all_kept(tmp_path):
    """`lib~2` may be a source's own name."""
    for name in ("a/lib", "b/lib", "c/lib~2", "d/lib"):
        (tmp_path / name).mkdir(parents=True)
    paths = [tmp_path / name for name in ("d/lib", "c/lib~2", "b/lib", "a/lib")]
    found = {unit.name: unit.path for unit in question.find_units(paths)}
    assert {name: path[-8:].lstrip("0123456789/") for name, path in found.items()}.keys() == {
        "lib", "lib~2", "lib~3", "lib~4",
    }  # fmt: skip
    assert found["lib"].endswith("a/lib")
    assert found["lib~2"].endswith("c/lib~2")
    assert found["lib~3"].endswith("b/lib")
    assert found["lib~4"].endswith("d/lib")
    assert question.find_units(paths) == question.find_units(paths[::-1])
    with pytest.raises(ValueError, match="No source"):
        question.find_units([])
