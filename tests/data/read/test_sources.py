"""Sources and filters: what is read, what is refused, and that it is counted."""

import gzip
import io
import json
import os
import stat
import tarfile
import zipfile

import pytest

from codegemma_keras.data.clean import filters
from codegemma_keras.data.clean.licences import recognise
from codegemma_keras.data.document import Document, Report
from codegemma_keras.data.read import sources

MIT = "Permission is hereby granted, free of charge, to any person"


def read(source, **options):
    report = Report()
    documents = list(sources.read_source(source, report, **options))
    return {d.path: d for d in documents}, report


def make_tar(path, members):
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            if data is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
                tar.addfile(info)
            else:
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


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
    original = sources.pathlib.Path.read_bytes

    def refuse(path):
        if path.name == "a.py":
            raise PermissionError(13, "Permission denied")
        return original(path)

    monkeypatch.setattr(sources.pathlib.Path, "read_bytes", refuse)
    found, report = read(tmp_path)
    assert set(found) == {"b.py"}
    assert report.examples["source", "unreadable"] == [f"{tmp_path.name}:a.py"]


def test_sdist_loses_its_top_folder(tmp_path):
    path = tmp_path / "lib-1.0.tar.gz"
    make_tar(path, [("lib-1.0/LICENSE", MIT.encode()), ("lib-1.0/lib/a.py", b"x = 1")])
    found, _ = read(path)
    assert set(found) == {"LICENSE", "lib/a.py"}
    assert found["lib/a.py"].repo == "lib-1.0"
    assert found["lib/a.py"].licence == "MIT"


def test_archives_cannot_reach_outside(tmp_path):
    path = tmp_path / "evil.tar.gz"
    bad = [
        ("../up.py", b"1"),
        ("/abs.py", b"2"),
        ("a/../../b.py", b"3"),
        ("link", None),
    ]
    make_tar(path, [*bad, ("ok.py", b"x = 1")])
    found, report = read(path)
    assert set(found) == {"ok.py"}
    assert report.number("source", "name leaves the archive") == 3
    assert report.number("source", "link or device") == 1
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("../up.py", "1")
        archive.writestr("ok.py", "x = 1")
        link = zipfile.ZipInfo("link.py")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    found, report = read(tmp_path / "evil.zip")
    assert set(found) == {"ok.py"}
    assert report.number("source", "name leaves the archive") == 1
    assert report.number("source", "link or device") == 1
    assert sorted(os.listdir(tmp_path)) == ["evil.tar.gz", "evil.zip"]


def test_a_bomb_is_stopped_by_its_sizes(tmp_path):
    path = tmp_path / "bomb.tar.gz"
    make_tar(
        path, [("a.py", b"x = 1"), *((f"{i}.py", bytes(900_000)) for i in range(40))]
    )
    found, report = read(path)
    assert 0 < len(found) < 20  # 16 MB are allowed to any archive.
    assert report.number("source", "archive too large") == 1


def test_a_corrupt_archive_gives_what_comes_before_the_damage(tmp_path):
    path = tmp_path / "cut.tar.gz"
    make_tar(path, [(f"{i}.py", os.urandom(5000).hex().encode()) for i in range(20)])
    path.write_bytes(path.read_bytes()[:40_000])
    found, report = read(path)
    assert 0 < len(found) < 20
    assert report.number("source", "corrupt archive") == 1
    (tmp_path / "no.zip").write_bytes(b"not an archive")
    found, report = read(tmp_path / "no.zip")
    assert not found
    assert report.number("source", "corrupt archive") == 1


