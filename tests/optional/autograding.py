"""nbgrader itself on the course folder of `tools/notebooks.py assign`.

    make test-autograding                   chapters 10, 13 and 22
    make test-autograding CHAPTERS="11 20"

nbgrader has an environment of its own; the kernel that runs the chapters is the one that
runs this file. Four students hand in each chapter: what they were given, all solutions,
one solution, and nothing but checks that they emptied.
"""

import csv
import json
import os
import pathlib
import subprocess
import sys

import nbformat
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
NBGRADER = os.environ["NBGRADER"]
CHAPTERS = os.environ.get("CHAPTERS", "10 13 22").split()


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Variables of nbgrader: no settings of the user, and this Python as the kernel."""
    folder = tmp_path_factory.mktemp("jupyter")
    kernel = folder / "kernels" / "python3"
    kernel.mkdir(parents=True)
    start = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    about = {"argv": start, "display_name": "Python 3", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(about))
    own = (
        "JUPYTER_CONFIG_DIR",
        "JUPYTER_DATA_DIR",
        "JUPYTER_RUNTIME_DIR",
        "IPYTHONDIR",
    )
    return {
        **os.environ,
        **{name: str(folder / name.lower()) for name in own},
        "JUPYTER_PATH": str(folder),
        # nbgrader starts another program of its environment, `alembic`, by name.
        "PATH": f"{pathlib.Path(NBGRADER).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "KERAS_BACKEND": "jax",
    }


@pytest.fixture(scope="module")
def course(tmp_path_factory, environment):
    """A course folder with the students' versions, as nbgrader makes them."""
    folder = tmp_path_factory.mktemp("teacher") / "course"
    tool = [
        sys.executable,
        ROOT / "tools" / "notebooks.py",
        "assign",
        folder,
        *CHAPTERS,
    ]
    run([*tool, "--quick"], environment, ROOT)
    for chapter in sorted(path.name for path in (folder / "source").iterdir()):
        run([NBGRADER, "generate_assignment", chapter], environment, folder)
    return folder


def run(command, environment, folder):
    done = subprocess.run(
        [str(part) for part in command],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


def cells(notebook, role):
    found = (c for c in notebook.cells if c.metadata.get("nbgrader", {}).get(role))
    return {cell.metadata.nbgrader.grade_id: cell for cell in found}


def read(course, kind, chapter):
    return nbformat.read(course / kind / chapter / f"{chapter}.ipynb", as_version=4)


def hand_in(course, student, chapter, change):
    """Put a changed copy of the students' version where nbgrader looks for it."""
    notebook = read(course, "release", chapter)
    change(notebook)
    folder = course / "submitted" / student / chapter
    folder.mkdir(parents=True)
    nbformat.write(notebook, folder / f"{chapter}.ipynb")


def test_students_get_no_solution(course):
    for chapter in sorted(path.name for path in (course / "release").iterdir()):
        notebook = read(course, "release", chapter)
        for cell in cells(notebook, "solution").values():
            assert cell.source.endswith("    return None  # your lines"), cell.source
            assert "SOLUTION" not in cell.source


def test_scores(course, environment):
    for chapter in sorted(path.name for path in (course / "release").iterdir()):
        solved = cells(read(course, "source", chapter), "solution")

        def fill(notebook, names, solved=solved):
            for name, cell in cells(notebook, "solution").items():
                if name in names:
                    cell.source = solved[name].source

        def empty_checks(notebook):
            for cell in cells(notebook, "grade").values():
                cell.source = "pass"

        hand_in(course, "untouched", chapter, lambda notebook: None)
        hand_in(course, "solved", chapter, lambda n, f=fill, s=solved: f(n, s))
        hand_in(course, "one", chapter, lambda n, f=fill: f(n, ["exercise-1"]))
        hand_in(course, "emptied_checks", chapter, empty_checks)
        run([NBGRADER, "autograde", chapter], environment, course)
    run([NBGRADER, "export"], environment, course)
    with (course / "grades.csv").open() as file:
        rows = {(r["assignment"], r["student_id"]): r for r in csv.DictReader(file)}
    for (chapter, student), row in sorted(rows.items()):
        print(f"{chapter:24} {student:16} {row['score']} of {row['max_score']}")
        full = len(cells(read(course, "source", chapter), "grade"))
        expected = {"untouched": 0, "solved": full, "one": 1, "emptied_checks": 0}
        assert float(row["max_score"]) == full
        assert float(row["score"]) == expected[student], (chapter, student)
    assert len(rows) == 4 * len(CHAPTERS)
