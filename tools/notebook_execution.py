"""Executing a notebook's cells in a kernel, and what no reader should see in outputs.

Used by `notebooks.py`. Cells run one by one, so that exercises can be treated apart, and
outputs are left as a page shows them: streams joined, progress bars at their last state.

Left out: execution in parallel; notebooks measure memory and minutes.
"""

import base64
import copy
import io
import pathlib
import re
import sys
import tempfile
import textwrap
import time

import notebook_memory
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Log lines of TensorFlow's and XLA's C++: of a time and a source line, or about the log.
START_UP = re.compile(
    r"^(?:[IW]\d{4} [\d:.]+ +\d+ \w+\.cc:\d+\] .*|normalizer\.cc\(\d+\) LOG\(INFO\) .*"
    r"|WARNING: All log messages before absl::InitializeLog\(\) .*)\n?",
    re.MULTILINE,
)


# Pictures above it (base64 characters) are kept in 64 colours: thin lines that cross, as
# in a drawn graph, are a quarter of a megabyte in all colours and look the same.
LARGE_PICTURE = 60_000


class NotebookError(Exception):
    """A source or an execution that is not as it must be; the message says where."""


def tags_of(cell):
    return tuple(cell.metadata.get("tags", ()))


# Outputs


def clean_outputs(cell):
    """Outputs as a page shows them: streams joined, progress bars at their last state.

    What TensorFlow's C++ says when it starts goes: nothing that a program or its
    environment sets keeps it from saying it.
    """
    joined = []
    for output in cell.outputs:
        before = joined[-1] if joined else None
        if (
            output.output_type == "stream"
            and before is not None
            and before.output_type == "stream"
            and before.name == output.name
        ):
            before.text += output.text
        else:
            joined.append(output)
    for output in joined:
        if output.output_type == "stream":
            output.text = START_UP.sub("", settle(output.text))
        lighten(output)
        output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
    cell.outputs = [o for o in joined if o.output_type != "stream" or o.text.strip()]
    cell.metadata.pop("execution", None)


def lighten(output):
    """Keep a large picture of an output in fewer colours; once is enough."""
    data = output.get("data", {})
    if len(data.get("image/png", "")) <= LARGE_PICTURE:
        return
    picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    if picture.mode == "P":
        return
    file = io.BytesIO()
    picture.convert("RGB").quantize(64).save(file, "PNG", optimize=True)
    data["image/png"] = base64.b64encode(file.getvalue()).decode() + "\n"


def settle(text):
    """Text after carriage returns, backspaces and colours have done their work."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    lines = []
    for line in text.split("\n"):
        shown, place = [], 0
        for character in line:
            if character == "\r":
                place = 0
            elif character == "\b":
                place = max(0, place - 1)
            else:
                shown[place : place + 1] = [character]
                place += 1
        lines.append("".join(shown).rstrip())
    return "\n".join(lines)


def output_problems(cells):
    """What no reader should see in outputs: sentences, empty if all is well."""
    home = str(pathlib.Path.home())
    paths = {str(ROOT), sys.prefix, home, tempfile.gettempdir() + "/"} - {"/", ""}
    found = []
    for number, cell in enumerate(cells):
        for output in cell.get("outputs", ()):
            if output.output_type == "error":
                found.append(f"cell {number} raised {output.ename}: {output.evalue}")
                continue
            if output.output_type == "stream" and output.name == "stderr":
                found.append(f"cell {number} warns: {output.text.strip()[:300]}")
            data = output.get("data", {})
            text = output.get("text", "") + data.get("text/html", "")
            text += data.get("text/plain", "")
            for line in text.splitlines():
                if any(path in line for path in paths):
                    found.append(f"cell {number} shows a path: {line.strip()[:200]}")
            if re.search(r" at 0x[0-9a-f]{6,}", text):
                found.append(f"cell {number} shows the address of an object")
            if text.count("\n") > 200:
                found.append(f"cell {number} prints {text.count(chr(10))} lines")
    return found


# Execution


def execute(notebook, name, environment, solutions=None, verbose=False):
    """Execute a notebook in an empty folder; its cells get their outputs.

    Args:
        notebook: without outputs.
        name: for messages.
        environment: variables of the kernel.
        solutions: one source for each exercise, in order: each exercise must first fail
            with a hint, then pass with its solution. None leaves exercises alone.
        verbose: print what cells print.

    Returns:
        `(minutes, peak memory in GB, that of the largest process that it started)`.

    Raises:
        NotebookError: a cell failed, or an output is not fit to be shown.
    """
    from nbclient import NotebookClient

    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as own:
        # The user's IPython profile is not asked, and a read-only home is no warning.
        environment = {**environment, "IPYTHONDIR": own}
        client = NotebookClient(
            notebook,
            timeout=None,
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
            record_timing=False,
            startup_timeout=300,
            extra_arguments=["--log-level=ERROR"],
        )
        started = time.monotonic()
        with (
            client.setup_kernel(env=environment),
            notebook_memory.watched(client.km.provisioner.pid) as peaks,
        ):
            run_cells(client, name, solutions, verbose)
            minutes = (time.monotonic() - started) / 60
    if problems := output_problems(notebook.cells):
        raise NotebookError(f"{name}: " + "; ".join(problems))
    return minutes, peaks.kernel, peaks.child


def run_cells(client, name, solutions, verbose):
    """All code cells in order; exercises only where their solutions are given."""
    waiting = list(solutions or ())
    for number, cell in enumerate(client.nb.cells):
        if cell.cell_type != "code":
            continue
        if "exercise" not in tags_of(cell):
            run_cell(client, cell, number, name, verbose)
        elif solutions is not None:
            check_exercise(client, cell, number, name, waiting.pop(0))


def run_cell(client, cell, number, name, verbose=False):
    """Execute one cell; its outputs are left clean."""
    from nbclient.exceptions import CellExecutionError

    started = time.monotonic()
    try:
        client.execute_cell(cell, number)
    except CellExecutionError as error:
        first = cell.source.strip().splitlines()[0]
        raise NotebookError(
            f"{name}, cell {number} ({first}):\n{settle(str(error))}"
        ) from None
    finally:
        clean_outputs(cell)
    seconds = time.monotonic() - started
    if seconds > 2:
        print(f"  cell {number}: {seconds:.0f} s", flush=True)
    for output in cell.outputs:
        if output.output_type == "stream" and verbose:
            print(textwrap.indent(output.text.rstrip(), "    | "), flush=True)


def check_exercise(client, cell, number, name, solution):
    """An exercise as it is fails with a hint; its solution passes."""
    from nbclient.exceptions import CellExecutionError

    unsolved = copy.deepcopy(cell)
    unsolved.metadata.tags = ["exercise"]  # a failure must be seen here
    try:
        client.execute_cell(unsolved, number)
    except CellExecutionError as error:
        if "hint" not in f"{error.evalue}".lower():
            raise NotebookError(
                f"{name}, cell {number}: the exercise fails without a hint: "
                f"{error.ename}: {error.evalue}"
            ) from None
    else:
        raise NotebookError(f"{name}, cell {number}: the exercise passes unsolved.")
    solved = copy.deepcopy(unsolved)
    solved.source = solution
    run_cell(client, solved, number, name)
