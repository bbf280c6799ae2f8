"""Notebooks from the programs in tutorials/: built, checked and executed.

    python tools/notebooks.py build     sources -> notebooks/*.ipynb, in a second
    python tools/notebooks.py check     fails where the two differ, in seconds; names
                                        those that were never executed in full
    python tools/notebooks.py smoke     executes each with few steps; writes nothing
    python tools/notebooks.py run       executes each in full and keeps the outputs
    python tools/notebooks.py assign OUT    writes a course folder for nbgrader

Names after the command choose notebooks (`run 01 04`); default: all. KERAS_BACKEND
chooses the backend; default: what the notebook itself asks for, JAX if nothing else.

`build` adds the badges and one cell that installs, and writes the measured minutes into
README.md's table; a cell's id is a hash of its text, and
nothing else of the moment of building goes in, so a rebuild has the same bytes. Outputs
stay while no code cell changes. `smoke` puts the lines of tutorials/smoke/NAME.py in a
cell after the one tagged `parameters`, and exchanges exercises for their solutions, after
seeing them fail with a hint. Both executions refuse outputs with a warning, a path of
this machine, or the address of an object.

Left out: any format but percent. tutorials/README.md has the conventions for authors.
"""

import argparse
import ast
import collections
import copy
import datetime
import hashlib
import json
import os
import pathlib
import platform
import re
import sys
import tomllib

import jupytext
import nbformat

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import autograding
import notebook_costs
import notebook_execution
import platforms
from notebook_execution import ROOT, NotebookError, output_problems, tags_of

TUTORIALS = ROOT / "tutorials"
NOTEBOOKS = ROOT / "notebooks"
README = ROOT / "README.md"  # its table of notebooks says what each takes
# Where the package is had, and what the badges open. Set in one place, pyproject.toml.
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))[
    "project"
]
REPOSITORY = PROJECT["urls"]["Repository"]
MAX_BYTES = 300_000  # of a notebook with its outputs: GitHub shows no large ones
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
BACKENDS = {
    "jax": '"jax")  # or "tensorflow"; before importing Keras',
    "tensorflow": '"tensorflow")  # on a CPU it trains faster than "jax"',
}
ALLOWED_TAGS = {"parameters", "exercise", "install"}
# An exercise fails on purpose until it is solved. With this tag, Jupyter's "Run All" goes
# on to the next cell.
MAY_FAIL = "raises-exception"


# Sources to notebooks


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
            INSTALL.replace("BACKEND\n", f"{BACKENDS[backend_of(cells)]}\n")
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


def write(file, text):
    """Write a file that at no moment is half there."""
    new = file.with_name(f"new.{file.name}")
    new.write_text(text, "utf-8")
    new.replace(file)


def expected(file, folder=NOTEBOOKS):
    """What the notebook of a source must be now: new cells, kept outputs."""
    notebook = make(file)
    target = folder / f"{file.stem}.ipynb"
    if target.exists():
        keep_outputs(notebook, nbformat.read(target, as_version=4))
    return notebook


def build(files, folder=NOTEBOOKS):
    """Write the notebooks of `files`, outputs kept where no code changed."""
    folder.mkdir(exist_ok=True)
    for file in files:
        write(folder / f"{file.stem}.ipynb", to_text(expected(file, folder)))
    if folder == NOTEBOOKS:
        write(README, notebook_costs.in_table(README.read_text("utf-8")))


def check(files, folder=NOTEBOOKS):
    """What is wrong with the notebooks of `files`: a list of sentences, empty if nothing."""
    found = []
    for file in files:
        target = folder / f"{file.stem}.ipynb"
        if not target.exists():
            found.append(f"{target.name} is missing: run `tools/notebooks.py build`.")
            continue
        if target.read_text("utf-8") != to_text(expected(file, folder)):
            found.append(
                f"{target.name} is not what {file.name} makes: run `tools/notebooks.py "
                "build` (text changed) or `run` (code changed)."
            )
            continue
        cells = nbformat.read(target, as_version=4).cells
        found += [f"{target.name}: {problem}" for problem in output_problems(cells)]
        if target.stat().st_size > MAX_BYTES:
            found.append(f"{target.name} has more than {MAX_BYTES:,} bytes.")
    readme = README.read_text("utf-8")
    if readme != notebook_costs.in_table(readme):
        found.append(
            "README.md has other minutes than benchmarks/results/notebooks_run.json: run "
            "`tools/notebooks.py build`."
        )
    stems = {file.stem for file in sources(files[0].parent)}
    stale = [f.name for f in folder.glob("*.ipynb") if f.stem not in stems]
    return found + [f"{name} has no source: delete it." for name in sorted(stale)]


