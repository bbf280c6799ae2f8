"""Who may ask what: one test for each class of fault that such servers have had."""

import json
import logging

import pytest
from starlette.testclient import TestClient

from codegemma_keras.server.app import create_app
from codegemma_keras.server.settings import Settings

BODY = {"prompt": "x =", "max_tokens": 2}


def serving(lm, **settings):
    app = create_app(Settings("tests/tiny", rows=2, **settings), lambda: lm)
    client = TestClient(app, base_url="http://127.0.0.1:8012")
    return client


@pytest.fixture
def locked(lm, tmp_path):
    key = tmp_path / "key"
    key.write_text("s3cret-key\n")
    with serving(lm, key_file=str(key), allow_origin=("https://ide.example",)) as c:
        while c.get("/health").status_code != 200:
            pass
        yield c


@pytest.mark.parametrize(
    "host",
    [
        "attacker.example",
        "attacker.example:8012",
        "127.0.0.1.attacker.example",
        "[",
        "",
    ],
)
def test_dns_rebinding_finds_no_server(client, host):
    """Ollama CVE-2024-28224."""
    response = client.post("/v1/completions", json=BODY, headers={"Host": host})
    assert response.status_code in (400, 403)
    assert "error" in response.json()


@pytest.mark.parametrize(
    "host", ["localhost:8012", "LOCALHOST", "[::1]:1", "127.0.0.1"]
)
def test_this_machine_has_several_names(client, host):
    assert client.get("/v1/models", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://attacker.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_pages_of_other_sites_may_not_ask_nor_read(client, headers):
    """llama.cpp 25606, 25655: CORS that reflects any origin, with credentials."""
    response = client.post("/v1/completions", json=BODY, headers=headers)
    assert response.status_code == 403
    assert "access-control-allow-origin" not in response.headers
    preflight = client.options("/v1/completions", headers=headers)
    assert "access-control-allow-origin" not in preflight.headers


def test_a_page_that_is_named_may_ask(locked):
    origin = {"Origin": "https://ide.example"}
    preflight = locked.options(
        "/v1/completions",
        headers={
            **origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization, content-type",
        },
    )
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "https://ide.example"
    headers = {**origin, "Authorization": "Bearer s3cret-key"}
    response = locked.post("/v1/completions", json=BODY, headers=headers)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == "https://ide.example"
    assert "access-control-allow-credentials" not in response.headers


def test_a_page_that_is_named_can_read_why_it_was_refused(locked):
    response = locked.get("/v1/models", headers={"Origin": "https://ide.example"})
    assert response.status_code == 401
    assert response.headers["access-control-allow-origin"] == "https://ide.example"
    response = locked.get("/v1/models", headers={"Origin": "https://other.example"})
    assert response.status_code == 403
    assert "access-control-allow-origin" not in response.headers


def test_what_the_guard_refuses_is_counted_and_logged(locked, caplog):
    with caplog.at_level(logging.INFO):
        locked.get("/v1/models")
        locked.get("/no/such/path", headers={"Host": "attacker.example"})
    lines = [
        json.loads(record.message)
        for record in caplog.records
        if record.message[0] == "{"
    ]
    refused = [(line["path"], line["status"]) for line in lines]
    assert refused == [("/v1/models", 401), ("other", 403)]
    key = {"Authorization": "Bearer s3cret-key"}
    counted = locked.get("/metrics", headers=key).text
    for path, status in refused:
        line = f'codegemma_requests_total{{outcome="{status}",path="{path}"}}'
        assert line in counted


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", ""]
)
def test_a_form_of_a_page_starts_nothing(client, kind):
    """llama.cpp 25790: requests that browsers send without asking first."""
    content = json.dumps(BODY).encode()
    response = client.post("/infill", content=content, headers={"Content-Type": kind})
    assert response.status_code == 415
    refused = client.get("/completion?prompt=x")
    assert refused.status_code == 405
    assert refused.headers["allow"] == "POST"


