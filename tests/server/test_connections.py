"""Connections that say nothing or read nothing end, and a stop lets streams end well."""

import asyncio
import contextlib
import json

import pytest
import uvicorn

from codegemma_keras.server import connections
from codegemma_keras.server.app import create_app
from codegemma_keras.server.settings import Settings
from tests.server.test_http import hold

GET = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@contextlib.asynccontextmanager
async def serving(app, limit=None):
    """A port at which `app` listens behind our protocol."""
    config = uvicorn.Config(
        app, http=connections.protocol(limit), lifespan="off", log_level="critical"
    )
    config.load()
    state = uvicorn.server.ServerState()

    def make():
        return config.http_protocol_class(config, state, {})

    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def send(port, data):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    await writer.drain()
    return reader, writer


async def rest(reader):
    """All that comes until the server closes the connection, in whichever way."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while part := await asyncio.wait_for(reader.read(65536), 60):
            data += part
    return data


async def answer_at_once(scope, receive, send):
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.mark.parametrize("said", [b"", GET[:20], GET + GET[:20]])
def test_a_connection_without_a_whole_header_is_closed(monkeypatch, said):
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.05)

    async def go():
        async with serving(answer_at_once) as port:
            reader, writer = await send(port, said)
            data = await rest(reader)
            writer.close()
            return data

    data = asyncio.run(go())
    assert data.endswith(b"ok") == (len(said) > len(GET))


def test_a_request_that_waits_for_its_answer_is_not_silent(monkeypatch):
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.05)

    async def go():
        release = asyncio.Event()

        async def answer_later(scope, receive, send):
            await release.wait()
            await answer_at_once(scope, receive, send)

        async with serving(answer_later) as port:
            busy, writer = await send(port, GET)
            silent, other = await send(port, b"")
            assert await rest(silent) == b""  # its time is over, and so is the other's
            release.set()
            data = await asyncio.wait_for(busy.readuntil(b"ok"), 60)
            writer.close()
            other.close()
            return data

    assert asyncio.run(go()).startswith(b"HTTP/1.1 200")


def test_above_the_limit_a_request_is_told_in_json_when_to_come_again():
    async def go():
        async with serving(answer_at_once, limit=1) as port:
            silent, first = await send(port, b"")
            reader, second = await send(port, GET)
            data = await rest(reader)
            first.close()
            assert await rest(silent) == b""
            again, third = await send(port, GET)
            served = await asyncio.wait_for(again.readuntil(b"ok"), 60)
            second.close()
            third.close()
            return data, served

    data, served = asyncio.run(go())
    head, _, body = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503")
    assert b"retry-after: 10" in head.lower()
    error = json.loads(body)["error"]
    assert error["type"] == "unavailable_error"
    assert "2 connections" in error["message"]
    assert "--max-connections" in error["message"]
    assert served.startswith(b"HTTP/1.1 200")


def test_a_client_that_reads_nothing_does_not_hold_its_stream(monkeypatch):
    monkeypatch.setattr(connections, "WRITE_SECONDS", 0.05)

    async def go():
        ended = asyncio.Event()

        async def stream(scope, receive, send):
            async def write():
                await send({"type": "http.response.start", "status": 200})
                body = {"type": "http.response.body", "body": b"x" * 65536}
                while True:
                    await send({**body, "more_body": True})

            writing = asyncio.ensure_future(write())
            while (await receive())["type"] != "http.disconnect":
                pass
            writing.cancel()
            ended.set()

        async with serving(stream) as port:
            _, writer = await send(port, GET)
            await asyncio.wait_for(ended.wait(), 60)
            writer.close()

    asyncio.run(go())


class Transport:
    """Has so many bytes to write at each look."""

    def __init__(self, *left):
        self.left = list(left)
        self.aborted = False

    def get_write_buffer_size(self):
        return self.left.pop(0)

    def abort(self):
        self.aborted = True


class Loop:
    """Calls later at once."""

    def call_later(self, seconds, function, *args):
        self.later = function


@pytest.mark.parametrize(
    ("left", "aborted"),
    [((90, 60, 60, 60), True), ((90, 60, 60, 20, 20, 0, 0), False), ((0,), False)],
)
def test_a_slow_reader_is_none_that_reads_nothing(left, aborted):
    protocol = connections.Protocol.__new__(connections.Protocol)
    protocol._deadlines, protocol.loop = {}, Loop()
    protocol.transport = transport = Transport(*left)
    protocol._expect_progress()
    while protocol._deadlines:
        protocol.loop.later()
    assert transport.aborted == aborted
    assert transport.left == []


def test_a_stop_lets_streams_end_with_what_there_is(lm, monkeypatch):
    """Two answers are under way, and one stream waits for its place."""
    monkeypatch.setattr(connections, "LAST_SECONDS", 60.0)
    app = create_app(Settings("tests/tiny", rows=2), lambda: lm)
    server = app.state.server
    config = uvicorn.Config(
        app,
        port=0,
        http=connections.protocol(None),
        log_level="critical",
        timeout_graceful_shutdown=60,
    )
    uvicorn_server = connections.UvicornServer(config, server.stop)
    body = {"prompt": "x =", "max_tokens": 200, "temperature": 1.5, "seed": 1}
    body = json.dumps({**body, "n": 2, "stream": True}).encode()
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()

    async def go():
        loop = asyncio.get_running_loop()
        listening = await loop.run_in_executor(None, config.bind_socket)
        port = listening.getsockname()[1]
        running = asyncio.ensure_future(uvicorn_server.serve(sockets=[listening]))
        while server.scheduler is None:
            await asyncio.sleep(0.01)
        jobs = hold(server.scheduler, monkeypatch)
        first, one = await send(port, head + body)
        while not (jobs and jobs[0].first_token):
            await asyncio.sleep(0.01)
        second, two = await send(port, head + body)
        while server.scheduler.waiting < 1:
            await asyncio.sleep(0.01)
        uvicorn_server.should_exit = True
        answers = await asyncio.gather(rest(first), rest(second))
        one.close()
        two.close()
        await asyncio.wait_for(running, 60)
        return answers

    first, second = asyncio.run(go())
    end = b"0\r\n\r\n"  # of a body in chunks
    assert first.endswith(end)
    assert b"data: [DONE]" in first
    assert first.count(b'"finish_reason":"length"') == 2
    assert second.endswith(end)
    assert b"unavailable_error" in second
