"""Processes of a build: none outlives it, whatever ends it."""

import os
import pathlib
import signal
import subprocess
import sys
import threading

import pytest

from codegemma_keras.data.pipeline import workers

SCRIPT = """
import os, sys, threading
from codegemma_keras.data.pipeline import workers

def task(path):
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    print(flush=True)
    threading.Event().wait()

if __name__ == "__main__":
    with workers.worker_pool(2) as run:
        run([(task, path) for path in sys.argv[1:]], lambda *_: None)
"""


def ended(pid):
    """Whether a process has ended; a zombie that nobody has waited for yet has."""
    try:
        status = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True
    return status.rpartition(")")[2].split()[0] in "ZX"


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda n: n.name
)
def test_no_worker_outlives_the_build(tmp_path, number):
    script = tmp_path / "program.py"
    script.write_text(SCRIPT)
    paths = [tmp_path / "a", tmp_path / "b"]
    with subprocess.Popen(
        [sys.executable, script, *paths],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    ) as process:
        for _ in paths:  # Both are at work.
            process.stdout.readline()
        pids = [int(path.read_text()) for path in paths]
        process.send_signal(number)
        process.wait()
        # The pipe ends when the last process that holds it has ended.
        assert process.stdout.read() == b""
    waiting = threading.Event()
    for pid in pids:
        while not ended(pid):
            waiting.wait(0.01)


def fail(path):
    if path.name == "bad":
        raise ValueError("this one fails")
    path.touch()


@pytest.mark.parametrize("number", [1, 2])
def test_an_error_of_a_task_is_the_error_of_the_build(tmp_path, number):
    tasks = [(fail, tmp_path / name) for name in ("bad", "good")]
    with (
        pytest.raises(ValueError, match="this one fails"),
        workers.worker_pool(number) as run,
    ):
        run(tasks, lambda *_: None)


def test_at_least_one():
    with (
        pytest.raises(ValueError, match="workers=0 must be 1 or more"),
        workers.worker_pool(0),
    ):
        pass
