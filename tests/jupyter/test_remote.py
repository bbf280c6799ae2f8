"""A `codegemma serve` that completes for JupyterLab: the real application, in this process."""

import asyncio

import httpx
import pytest

from codegemma_keras.jupyter.cells import CellBody
from codegemma_keras.jupyter.remote import Remote, ServerError
from codegemma_keras.server.ask import BusyError
from tests.jupyter.test_completing import infilled
from tests.server.conftest import app, lm  # noqa: F401

BODY = {"prefix": "x = ", "suffix": "\n", "above": ["import os"], "path": "a.py"}
ADDRESS = "http://127.0.0.1:8012"


async def text_of(remote, **body):
    return "".join([piece async for piece in remote.pieces(CellBody(**body))])


def ask(transport, key=None, **body):
    remote = Remote(ADDRESS, key, transport)
    return asyncio.run(text_of(remote, **(body or BODY))), remote.name


@pytest.mark.parametrize("until", ["line", "block"])
def test_the_text_is_that_of_infill(app, lm, until):  # noqa: F811
    text, name = ask(httpx.ASGITransport(app), **BODY, max_tokens=24, until=until)
    assert text == infilled(lm, until)
    assert text
    assert name == "tiny"


def test_what_the_server_refuses_is_passed_on(app):  # noqa: F811
    with pytest.raises(ServerError, match=r"says: .*'statement'") as told:
        ask(httpx.ASGITransport(app), **BODY, until="page")
    assert told.value.status == 400


def answering(status, text="", seen=None, **headers):
    def handle(request):
        if seen is not None:
            seen.append(request)
        return httpx.Response(status, text=text, headers=headers)

    return httpx.MockTransport(handle)


def test_the_key_and_the_editor_travel():
    seen = []
    ask(answering(200, "data: [DONE]\n\n", seen), "secret", **BODY, editor="me")
    [request] = seen
    assert request.url == f"{ADDRESS}/v1/completions"
    assert request.headers["authorization"] == "Bearer secret"
    assert request.headers["x-editor-id"] == "me"


def test_a_redirection_is_not_followed():
    seen = []
    transport = answering(307, seen=seen, location="http://169.254.169.254/")
    with pytest.raises(ServerError, match="status 307"):
        ask(transport)
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (200, "data: {}\n\n"),
        (200, "data: <html>\n\n"),
        (200, "data: 3\n\n"),
        (404, "<html>"),
        (500, "[]"),
    ],
)
def test_a_stranger_is_named(status, text):
    with pytest.raises(ServerError, match=r"does not answer as `codegemma serve` does"):
        ask(answering(status, text))


def test_a_failure_in_the_stream_is_passed_on():
    line = 'data: {"error": {"message": "It is full.", "code": 503}}\n\n'
    with pytest.raises(ServerError, match="says: It is full") as told:
        ask(answering(200, line))
    assert told.value.status == BusyError("").status


def test_a_server_that_is_not_there_is_named():
    def refuse(request):
        raise httpx.ConnectError("connection refused")

    with pytest.raises(ServerError, match=r"connection refused.*`codegemma serve`"):
        ask(httpx.MockTransport(refuse))
