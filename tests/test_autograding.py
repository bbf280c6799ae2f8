"""The course for nbgrader: its metadata, and its cells run as plain code.

nbgrader itself is asked by `make test-autograding`.
"""

import pathlib
import re
import sys

import nbformat
import pytest

from tests.test_exercises import CHAPTERS, cells, run
from tests.test_notebooks import ROOT, edit, notebooks

autograding = notebooks.autograding
STUB = "    return None  # your lines"
REGION = re.compile(r"(?ms)^    ### BEGIN SOLUTION\n.*^    ### END SOLUTION")
# Their exercises need no model and no sandbox.
CHEAP = ("12_attention_cache", "20_repository_graph", "24_fast_decoding")
SOURCE = f"""\
# %% [markdown]
# # A title
#
# One cell fails on purpose. The solutions are in `tutorials/solutions/05_small.py`.

# %% tags=["parameters"]
steps = 30

# %% tags=["exercise"]
def twice(x):
    # A remark of the exercise.
{STUB}


assert twice(2) is not None, "Hint: multiply."
assert twice(2) == 4, "Hint: by two."

# %%
assert steps > 0
"""


@pytest.fixture
def folder(tmp_path):
    """A folder of one tutorial with one exercise, its solution, and few steps."""
    tutorials = tmp_path / "tutorials"
    for name in ("smoke", "solutions"):
        (tutorials / name).mkdir(parents=True)
    (tutorials / "05_small.py").write_text(SOURCE)
    solved = SOURCE.replace(STUB, "    y = x + x\n    return y")
    (tutorials / "solutions" / "05_small.py").write_text(solved)
    (tutorials / "smoke" / "05_small.py").write_text("steps = 2\n")
    return tutorials


def made(stem, tutorials=ROOT / "tutorials"):
    file = tutorials / f"{stem}.py"
    return autograding.assignment(notebooks.make(file), notebooks.solutions(file), stem)


def role(notebook, name):
    """The cells of a role, in order."""
    found = (c for c in notebook.cells if c.metadata.get("nbgrader", {}).get(name))
    return list(found)


def test_an_exercise_becomes_two_cells(folder):
    notebook = made("05_small", folder)
    (solution,), (check,) = role(notebook, "solution"), role(notebook, "grade")
    assert solution.source == (
        "def twice(x):\n    # A remark of the exercise.\n    ### BEGIN SOLUTION\n"
        "    y = x + x\n    return y\n    ### END SOLUTION"
    )
    assert check.source.startswith("assert twice(2) is not None")
    assert check.source.endswith('"Hint: by two."')
    assert solution.metadata == {
        "nbgrader": {
            "schema_version": 3,
            "grade_id": "exercise-1",
            "grade": False,
            "locked": False,
            "solution": True,
            "task": False,
        }
    }
    assert check.metadata.nbgrader == {
        "schema_version": 3,
        "grade_id": "check-1",
        "grade": True,
        "locked": True,
        "points": 1,
        "solution": False,
        "task": False,
    }
    # Jupyter's "Run All" goes on after a check that fails.
    assert "raises-exception" in check.metadata.tags


def test_what_would_lead_students_away_is_taken_out(folder):
    title = made("05_small", folder).cells[0].source
    assert title.startswith("# A title\n\nOne cell fails on purpose.\n\n*Fill in")
    assert "Open in Colab" not in title


@pytest.mark.parametrize("stem", CHAPTERS)
def test_every_exercise_appears_once(stem):
    notebook = made(stem)
    nbformat.validate(notebook)
    chapter = list(cells(ROOT / "tutorials" / f"{stem}.py"))
    number = sum(is_one for is_one, _ in chapter)
    solutions, checks = role(notebook, "solution"), role(notebook, "grade")
    assert len(solutions) == len(checks) == number
    marked = [c.metadata.nbgrader for c in notebook.cells if c.cell_type == "code"]
    assert len({m.grade_id for m in marked}) == len(marked)
    for mark in marked:
        assert mark.schema_version == 3
        assert re.fullmatch(r"[a-zA-Z0-9_-]+", mark.grade_id)
        assert mark.locked is not mark.solution
        assert mark.get("points") == (1 if mark.grade else None)
    for solution, check in zip(solutions, checks, strict=True):
        places = [notebook.cells.index(cell) for cell in (solution, check)]
        assert places[1] == places[0] + 1
        assert len(REGION.findall(solution.source)) == 1
        assert "assert" in check.source
    text = "".join(cell.source for cell in notebook.cells)
    assert "tutorials/solutions" not in text


@pytest.mark.parametrize("stem", CHEAP)
def test_solutions_pass_and_what_students_get_fails(stem):
    notebook = made(stem)
    before = [
        source for is_one, source in cells(ROOT / f"tutorials/{stem}.py") if not is_one
    ]
    pairs = zip(role(notebook, "solution"), role(notebook, "grade"), strict=True)
    for solution, check in pairs:
        run(before, f"{solution.source}\n\n{check.source}")
        released = REGION.sub(
            STUB, solution.source
        )  # as nbgrader does, by our settings
        assert STUB in released
        with pytest.raises(AssertionError, match="Hint: "):
            run(before, f"{released}\n\n{check.source}")


def test_the_course_folder(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        notebooks,
        "sources",
        lambda chosen=(), found=notebooks.sources: found(folder, chosen),
    )
    out = tmp_path / "course"
    assert notebooks.main(["assign", str(out), "05", "--quick"]) == 0
    assert capsys.readouterr().out == "05_small: 1 exercise\n"
    file = out / "source" / "05_small" / "05_small.ipynb"
    notebook = nbformat.read(file, as_version=4)
    assert notebook.cells[3].source == "steps = 2\n"
    config = (out / "nbgrader_config.py").read_text()
    compile(config, "nbgrader_config.py", "exec")
    assert STUB.strip() in config
    # Nothing is ever written over.
    file.write_text("a teacher's change")
    assert notebooks.main(["assign", str(out), "05"]) == 1
    assert f"{out} is a folder that is not empty" in capsys.readouterr().err
    assert file.read_text() == "a teacher's change"
    assert notebooks.main(["assign", str(file)]) == 1
    assert "is a file" in capsys.readouterr().err


def test_it_needs_a_folder_and_exercises(folder, tmp_path, capsys):
    with pytest.raises(SystemExit):
        notebooks.main(["assign"])
    assert "assign OUT" in capsys.readouterr().err
    out = tmp_path / "course"
    assert notebooks.main(["assign", str(out), "01"]) == 1
    assert "None of ['01_fim_sampling'] has an exercise" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("where", "old", "new", "message"),
    [
        ("", STUB, "    return 0", "has 0 lines"),
        ("", STUB, f"{STUB}\n{STUB}", "has 2 lines"),
        ("solutions", "by two", "times two", "differs from the exercise"),
        ("solutions", "def twice(x)", "def twice(x, y=2)", "differs from the exercise"),
    ],
)
def test_what_does_not_keep_the_convention_is_named(folder, where, old, new, message):
    edit(folder / where / "05_small.py", old, new)
    with pytest.raises(notebooks.NotebookError, match=rf"exercise 1.*{message}"):
        made("05_small", folder)


def test_an_exercise_without_checks_is_refused():
    with pytest.raises(notebooks.NotebookError, match="checks nothing"):
        autograding.parts(
            f"def f():\n{STUB}\n", "def f():\n    return 1\n", "x, exercise 1"
        )


def test_the_tool_needs_no_nbgrader():
    text = pathlib.Path(autograding.__file__).read_text("utf-8")
    assert "import nbgrader" not in text
    assert "nbgrader" not in sys.modules