def test_the_key_is_demanded_and_compared_in_constant_time(locked, monkeypatch):
    """vLLM CVE-2025-59425."""
    from codegemma_keras.server import guard

    compared = []
    original = guard.hmac.compare_digest

    def spy(a, b):
        compared.append((a, b))
        return original(a, b)

    monkeypatch.setattr(guard.hmac, "compare_digest", spy)
    wrong = [
        "",
        "Bearer",
        "Bearer s3cret-ke",
        "Bearer s3cret-key2",
        "s3cret-key",
        "Bearer \xff",
    ]
    for value in wrong:
        headers = {"Authorization": value.encode("latin-1")}
        response = locked.get("/v1/models", headers=headers)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
    assert len(compared) >= len(wrong)
    for headers in (
        {"Authorization": "Bearer s3cret-key"},
        {"X-Api-Key": "s3cret-key"},
    ):
        assert locked.get("/v1/models", headers=headers).status_code == 200
    assert locked.get("/health").status_code == 200  # says nothing but "up"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.org"])
def test_no_other_address_without_a_key(host):
    """Hundreds of thousands of open Ollamas."""
    with pytest.raises(ValueError, match="--key-file"):
        Settings(host=host).check()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "x", "model": "../../etc/passwd"}),
        ("/v1/completions", {"prompt": "x", "model": "hf://someone/else"}),
        ("/api/show", {"model": "/etc/passwd"}),
        ("/api/generate", {"prompt": "x", "model": "file:///etc/passwd"}),
    ],
)
def test_no_file_is_read_because_a_request_names_it(client, path, body):
    """Ollama CVE-2024-37032, jupyter-server CVE-2026-35397: names are only compared."""
    response = client.post(path, json=body)
    assert response.status_code == 404
    assert "only 'tiny'" in response.text


@pytest.mark.parametrize("path", ["/api/create", "/api/pull", "/api/blobs/x", "/slots"])
def test_nothing_can_be_put_on_the_server(client, path):
    """Ollama CVE-2026-7482, CVE-2024-39720: loaders behind open routes."""
    assert client.post(path, json={}).status_code == 404


@pytest.mark.parametrize(
    "field", [{"template": "{{ cycler.__init__.__globals__ }}"}, {"context": [1]}]
)
def test_no_template_of_a_request_is_evaluated(client, field):
    """llama-cpp-python CVE-2024-34359."""
    response = client.post("/api/generate", json={"prompt": "x", **field})
    assert response.status_code == 400
    text = "{{ 7 * 7 }}"  # in a message it is text
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 1}
    response = client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200


def test_a_body_is_bounded_before_it_is_read(lm):
    with serving(lm, max_body_kib=1) as client:
        response = client.post("/infill", json={"input_prefix": "x" * 2000})
        assert response.status_code == 413
        parts = (b"[" * 600 for _ in range(1000))
        headers = {"Content-Type": "application/json"}
        response = client.post("/infill", content=parts, headers=headers)
        assert response.status_code == 413


def test_a_server_that_is_loading_says_so(lm):
    import threading

    loaded = threading.Event()

    def load():
        loaded.wait(30)
        return lm

    app = create_app(Settings("tests/tiny", rows=2), load)
    with TestClient(app, base_url="http://127.0.0.1") as client:
        for response in (
            client.get("/health"),
            client.post("/v1/completions", json=BODY),
        ):
            assert response.status_code == 503
            assert response.json()["error"]["type"] == "unavailable_error"
            assert int(response.headers["retry-after"]) > 0
        loaded.set()
        while client.get("/health").status_code != 200:
            pass
        assert client.post("/v1/completions", json=BODY).status_code == 200


def test_the_log_holds_no_text(client, caplog):
    with caplog.at_level(logging.INFO):
        body = {"prompt": "secret_prompt_text =", "max_tokens": 3, "echo": True}
        answer = client.post("/v1/completions", json=body).json()
        client.post("/v1/completions", json={**body, "prompt": {"secret": 1}})
    lines = [
        json.loads(record.message)
        for record in caplog.records
        if record.message[0] == "{"
    ]
    assert {line["event"] for line in lines} == {"request", "refused"}
    assert answer["id"] in [line.get("id") for line in lines]
    assert "secret" not in caplog.text
