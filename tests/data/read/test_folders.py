"""Folders and git checkouts: what is read, what is not, and that it is counted."""

import os
import pathlib
from importlib import metadata

import pytest
from dulwich import porcelain

from codegemma_keras.data.document import Report
from codegemma_keras.data.read import sources

# A licence is told by its whole text.
MIT = next(f for f in metadata.files("attrs") if f.name == "LICENSE").read_text()


def read(source, **options):
    report = Report()
    documents = list(sources.read_source(source, report, **options))
    return {d.path: d for d in documents}, report


def test_folder_with_gitignore_links_and_licence(tmp_path):
    (tmp_path / "LICENSE").write_text(MIT)
    (tmp_path / ".gitignore").write_text("*.log\n/out/\n!keep.log\n")
    (tmp_path / "a.py").write_bytes(b"\xef\xbb\xbfx = 1\r\n")
    for name in (
        "b.log",
        "keep.log",
        "out/c.py",
        "sub/d.py",
        "sub/e.tmp",
        ".git/config",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text")
    (tmp_path / "sub" / ".gitignore").write_text("*.tmp\n")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "latin.py").write_bytes(b"# caf\xe9\n")
    found, report = read(tmp_path)
    assert set(found) == {
        ".gitignore", "LICENSE", "a.py", "keep.log", "sub/.gitignore", "sub/d.py",
    }  # fmt: skip
    assert found["a.py"].text == "x = 1\r\n"
    assert found["a.py"].licence == "MIT"
    assert found["a.py"].language == "python"
    assert report.number("source", "ignored by .gitignore") == 3
    assert report.number("source", "link") == 1
    assert report.number("filter", "encoding") == 1


def test_unreadable_files_are_named(tmp_path, monkeypatch):
    (tmp_path / "a.py").write_text("x = 1")
    (tmp_path / "b.py").write_text("x = 2")
    original = pathlib.Path.read_bytes

    def refuse(path):
        if path.name == "a.py":
            raise PermissionError(13, "Permission denied")
        return original(path)

    monkeypatch.setattr(pathlib.Path, "read_bytes", refuse)
    found, report = read(tmp_path)
    assert set(found) == {"b.py"}
    assert report.examples["source", "unreadable"] == [f"{tmp_path.name}:a.py"]


def test_what_git_tracks_stays(tmp_path):
    """Also in an ignored folder, and in a submodule with an index elsewhere."""
    for name in ("build/made.py", "build/left.py", "docs/a.py", "left.log.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    repository = porcelain.init(tmp_path)
    porcelain.add(repository, [str(tmp_path / "build/made.py")])
    repository.close()
    (tmp_path / ".gitignore").write_text("build/\n*.log.py\nsub/*\n")
    (tmp_path / "sub").mkdir()
    for name in ("kept.py", "left.py"):
        (tmp_path / "sub" / name).write_text("y = 2\n")
    repository = porcelain.init(tmp_path / "sub")
    porcelain.add(repository, [str(tmp_path / "sub" / "kept.py")])
    repository.close()
    (tmp_path / "sub/.git").rename(tmp_path / ".git/modules")
    (tmp_path / "sub/.git").write_text("gitdir: ../.git/modules\n")
    found, report = read(tmp_path, languages=("python",))
    assert set(found) == {"build/made.py", "docs/a.py", "sub/kept.py"}
    assert report.number("source", "ignored by .gitignore") == 4
    (tmp_path / ".git/index").write_bytes(b"DIRC nonsense")
    found, report = read(tmp_path, languages=("python",))
    assert (
        set(found) == {"docs/a.py", "sub/kept.py"} - {"sub/kept.py"}
        or "sub/kept.py" in found
    )
    assert report.number("note", "git index that could not be read") == 1


def test_a_bad_line_of_gitignore_costs_that_line(tmp_path):
    (tmp_path / ".gitignore").write_text("*.log\n!\n/\n**\\\n[z-a]\n*.tmp\n")
    for name in ("a.log", "b.tmp", "c.py"):
        (tmp_path / name).write_text("x = 1\n")
    found, report = read(tmp_path)
    assert set(found) == {".gitignore", "c.py"}
    assert report.number("note", "line of .gitignore that is no pattern") >= 1


def test_bad_names_cost_their_files_alone(tmp_path):
    """Each file in a folder of a bad name is counted."""
    root = os.fsencode(tmp_path)
    bad = os.path.join(root, b"caf\xe9")
    os.mkdir(bad)
    for name in (
        b"caf\xe9/a.py",
        b"caf\xe9/b.py",
        b"new\nline.py",
        b"esc\x1b[2J.py",
        b"ok.py",
    ):
        with open(os.path.join(root, name), "w") as file:
            file.write("x = 1\n")
    found, report = read(tmp_path)
    assert set(found) == {"ok.py"}
    assert report.number("source", "name is not UTF-8") == 2
    assert report.number("source", "control character in the name") == 2
    for names in report.examples.values():
        assert all(name.isprintable() for name in names)
    found, _ = read(pathlib.Path(os.fsdecode(bad)))
    assert {d.repo for d in found.values()} == {"caf\ufffd"}


def test_pointers_of_git_lfs_are_no_code(tmp_path):
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    (tmp_path / "table.py").write_text(text)
    (tmp_path / "about.py").write_text(f"POINTER = {text!r}\n")
    found, report = read(tmp_path)
    assert set(found) == {"about.py"}
    assert report.number("source", "Git LFS pointer") == 1


@pytest.mark.parametrize("mark", [".codegemma-build/manifest.json", "build.json"])
def test_the_output_of_a_build_is_no_source(tmp_path, mark):
    (tmp_path / "a.py").write_text("x = 1\n")
    for name in (mark, "data.json", "features.json", "dataset_info.json", "b.py"):
        path = tmp_path / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    found, report = read(tmp_path)
    assert set(found) == {"a.py"}
    assert report.number("source", "output of a data build") == 1
