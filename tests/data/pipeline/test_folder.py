"""The folder of a build: what is not the build's own is neither removed nor overwritten."""

import pathlib
import shutil

import pytest

from codegemma_keras.data.pipeline import build as pipeline
from codegemma_keras.data.pipeline import folder as folders
from codegemma_keras.data.pipeline.settings import Settings
from tests.small_vocabulary import small_vocabulary

SETTINGS = Settings(length=128, licences=None, languages=("python",))


@pytest.fixture
def source(tmp_path):
    """A repository of three small files, and a tokenizer."""
    root = tmp_path / "lib"
    root.mkdir()
    for name in ("json/decoder.py", "json/scanner.py", "bisect.py"):
        library = pathlib.Path(shutil.__file__).parent
        shutil.copy(library / name, root / pathlib.Path(name).name)
    (tmp_path / "tok.model").write_bytes(small_vocabulary())
    return root


def build(source, out):
    return pipeline.build([source], out, source.parent / "tok.model", SETTINGS)


def tree(folder):
    return {
        path.relative_to(folder): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize(
    "name", ["work/mine.txt", "x.tmp-1/mine.txt", "x.tmp-2", "report.md", "data.json"]
)
def test_a_folder_of_other_things_is_refused_untouched(source, tmp_path, name):
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text('{"report": []}')
    before = tree(out)
    with pytest.raises(ValueError, match=f"no build's.*{name.split('/')[0]}.*new or"):
        build(source, out)
    assert tree(out) == before


def test_a_file_is_no_folder(source, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ValueError, match="is a file"):
        build(source, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_what_was_put_beside_a_build_stays(source, tmp_path, monkeypatch):
    """Notes with a name that temporary files once had, and a report of one's own."""
    out = tmp_path / "out"

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "_finish", stop)
    with pytest.raises(KeyboardInterrupt):
        build(source, out)
    monkeypatch.undo()
    mine = {"notes.tmp-3": "a", "report.md": "b", f"{folders.WORK}/notes.txt": "c"}
    for name, text in mine.items():
        (out / name).write_text(text)
    with pytest.raises(ValueError, match=r"report.md is in the way.*Move it"):
        build(source, out)
    assert {name: (out / name).read_text() for name in mine} == mine
    (out / "report.md").rename(out / "my-report.md")
    build(source, out)
    assert (out / "my-report.md").read_text() == "b"
    assert (out / "notes.tmp-3").read_text() == "a"
    assert (out / folders.WORK / "notes.txt").read_text() == "c"
    assert sorted(p.name for p in (out / folders.WORK).iterdir()) == ["notes.txt"]
    assert (out / "report.md").read_text().startswith("# Data report")


def test_a_folder_that_was_only_just_begun_goes_on(source, tmp_path):
    """Killed after the lock was taken and before the manifest was written."""
    work = tmp_path / "out" / folders.WORK
    work.mkdir(parents=True)
    (work / folders.LOCK).touch()
    (work / f"{folders.MANIFEST}.tmp-1").touch()
    build(source, tmp_path / "out")
    assert (tmp_path / "out" / "data.json").exists()
    assert not work.exists()


def test_a_source_may_be_named_like_a_temporary_folder(source, tmp_path):
    other = shutil.copytree(source, tmp_path / "lib.tmp-7")
    assert build(other, tmp_path / "out").number("read", "in") == 3