def unexecuted(files, folder=NOTEBOOKS):
    """The names of notebooks that have no outputs, or not all."""
    names = []
    for file in files:
        cells = nbformat.read(folder / f"{file.stem}.ipynb", as_version=4).cells
        code = [c for c in cells if c.cell_type == "code"]
        code = [cell for cell in code if "exercise" not in tags_of(cell)]
        if not all(cell.execution_count for cell in code):
            names.append(file.stem)
    return names


# Execution


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


def make_quick(file):
    """The notebook of a source, with few steps."""
    notebook = make(file)
    if text := smoke_cells(file):
        tags = [tags_of(cell) for cell in notebook.cells]
        place = tags.index(("parameters",)) + 1
        notebook.cells.insert(place, nbformat.v4.new_code_cell(text, id="few-steps"))
    return notebook


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


def execute(file, smoke=False, verbose=False):
    """Execute a tutorial's notebook.

    Args:
        file: the source.
        smoke: with few steps, and exercises exchanged for their solutions.
        verbose: print what cells print.

    Returns:
        `(notebook with outputs, {"minutes", "peak_gb", "child_gb", "backend"})`.

    Raises:
        NotebookError: a cell failed, or an output is not fit to be shown.
    """
    notebook = make_quick(file) if smoke else make(file)
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    backend = environment.setdefault("KERAS_BACKEND", backend_of(read(file)))
    solved = solutions(file)
    minutes, peak, child = notebook_execution.execute(
        notebook, file.name, environment, solved if smoke else None, verbose
    )
    notebook.metadata = copy.deepcopy(METADATA)
    cost = {"minutes": minutes, "peak_gb": peak, "child_gb": child}
    cost = {name: round(value, 2) for name, value in cost.items()}
    return notebook, {**cost, "backend": backend}


def record(mode, file, cost):
    """Note what an execution took, beside device and date."""
    own = cost["backend"] == backend_of(read(file))
    name = file.stem if own else f"{file.stem} ({cost['backend']})"
    costs = notebook_costs.read(mode)
    costs[name] = {**cost, "cores": os.cpu_count(), "date": f"{datetime.date.today()}"}
    about = {
        "command": f"python tools/notebooks.py {mode}",
        "device": f"{os.cpu_count()} {platform.machine()} CPU cores",
        "notebooks": dict(sorted(costs.items())),
    }
    target = notebook_costs.file(mode)
    target.parent.mkdir(parents=True, exist_ok=True)
    write(target, json.dumps(about, indent=2) + "\n")


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("build", "check", "smoke", "run", "assign"))
    parser.add_argument("names", nargs="*", help="beginnings of names; default: all")
    parser.add_argument("--verbose", action="store_true", help="show what cells print")
    parser.add_argument("--quick", action="store_true", help="assign: with few steps")
    args = parser.parse_intermixed_args(argv)
    if args.command == "assign" and not args.names:
        parser.error("assign needs a new folder: assign OUT [NN ...]")
    out = args.names.pop(0) if args.command == "assign" else None
    try:
        files = sources(chosen=args.names)
        if args.command == "assign":
            maker = make_quick if args.quick else make
            chapters = {file.stem: (maker(file), solutions(file)) for file in files}
            for name, number in autograding.write_course(out, chapters).items():
                print(f"{name}: {number} exercise{'s'[: number > 1]}")
        elif args.command == "build":
            build(files)
        elif args.command == "check":
            if found := check(files):
                raise NotebookError("\n".join(found))
            for name in unexecuted(files):
                print(f"{name} has no outputs yet: tools/notebooks.py run {name[:2]}")
        else:
            for file in files:
                print(file.stem, flush=True)
                notebook, cost = execute(
                    file, smoke=args.command == "smoke", verbose=args.verbose
                )
                record(args.command, file, cost)
                print(f"  {cost['minutes']} minutes, {cost['peak_gb']} GB", flush=True)
                if args.command == "run":
                    target = NOTEBOOKS / f"{file.stem}.ipynb"
                    NOTEBOOKS.mkdir(exist_ok=True)
                    write(target, to_text(notebook))
                    build([file])  # its cost has changed, and stands below the title
    except NotebookError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
