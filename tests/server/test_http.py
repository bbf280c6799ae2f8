"""Clients that go: noticed while they read a stream, and while they wait for the whole."""

import asyncio
import json
import time

import pytest

from codegemma_keras.server.app import create_app
from codegemma_keras.server.settings import Settings

BODY = {"prompt": "x =", "max_tokens": 200, "temperature": 1.5, "seed": 1}


class Connection:
    """What an ASGI server does for one request, by hand: the client leaves when told."""

    def __init__(self, body):
        self.body = json.dumps(body).encode()
        self.left = asyncio.Event()
        self.began = asyncio.Event()
        self.sent = []
        self.read = False

    async def receive(self):
        if not self.read:
            self.read = True
            return {"type": "http.request", "body": self.body, "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        self.sent.append(message)
        if message.get("body"):
            self.began.set()

    def scope(self, path):
        headers = {"host": "127.0.0.1", "content-type": "application/json"}
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "query_string": b"",
            "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
        }


@pytest.fixture
def app(lm):
    """The application, its model loaded, and its scheduler."""
    app = create_app(Settings("tests/tiny", rows=2), lambda: lm)
    server = app.state.server
    server.start(lambda: None)
    while server.scheduler is None:
        time.sleep(0.01)
    yield app
    server.stop(0)


def hold(scheduler, monkeypatch):
    """Let the device go on only once the job is cancelled, after its first tokens."""
    advance, jobs = scheduler._generation.advance, []

    def held(count):
        job = scheduler._open[0].job
        jobs.append(job)
        if job.first_token is not None:
            deadline = time.monotonic() + 30
            while not job.cancelled and time.monotonic() < deadline:
                time.sleep(0.001)
        advance(count)

    monkeypatch.setattr(scheduler._generation, "advance", held)
    return jobs


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_frees_its_place(app, monkeypatch, stream):
    scheduler = app.state.server.scheduler
    jobs = hold(scheduler, monkeypatch)

    async def go():
        connection = Connection({**BODY, "stream": stream})
        task = asyncio.ensure_future(
            app(
                connection.scope("/v1/completions"), connection.receive, connection.send
            )
        )
        if stream:
            await asyncio.wait_for(connection.began.wait(), 60)
        else:
            while not (jobs and jobs[0].first_token):
                assert not task.done(), task.result()
                await asyncio.sleep(0.01)
        connection.left.set()
        await asyncio.wait_for(task, 60)
        return connection

    asyncio.run(go())
    while scheduler.running:
        time.sleep(0.01)
    [completion] = jobs[0].completions
    assert completion.stop_reason == "cancelled"
    assert len(completion.token_ids) < 200
    assert app.state.server.scheduler.waiting == 0


def test_an_older_request_of_the_same_editor_is_told(app, monkeypatch):
    """Newest keystroke wins: 409 for the older one, which is not yet answered."""
    scheduler = app.state.server.scheduler
    jobs = hold(scheduler, monkeypatch)

    async def ask(connection):
        scope = connection.scope("/v1/completions")
        scope["headers"].append((b"x-editor-id", b"mine"))
        await app(scope, connection.receive, connection.send)

    async def go():
        older, newer = Connection(BODY), Connection({**BODY, "max_tokens": 1})
        first = asyncio.ensure_future(ask(older))
        while not (jobs and jobs[0].first_token):
            await asyncio.sleep(0.01)
        await asyncio.wait_for(ask(newer), 60)
        await asyncio.wait_for(first, 60)
        return older.sent[0]["status"], newer.sent[0]["status"]

    assert asyncio.run(go()) == (409, 200)
    assert jobs[0].superseded
