"""Many requests in one running batch: each gets its own text, and places come back."""

import gc
import platform
import queue
import random
import threading
import weakref

import pytest

from codegemma_keras.decoding import Cursor, Request, Sampling
from codegemma_keras.decoding.completion import Cancellation
from codegemma_keras.server import memory
from codegemma_keras.server.ask import Ask, BusyError, SupersededError
from codegemma_keras.server.scheduler import Done, Failed, Job, Scheduler, Text

FILES = [
    "".join(f"def f{i}_{j}(x):\n    return x + {j}\n\n\n" for j in range(3))
    for i in range(3)
]
WORDS = ("return x", "def g(y):\n    ", "value = ", "for i in ", "")


def random_request(choice):
    """A place in one of three files, so that prompts often begin alike."""
    text = choice.choice(FILES)
    cut = choice.randrange(len(text))
    return Request(
        prompt=Cursor(text[:cut] + choice.choice(WORDS), text[cut:], path="a.py"),
        max_new_tokens=choice.choice((1, 4, 12)),
        sampling=choice.choice((Sampling(), Sampling(1.0))),
        seed=choice.randrange(1000),
        stop_strings=choice.choice(((), ("e",), ("re", "\n\n"))),
    )


class Client:
    """Takes what a job delivers."""

    def __init__(self, request, editor=None, gate=None):
        self.events = queue.SimpleQueue()
        self.gate = gate
        self.reached = threading.Event()  # the gate
        self.begun = threading.Event()
        self.job = Job(Ask([request]), self.deliver, editor)

    def deliver(self, event):
        self.reached.set()
        if self.gate is not None:
            self.gate.wait(30)  # holds the scheduler's thread
        self.begun.set()
        self.events.put(event)

    def result(self):
        """`(streamed text, Completion)`."""
        text = ""
        while True:
            event = self.events.get(timeout=60)
            if isinstance(event, Text):
                text += event.text
            elif isinstance(event, Done):
                return text, event.completion
            else:
                raise event.error


@pytest.fixture
def scheduler(lm):
    scheduler = Scheduler(lm, rows=4, max_waiting=40)
    yield scheduler
    scheduler.close(0)


def long_request(prefix="def f(x):\n    ", tokens=150):
    return Request(
        prompt=Cursor(prefix, ""), max_new_tokens=tokens, stop_token_ids=None
    )


def test_everyone_gets_the_text_they_get_alone(scheduler, lm):
    """30 requests of three editors at random moments: stream == whole == alone."""
    choice = random.Random(3)
    requests = [random_request(choice) for _ in range(30)]
    clients = [Client(request) for request in requests]
    for client in clients:
        scheduler.submit(scheduler.prepare(client.job))
        if choice.random() < 0.3:
            client.begun.wait(60)  # some come later
    alone = lm.session("line")
    for request, client in zip(requests, clients, strict=True):
        text, completion = client.result()
        expected = alone.complete(
            request.prompt.prefix,
            request.prompt.suffix,
            path="a.py",
            max_new_tokens=request.max_new_tokens,
            sampling=request.sampling,
            seed=request.seed,
            stop_strings=request.stop_strings,
        )
        assert completion.text == text == expected.text
        assert completion.stop_reason == expected.stop_reason
    assert sum(c.job.computed_tokens for c in clients) < sum(
        c.job.prompt_tokens for c in clients
    )
    assert scheduler.running == scheduler.waiting == 0


def test_freed_memory_goes_back_once_when_it_is_quiet(scheduler, monkeypatch):
    calls = queue.SimpleQueue()
    monkeypatch.setattr(memory, "give_back", lambda: calls.put(scheduler.running))
    for _ in range(2):
        client = Client(long_request(tokens=2))
        scheduler.submit(scheduler.prepare(client.job))
        client.result()
        assert calls.get(timeout=60) == 0  # nobody was being served
    assert calls.empty()


def test_nothing_of_an_ended_job_waits_for_the_search_for_cycles(scheduler):
    """What it holds, such as the cache that it begins with, is free at once."""
    gc.collect()
    gc.disable()
    try:
        rows = []
        for _ in range(2):
            events = queue.SimpleQueue()
            job = Job(Ask([long_request(tokens=2)]), events.put)
            scheduler.submit(scheduler.prepare(job))
            while not isinstance(events.get(timeout=60), Done):
                pass
            rows.append(weakref.ref(job.groups[0][0].row))
            job = None
        assert (
            rows[0]() is None
        )  # the scheduler's thread may still look at the last one
    finally:
        gc.enable()


def test_memory_can_be_given_back_where_the_c_library_knows_how():
    assert memory._malloc_trim() is not None or platform.libc_ver()[0] != "glibc"


def test_a_job_that_is_cancelled_ends_at_the_next_visit(scheduler):
    gate = threading.Event()
    client = Client(long_request(), gate=gate)
    scheduler.submit(scheduler.prepare(client.job))
    client.job.cancel()
    gate.set()
    _, completion = client.result()
    assert completion.stop_reason == "cancelled"
    assert len(completion.token_ids) <= 8
    assert scheduler.running == 0


