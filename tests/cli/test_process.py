"""What a command does to its process: the backend, and what a terminal gets."""

import os
import pathlib
import shlex
import subprocess
import sys

import pytest

from codegemma_keras.cli.process import visible

ROOT = str(pathlib.Path(__file__).parents[2])


def python(program, **variables):
    """stdout of a program in a process of its own, KERAS_BACKEND unset."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("KERAS_")}
    env["PYTHONPATH"] = ROOT
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**env, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_help_imports_nothing_heavy():
    program = """
import sys
from codegemma_keras.cli import main
try:
    main(["--help"])
except SystemExit:
    pass
heavy = {"jax", "keras", "keras_hub", "numpy", "rich", "tensorflow"}
print("HEAVY", sorted(heavy & set(sys.modules)))
"""
    out = python(program)
    assert "complete" in out
    assert "KERAS_BACKEND" in out
    assert "HEAVY []" in out


CHOOSE = "import os; from codegemma_keras.cli import process; process.choose_backend();"
CHOOSE += "print(os.environ.get('KERAS_BACKEND'))"


@pytest.mark.parametrize(
    ("config", "variables", "expected"),
    [
        (None, {}, "jax"),
        ('{"backend": "tensorflow"}', {}, "jax"),  # what Keras writes by itself
        (None, {"KERAS_BACKEND": "tensorflow"}, "tensorflow"),
        ("not JSON", {}, "jax"),
        ("[]", {}, "jax"),
    ],
)
def test_backend_is_jax_unless_somebody_chose(tmp_path, config, variables, expected):
    if config is not None:
        (tmp_path / "keras.json").write_text(config)
    out = python(CHOOSE, KERAS_HOME=str(tmp_path), **variables)
    assert out.strip() == expected


def test_backend_without_jax_is_left_to_keras(tmp_path):
    hide = "import importlib.util as u; find = u.find_spec;"
    hide += "u.find_spec = lambda name: None if name == 'jax' else find(name);"
    assert python(hide + CHOOSE, KERAS_HOME=str(tmp_path)).strip() == "None"


@pytest.mark.parametrize("variable", [{"KERAS_BACKEND": "torch"}, {}])
def test_another_backend_is_refused_in_one_line(tmp_path, variable):
    (tmp_path / "keras.json").write_text('{"backend": "torch"}')
    (tmp_path / "a.py").write_text("x = 1\n")
    done = command(
        "complete",
        str(tmp_path / "a.py"),
        "--line",
        "1",
        KERAS_HOME=str(tmp_path),
        **variable,
    )
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert b"KERAS_BACKEND=jax" in done.stderr


def command(*args, stdout=subprocess.PIPE, **variables):
    """`codegemma ARGS` in a process of its own."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("KERAS_")}
    return subprocess.run(
        [sys.executable, "-m", "codegemma_keras.cli", *args],
        env={**env, "PYTHONPATH": ROOT, **variables},
        stdout=stdout,
        stderr=subprocess.PIPE,
    )


def test_text_cannot_drive_the_terminal():
    text = "a\tb\r\n\x1b[2J \x9b31m \u202ecod \x7f é 😀"
    assert visible(text) == "a\tb\r\n␛[2J \\x9b31m \\u202ecod \\x7f é 😀"


# The output of `python -m codegemma_keras.cli`, with a command that only prints.
PRINTS = """
import sys
from codegemma_keras.cli import commands as module
def fake(settings):
    {body}
class Fake(module.Command):
    def load(self):
        return fake, None
module.parse = lambda *args: None
module.COMMANDS["fake"] = Fake("", "")
sys.exit(module.main(["fake"]))
"""


def printing(body, *, stdout=subprocess.PIPE, **variables):
    return subprocess.run(
        [sys.executable, "-c", PRINTS.format(body=body)],
        env={**os.environ, "PYTHONPATH": ROOT, **variables},
        stdout=stdout,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_the_result_is_printed_whatever_the_encoding(encoding):
    done = printing("print('x = \u2192 1')", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    shown = "\u2192" if encoding == "utf-8" else "\\u2192"
    assert done.stdout.decode() == f"x = {shown} 1\n"


def test_a_reader_that_leaves_is_no_error():
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as stdout:
        done = printing("print('x' * 100_000)", stdout=stdout)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_full_disk_is_one_line():
    with open("/dev/full", "w") as stdout:
        done = printing("print('x')", stdout=stdout)
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert b"No space left on device" in done.stderr


def test_a_closed_output_is_one_line():
    script = f"{shlex.quote(sys.executable)} -m codegemma_keras.cli --version >&-"
    done = subprocess.run(
        ["sh", "-c", script],
        env={**os.environ, "PYTHONPATH": ROOT},
        capture_output=True,
    )
    assert done.returncode == 2
    assert done.stderr == b"codegemma: standard output is closed\n"


def test_only_the_package_s_own_errors_are_the_user_s_mistakes():
    ours = "from codegemma_keras import fim; fim.render('a', 'b', mode='no')"
    done = printing(ours)
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    done = printing("int('no')")
    assert done.returncode == 1
    assert b"Traceback" in done.stderr
    done = printing("import json; json.loads('no')")
    assert done.returncode == 1


def test_commands_are_listed_and_unknown_ones_named():
    done = command("--help")
    assert done.returncode == 0
    for name in (b"complete", b"data build", b"pretrain", b"sft", b"plan"):
        assert name in done.stdout
    done = command("data")
    assert b"data show" in done.stdout
    done = command("compleet")
    assert done.returncode == 2
    assert b"there is no command 'compleet'" in done.stderr
    assert command("data", "shwo").returncode == 2
