"""A server whose clients die, stall and crowd: does everything come back?

    KERAS_BACKEND=jax python benchmarks/serve_abuse.py --minutes 10 --steady-minutes 30

One server of ours, and in turn:

* `killed`: for so many minutes eight client processes ask for streams and are killed with
  SIGKILL at random moments, and new ones take their places;
* `crowd`: 1,000 connections that say nothing, while another client is served;
* `slow`: 50 clients that send a request byte by byte and never end it, 50 that end their
  half of the connection after asking, 50 that ask for a stream and read nothing;
* `steady`: for `--steady-minutes` four editors that type, each in a file of its own.

After each, within a minute, no answer may be under way, no prompt may wait, and a question
must get the text that it got at the start. Twice a minute the memory is noted, and how much
of it the caches of prompts take, which have a limit of 512 MiB; the last time after three
seconds without a request.
"""

import argparse
import concurrent.futures
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

from _data import record
from _strokes import places
from serve_load import memory, wait_until_ready

HOST = "127.0.0.1"
LINES = 15  # on each side of the cursor
CLIENT = """
import json, sys, urllib.request
texts = json.load(sys.stdin)
while True:
    for before, after in texts:
        body = {"input_prefix": before, "input_suffix": after, "n_predict": 64,
                "temperature": 0, "stream": True}
        request = urllib.request.Request(sys.argv[1] + "/infill",
            json.dumps(body).encode(), {"Content-Type": "application/json"})
        try:
            urllib.request.urlopen(request, timeout=60).read()
        except OSError:
            pass
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--preset", default="code_gemma_tiny_py")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--steady-minutes", type=float, default=10)
    parser.add_argument("--port", type=int, default=8014)
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=PARTS)
    options = parser.parse_args()
    command = [sys.executable, "-m", "codegemma_keras.cli", "serve", options.preset]
    command += ["--port", str(options.port), "--rows", "8"]
    url = f"http://{HOST}:{options.port}"
    with subprocess.Popen(
        command, stdout=sys.stderr, stderr=subprocess.DEVNULL
    ) as server:
        try:
            wait_until_ready(url, server)
            known = question(url)
            found = {
                "preset": options.preset,
                "minutes": options.minutes,
                "steady_minutes": options.steady_minutes,
            }
            for name in options.parts:
                watch = Watch(server.pid, url)
                found[name] = PARTS[name](url, options, watch)
                found[name]["seconds_to_idle"] = wait_until_idle(url)
                found[name]["same_answer_after"] = question(url) == known
                time.sleep(3)  # a server that is quiet gives memory back
                watch.note(force=True)
                found[name]["memory_mib"] = watch.noted
                found[name]["of_that_caches_mib"] = watch.caches
                found[name]["threads_and_descriptors"] = watch.handles()
                print(name, json.dumps(found[name]), flush=True)
        finally:
            server.terminate()
    tiny = options.preset == parser.get_default("preset")
    record("serve_abuse" if tiny else f"serve_abuse_{options.preset}", found)
    good = all(found[name]["same_answer_after"] for name in options.parts)
    sys.exit(0 if good else 1)


# The parts


def killed(url, options, watch):
    """Client processes that end by SIGKILL at random moments."""
    choice, clients, count = random.Random(0), [], 0
    typed = list(places(0, 40, LINES))
    end = time.monotonic() + 60 * options.minutes
    while time.monotonic() < end:
        while len(clients) < 8:
            client = subprocess.Popen(
                [sys.executable, "-c", CLIENT, url], stdin=subprocess.PIPE, text=True
            )
            client.stdin.write(json.dumps(choice.sample(typed, len(typed))))
            client.stdin.close()
            clients.append(client)
        time.sleep(choice.uniform(0, 0.5))
        victim = clients.pop(choice.randrange(len(clients)))
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        count += 1
        watch.note()
    for client in clients:
        client.kill()
        client.wait()
    return {"clients_killed": count + len(clients), **counters(url)}


def crowd(url, options, watch):
    """Connections that say nothing, beside a client that asks."""
    alone = [timed(url) for _ in range(20)]
    idle = [socket.create_connection((HOST, options.port)) for _ in range(1000)]
    time.sleep(1)
    beside = [timed(url) for _ in range(20)]
    watch.note(force=True)
    for connection in idle:
        connection.close()
    return {
        "connections": len(idle),
        "median_ms_alone": sorted(alone)[10],
        "median_ms_beside_them": sorted(beside)[10],
    }


def slow(url, options, watch):
    """Clients that never end their request, half-close, or read nothing."""
    body = json.dumps({"prompt": "def f(", "max_tokens": 64, "stream": True}).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: {HOST}:{options.port}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    dripping = [socket.create_connection((HOST, options.port)) for _ in range(50)]
    whole = head + body
    for place in range(40):
        for connection in dripping:
            connection.sendall(whole[place : place + 1])
        time.sleep(0.05)
    half = [socket.create_connection((HOST, options.port)) for _ in range(50)]
    for connection in half:
        connection.sendall(whole)
        connection.shutdown(socket.SHUT_WR)
    deaf = [socket.create_connection((HOST, options.port)) for _ in range(50)]
    for connection in deaf:
        connection.sendall(whole)
    answered = closed = 0
    for connection in half:
        connection.settimeout(60)
        answer = b""
        while part := connection.recv(65536):
            answer += part
        answered += answer.startswith(b"HTTP/1.1 200") or b" 503 " in answer[:20]
        closed += not answer
    served = timed(url)
    watch.note(force=True)
    for connection in dripping + half + deaf:
        connection.close()
    return {
        "half_closed_answered": answered,
        "half_closed_that_were_closed": closed,
        "ms_beside_them": served,
    }


def steady(url, options, watch):
    """Four editors that type, all the time."""
    end, count, failed = time.monotonic() + 60 * options.steady_minutes, 0, 0
    texts = [list(places(number, 200, LINES)) for number in range(4)]

    def type_(editor):
        done = wrong = 0
        while time.monotonic() < end:
            for before, after in texts[editor]:
                if time.monotonic() >= end:
                    break
                try:
                    post(url, before, after, 16)
                except OSError:
                    wrong += 1
                done += 1
                if editor == 0:
                    watch.note()
        return done, wrong

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for done, wrong in pool.map(type_, range(4)):
            count, failed = count + done, failed + wrong
    return {"requests": count, "failed": failed, **counters(url)}


PARTS = {each.__name__: each for each in (killed, crowd, slow, steady)}


# What they share


class Watch:
    """The memory of a process over time."""

    def __init__(self, pid, url):
        self._pid, self._url, self._next = pid, url, time.monotonic()
        self.noted, self.caches = [], []

    def note(self, force=False):
        if force or time.monotonic() >= self._next:
            self._next = time.monotonic() + 30
            self.noted.append(memory(self._pid))
            text = urllib.request.urlopen(f"{self._url}/metrics").read().decode()
            held = re.search(r"^codegemma_prefix_bytes (\S+)", text, re.M)
            self.caches.append(round(float(held[1]) / 2**20))

    def handles(self):
        folder = f"/proc/{self._pid}"
        return [len(os.listdir(f"{folder}/task")), len(os.listdir(f"{folder}/fd"))]


def post(url, before, after, tokens):
    body = {"input_prefix": before, "input_suffix": after, "n_predict": tokens}
    request = urllib.request.Request(
        f"{url}/infill",
        json.dumps(body | {"temperature": 0}).encode(),
        {"Content-Type": "application/json"},
    )
    for _ in range(60):  # a server that is full says when to come again, as it should
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                return json.loads(response.read())["content"]
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise
            time.sleep(int(error.headers.get("Retry-After", 1)))
    raise RuntimeError("The server was full for a minute.")


def question(url):
    return post(url, "def total(values):\n    result = 0\n    for ", "\n", 32)


def timed(url):
    begin = time.perf_counter()
    question(url)
    return round((time.perf_counter() - begin) * 1000, 1)


def counters(url):
    """Of requests, by outcome, since the server started."""
    text = urllib.request.urlopen(f"{url}/metrics").read().decode()
    outcomes = {}
    pattern = r'codegemma_requests_total\{outcome="([^"]*)",path="[^"]*"\} (\S+)'
    for outcome, value in re.findall(pattern, text):
        outcomes[outcome] = outcomes.get(outcome, 0) + int(float(value))
    return {"outcomes_so_far": outcomes}


def wait_until_idle(url):
    """Seconds until nothing runs and nothing waits; None if that does not come."""
    begin = time.monotonic()
    while time.monotonic() - begin < 60:
        text = urllib.request.urlopen(f"{url}/metrics").read().decode()
        busy = re.findall(r"^llamacpp:requests_\w+ (\S+)", text, re.M)
        if not any(float(value) for value in busy):
            return round(time.monotonic() - begin, 1)
        time.sleep(0.1)
    return None


if __name__ == "__main__":
    main()
