"""Installed packages as documents, through the filters of a data build."""

import sys

import pytest

from codegemma_keras.data.document import Report
from codegemma_keras.data.read import installed

GOOD = "def size(path):\n    return len(path)\n"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with every kind of file that is left out, and two that are kept."""
    root = tmp_path / "made_up_package"
    for folder in ("", "inner", "tests", "inner/testing"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, text in {
        "__init__.py": "",
        "a.py": GOOD,
        "inner/b.py": GOOD.replace("size", "count"),
        "inner/same.py": GOOD + "\n\n",  # white space alone
        "inner/test_b.py": GOOD,
        "tests/c.py": GOOD,
        "inner/testing/d.py": GOOD,
        "made.py": "# @generated\n" + GOOD,
        "table.py": "x = [" + "1, " * 700 + "]\n",
        "large.py": GOOD * 30_000,
        "notes.txt": "no Python",
    }.items():
        (root / name).write_text(text)
    (root / "latin.py").write_bytes(b"name = '\xe9'\n" * 3)
    monkeypatch.syspath_prepend(tmp_path)
    yield root
    sys.modules.pop("made_up_package", None)


def test_what_is_kept_and_what_is_counted(package):
    report = Report()
    found = list(installed.python_files(["made_up_package"], report))
    assert [(d.path, d.text) for d in found] == [
        ("made_up_package/a.py", GOOD),
        ("made_up_package/inner/b.py", GOOD.replace("size", "count")),
    ]
    assert {(d.repo, d.language) for d in found} == {("made_up_package", "python")}
    for step, reason in (
        ("installed", "exact duplicate"),
        ("filter", "generated"),
        ("filter", "encoding"),
        ("filter", "nearly empty"),
        ("source", "file too large"),
    ):
        assert report.number(step, reason) == 1, (step, reason)


def test_the_standard_library_is_read_without_what_is_installed_in_it():
    paths = []
    for document in installed.python_files([installed.STDLIB]):
        paths.append(document.path)
        if len(paths) == 30:
            break
    assert "abc.py" in paths
    assert not any("site-packages" in path or "/test" in path for path in paths)


def test_a_package_that_is_not_there():
    with pytest.raises(ValueError, match="'no_such_package' is not installed"):
        installed.root_of("no_such_package")
