"""Requests that no client should send, by the thousand: bodies with faults at random.

`python -m tests.server.malformed 10000` sends so many to the application in this process
and prints the statuses and the memory.
"""

import collections
import copy
import json
import os
import pathlib
import random
import sys

VALID = {
    "/v1/completions": {
        "model": "tiny",
        "prompt": "def f(",
        "suffix": "\n",
        "max_tokens": 2,
        "temperature": 0,
        "top_p": 0.9,
        "n": 1,
        "stop": ["\n\n"],
        "stream": True,
        "stream_options": {"include_usage": True},
        "logprobs": 1,
        "seed": 1,
        "context": [{"path": "a.py", "text": "A = 1\n"}],
        "path": "b.py",
    },
    "/v1/chat/completions": {
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 2,
        "stream": False,
        "stop": "x",
    },
    "/v1/fim/completions": {"prompt": "x", "suffix": "y", "max_tokens": 2},
    "/infill": {
        "input_prefix": "a\n",
        "input_suffix": "b\n",
        "input_extra": [{"filename": "a.py", "text": "A"}],
        "prompt": "c",
        "n_predict": 2,
        "response_fields": ["content", "timings/prompt_n"],
        "t_max_predict_ms": 10,
        "top_k": 4,
    },
    "/completion": {"prompt": "x", "n_predict": 2, "stop": ["y"]},
    "/api/generate": {
        "model": "tiny",
        "prompt": "x",
        "suffix": "y",
        "options": {"num_predict": 2, "temperature": 0, "stop": ["z"]},
    },
    "/api/chat": {
        "messages": [{"role": "user", "content": "Hi"}],
        "options": {"num_predict": 2},
    },
    "/api/show": {"model": "tiny"},
    "/tokenize": {"content": "def f", "with_pieces": True},
    "/detokenize": {"tokens": [5, 6]},
}
VALUES = (
    None, True, False, 0, -1, 1, 2.5, 10**9, 10**30, -(10**18), 1e308, -0.0, "", "x", "\x00",
    "\r\n", "é\U0001f600", "<|fim_middle|>",
    "../../etc/passwd", "a" * 3000, [], [[]], [None], ["", ""],
    [1, 2, 3], [-1], [10**12], ["x"] * 50, {}, {"a": {}}, {"": ""}, [{"role": "user"}],
    [{"role": "model", "content": "x"}],
    [{"path": "", "text": ""}], [{"path": "a\nb", "text": ""}],
)  # fmt: skip
RAW = (
    b"", b"{", b"[]", b"null", b'"x"', b"nan", b'{"prompt": NaN}', b'{"prompt": "\xff\xfe"}',
    b'{"prompt": "\\ud800"}', b'{"prompt": "x", "temperature": Infinity}', b"{" * 5000,
    b"[" * 5000, b'{"prompt":' * 2000, b'{"prompt": "x"} trailing',
    b'{"a": 1, "a": 2}', b"\xef\xbb\xbf{}",
    b'{"prompt": 1e999}', b'{"n_predict": 1' + b"0" * 5000 + b"}", b"\x00\x01\x02",
)  # fmt: skip


def bodies(seed: int, count: int):
    """`(path, body)` pairs: valid ones with one to three faults, or bytes of any kind."""
    choice = random.Random(seed)
    for _ in range(count):
        path = choice.choice(list(VALID))
        if choice.random() < 0.1:
            yield path, choice.choice(RAW)
            continue
        body = json.loads(json.dumps(VALID[path]))
        for _ in range(choice.choice((1, 1, 2, 3))):
            _spoil(choice, body)
        yield path, json.dumps(body).encode()


def _spoil(choice, body):
    """Replace, remove or add a value somewhere in `body`."""
    place = body
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = choice.choice(keys)
        inner = place[key]
        if isinstance(inner, (dict, list)) and inner and choice.random() < 0.5:
            place = inner
            continue
        break
    fault = choice.random()
    if fault < 0.15:
        del place[key]
    elif fault < 0.25 and isinstance(place, dict):
        name = choice.choice(("x-unknown", "tools", "images", "template", ""))
        place[name] = copy.deepcopy(choice.choice(VALUES))
    else:
        place[key] = copy.deepcopy(choice.choice(VALUES))


def send(client, seed: int, count: int) -> collections.Counter:
    """Statuses of so many malformed requests; each answer is checked for its shape."""
    statuses = collections.Counter()
    for path, body in bodies(seed, count):
        headers = {"Content-Type": "application/json"}
        response = client.post(path, content=body, headers=headers)
        statuses[response.status_code] += 1
        assert response.status_code in (200, 400, 404, 413), (path, body, response.text)
        if response.status_code != 200:
            error = response.json()["error"]
            message = error if path.startswith("/api/") else error["message"]
            assert 0 < len(message) < 600, (path, body, message)
            assert "Traceback" not in message
    return statuses


def main():
    """Send as many as the command line says, in rounds, and print what came of it."""
    from starlette.testclient import TestClient

    from codegemma_keras.server.app import create_app
    from codegemma_keras.server.settings import Settings
    from tests.small_task import small_task

    count, rounds = int(sys.argv[1]), 10
    lm = small_task()
    app = create_app(Settings("tests/tiny"), lambda: lm)
    with TestClient(app, base_url="http://127.0.0.1") as client:
        while client.get("/health").status_code != 200:
            pass
        for number in range(rounds):
            statuses = send(client, seed=number, count=count // rounds)
            pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
            print(dict(statuses), f"{pages * os.sysconf('SC_PAGE_SIZE') >> 20} MiB")


if __name__ == "__main__":
    main()