def test_the_newest_keystroke_wins_and_finds_what_the_older_read(scheduler):
    gate = threading.Event()
    older = Client(long_request(FILES[0], 60), editor="a", gate=gate)
    other = Client(long_request(tokens=5), editor="b")
    scheduler.submit(scheduler.prepare(older.job))
    assert older.reached.wait(60)  # its prompt has been read
    scheduler.submit(scheduler.prepare(other.job))
    newer = Client(long_request(FILES[0] + "d", 60), editor="a")
    scheduler.submit(scheduler.prepare(newer.job))
    gate.set()
    assert older.result()[1].stop_reason == "cancelled"
    assert older.job.superseded
    assert newer.result()[1].stop_reason == "max_new_tokens"
    assert newer.job.computed_tokens <= 16
    assert other.result()[1].stop_reason == "max_new_tokens"
    assert not other.job.superseded


def test_what_waits_is_bounded(lm):
    scheduler = Scheduler(lm, rows=1, max_waiting=2)
    gate = threading.Event()
    clients = [Client(long_request(tokens=5), gate=gate) for _ in range(8)]
    refused = 0
    for client in clients:
        try:
            scheduler.submit(scheduler.prepare(client.job))
        except BusyError:
            refused += 1
    assert 5 <= refused <= 6  # one runs, two wait; the first may not have begun
    gate.set()
    scheduler.close(60)
    served = [client for client in clients if not client.events.empty()]
    assert len(served) == len(clients) - refused
    with pytest.raises(BusyError, match="stopped"):
        scheduler.submit(scheduler.prepare(Client(long_request()).job))


def test_closing_ends_what_is_left_with_what_there_is(lm):
    scheduler = Scheduler(lm, rows=1)
    clients = [Client(long_request()) for _ in range(3)]
    for client in clients:
        scheduler.submit(scheduler.prepare(client.job))
    scheduler.close(0)
    reasons = [client.result()[1].stop_reason for client in clients]
    assert set(reasons) <= {"cancelled", "max_new_tokens"}
    assert reasons[-1] == "cancelled"


def test_time_is_limited_while_waiting_too(lm):
    scheduler = Scheduler(lm, rows=1)
    clients = [Client(long_request()) for _ in range(3)]
    for client in clients:
        [[answer]] = scheduler.prepare(client.job).groups
        answer.cancellation = Cancellation(deadline=0.0)
        scheduler.submit(client.job)
    assert [client.result()[1].stop_reason for client in clients] == ["time"] * 3
    refusals = [client.job.refusal(0) for client in clients]
    assert [refusal.status for refusal in refusals] == [503] * 3
    assert "--max-seconds" in str(refusals[0])
    scheduler.close()


def test_an_older_job_that_comes_to_the_queue_late_ends_no_newer_one(scheduler):
    gate = threading.Event()
    older, newer = (Client(long_request(), editor="a", gate=gate) for _ in range(2))
    for client in (older, newer):
        scheduler.prepare(client.job)
    scheduler.submit(newer.job)
    with pytest.raises(SupersededError):
        scheduler.submit(older.job)
    gate.set()
    newer.job.cancel()
    assert newer.result()
    assert older.job.superseded
    assert not newer.job.superseded


def test_names_of_editors_are_not_remembered_for_ever(scheduler, monkeypatch):
    monkeypatch.setattr("codegemma_keras.server.scheduler.REMEMBERED_EDITORS", 2)
    for editor in "abc":
        client = Client(long_request(tokens=1), editor)
        scheduler.submit(scheduler.prepare(client.job))
        client.result()
    assert list(scheduler._newest) == ["b", "c"]


@pytest.mark.parametrize("when", ["while it decodes", "when an answer ends"])
def test_a_fault_of_the_device_is_told_and_the_next_request_is_served(
    scheduler, lm, monkeypatch, when
):
    def fails(*args):
        raise RuntimeError("device lost")

    with monkeypatch.context() as patch:
        if when == "while it decodes":
            patch.setattr(lm.engine, "decode", fails)
        else:
            patch.setattr(scheduler.prefixes, "put", fails)
        client = Client(long_request(tokens=5))
        scheduler.submit(scheduler.prepare(client.job))
        event = client.events.get(timeout=60)
        while not isinstance(event, Failed):
            event = client.events.get(timeout=60)
    client = Client(long_request(tokens=5))
    scheduler.submit(scheduler.prepare(client.job))
    assert len(client.result()[1].token_ids) == 5


def test_memory_of_prefixes_is_bounded_and_the_least_recent_goes(lm):
    one = lm.engine.cache_bytes(1, 128)
    scheduler = Scheduler(lm, rows=1, cache_bytes=2 * one)

    def computed(prefix):
        client = Client(long_request(prefix, tokens=1))
        scheduler.submit(scheduler.prepare(client.job))
        client.result()
        assert scheduler.prefixes.bytes <= 2 * one
        return client.job.computed_tokens

    a, b, c = (f"{name} = {name * 30}\n" * 2 for name in "abc")
    first = [computed(text) for text in (a, b)]
    assert computed(a) <= 8 < min(first)
    computed(c)  # `b` was used least recently
    assert computed(a) <= 8
    assert computed(b) > 8
    scheduler.close()


def test_what_two_editors_share_is_copied_not_taken_away(lm):
    scheduler = Scheduler(lm, rows=1)

    def computed(*parts):
        client = Client(long_request("".join(parts), tokens=1))
        scheduler.submit(scheduler.prepare(client.job))
        client.result()
        return client.job.computed_tokens, client.job.prompt_tokens

    shared, mine = "import os\nimport sys\n" * 2, "def mine(x):\n    return 1\n" * 3
    computed(shared, mine)
    some, every = computed(shared, "class Yours:\n    pass\n" * 3)
    assert some < every - 16
    assert computed(shared, mine)[0] <= 8
    scheduler.close()
