"""Clients that go: noticed while they read a stream, and while they wait for the whole."""

import asyncio
import time

import pytest

from tests.server.connection import Connection, HeldPreparation

BODY = {"prompt": "x =", "max_tokens": 200, "temperature": 1.5, "seed": 1}


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
        return await connection.ask(app, **{"x-editor-id": "mine"})

    async def go():
        older, newer = Connection(BODY), Connection({**BODY, "max_tokens": 1})
        first = asyncio.ensure_future(ask(older))
        while not (jobs and jobs[0].first_token):
            await asyncio.sleep(0.01)
        second = await asyncio.wait_for(ask(newer), 60)
        return await asyncio.wait_for(first, 60), second

    assert asyncio.run(go()) == (409, 200)
    assert jobs[0].superseded


def test_the_order_of_an_editors_requests_is_that_of_their_arrival(app, monkeypatch):
    """A long prompt takes longer to prepare than the short one that comes after it."""
    scheduler = app.state.server.scheduler
    held = HeldPreparation(scheduler, monkeypatch, "older")
    jobs = hold(scheduler, monkeypatch)

    async def go():
        older = Connection({**BODY, "prompt": "older"})
        newer = Connection({**BODY, "max_tokens": 9})
        asks = [
            asyncio.ensure_future(each.ask(app, **{"x-editor-id": "mine"}))
            for each in (older, newer)
        ]
        await asyncio.wait_for(held.begun(), 60)
        while not (jobs and jobs[0].first_token):
            await asyncio.sleep(0)
        held.release.set()  # while the newer one is under way
        first = await asyncio.wait_for(asks[0], 60)
        jobs[0].cancel()  # lets the device go on
        return first, await asyncio.wait_for(asks[1], 60)

    assert asyncio.run(go()) == (409, 200)
    assert held.jobs[0].superseded
    assert not jobs[0].superseded