def test_jsonl(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    rows = [
        json.dumps({"content": "x = 1", "path": "a.py", "repo": "r", "license": "MIT"}),
        json.dumps({"text": "hello"}),
        "{broken",
        "[1]",
        json.dumps({"other": 1}),
    ]
    path.write_bytes(gzip.compress("\n".join(rows).encode()))
    found, report = read(path)
    assert found["a.py"].repo == "r"
    assert found["a.py"].licence == "MIT"
    assert found["00000002.txt"].text == "hello"
    assert report.number("source", "line is no JSON") == 1
    assert report.number("source", "line is no object") == 1
    assert report.number("source", "no text under text/content") == 1


def test_rows_of_a_data_source_may_be_bytes():
    documents = list(sources.read_rows([{"text": b"caf\xc3\xa9"}], Report(), repo="r"))
    assert documents[0].text == "café"


def test_a_source_that_is_not_there():
    with pytest.raises(FileNotFoundError, match="no such folder or file"):
        sources.read_source("/no/such", Report())


def test_report_merges_in_any_order():
    def report(names):
        made = Report()
        for name in names:
            made.drop("s", "r", name, 1)
        return made

    names = [f"f{i}" for i in range(12)]
    one = report(names[:5]).merge(report(names[5:]))
    other = report(names[5:]).merge(report(names[:5]))
    assert one.to_json() == other.to_json() == report(reversed(names)).to_json()
    assert Report.from_json(one.to_json()).to_json() == one.to_json()


# Filters

GOOD = "def f(x):\n    return x + 1\n" * 5


@pytest.mark.parametrize(
    ("text", "path", "reason"),
    [
        (GOOD, "a.py", ""),
        ("", "a.py", "nearly empty"),
        (GOOD + "\0", "a.py", "binary"),
        ("\x01\x02\x03\x04\x05" * 20 + GOOD, "a.py", "binary"),
        ("\ufffd" * 40 + GOOD, "a.py", "encoding"),
        ("x = '\ud800'  # half a pair\n", "a.py", "encoding"),
        ("x" * 10_000_000, "a.py", "file too large"),
        ("var a=1;" * 5000, "a.js", "minified"),
        (GOOD * 100 + "y = '" + "a" * 2000 + "'", "a.py", "long line"),
        ("# @generated by tool\n" + GOOD, "a.py", "generated"),
        ("# DO NOT EDIT\n" + GOOD, "a.py", "generated"),
        (GOOD, "vendor/a.py", "vendored"),
        (GOOD, "web/node_modules/x/a.js", "vendored"),
        (GOOD, "external/zlib/a.c", "vendored"),
        (GOOD, "sympy/external/a.py", ""),
        ("1.25, 2.75,\n" * 40, "a.py", "numbers"),
        ("!@#$%^&*()\n" * 40, "a.py", "few letters"),
        (GOOD, "a.xyz", "language unknown"),
        ("# Überschrift: größer als früher, дом\n" * 9, "a.py", ""),
    ],
)
def test_filters(text, path, reason):
    report = Report()
    language = sources.language_of(path)
    document = Document(text, path, "r", "MIT", language)
    kept = list(filters.filter_documents([document], report))
    assert kept == ([] if reason else [document])
    if reason:
        assert report.number("filter", reason) == 1


def test_an_unusual_licence_is_read_in_linear_time():
    """It took minutes when a space could be read in two ways."""
    assert recognise("Neither the name " + "of a b c " * 20_000) == ""


def test_licences_are_told_apart():
    assert (
        recognise("Neither the name of the X\n  Developers nor the names of any")
        == "BSD-3-Clause"
    )
    assert recognise(MIT) == "MIT"
    assert recognise("GNU GENERAL PUBLIC LICENSE\n Version 3") == "GPL-3.0"
    assert recognise("Apache License\n   Version 2.0, January 2004") == "Apache-2.0"
    assert recognise("License-Expression: BSD-3-Clause\n") == "BSD-3-Clause"
    assert recognise("All rights reserved.") == ""
    report = Report()
    document = Document(GOOD, "a.py", "r", "GPL-3.0", "python")
    assert not list(filters.filter_documents([document], report))
    assert report.number("filter", "licence GPL-3.0") == 1
    assert list(filters.filter_documents([document], report, licences=None)) == [
        document
    ]
