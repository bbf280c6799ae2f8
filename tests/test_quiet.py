"""What C++ writes while libraries start is hidden; Python's stderr and errors are not."""

import pathlib
import subprocess
import sys

import nbformat
from nbclient import NotebookClient

ROOT = pathlib.Path(__file__).parent.parent

NOISY = """
import logging, os, sys
from codegemma_keras import quiet
os.environ.pop("TF_CPP_MIN_LOG_LEVEL", None)
with quiet.quiet_libraries():
    logging.getLogger("lib").addHandler(logging.StreamHandler())
    os.write(2, b"from a library\\n")
    print("from Python", file=sys.stderr)
    {error}
os.write(2, b"library, later\\n")
print("Python, later", file=sys.stderr)
logging.getLogger("lib").warning("logged later")
"""


def stderr_of(program):
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stderr


def test_libraries_are_quiet_while_they_start():
    assert stderr_of(NOISY.format(error="")).splitlines() == [
        "from Python",
        "library, later",
        "Python, later",
        "logged later",
    ]


def test_an_unexpected_error_shows_what_libraries_said():
    assert "from a library" in stderr_of(NOISY.format(error="raise KeyError('bug')"))
    assert "from a library" not in stderr_of(NOISY.format(error="raise ValueError()"))
    assert "Fatal Python error" in stderr_of(NOISY.format(error="os.abort()"))


def test_a_notebook_shows_nothing_of_libraries_that_start(monkeypatch):
    """The same import writes half a dozen lines of TensorFlow's C++ outside a notebook."""
    # In a test, a kernel would not show what C++ writes.
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    cells = [
        "import sys\nfrom codegemma_keras import CodeGemmaTokenizer",
        "assert 'tensorflow' in sys.modules\nprint('seen', file=sys.stderr)",
    ]
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in cells]
    )
    NotebookClient(notebook, resources={"metadata": {"path": ROOT}}).execute()
    first, second = notebook.cells
    assert first.outputs == []
    assert [output.text for output in second.outputs] == ["seen\n"]
