"""The exercises of the chapters as a course for nbgrader: `tools/notebooks.py assign`.

A chapter becomes `source/NAME/NAME.ipynb`. Each of its exercises becomes two cells:

* the student's cell, with the tested solution between `### BEGIN SOLUTION` and
  `### END SOLUTION`; nbgrader takes it out of what students get;
* the check, which is locked and graded by running it.

All other code is locked, so that what is graded is the chapter's own code. An exercise is
worth one point, and so is a check cell. A point for each hint would give points for
nothing: some checks only refuse a certain wrong answer, and pass while the gap is open.

Nothing here imports nbgrader. `tests/optional/autograding.py` runs the real one.

Left out: hidden tests. The checks are hints, so students must see them.
"""

import copy
import json
import pathlib
import re

import nbformat
from notebook_execution import NotebookError, tags_of

GAP = "    return None  # your lines\n"
BEGIN, END = "    ### BEGIN SOLUTION\n", "    ### END SOLUTION\n"
POINTS = 1  # of an exercise
NOTE = (
    "*Fill in the cells that say `# your lines`. The locked cell below each of them "
    "checks your answer, and its message tells you how to go on. Each is worth one "
    "point.*"
)
BADGE = re.compile(r"^\[!\[Open in .*\n?", re.MULTILINE)
SOLUTIONS = re.compile(r"\s+The\s+solutions\s+are\s+in\s+`[^`]+`\.")
CONFIG = """\
# Written by `tools/notebooks.py assign` of codegemma-keras. `nbgrader` reads this file in
# the folder where it is started.
c = get_config()
c.CourseDirectory.course_id = "codegemma"
# An open gap returns None, as in the chapters: their checks then answer with a hint.
c.ClearSolutions.code_stub = {"python": "return None  # your lines"}
# A cell that trains a model takes minutes; nbgrader's own limit is 30 seconds.
c.Execute.timeout = 1800
"""


def parts(exercise, solution, where):
    """An exercise cut at its gap.

    Args:
        exercise: the source of the cell, unsolved.
        solution: the same cell, solved.
        where: for the message.

    Returns:
        `(head, lines, checks)`: what stands above the gap, the lines that fill it, and
        what stands below it.

    Raises:
        NotebookError: the cell has no gap or several, or the solution changes more than
            the gap.
    """
    if (gaps := exercise.count(GAP)) != 1:
        raise NotebookError(
            f"{where} has {gaps} lines `{GAP.rstrip()}`, and must have one: the student's "
            "part ends with it, and the checks stand below it."
        )
    head, _, checks = exercise.partition(GAP)
    head, checks, solution = head.lstrip(), checks.strip(), solution.strip()
    if not checks:
        raise NotebookError(f"{where} checks nothing below its gap. Add an `assert`.")
    if not (solution.startswith(head) and solution.endswith(checks)):
        raise NotebookError(
            f"{where}: the solution differs from the exercise in more than the gap. Copy "
            "the exercise, and change only the line of the gap."
        )
    return head, solution[len(head) : -len(checks)].rstrip() + "\n", checks


def assignment(notebook, solutions, name):
    """A chapter as nbgrader's source notebook.

    Args:
        notebook: of the chapter, without outputs.
        solutions: the source of each solved exercise, in order.
        name: of the chapter, for messages.

    Returns:
        A new notebook. `nbgrader generate_assignment` makes the students' version of it.
    """
    cells, waiting = [], list(enumerate(solutions, 1))
    for old in notebook.cells:
        cell = copy.deepcopy(old)
        if cell.cell_type == "markdown":
            cell.source = SOLUTIONS.sub("", BADGE.sub("", cell.source))
            cells.append(cell)
        elif "exercise" in tags_of(cell):
            number, solution = waiting.pop(0)
            cells += _exercise(cell, number, solution, f"{name}, exercise {number}")
        else:
            cells.append(_graded_as(cell, f"cell-{cell.id}", locked=True))
    cells[0].source = re.sub(r"\n{3,}", "\n\n", cells[0].source) + f"\n\n{NOTE}"
    return nbformat.v4.new_notebook(
        cells=cells, metadata=copy.deepcopy(notebook.metadata)
    )


def _exercise(cell, number, solution, where):
    """The two cells of an exercise."""
    head, lines, checks = parts(cell.source, solution, where)
    check = copy.deepcopy(cell)
    cell.source = f"{head}{BEGIN}{lines}{END}".rstrip()
    del cell.metadata["tags"]  # defining the function must not fail
    check.source, check.id = checks, f"{cell.id}-check"
    return (
        _graded_as(cell, f"exercise-{number}", solution=True),
        _graded_as(check, f"check-{number}", grade=True, locked=True, points=POINTS),
    )


def _graded_as(cell, grade_id, **how):
    """The cell with nbgrader's metadata, in version 3 of its schema."""
    roles = {"grade": False, "solution": False, "locked": False, "task": False}
    cell.metadata["nbgrader"] = {
        **roles,
        **how,
        "grade_id": grade_id,
        "schema_version": 3,
    }
    return cell


def write_course(out, chapters):
    """Write a course folder that `nbgrader` works in.

    Args:
        out: a new or empty folder.
        chapters: `{name: (notebook, solutions)}`; those without exercises are left out.

    Returns:
        `{name: number of exercises}` of what was written.

    Raises:
        NotebookError: the folder is not empty, or no chapter has an exercise.
    """
    out = pathlib.Path(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        kind = "folder that is not empty" if out.is_dir() else "file"
        raise NotebookError(
            f"{out} is a {kind}, and nothing in it is overwritten: students' work may be "
            "there. Name a new folder, or move this one away."
        )
    chosen = {name: found for name, found in chapters.items() if found[1]}
    if not chosen:
        raise NotebookError(f"None of {sorted(chapters)} has an exercise.")
    made = {name: assignment(*found, name) for name, found in chosen.items()}
    for name, notebook in made.items():
        nbformat.validate(notebook)
        folder = out / "source" / name
        folder.mkdir(parents=True)
        text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True)
        (folder / f"{name}.ipynb").write_text(text + "\n", "utf-8")
    (out / "nbgrader_config.py").write_text(CONFIG, "utf-8")
    return {name: len(found[1]) for name, found in chosen.items()}
