"""What the help of every command says, as tyro makes it from the settings."""

import contextlib
import dataclasses
import io
import re

import pytest
import tyro

from codegemma_keras.cli.commands import COMMANDS
from codegemma_keras.evals import catalog

NAMES = {
    "complete": "FILE",
    "serve": "[PRESET]",
    "lsp": "[PRESET]",
    "data build": "SOURCE...",
    "data show": "FOLDER",
    "data instruct": "SOURCE...",
    "eval": "TASK...",
    "export": "PRESET OUT",
}


def help_of(name):
    """The help in plain text, its lines joined."""
    _, settings = COMMANDS[name].load()
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit):
        tyro.cli(settings, prog=f"codegemma {name}", args=["--help"])
    text = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    return re.sub(r"[│\s]+", " ", text)


@pytest.mark.parametrize("name", ["complete", "serve", "lsp"])
def test_what_writes_code_for_a_person_begins_with_a_real_model(name):
    _, settings = COMMANDS[name].load()
    found = {f.name: f.default for f in dataclasses.fields(settings)}
    assert found["preset"] == "smollm2_135m_code"


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_help_names_what_an_argument_is(name):
    """A type, as in `codegemma export STR STR`, would not tell what to give."""
    usage = help_of(name).partition("[OPTIONS]")[2].lstrip()
    assert usage.startswith(NAMES.get(name, "")), usage[:80]
    assert not usage.startswith(("STR", "[[STR", "PATH"))


def test_the_help_of_eval_names_every_task():
    text = help_of("eval")
    for name in [*catalog.TASKS, *catalog.GROUPS]:
        found = name.removeprefix("humaneval-infilling")  # "(or its -single, ..."
        if name.startswith("babelcode-"):  # a language of a group that is named
            found = "-".join(name.split("-")[:2])
        assert found in text, name
