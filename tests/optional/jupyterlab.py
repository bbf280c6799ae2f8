"""Start JupyterLab with the extension as this checkout has it, and let a browser type.

`make test-jupyterlab`. NODE is a folder with playwright-core, CHROMIUM a browser; a picture
is left at SCREEN, if that is given.
"""

import json
import os
import pathlib
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request

import codegemma_keras

FRONT_END = pathlib.Path(codegemma_keras.__file__).parent / "jupyter" / "labextension"
CELLS = ["import statistics\n", ""]


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        notebooks, extensions = folder / "notebooks", folder / "extensions"
        notebooks.mkdir()
        shutil.copytree(FRONT_END, extensions / "codegemma-keras")
        (notebooks / "cells.ipynb").write_text(json.dumps(notebook()))
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
            "--ServerApp.jpserver_extensions=codegemma_keras.jupyter=True",
            f"--ServerApp.root_dir={notebooks}",
        ]
        with subprocess.Popen(command, env={**os.environ, "HOME": str(folder)}) as lab:
            try:
                wait(f"http://127.0.0.1:{port}/api")
                page = f"http://127.0.0.1:{port}/lab/tree/cells.ipynb?token={token}"
                type_in(page, os.environ.get("SCREEN") or folder / "screen.png")
            finally:
                lab.terminate()


def notebook():
    cells = [
        {
            "cell_type": "code",
            "execution_count": None,
            "id": f"cell{number}",
            "metadata": {},
            "outputs": [],
            "source": source,
        }
        for number, source in enumerate(CELLS)
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


def type_in(address, picture):
    script = shutil.copy(
        pathlib.Path(__file__).parent / "ghost_text.mjs", os.environ["NODE"]
    )
    command = ["node", script, address, os.environ["CHROMIUM"], picture]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
