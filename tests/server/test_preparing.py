"""Making prompts is bounded: in size, in how many at once, and by the client's patience."""

import asyncio
import threading

import pytest

from codegemma_keras.decoding import RawText, Request
from codegemma_keras.server import scheduler as scheduling
from codegemma_keras.server.ask import Ask, BusyError
from codegemma_keras.server.job import Job
from codegemma_keras.server.scheduler import Scheduler
from tests.server.connection import Connection, HeldPreparation
from tests.server.test_scheduler import Client, long_request

BODY = {"prompt": "x =", "max_tokens": 2}
LONG = "a" * 100_000


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": LONG}),
        ("/v1/completions", {"prompt": "x", "suffix": "y", "path": LONG}),
        ("/completion", {"prompt": LONG}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": LONG}]}),
        ("/api/generate", {"prompt": LONG, "raw": True}),
        ("/tokenize", {"content": LONG}),
    ],
)
def test_text_that_cannot_fit_is_refused_before_it_is_encoded(
    client, lm, monkeypatch, path, body
):
    encoded = []
    for name in ("encode", "tokenize"):
        original = getattr(type(lm.tokenizer), name)

        def spy(self, text, *args, original=original):
            encoded.append(len(str(text)))
            return original(self, text, *args)

        monkeypatch.setattr(type(lm.tokenizer), name, spy)
    response = client.post(path, json=body)
    assert response.status_code == 400
    longest = max(
        *map(len, lm.tokenizer.codec.bytes_of),
        *(len(name) for name in lm.tokenizer.codec.control_ids),
    )
    error = response.json()["error"]
    message = error if isinstance(error, str) else error["message"]
    assert "100000 bytes" in message
    assert f"at most {256 * longest} " in message
    assert max(encoded, default=0) < len(LONG)


def test_few_jobs_are_prepared_at_once_and_all_count_as_waiting(app, monkeypatch):
    scheduler = app.state.server.scheduler
    monkeypatch.setattr(scheduler, "_max_waiting", 5)
    held = HeldPreparation(scheduler, monkeypatch)

    async def go():
        asks = [asyncio.ensure_future(Connection(BODY).ask(app)) for _ in range(5)]
        await asyncio.wait_for(held.begun(scheduling.PREPARING_AT_ONCE), 60)
        while scheduler.waiting < 5:
            await asyncio.sleep(0)
        late = Connection(BODY)
        refused = await asyncio.wait_for(late.ask(app), 60)
        assert "5 prompts are waiting" in late.error
        tokens = Connection({"content": "x"})
        assert await asyncio.wait_for(tokens.ask(app, "/tokenize"), 60) == 503
        held.release.set()
        return refused, await asyncio.wait_for(asyncio.gather(*asks), 60)

    assert asyncio.run(go()) == (503, [200] * 5)
    assert held.most == scheduling.PREPARING_AT_ONCE
    assert scheduler.waiting == 0


def test_a_client_that_goes_while_its_prompt_is_prepared_leaves_nothing(
    app, monkeypatch
):
    scheduler = app.state.server.scheduler
    held = HeldPreparation(scheduler, monkeypatch)

    async def go():
        # Two are being prepared, the third has not begun.
        gone = [Connection(BODY) for _ in range(scheduling.PREPARING_AT_ONCE + 1)]
        asks = [asyncio.ensure_future(each.ask(app)) for each in gone]
        await asyncio.wait_for(held.begun(scheduling.PREPARING_AT_ONCE), 60)
        for each in gone:
            each.left.set()
        found = await asyncio.wait_for(asyncio.gather(*asks), 60)
        assert scheduler.waiting == 0
        held.release.set()
        stays = await asyncio.wait_for(Connection(BODY).ask(app), 60)
        return found, stays

    found, stays = asyncio.run(go())
    assert set(found) == {499}
    assert stays == 200
    assert len(held.jobs) == scheduling.PREPARING_AT_ONCE + 1
    assert all(job.cancelled for job in held.jobs[:-1])
    assert not any(job.groups for job in held.jobs[:-1])  # no prompt was made


def test_time_is_limited_while_a_prompt_is_prepared(lm):
    scheduler = Scheduler(lm, rows=1, max_seconds=1e-6)
    with pytest.raises(BusyError, match="--max-seconds"):
        scheduler.prepare(Client(long_request()).job)
    scheduler.close()


def scored(text):
    request = Request(prompt=RawText(text), max_new_tokens=0)
    client = Client(request)
    ask = Ask([request], score_prompts=True)
    client.job = Job(ask, client.deliver)
    return client


def test_scores_of_prompts_wait_for_their_place_and_can_be_cancelled(lm, monkeypatch):
    scheduler, threads = Scheduler(lm, rows=1), []
    original = lm.engine.log_probabilities

    def spy(prompts):
        threads.append(threading.current_thread().name)
        return original(prompts)

    monkeypatch.setattr(lm.engine, "log_probabilities", spy)
    gate = threading.Event()
    first = Client(long_request(tokens=5), gate=gate)
    scheduler.submit(scheduler.prepare(first.job))
    assert first.reached.wait(60)
    taken_back, other = scored("def f(x):"), scored("class A:")
    for each in (taken_back, other):
        scheduler.submit(scheduler.prepare(each.job))
    taken_back.job.cancel()
    assert scheduler.waiting == 2
    assert threads == []
    gate.set()
    assert taken_back.result()[1].stop_reason == "cancelled"
    assert taken_back.job.refusal(0).status == 503
    assert other.result()[1].stop_reason == "max_new_tokens"
    assert other.job.refusal(0) is None
    assert threads == ["scheduler"]
    [scores] = other.job.prompt_scores
    assert len(scores) == other.job.prompt_tokens
    scheduler.close()


def test_a_prompt_that_gets_no_tokens_was_not_found_in_a_cache(client, lm):
    """And it takes no cache away from those that would use it."""
    text = "".join(f"cached_{i} = {i}\n" for i in range(9))
    body = {"prompt": text, "max_tokens": 2}
    client.post("/v1/completions", json=body)
    whole = client.post("/v1/completions", json={**body, "max_tokens": 0}).json()
    assert whole["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    again = client.post("/v1/completions", json=body).json()
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 16
