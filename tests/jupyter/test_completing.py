"""What a model of the process gives, and that JupyterLab finds the extension's parts.

The front end runs in a browser only: `make test-jupyterlab`.
"""

import asyncio
import importlib
import json
import pathlib
import re
import tomllib

import pytest

import codegemma_keras
from codegemma_keras.jupyter import completing
from codegemma_keras.jupyter.cells import CellBody
from codegemma_keras.server.ask import SupersededError
from codegemma_keras.server.scheduler import Scheduler
from tests.server.connection import HeldPreparation
from tests.small_task import small_task

FOLDER = pathlib.Path(codegemma_keras.__file__).parent / "jupyter"


@pytest.fixture(scope="module")
def lm():
    return small_task()


@pytest.fixture
def completer(lm, monkeypatch):
    monkeypatch.setattr(completing, "for_one_editor", lambda settings: Scheduler(lm))
    completer = completing.Completer("tests/tiny")
    scheduler = completer._scheduler
    yield completer
    scheduler.close(0)


async def text_of(completer, **body):
    return "".join([piece async for piece in completer.pieces(CellBody(**body))])


def infilled(lm, until):
    """What `infill` writes where the cells of these tests end."""
    return lm.session("line").infill(
        "import os\n\nx = ",
        "\n",
        path="a.py",
        max_new_tokens=24,
        until=until,
        tidy=True,
    )


@pytest.mark.parametrize("until", ["line", "statement", "block"])
def test_the_text_is_that_of_infill(completer, lm, until):
    body = {"prefix": "x = ", "suffix": "\n", "above": ["import os"], "path": "a.py"}
    text = asyncio.run(text_of(completer, **body, max_tokens=24, until=until))
    assert text == infilled(lm, until)
    assert text
    assert completer.name == "tiny"


def test_a_cell_in_another_language_gets_nothing(completer):
    assert asyncio.run(text_of(completer, prefix="%%bash\necho ", path="a.py")) == ""


def test_an_older_cell_that_is_prepared_longer_ends_no_newer_one(
    completer, monkeypatch
):
    held = HeldPreparation(completer._scheduler, monkeypatch, "older")

    async def go():
        cell = {"max_tokens": 4, "editor": "me"}
        first = asyncio.ensure_future(text_of(completer, **cell, prefix="older"))
        await asyncio.wait_for(held.begun(), 60)
        await asyncio.wait_for(text_of(completer, **cell, prefix="x"), 60)
        held.release.set()
        with pytest.raises(SupersededError):
            await asyncio.wait_for(first, 60)

    asyncio.run(go())


def test_a_wrong_mode_is_named(completer):
    with pytest.raises(ValueError, match="'statement' or 'block'"):
        asyncio.run(text_of(completer, prefix="x", until="page"))


def test_jupyterlab_finds_the_front_end_and_its_server_the_extension():
    manifest = json.loads((FOLDER / "labextension/package.json").read_text())
    entry = FOLDER / "labextension" / manifest["jupyterlab"]["_build"]["load"]
    assert f"_JUPYTERLAB['{manifest['name']}']" in entry.read_text()
    config = json.loads((FOLDER / "server_config.json").read_text())
    [name] = config["ServerApp"]["jpserver_extensions"]
    module = importlib.import_module(name)
    assert module._jupyter_server_extension_points() == [{"module": name}]


def test_the_front_end_has_every_file_that_it_loads():
    files = {file.name: file.read_text() for file in FOLDER.glob("**/static/*.js")}
    loaded = {"remoteEntry.js"}
    for text in files.values():
        loaded |= set(re.findall(r"from '\./(.*?)'", text))
        loaded |= set(re.findall(r"new URL\('(.*?)', here\)", text))
    assert loaded == set(files)


def test_the_wheel_puts_them_where_they_are_looked_for():
    root = FOLDER.parents[1]
    settings = tomllib.loads((root / "pyproject.toml").read_text())
    shared = settings["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]
    assert all((root / source).exists() for source in shared)
    assert "share/jupyter/labextensions/codegemma-keras" in shared.values()
