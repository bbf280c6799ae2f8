"""Sources of every kind: their names, what says that they changed, and the report."""

import os

import pytest

from codegemma_keras.data.document import Report
from codegemma_keras.data.read import sources


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


def test_a_fingerprint_sees_what_would_be_read(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / ".gitignore").write_text("*.log\n")

    def found():
        return sources.fingerprint(tmp_path, languages=("python",))

    before = found()
    assert (before["files"], before["bytes"]) == (1, 6)
    (tmp_path / "a.log").write_text("x")
    (tmp_path / "a.pyc").write_text("x")
    assert found() == before
    (tmp_path / "a.py").write_text("x = 2\n")
    os.utime(tmp_path / "a.py", (1, 1))
    assert found()["state"] != before["state"]


def test_names_of_sources(tmp_path):
    assert sources.source_name("x/lib-1.0.tar.gz") == "lib-1.0"
    assert sources.source_name("x/rows.jsonl.gz") == "rows"
    assert sources.source_name("/") == "root"
    assert sources.source_name(os.fsdecode(b"x/caf\xe9\n")) == "caf\ufffd\ufffd"
