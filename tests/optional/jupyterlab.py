"""JupyterLab in a real browser: ghost text with this checkout's extension, and Run All.

    make test-jupyterlab                            # ghost text
    make test-jupyterlab NOTEBOOKS="01 04"          # and Run All in these notebooks
    python tests/optional/jupyterlab.py run 01 04   # Run All alone

NODE is a folder with playwright-core, CHROMIUM a browser. A picture of the ghost text is left
at SCREEN, and pictures of the notebooks in PICTURES, if these are given.
"""

import contextlib
import json
import os
import pathlib
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

import codegemma_keras

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
FRONT_END = pathlib.Path(codegemma_keras.__file__).parent / "jupyter" / "labextension"
# Kind and text. The model sees no prose, and no cell in another language.
CELLS = [
    ("code", "import statistics\n"),
    ("markdown", "# Means\n"),
    ("code", "%%bash\necho 'it\n"),
    ("code", ""),
]
FILE = "# 😀\ndef area(width, height):\n    "


def ghost_text():
    """Type into a new cell and accept what appears."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "cells.ipynb").write_text(json.dumps(notebook()))
        (folder / "package").mkdir()
        (folder / "package" / "area.py").write_text(FILE, "utf-8")
        offered = ["--CodeGemma.presets=nothing_of_this_name"]
        with opened(folder, *offered) as address:
            there, token = address("").split("?token=")
            picture = os.environ.get("SCREEN") or folder / "screen.png"
            browse("ghost_text.mjs", there.rstrip("/"), picture, token)


def run_all(numbers):
    """Run All in a notebook as this repository has it, but without its outputs."""
    pictures = pathlib.Path(os.environ.get("PICTURES") or tempfile.mkdtemp())
    pictures.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        [source] = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
        with tempfile.TemporaryDirectory() as folder:
            copy = pathlib.Path(folder) / source.name
            before = without_outputs(json.loads(source.read_text()))
            copy.write_text(json.dumps(before))
            started = time.monotonic()
            with opened(copy.parent) as address:
                browse("run_all.mjs", address(copy.name), pictures / source.stem)
                gigabytes = peak_of_kernel()
            minutes = (time.monotonic() - started) / 60
            shutil.copy(copy, pictures)
            check(json.loads(copy.read_text()), before, source.name)
        print(f"{source.name}: {minutes:.1f} minutes, {gigabytes:.1f} GB", flush=True)
    print(f"Pictures and executed notebooks: {pictures}")


def check(done, before, name):
    """Every cell was executed, fails only on purpose, and no library makes noise.

    A cell that `%%infill` has added waits for its reader.
    """
    own = {cell["id"] for cell in before["cells"]}
    assert own <= {cell["id"] for cell in done["cells"]}, f"{name}: cells are missing"
    for cell in done["cells"]:
        if cell["cell_type"] != "code" or cell["id"] not in own:
            continue
        start = f"{name}, cell {''.join(cell['source'])[:80]!r}"
        assert cell["execution_count"], f"{start}: was not executed"
        may_fail = "raises-exception" in cell["metadata"].get("tags", ())
        for output in cell["outputs"]:
            kind = output["output_type"]
            assert kind != "error" or may_fail, f"{start}: {output['evalue']}"
            assert output.get("name") != "stderr", f"{start}: {output['text']}"


def without_outputs(cells):
    for cell in cells["cells"]:
        if cell["cell_type"] == "code":
            cell.update(outputs=[], execution_count=None)
    return cells


@contextlib.contextmanager
def opened(notebooks, *options):
    """JupyterLab on a folder; what is yielded gives the address of one of its files."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        extensions = folder / "extensions"
        shutil.copytree(FRONT_END, extensions / "codegemma-keras")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        token = secrets.token_hex(8)
        command = [
            "jupyter",
            "lab",
            "--no-browser",
            "--allow-root",
            f"--port={port}",
            f"--IdentityProvider.token={token}",
            f"--LabApp.extra_labextensions_path={extensions}",
            "--LabApp.expose_app_in_browser=True",
            "--ServerApp.jpserver_extensions=codegemma_keras.jupyter=True",
            f"--ServerApp.root_dir={notebooks}",
            *options,
        ]
        # Nothing of the user's own JupyterLab, but the user's models.
        own = {
            f"JUPYTER_{n}_DIR": f"{folder / n}" for n in ("CONFIG", "DATA", "RUNTIME")
        }
        own["JUPYTERLAB_SETTINGS_DIR"] = f"{folder / 'settings'}"
        news = folder / "settings" / "@jupyterlab" / "apputils-extension"
        news.mkdir(parents=True)
        (news / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
        with subprocess.Popen(command, env={**os.environ, **own}) as lab:
            try:
                wait(f"http://127.0.0.1:{port}/api")
                yield (
                    lambda name: (
                        f"http://127.0.0.1:{port}/lab/tree/{name}?token={token}"
                    )
                )
            finally:
                lab.terminate()


def notebook():
    cells = [
        {"cell_type": kind, "id": f"cell{number}", "metadata": {}, "source": source}
        | ({"execution_count": None, "outputs": []} if kind == "code" else {})
        for number, (kind, source) in enumerate(CELLS)
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def wait(address):
    deadline = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(address)
            return
        except OSError:
            assert time.monotonic() < deadline, "JupyterLab does not start"
            time.sleep(0.5)


def browse(script, address, picture, *more):
    """Let the browser do what the script says."""
    script = shutil.copy(HERE / script, os.environ["NODE"])
    command = ["node", script, address, os.environ["CHROMIUM"], picture, *more]
    subprocess.run(command, check=True)


def peak_of_kernel():
    """The most memory that a running kernel has had, in GB."""
    peaks = [0]
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"ipykernel_launcher" in (process / "cmdline").read_bytes():
                status = (process / "status").read_text()
                peaks.append(int(status.partition("VmHWM:")[2].split()[0]))
    return max(peaks) / 1e6


if __name__ == "__main__":
    if sys.argv[1:2] == ["run"]:
        run_all(sys.argv[2:])
    else:
        ghost_text()
