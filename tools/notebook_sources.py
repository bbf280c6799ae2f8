"""What authors write in tutorials/: chapters, few steps, solutions; conventions checked.

A chapter is a program with cells in jupytext's percent format. tutorials/README.md has the
conventions; what breaks one of them is named with its file.
"""

import ast
import re
import tomllib

import jupytext
from notebook_execution import ROOT, NotebookError, tags_of

TUTORIALS = ROOT / "tutorials"
# Where the package is had. Set in one place, pyproject.toml.
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))[
    "project"
]
BACKENDS = ("jax", "tensorflow")
ALLOWED_TAGS = {"parameters", "exercise", "install"}


def sources(folder=TUTORIALS, chosen=()):
    """The tutorial files, in order; `chosen` are beginnings of names."""
    files = sorted(folder.glob("[0-9][0-9]_*.py"))
    if chosen:
        files = [f for f in files if f.stem.startswith(tuple(chosen))]
    if not files:
        raise NotebookError(f"No tutorial of {folder.name}/ is named {chosen}.")
    return files


def read(file):
    """The cells of a percent file, with its conventions checked.

    Raises:
        NotebookError: a convention of tutorials/README.md is broken.
    """
    notebook = jupytext.reads(file.read_text("utf-8"), fmt="py:percent")
    cells = notebook.cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    tags = [tag for cell in cells for tag in cell.metadata.get("tags", ())]
    if not cells or cells[0].cell_type != "markdown":
        raise NotebookError(f"{file.name}: the first cell must be markdown.")
    if not re.match(r"# \S", cells[0].source):
        raise NotebookError(f"{file.name}: the first line must be the title, `# ...`.")
    if tags.count("parameters") != 1 or "parameters" not in tags_of(code[0]):
        raise NotebookError(
            f"{file.name}: the first code cell, and no other, is tagged `parameters`."
        )
    if unknown := set(tags) - ALLOWED_TAGS:
        raise NotebookError(f"{file.name}: unknown tags {sorted(unknown)}.")
    first = next((n for n, c in enumerate(cells) if "exercise" in tags_of(c)), 0)
    before = " ".join(c.source for c in cells[:first] if c.cell_type == "markdown")
    if first and "fails on purpose" not in " ".join(before.split()):
        raise NotebookError(
            f"{file.name}: the markdown before the first exercise must say that such a "
            "cell `fails on purpose`."
        )
    claims = [cell for cell in code if not tags_of(cell)]
    if not claims or "assert " not in claims[-1].source:
        raise NotebookError(
            f"{file.name}: the last code cell must assert what the text claims."
        )
    return cells


def backend_of(cells):
    """The backend that a tutorial asks for, in the line of its parameters cell."""
    backend = _asked(cells, "backend", "jax")
    if backend not in BACKENDS:
        raise NotebookError(f"backend={backend!r} must be one of {sorted(BACKENDS)}.")
    return backend


def downloads(cells):
    """Whether a tutorial asks for SmolLM2, which is fetched at the first run."""
    parameters = next(cell for cell in cells if "parameters" in tags_of(cell)).source
    return bool(re.search(r'^\w+ = "smol', parameters, re.MULTILINE))


def extras_of(cells):
    """The extras that a tutorial needs: `notebooks`, and those in the same line."""
    extras = ["notebooks", *_asked(cells, "extras", "").split()]
    if unknown := set(extras) - set(PROJECT["optional-dependencies"]):
        raise NotebookError(f"pyproject.toml has no extras {sorted(unknown)}.")
    return ",".join(extras)


def _asked(cells, name, default):
    parameters = next(cell for cell in cells if "parameters" in tags_of(cell))
    return parameters.metadata.get(name, default)


def smoke_cells(file):
    """The line-by-line overrides of a notebook's parameters, as one cell's source.

    Raises:
        NotebookError: one is no parameter of the notebook.
    """
    overrides = file.parent / "smoke" / file.name
    if not overrides.exists():
        return None
    text = overrides.read_text("utf-8")
    parameters = next(c for c in read(file) if "parameters" in tags_of(c)).source
    unknown = assigned(text) - assigned(parameters)
    if unknown:
        raise NotebookError(
            f"smoke/{file.name} sets {sorted(unknown)}, which the parameters cell of the "
            "tutorial does not have."
        )
    return text


def assigned(text):
    """The names that a program assigns at its top level."""
    names = set()
    for node in ast.parse(text).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        names |= {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
    return names


def solutions(file):
    """The solutions of a tutorial's exercises, in order.

    Raises:
        NotebookError: there are not as many as exercises.
    """
    exercises = [c for c in read(file) if "exercise" in tags_of(c)]
    solved = file.parent / "solutions" / file.name
    if not solved.exists():
        cells = []
    else:
        found = jupytext.reads(solved.read_text("utf-8"), fmt="py:percent").cells
        cells = [c for c in found if "exercise" in tags_of(c)]
    if len(cells) != len(exercises):
        raise NotebookError(
            f"{file.name} has {len(exercises)} exercises, but solutions/{file.name} "
            f"solves {len(cells)}."
        )
    return [cell.source for cell in cells]
