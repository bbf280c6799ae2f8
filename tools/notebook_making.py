"""The notebook of a chapter: title, badges, install cell, ids of cells, kept outputs.

Nothing of the moment of making goes in, so the same source gives the same bytes. Outputs
of an earlier execution stay while no code cell changes.
"""

import collections
import copy
import hashlib
import json
import re

import nbformat
import notebook_costs
import notebook_execution
import platforms
from notebook_execution import tags_of
from notebook_sources import (
    PROJECT,
    backend_of,
    downloads,
    extras_of,
    read,
    smoke_cells,
)

REPOSITORY = PROJECT["urls"]["Repository"]  # what the badges open
METADATA = {
    "kernelspec": {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    },
    "language_info": {"name": "python"},
}
INSTALL = """\
# On Colab and Kaggle, this cell installs the package. It keeps the installed versions of
# Jupyter, NumPy, JAX, Keras, TensorFlow and PyTorch. If the package is installed already,
# the cell installs nothing.
import importlib.metadata
import importlib.util
import os
import sys

os.environ.setdefault("KERAS_BACKEND", BACKEND
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's start-up messages
if importlib.util.find_spec("codegemma_keras") is None:
    there = {d.name: d.version for d in importlib.metadata.distributions()}
    names = "NAMES".split()
    held = " ".join(f"{name}=={there[name]}" for name in names if name in there)
    kaggle = "KAGGLE_KERNEL_RUN_TYPE" in os.environ
    place = "Colab" if "google.colab" in sys.modules else "Kaggle" if kaggle else "here"
    print(f"Installing codegemma-keras ({place}). These versions stay: {held}")
    %pip install -q "codegemma-keras[EXTRAS] @ git+REPOSITORY" {held}
    importlib.invalidate_caches()
    if importlib.util.find_spec("codegemma_keras") is None:
        raise ImportError("pip could not install codegemma-keras. Is there a network?")
    if "keras" in sys.modules:
        raise RuntimeError(
            "Keras was imported before this cell, perhaps on another backend. "
            "Restart the session once, and run all cells again."
        )"""
# What the install cell says of a notebook's own backend.
BACKEND_LINES = {
    "jax": '"jax")  # or "tensorflow"; before importing Keras',
    "tensorflow": '"tensorflow")  # on a CPU it trains faster than "jax"',
}
# An exercise fails on purpose until it is solved. With this tag, Jupyter's "Run All" goes
# on to the next cell.
MAY_FAIL = "raises-exception"


def make(file, costs=None):
    """The notebook of a source, without outputs.

    Args:
        file: the percent file.
        costs: `{name: {"minutes", "peak_gb", "child_gb", ...}}` of full runs on their own
            backends, for the line below the title; default: those in benchmarks/results.
    """
    cells = read(file)
    title, _, rest = cells[0].source.partition("\n")
    cost = notebook_costs.line(file.stem, costs, downloads(cells))
    head = f"{title}\n\n{badges(file.stem)}\n\n{cost}".rstrip()
    made = [
        nbformat.v4.new_markdown_cell(f"{head}\n{rest}".rstrip()),
        nbformat.v4.new_code_cell(
            INSTALL.replace("BACKEND\n", f"{BACKEND_LINES[backend_of(cells)]}\n")
            .replace("NAMES", " ".join(platforms.HELD))
            .replace("EXTRAS", extras_of(cells))
            .replace("REPOSITORY", REPOSITORY),
            metadata={"tags": ["install"]},
        ),
    ]
    for cell in cells[1:]:
        if cell.cell_type == "markdown":
            made.append(nbformat.v4.new_markdown_cell(cell.source))
        else:
            tags = list(tags_of(cell))
            if "exercise" in tags:
                tags.append(MAY_FAIL)
            metadata = {"tags": tags} if tags else {}
            made.append(nbformat.v4.new_code_cell(cell.source, metadata=metadata))
    # The install cell stands where the first code is: a reader meets the title first.
    first_code = next(i for i, c in enumerate(made) if i > 1 and c.cell_type == "code")
    made.insert(first_code - 1, made.pop(1))
    seen = collections.Counter()
    for cell in made:
        key = f"{cell.cell_type}\0{cell.source}"
        seen[key] += 1
        cell.id = hashlib.blake2b(f"{key}\0{seen[key]}".encode()).hexdigest()[:12]
    return nbformat.v4.new_notebook(cells=made, metadata=copy.deepcopy(METADATA))


def make_quick(file):
    """The notebook of a source, with few steps."""
    notebook = make(file)
    if text := smoke_cells(file):
        tags = [tags_of(cell) for cell in notebook.cells]
        place = tags.index(("parameters",)) + 1
        notebook.cells.insert(place, nbformat.v4.new_code_cell(text, id="few-steps"))
    return notebook


def badges(name):
    """Markdown of the links that open a notebook in Colab and Kaggle."""
    source = f"{REPOSITORY}/blob/main/notebooks/{name}.ipynb"
    path = source.removeprefix("https://github.com/")
    colab = f"https://colab.research.google.com/github/{path}"
    kaggle = f"https://kaggle.com/kernels/welcome?src={source}"
    image = "https://colab.research.google.com/assets/colab-badge.svg"
    image_kaggle = "https://kaggle.com/static/images/open-in-kaggle.svg"
    return (
        f"[![Open in Colab]({image})]({colab})\n"
        f"[![Open in Kaggle]({image_kaggle})]({kaggle})"
    )


def keep_outputs(new, old):
    """Give `new` the outputs of `old`, if both have the same code.

    Comments of the install cell may differ: it has no output where notebooks are made.
    """

    def code(notebook):
        return [cell for cell in notebook.cells if cell.cell_type == "code"]

    def compared(cell):
        if "install" not in tags_of(cell):
            return cell.source
        return re.sub(r"^#.*\n", "", cell.source, flags=re.MULTILINE)

    if list(map(compared, code(new))) == list(map(compared, code(old))):
        for cell, before in zip(code(new), code(old), strict=True):
            cell.outputs = before.outputs
            for output in cell.outputs:
                notebook_execution.lighten(output)
            cell.execution_count = before.execution_count
    return new


def to_text(notebook):
    """The bytes of a notebook file."""
    nbformat.validate(notebook)
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
