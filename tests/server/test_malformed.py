"""Whatever comes in, the answer is a text or one clear error, and the server goes on."""

import re

import h11
import hypothesis
import pytest
from hypothesis import strategies

from codegemma_keras.server import http
from tests.server.malformed import VALID, send


def test_valid_bodies_are(client):
    """Or the faults below would prove little."""
    for path, body in VALID.items():
        response = client.post(path, json=body)
        assert response.status_code == 200, (path, response.text)


def test_malformed_bodies_get_one_clear_error(client):
    statuses = send(client, seed=1, count=400)
    assert set(statuses) >= {200, 400, 404}
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/v1/completions", {"prompt": "x", "model": "gpt"}, "no model 'gpt'"),
        ("/v1/completions", {"prompt": "x " * 400}, "tokens, but the limit is 256"),
        ("/v1/completions", {"prompt": "x", "n": 1000}, "n=1000 .* 1 to 4"),
        ("/v1/completions", {"prompt": "x", "max_tokens": 10**9}, "1000000000 .* 256"),
        (
            "/v1/completions",
            {"prompt": "x", "max_tokens": -1},
            "`max_tokens` must be at least 0",
        ),
        ("/v1/completions", {"prompt": "x", "stop": ""}, "stop string is empty"),
        ("/v1/completions", {"prompt": "x", "logprobs": 5}, "logprobs=5"),
        (
            "/v1/completions",
            {"prompt": "x", "suffix": "y", "echo": True, "logprobs": 1},
            "Leave one of the three out",
        ),
        ("/v1/completions", {"prompt": "x", "temperature": -1}, "temperature=-1"),
        ("/v1/completions", {"prompt": [5, 10**6]}, "token id 1000000"),
        ("/v1/completions", {"prompt": []}, "0 prompts"),
        ("/v1/completions", {"prompt": "x", "best_of": 3}, "best_of=3"),
        ("/v1/completions", {"prompt": "x", "tidy": True}, "tidy=True"),
        ("/v1/chat/completions", {"messages": []}, "message"),
        ("/v1/chat/completions", {"messages": [{"role": "x"}]}, "role"),
        ("/v1/completions", {}, "The field `prompt` is missing"),
        ("/v1/completions", {"prompt": 5}, "must be a string or a list, but is 5"),
        ("/v1/completions", {"prompt": "x", "n": "y"}, 'whole number, but is "y"'),
        # Python takes true for 1, 1 for true, and "1" for 1.
        ("/v1/completions", {"prompt": "x", "n": True}, "whole number, but is true"),
        ("/v1/completions", {"prompt": "x", "n": "1"}, 'whole number, but is "1"'),
        ("/v1/completions", {"prompt": "x", "top_p": True}, "a number, but is true"),
        ("/v1/completions", {"prompt": "x", "echo": 1}, "true or false, but is 1"),
        ("/completion", {"prompt": [False]}, r"`prompt\[0\]` must be a whole number"),
        ("/infill", {"input_prefix": "x", "input_suffix": "", "seed": "1"}, "seed"),
        ("/tokenize", {"content": "x", "with_pieces": 0}, "with_pieces"),
        ("/detokenize", {"tokens": [False]}, r"`tokens\[0\]`"),
        ("/api/generate", {"prompt": "x", "context": [True]}, "context"),
        (
            "/v1/chat/completions",
            {"messages": [{}]},
            r"`messages\[0\].role` is missing",
        ),
        ("/infill", {"input_prefix": "x"}, "The field `input_suffix` is missing"),
        ("/api/chat", {"messages": [{"role": "user"}], "tools": [1]}, "tools"),
    ],
)
def test_what_is_wrong_is_said(client, path, body, said):
    response = client.post(path, json=body)
    assert response.status_code in (400, 404)
    error = response.json()["error"]
    message = error if isinstance(error, str) else error["message"]
    assert re.search(said, message), message


def test_no_new_tokens_are_no_fault(client):
    whole = client.post("/v1/completions", json={"prompt": "x", "max_tokens": 0}).json()
    assert whole["choices"][0]["text"] == ""
    assert whole["choices"][0]["finish_reason"] == "length"


def test_text_that_is_too_long_is_cut_around_the_cursor(client):
    body = {"input_prefix": "x = 1\n" * 500, "input_suffix": "y = 2\n" * 500}
    answer = client.post("/infill", json={**body, "n_predict": 3}).json()
    assert answer["truncated"] is True
    assert answer["tokens_evaluated"] <= 256


@hypothesis.given(strategies.lists(strategies.text(max_size=80), min_size=1))
def test_any_names_of_unknown_fields_make_a_header_that_can_be_sent(names):
    """A header that ended in a space ended the connection without an answer."""
    value = http._header(names)
    h11.Response(status_code=200, headers=[("X-Ignored-Fields", value)])
    assert value.isascii()
    assert value.isprintable()
    assert 0 < len(value) <= 510


def test_unknown_fields_are_named_whatever_they_are_called(client):
    body = {"prompt": "x", "max_tokens": 1, "zeit": 1, "größe": 2, "": 3}
    response = client.post("/v1/completions", json=body)
    assert response.headers["x-ignored-fields"] == 'zeit, "gr\\u00f6\\u00dfe", ""'
