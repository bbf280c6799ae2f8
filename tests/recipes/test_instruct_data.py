"""`codegemma data instruct` on a server that answers as OpenAI's API does."""

import http.server
import json
import threading

import pytest

from codegemma_keras.recipes import instruct_data
from codegemma_keras.recipes.chat_server import ChatServer

MIT = "SPDX-License-Identifier: MIT"
ANSWER = """[Problem]
Write a function `add_{n}(x)` that returns the number x plus {n}.

[Solution]
```python
def add_{n}(x):
    return x + {n}
```

[Tests]
```python
assert add_{n}(0) == {n}
assert add_{n}(5) == {n} + 5
```
"""


class Server(http.server.ThreadingHTTPServer):
    """Answers what `answer(request)` gives: `(status, text)`; remembers requests."""

    def __init__(self, answer):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.bodies, self.keys = answer, [], []
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append((self.path, body))
        self.server.keys.append(self.headers.get("Authorization"))
        status, text = self.server.answer(body)
        data = text
        if status == 200:
            data = json.dumps({"choices": [{"message": {"content": text}}]})
        self.send_response(status)
        self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(data.encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def serve():
    servers = []

    def start(answer):
        server = Server(answer)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def code(tmp_path):
    folder = tmp_path / "lib"
    folder.mkdir()
    for name in "abcdef":
        rows = [f"{name}_{i} = work({i})" for i in range(20)]
        (folder / f"{name}.py").write_text("\n".join([f"# {MIT}", *rows, ""]))
    return folder


def config(code, out, url, **more):
    more = {"snippets": 6, "batch_size": 2, "isolation": "limits"} | more
    return instruct_data.InstructConfig(
        sources=(str(code),), out=str(out), url=url, model="a-model", **more
    )


def number_of(body):
    """A number that depends on the snippet alone."""
    return sum(body["messages"][0]["content"].encode()) % 1000


def test_from_code_to_rows_and_again(serve, code, tmp_path, capsys):
    server = serve(lambda body: (200, ANSWER.format(n=number_of(body))))
    question = config(code, tmp_path / "out", server.url, threshold=0.0)
    report = instruct_data.make(question)
    rows = (tmp_path / "out" / "rows.jsonl").read_text().splitlines()
    assert len(rows) == len(server.bodies) == 6
    assert report.number("exercise", "kept") == 6
    path, body = server.bodies[0]
    assert path == "/v1/chat/completions"
    assert body["model"] == "a-model"
    assert body["max_tokens"] == 768
    row = json.loads(rows[0])
    assert row["messages"][0]["content"] == row["prompt"]
    assert row["licence"] == "MIT"
    assert "6 of 6 pieces of code (100.0%)" in capsys.readouterr().out
    instruct_data.make(question)  # nothing is asked again
    assert len(server.bodies) == 6
    assert (tmp_path / "out" / "rows.jsonl").read_text().splitlines() == rows
    with pytest.raises(ValueError, match=r"temperature is 0\.7, not 0\.2"):
        instruct_data.make(config(code, tmp_path / "out", server.url, temperature=0.2))


def test_a_stopped_run_asks_only_for_the_rest(serve, code, tmp_path):
    asked = []

    def answer(body):
        asked.append(body)
        if len(asked) == 3:
            return 400, "the machine is on fire"
        return 200, ANSWER.format(n=number_of(body))

    server = serve(answer)
    question = config(code, tmp_path / "out", server.url, batch_size=1)
    with pytest.raises(ValueError, match="400: the machine is on fire"):
        instruct_data.make(question)
    report = instruct_data.make(question)
    assert len(asked) == 2 + 1 + 4
    assert report.number("exercise", "asked") == 6


def test_every_loss_is_counted(serve, code, tmp_path):
    answers = iter(
        ["no", ANSWER.format(n=1), ANSWER.format(n=1), "[Problem]\n" + "a" * 50]
    )
    wrong = ANSWER.format(n=2).replace("x + 2", "x + 3")
    server = serve(lambda body: (200, next(answers, wrong)))
    report = instruct_data.make(
        config(code, tmp_path / "out", server.url, batch_size=1)
    )
    found = {key: n for key, (n, _) in report.counts.items() if n and key[0] != "read"}
    assert found[("exercise", "asked")] == 6
    assert found[("exercise", "no problem")] == 1
    assert found[("exercise", "no solution")] == 1
    assert found[("exercise", "fails its tests: wrong answer")] == 2
    assert found[("exercise", "kept")] == 1
    assert found[("dedup", "exact duplicate")] == 1
    saved = json.loads((tmp_path / "out" / "report.json").read_text())
    kept = [row["documents"] for row in saved if row["reason"] == "kept"]
    assert kept == [1]


def test_benchmarks_do_not_come_out(serve, code, tmp_path):
    problem = {"task_id": 1, "text": "Write a function to find the shared elements from "
               "the given two lists of whole numbers, in order.",
               "code": "def shared(a, b):\n  result = tuple(set(a) & set(b))\n  return result",
               "test_list": ["assert shared((3, 4), (4, 5)) == (4,)"]}  # fmt: skip
    (tmp_path / "mbpp.jsonl").write_text(json.dumps(problem) + "\n")
    text = (
        f"[Problem]\n{problem['text']}\n[Solution]\n{problem['code']}\n"
        f"[Tests]\n{problem['test_list'][0]}\n"
    )
    server = serve(lambda body: (200, text))
    question = config(
        code,
        tmp_path / "out",
        server.url,
        snippets=1,
        decontaminate=(str(tmp_path / "mbpp.jsonl"),),
    )
    report = instruct_data.make(question)
    assert report.number("exercise", "kept") == 0
    assert (tmp_path / "out" / "rows.jsonl").read_text() == ""


def test_code_without_a_licence_is_left_out(serve, tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "a.py").write_text("a = 1\nb = 2\nc = 3\nd = 4\ne = 5\n")
    question = config(tmp_path / "lib", tmp_path / "out", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=r"licence unknown.*--any-licence"):
        instruct_data.make(question)
    assert not (tmp_path / "out").exists()


def test_servers_that_fail(serve):
    busy = iter([(429, "wait"), (503, "wait")])
    server = serve(lambda body: next(busy, (200, "done")))
    ask = ChatServer(server.url, "m", "secret").ask
    assert ask(["hello"], [2**40], 0.5, 10) == ["done"]
    assert server.keys == ["Bearer secret"] * 3
    assert server.bodies[0][1]["seed"] < 2**31
    with pytest.raises(PermissionError, match="refuses the key"):
        ChatServer(serve(lambda body: (401, "no")).url, "m").ask(["a"], [0], 0, 1)
    with pytest.raises(ConnectionError, match="503 5 times"):
        ChatServer(serve(lambda body: (503, "no")).url, "m").ask(["a"], [0], 0, 1)
    with pytest.raises(ConnectionError, match="Is the server running"):
        ChatServer("http://127.0.0.1:9/v1", "m").ask(["a"], [0], 0, 1)
    with pytest.raises(ValueError, match="must begin with http"):
        ChatServer("file:///etc/passwd", "m")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"url": "http://a", "model": None}, "say the model's name"),
        ({"url": None, "model": "m"}, "give its url"),
        ({"snippets": 0}, "snippets=0 must be at least 1"),
        ({"threshold": 2}, "threshold=2 must be"),
    ],
)
def test_settings_that_contradict(changes, message):
    given = {"sources": ("a",), "out": "b", "url": "http://a", "model": "m"} | changes
    with pytest.raises(ValueError, match=message):
        instruct_data.InstructConfig(**given)
