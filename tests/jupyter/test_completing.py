"""What the server extension gives, and that JupyterLab finds its parts.

The front end runs in a browser only: `make test-jupyterlab`.
"""

import asyncio
import importlib
import json
import pathlib
import tomllib

import pytest

import codegemma_keras
from codegemma_keras.jupyter import completing
from codegemma_keras.server.ask import ApiError, SupersededError
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
    yield completer
    completer.close()


def test_the_text_is_that_of_infill(completer, lm):
    cell = {"prefix": "import os\n\nx = ", "suffix": "\n", "path": "cells.py"}
    text = asyncio.run(completer.complete({**cell, "max_tokens": 8, "editor": "me"}))
    assert text == lm.session("line").infill(
        cell["prefix"], "\n", path="cells.py", max_new_tokens=8, until="line", tidy=True
    )


def test_an_older_cell_that_is_prepared_longer_ends_no_newer_one(
    completer, monkeypatch
):
    held = HeldPreparation(completer._scheduler, monkeypatch, "older")

    async def go():
        cell = {"max_tokens": 4, "editor": "me"}
        first = asyncio.ensure_future(completer.complete({**cell, "prefix": "older"}))
        await asyncio.wait_for(held.begun(), 60)
        await asyncio.wait_for(completer.complete({**cell, "prefix": "x"}), 60)
        held.release.set()
        with pytest.raises(SupersededError):
            await asyncio.wait_for(first, 60)

    asyncio.run(go())


@pytest.mark.parametrize(
    ("body", "error", "said"),
    [
        ({}, ApiError, "`prefix` is missing"),
        ({"prefix": "x", "max_tokens": 0}, ApiError, "max_tokens"),
        ({"prefix": "x", "until": "page"}, ValueError, "'statement' or 'block'"),
    ],
)
def test_what_is_wrong_is_said(completer, body, error, said):
    with pytest.raises(error, match=said):
        asyncio.run(completer.complete(body))


def test_jupyterlab_finds_the_front_end_and_its_server_the_extension():
    manifest = json.loads((FOLDER / "labextension/package.json").read_text())
    entry = FOLDER / "labextension" / manifest["jupyterlab"]["_build"]["load"]
    assert f"_JUPYTERLAB['{manifest['name']}']" in entry.read_text()
    config = json.loads((FOLDER / "server_config.json").read_text())
    [name] = config["ServerApp"]["jpserver_extensions"]
    module = importlib.import_module(name)
    assert module._jupyter_server_extension_points() == [{"module": name}]


def test_the_wheel_puts_them_where_they_are_looked_for():
    root = FOLDER.parents[1]
    settings = tomllib.loads((root / "pyproject.toml").read_text())
    shared = settings["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]
    assert all((root / source).exists() for source in shared)
    assert "share/jupyter/labextensions/codegemma-keras" in shared.values()
