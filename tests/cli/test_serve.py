"""`codegemma serve` and `codegemma lsp`: what can be wrong is one line, before loading."""

import os
import pathlib
import socket
import subprocess
import sys

import pytest

from codegemma_keras.cli import main

ROOT = str(pathlib.Path(__file__).parents[2])


def said(capsys, *argv):
    code = main(list(argv))
    shown = capsys.readouterr().err.strip()
    assert code == 2, shown
    assert "\n" not in shown
    assert shown.startswith("codegemma: ")
    return shown


def test_a_port_in_use(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert port in said(capsys, "serve", "--port", port)


def test_a_preset_that_does_not_exist():
    """In a process of its own: it has begun to serve when this is found."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "codegemma_keras.cli",
            "serve",
            "nothing",
            "--port",
            "0",
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": ROOT},
    )
    assert done.returncode == 2
    assert "codegemma: " in done.stderr
    assert "nothing" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (["--host", "0.0.0.0"], "--key-file"),
        (["--key-file", "/nowhere/key"], "/nowhere/key"),
        (["--rows", "0"], "--rows 0"),
        (["--port", "70000"], "--port 70000"),
        (["--max-seconds", "nan"], "--max-seconds nan"),
        (["--host", "no.such.host.invalid", "--key-file", "KEY"], "no.such.host"),
    ],
)
def test_settings_that_cannot_be(capsys, tmp_path, argv, word):
    key = tmp_path / "key"
    key.write_text("k")
    argv = [str(key) if value == "KEY" else value for value in argv]
    assert word in said(capsys, "serve", *argv)


def test_an_empty_key_file(capsys, tmp_path):
    key = tmp_path / "key"
    key.write_text("\n")
    assert "one line" in said(capsys, "serve", "--key-file", str(key))


def test_a_language_server_needs_room_for_tokens(capsys):
    assert "--max-new-tokens 0" in said(capsys, "lsp", "--max-new-tokens", "0")


def test_a_language_server_of_no_preset_ends_at_once(capsys):
    assert "Unknown preset 'nothing'" in said(capsys, "lsp", "nothing")
