"""The route, by a real server of Tornado and by Jupyter's own checks of login and XSRF."""

import asyncio
import contextlib
import json

import httpx
import pytest
from jupyter_server.auth import AllowAllAuthorizer, IdentityProvider
from tornado import httpserver, netutil, web

from codegemma_keras.jupyter import completing, handlers
from codegemma_keras.jupyter.models import Models
from codegemma_keras.server.ask import SupersededError
from codegemma_keras.server.scheduler import Scheduler
from tests.small_task import small_task

LOGIN = {"Authorization": "token secret"}
BODY = {"prefix": "x = ", "suffix": "\n", "path": "a.py", "until": "block"}
ROUTE = "/codegemma/complete"


@contextlib.asynccontextmanager
async def page(models, fault=None, headers=LOGIN):
    """A client of a running server with the route."""
    routes = [(ROUTE, handlers.CompleteHandler, {"models": models, "fault": fault})]
    app = web.Application(
        routes,
        base_url="/",
        cookie_secret=b"cookies",
        identity_provider=IdentityProvider(token="secret"),
        authorizer=AllowAllAuthorizer(),
        xsrf_cookies=True,
        login_url="/login",
    )
    server = httpserver.HTTPServer(app)
    [listening] = netutil.bind_sockets(0, "127.0.0.1")
    server.add_socket(listening)
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    try:
        async with httpx.AsyncClient(
            base_url=address, headers=headers, timeout=60, trust_env=False
        ) as client:
            yield client
    finally:
        server.stop()
        await server.close_all_connections()


def lines_of(answer):
    return [json.loads(line) for line in answer.text.splitlines()]


@pytest.fixture
def models(monkeypatch):
    schedulers = []

    def for_one_editor(settings):
        schedulers.append(Scheduler(small_task()))
        return schedulers[-1]

    monkeypatch.setattr(completing, "for_one_editor", for_one_editor)
    yield Models(["tiny"], completing.Completer)
    for scheduler in schedulers:
        scheduler.close(0)


def test_a_stream_gives_the_text_of_the_whole(models):
    async def go():
        async with page(models) as client:
            offered = (await client.get(ROUTE)).json()
            body = {**BODY, "max_tokens": 24}
            stream = await client.post(ROUTE, json={**body, "stream": True})
            return offered, stream, await client.post(ROUTE, json=body)

    offered, stream, whole = asyncio.run(go())
    assert offered == {"models": ["tiny"], "loading": False}
    assert stream.headers["content-type"] == "application/x-ndjson"
    first, *pieces, last = lines_of(stream)
    assert first == {"state": "loading"}
    assert last == {"done": True, "model": "tiny"}
    text = "".join(piece["text"] for piece in pieces)
    assert len(pieces) > 1
    assert whole.json() == {"text": text, "model": "tiny"}


class Endless:
    """Gives pieces until it is closed."""

    name = "endless"

    def __init__(self):
        self.ended = asyncio.Event()

    async def pieces(self, body):
        try:
            while True:
                yield "x"
                await asyncio.sleep(0)
        finally:
            self.ended.set()


class Silent(Endless):
    """Gives nothing, for ever."""

    async def pieces(self, body):
        try:
            self.begun = True
            await asyncio.Event().wait()
            yield
        finally:
            self.ended.set()


def test_a_page_that_goes_ends_its_stream():
    async def go():
        completer = Endless()
        async with page(Models(["a"], lambda name: completer)) as client:
            body = {**BODY, "stream": True}
            async with client.stream("POST", ROUTE, json=body) as answer:
                async for _ in answer.aiter_lines():
                    break
            await asyncio.wait_for(completer.ended.wait(), 60)

    asyncio.run(go())


@pytest.mark.parametrize("stream", [False, True])
def test_a_page_that_goes_before_the_first_piece_ends_the_work(stream):
    async def go():
        completer = Silent()
        async with page(Models(["a"], lambda name: completer)) as client:
            body = {**BODY, "stream": stream}
            asking = asyncio.ensure_future(client.post(ROUTE, json=body))
            while not hasattr(completer, "begun"):
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait_for(completer.ended.wait(), 60)

    asyncio.run(go())


class Raising:
    def __init__(self, error):
        self.name = "raising"
        self._error = error

    async def pieces(self, body):
        yield "x"
        raise self._error


@pytest.mark.parametrize(
    ("error", "whole", "end"),
    [
        (SupersededError(), (200, {"text": ""}), {}),
        (ValueError("too long"), (400, {"message": "too long"}), None),
        (OSError("no file"), (400, {"message": "no file"}), None),
    ],
)
def test_errors_are_told_in_both_kinds_of_answers(error, whole, end):
    async def go():
        async with page(Models(["a"], lambda name: Raising(error))) as client:
            stream = await client.post(ROUTE, json={**BODY, "stream": True})
            return stream, await client.post(ROUTE, json=BODY)

    stream, answer = asyncio.run(go())
    assert (answer.status_code, answer.json()) == whole
    assert lines_of(stream)[-1] == {"done": True, **(whole[1] if end is None else end)}


def test_a_page_may_not_name_a_model_of_its_own():
    made = []

    async def go():
        async with page(Models(["a"], made.append)) as client:
            body = {**BODY, "model": "http://169.254.169.254/"}
            return await client.post(ROUTE, json=body)

    answer = asyncio.run(go())
    assert answer.status_code == 400
    assert "does not offer the model 'http://169.254.169.254/', only a" in answer.text
    assert made == []


def test_a_wrong_configuration_is_told_to_the_page():
    async def go():
        async with page(None, "c.CodeGemma.server is 'x'") as client:
            return await client.get(ROUTE), await client.post(ROUTE, json=BODY)

    for answer in asyncio.run(go()):
        assert answer.status_code == 400
        assert answer.json() == {"message": "c.CodeGemma.server is 'x'"}


def test_strangers_and_other_pages_are_refused():
    made = []

    async def go():
        async with page(Models(["a"], made.append), headers={}) as client:
            yield await client.post(ROUTE, json=BODY)
            # Logged in by a cookie, but without the token that only our pages know.
            login = await client.get(f"{ROUTE}?token=secret")
            assert login.status_code == 200
            assert client.cookies
            yield await client.post(ROUTE, json=BODY)

    async def both():
        return [answer.status_code async for answer in go()]

    assert asyncio.run(both()) == [403, 403]
    assert made == []
