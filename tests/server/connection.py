"""What an ASGI server does for one request, by hand; and a prepare that waits."""

import asyncio
import json
import threading


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

    def scope(self, path, **more):
        headers = {"host": "127.0.0.1", "content-type": "application/json", **more}
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

    async def ask(self, app, path="/v1/completions", **headers):
        """The status of the answer."""
        await app(self.scope(path, **headers), self.receive, self.send)
        return self.sent[0]["status"]

    @property
    def error(self):
        """The message of an answer that says what is wrong."""
        return json.loads(self.sent[1]["body"])["error"]["message"]


class HeldPreparation:
    """Holds the preparation of jobs whose prompt has a word, until it is released.

    Args:
        scheduler: a `Scheduler`.
        monkeypatch: pytest's.
        word: str; empty: all jobs are held.
    """

    def __init__(self, scheduler, monkeypatch, word=""):
        self.release = threading.Event()
        self.jobs = []
        self.running = self.most = 0
        self._lock = threading.Lock()
        original = scheduler.prepare

        def held(job):
            if word in str(job.ask.requests[0].prompt):
                with self._lock:
                    self.jobs.append(job)
                    self.running += 1
                    self.most = max(self.most, self.running)
                self.release.wait(60)
                with self._lock:
                    self.running -= 1
            return original(job)

        monkeypatch.setattr(scheduler, "prepare", held)

    async def begun(self, count=1):
        """Wait until so many were begun."""
        while len(self.jobs) < count:
            await asyncio.sleep(0)
