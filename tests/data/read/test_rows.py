"""jsonl files and rows: no line ends a build; languages and licences as people write them."""

import gzip
import json

import pytest

from codegemma_keras.data.document import Report
from codegemma_keras.data.read import rows, sources


def read(path):
    report = Report()
    documents = list(sources.read_source(path, report))
    return {d.path: d for d in documents}, report


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
    documents = list(rows.read_rows([{"text": b"caf\xc3\xa9"}], Report(), repo="r"))
    assert documents[0].text == "café"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"[" * 100_000, "line is no JSON"),
        (b'{"text": "\xff\xfe"}', "line is no JSON"),
        (json.dumps({"text": "x", "path": "a\nb.py"}), "control character in the name"),
        (json.dumps({"text": "x", "path": "a\ud800.py"}), "name is not UTF-8"),
        (json.dumps({"text": "x", "path": "a" * 5000}), "name too long"),
        (json.dumps({"text": "x", "path": "../../a.py"}), "name leaves the source"),
        (json.dumps({"text": "x", "path": "a.py", "repo": "\n"}),
         "control character in the name"),
        (json.dumps({"text": "x", "path": "a.py", "repo": "\udfff"}), "name is not UTF-8"),
        (json.dumps({"text": "x", "path": "a.py", "repo": "r" * 5000}), "name too long"),
        (b'{"text": 1' + b"0" * 9999 + b"}", "line is no JSON"),
        (json.dumps({"text": ["x"]}), "no text under text/content"),
        (b"null", "line is no object"),
    ],
)  # fmt: skip
def test_a_bad_line_costs_itself(tmp_path, line, reason):
    path = tmp_path / "rows.jsonl"
    good = json.dumps({"text": "x = 1\n", "path": "good.py"}).encode()
    line = line if isinstance(line, bytes) else line.encode()
    path.write_bytes(good + b"\n" + line + b"\n" + good.replace(b"good", b"more"))
    found, report = read(path)
    assert set(found) == {"good.py", "more.py"}
    assert report.number("source", reason) == 1
    assert report.to_json() == json.loads(json.dumps(report.to_json()))


def test_a_file_that_cannot_be_read_or_is_cut_off(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    lines = [
        json.dumps({"text": f"x = {i}\n" * 99, "path": f"{i}.py"}) for i in range(99)
    ]
    data = gzip.compress("\n".join(lines).encode())
    path.write_bytes(data[: len(data) // 2])
    found, report = read(path)
    assert 0 < len(found) < 99
    assert report.number("source", "rest of a damaged file") == 1
    path.write_bytes(b"no gzip")
    found, report = read(path)
    assert report.number("source", "unreadable") == 1


@pytest.mark.parametrize(
    ("row", "language", "licence", "name"),
    [
        ({"language": "C++", "path": "a/b.h"}, "cpp", "", "a/b.h"),
        ({"language": "C#", "licenses": ["MIT"]}, "csharp", "MIT", "00000001.cs"),
        ({"lang": "Python", "license": "mit"}, "python", "MIT", "00000001.py"),
        ({"language": "TypeScript", "path": "/src/a.tsx"}, "tsx", "", "src/a.tsx"),
        ({"language": "Shell", "path": "run"}, "shell", "", "run"),
        ({"language": "Vue", "path": "a.vue"}, "", "", "a.vue"),
        (
            {"max_stars_repo_licenses": ["Apache-2.0", "GPL-3.0"]},
            "",
            "GPL-3.0-only",
            None,
        ),
        ({"license": "apache-2.0"}, "", "Apache-2.0", None),
        ({"license": "Apache License, Version 2.0"}, "", "Apache-2.0", None),
        ({"license": [], "path": "a.rs"}, "rust", "", "a.rs"),
        ({"license": 7, "path": "a.rs"}, "rust", "7", "a.rs"),
    ],
)
def test_rows_as_the_stack_has_them(row, language, licence, name):
    row = {"content": "x", **row}
    report = Report()
    (document,) = rows.read_rows([row], report, repo="r")
    assert document.licence == licence
    if name is not None:
        assert (document.language, document.path) == (language, name)
