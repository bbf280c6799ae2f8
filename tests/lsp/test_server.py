"""The language server by its own handlers: documents, positions, newer requests.

`make test-clients` runs it as a process, with pygls's client.
"""

import asyncio

import pytest
from lsprotocol import types

from codegemma_keras.lsp.server import make_server
from codegemma_keras.server.ask import SupersededError
from codegemma_keras.server.scheduler import Scheduler
from tests.server.connection import HeldPreparation

TEXT = "naïve = '\U0001f600'\nx = \n"
KINDS = types.InlineCompletionTriggerKind


@pytest.fixture(scope="module")
def scheduler(lm):
    scheduler = Scheduler(lm, rows=2)
    yield scheduler
    scheduler.close(0)


@pytest.fixture
def server(scheduler):
    server = make_server(lambda: scheduler, max_new_tokens=12)
    parameters = types.InitializeParams(
        capabilities=types.ClientCapabilities(), root_uri="file:///home/me/project"
    )
    for _ in server.protocol.lsp_initialize(parameters):
        pass
    for path, text in (("project/a.py", TEXT), ("elsewhere/b%20c.py", "B = 1\n")):
        uri = f"file:///home/me/{path}"
        item = types.TextDocumentItem(uri, "python", 1, text)
        server.workspace.put_text_document(item)
    return server


def request(server, line, character, kind=KINDS.Automatic):
    return server.request(
        types.InlineCompletionParams(
            types.InlineCompletionContext(kind),
            types.TextDocumentIdentifier("file:///home/me/project/a.py"),
            types.Position(line, character),
        )
    )


def test_it_says_what_it_can(server):
    assert server.protocol.server_capabilities.inline_completion_provider is not None


def test_positions_are_in_utf_16(server):
    prompt = request(server, 0, 11).prompt
    assert prompt.prefix == TEXT[:10]
    assert prompt.suffix == TEXT[10:]


def test_open_documents_are_context_and_no_folder_of_the_user_is_told(server):
    prompt = request(server, 1, 4).prompt
    assert prompt.path == "a.py"
    assert prompt.context == (("b c.py", "B = 1\n"),)


def test_who_asks_gets_a_block_who_types_a_line(server):
    assert request(server, 1, 4).until == "line"
    assert request(server, 1, 4, KINDS.Invoked).until == "block"


def test_the_text_is_that_of_infill(server, lm):
    asked = request(server, 1, 4)
    text = asyncio.run(server.complete(asked))
    p = asked.prompt
    assert text == lm.session("line").infill(
        p.prefix,
        p.suffix,
        path=p.path,
        context=p.context,
        max_new_tokens=12,
        until="line",
        tidy=True,
    )


def test_an_older_request_that_is_prepared_longer_ends_no_newer_one(
    server, scheduler, monkeypatch
):
    older, newer = request(server, 0, 3), request(server, 1, 4)
    held = HeldPreparation(scheduler, monkeypatch, f"prefix={older.prompt.prefix!r}")

    async def go():
        first = asyncio.ensure_future(server.complete(older))
        await asyncio.wait_for(held.begun(), 60)
        text = await asyncio.wait_for(server.complete(newer), 60)
        held.release.set()
        with pytest.raises(SupersededError):
            await asyncio.wait_for(first, 60)
        return text

    assert asyncio.run(go())
    assert held.jobs[0].superseded
