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

`notebook_sources` reads the programs, `notebook_making` makes notebooks of them and
`notebook_execution` runs those. Left out: any format but percent. tutorials/README.md has
the conventions for authors.
"""

import argparse
import copy
import datetime
import json
import os
import pathlib
import platform
import sys

import nbformat

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import autograding
import notebook_costs
import notebook_execution
from notebook_execution import ROOT, NotebookError, output_problems, tags_of
from notebook_making import METADATA, keep_outputs, make, make_quick, to_text
from notebook_sources import backend_of, read, solutions, sources

NOTEBOOKS = ROOT / "notebooks"
README = ROOT / "README.md"  # its table of notebooks says what each takes
MAX_BYTES = 300_000  # of a notebook with its outputs: GitHub shows no large ones


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
