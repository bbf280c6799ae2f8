"""Every API: the shapes that its clients read, and the text that `infill` gives."""

import json

import pytest
from starlette.testclient import TestClient

from codegemma_keras.server.app import create_app
from codegemma_keras.server.settings import Settings
from tests.small_task import small_task

PREFIX = "def total(values):\n    result = 0\n    for value in values:\n        "
SUFFIX = "\n    return result\n"
TOKENS = 12


@pytest.fixture(scope="module")
def expected(lm):
    """What a session of the server's layout gives."""
    return lm.session("line").complete(PREFIX, SUFFIX, max_new_tokens=TOKENS)


@pytest.fixture(scope="module")
def tidied(lm):
    """The same for APIs whose clients show it as it comes."""
    return lm.session("line").complete(PREFIX, SUFFIX, max_new_tokens=TOKENS, tidy=True)


def post(client, path, **body):
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    assert "x-ignored-fields" not in response.headers
    return response


def events(response):
    """The objects of a stream of server-sent events."""
    assert response.headers["content-type"].startswith("text/event-stream")
    parts = response.text.split("\n\n")
    assert parts.pop() == ""
    assert all(part.startswith("data: ") for part in parts)
    return [part.removeprefix("data: ") for part in parts]


def openai_events(response):
    *chunks, last = events(response)
    assert last == "[DONE]"
    return [json.loads(chunk) for chunk in chunks]


def test_openai_completions(client, expected):
    body = {"prompt": PREFIX, "suffix": SUFFIX, "max_tokens": TOKENS}
    whole = post(client, "/v1/completions", **body).json()
    assert whole["object"] == "text_completion"
    [choice] = whole["choices"]
    assert choice == {
        "index": 0,
        "text": expected.text,
        "logprobs": None,
        "finish_reason": "length",
    }
    assert whole["usage"]["prompt_tokens"] == expected.prompt_tokens
    assert whole["usage"]["completion_tokens"] == TOKENS
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = openai_events(post(client, "/v1/completions", **body))
    assert "".join(c["choices"][0]["text"] for c in chunks) == expected.text
    assert len(chunks) > 2  # it came in pieces
    reasons = [c["choices"][0]["finish_reason"] for c in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["length"]
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == whole["usage"]["total_tokens"]


def test_openai_prompts_and_answers_in_plenty(client, lm):
    body = {"prompt": ["def f", "class A"], "n": 2, "max_tokens": 5, "temperature": 1}
    whole = post(client, "/v1/completions", **body, seed=3).json()
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2, 3]
    chunks = openai_events(post(client, "/v1/completions", **body, seed=3, stream=True))
    streamed = ["", "", "", ""]
    for chunk in chunks:
        for choice in chunk["choices"]:
            streamed[choice["index"]] += choice["text"]
    assert streamed == [choice["text"] for choice in whole["choices"]]
    assert streamed[0] != streamed[1]


def test_openai_log_probabilities_of_an_echoed_prompt(client, lm):
    """What evaluation harnesses ask: how likely is this text?"""
    text = "def total(values):"
    body = {"prompt": text, "echo": True, "logprobs": 1, "max_tokens": 3}
    [choice] = post(client, "/v1/completions", **body).json()["choices"]
    logprobs = choice["logprobs"]
    ids = [lm.tokenizer.start_token_id, *lm.tokenizer.encode(text)]
    [scores] = lm.engine.log_probabilities([ids])
    assert logprobs["token_logprobs"][0] is None
    assert logprobs["token_logprobs"][1 : len(ids)] == pytest.approx(
        [float(score) for score in scores[1:]], abs=1e-5
    )
    assert "".join(logprobs["tokens"]) == choice["text"]
    starts = logprobs["text_offset"]
    for start, token in zip(starts, logprobs["tokens"], strict=True):
        assert choice["text"][start : start + len(token)] == token
    assert starts == sorted(starts)
    assert starts[-1] > len(text)  # those of the new tokens, too
    assert len(logprobs["tokens"]) == len(ids) + 3


def test_openai_chat(client, lm):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Add two numbers."}]},
    ]
    body = {"messages": messages, "max_tokens": 9}
    whole = post(client, "/v1/chat/completions", **body).json()
    plain = [messages[0], {"role": "user", "content": "Add two numbers."}]
    [choice] = whole["choices"]
    assert whole["object"] == "chat.completion"
    assert choice["message"] == {
        "role": "assistant",
        "content": lm.chat(plain, max_new_tokens=9),
    }
    chunks = openai_events(post(client, "/v1/chat/completions", **body, stream=True))
    deltas = [c["choices"][0]["delta"] for c in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    text = "".join(delta.get("content", "") for delta in deltas)
    assert text == choice["message"]["content"]


def test_mistral_fill_in_the_middle(client, expected):
    body = {"model": "tiny", "prompt": PREFIX, "suffix": SUFFIX, "max_tokens": TOKENS}
    whole = post(client, "/v1/fim/completions", **body).json()
    assert whole["choices"][0]["message"]["content"] == expected.text
    chunks = openai_events(post(client, "/v1/fim/completions", **body, stream=True))
    deltas = [c["choices"][0]["delta"] for c in chunks if c["choices"]]
    assert "".join(d.get("content", "") for d in deltas) == expected.text


LLAMA_VIM = {
    "id_slot": 0,
    "input_prefix": PREFIX.rpartition("\n")[0] + "\n",
    "input_suffix": SUFFIX,
    "input_extra": [],
    "prompt": PREFIX.rpartition("\n")[2],
    "n_predict": TOKENS,
    "n_indent": 8,
    "top_k": 40,
    "top_p": 0.9,
    "stream": False,
    "samplers": ["top_k", "top_p", "infill"],
    "cache_prompt": True,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 60_000,
    "response_fields": [
        "content",
        "timings/prompt_n",
        "timings/prompt_ms",
        "timings/prompt_per_token_ms",
        "timings/prompt_per_second",
        "timings/predicted_n",
        "timings/predicted_ms",
        "timings/predicted_per_token_ms",
        "timings/predicted_per_second",
        "truncated",
        "tokens_cached",
    ],
}


def test_llama_cpp_infill_as_llama_vim_asks(client, tidied):
    headers = {"Authorization": "Bearer "}  # what it sends without a key
    response = client.post("/infill", json=LLAMA_VIM, headers=headers)
    answer = response.json()
    assert list(answer) == LLAMA_VIM["response_fields"]
    assert answer["content"] == tidied.text
    assert answer["timings/predicted_n"] == TOKENS
    assert answer["truncated"] is False
    # It finds the text by this, without a space, in one line.
    assert f'"content":{json.dumps(tidied.text, ensure_ascii=False)}' in response.text
    assert "\n" not in response.text
    # What only steers llama.cpp is named, not dropped in silence.
    ignored = set(response.headers["x-ignored-fields"].split(", "))
    assert ignored == {
        "id_slot",
        "n_indent",
        "samplers",
        "cache_prompt",
        "t_max_prompt_ms",
    }


def test_a_model_that_knows_no_sentinels_is_asked_without_them():
    """As `smollm2_135m_code` says by its `infill_mode`; also behind LSP and Jupyter."""
    lm = small_task()
    lm.preprocessor.infill_mode = "left_to_right"
    app = create_app(Settings("tests/tiny"), lambda: lm)
    with TestClient(app, base_url="http://127.0.0.1:8012") as client:
        while client.get("/health").status_code != 200:
            pass
        body = {"input_prefix": PREFIX, "input_suffix": SUFFIX, "n_predict": TOKENS}
        answer = post(client, "/infill", **body).json()
    expected = lm.complete(PREFIX, SUFFIX, max_new_tokens=TOKENS, tidy=True)
    assert answer["content"] == expected.text
    lm.preprocessor.infill_mode = "psm"
    with_sentinels = lm.complete(PREFIX, SUFFIX, max_new_tokens=TOKENS, tidy=True)
    assert answer["content"] != with_sentinels.text


def test_ollama_is_told_which_model_it_is(client):
    """And the template is how `fim.render` and `chat.render` make prompts."""
    gemma = post(client, "/api/show", model="tiny").json()
    assert gemma["details"]["family"] == "gemma"
    assert gemma["model_info"]["gemma.context_length"] == 256
    assert gemma["template"] == (
        "{{- if .Suffix }}<|fim_prefix|>{{ .Prompt }}<|fim_suffix|>{{ .Suffix }}"
        "<|fim_middle|>{{- else }}<start_of_turn>user\n{{ if .System }}{{ .System }}\n\n"
        "{{ end }}{{ .Prompt }}<end_of_turn>\n<start_of_turn>model\n{{ .Response }}"
        "<end_of_turn>{{- end }}"
    )
    lm = small_task()
    lm.preprocessor.infill_mode = "left_to_right"
    lm.tokenizer.chat_format = "smollm2"
    app = create_app(Settings("tests/tiny"), lambda: lm)
    with TestClient(app, base_url="http://127.0.0.1:8012") as other:
        while other.get("/health").status_code != 200:
            pass
        smollm = post(other, "/api/show", model="tiny").json()
        [listed] = other.get("/api/tags").json()["models"]
    assert smollm["details"]["family"] == listed["details"]["family"] == "smollm2"
    assert smollm["model_info"]["smollm2.context_length"] == 256
    assert smollm["template"].startswith(
        "{{- if .Suffix }}{{ .Suffix }}<|file_separator|>{{ .Prompt }}{{- else }}"
        "{{ if .System }}<start_of_turn>system\n{{ .System }}<end_of_turn>\n{{ else }}"
    )
    assert "model\n" not in smollm["template"]


def test_llama_cpp_reads_a_prompt_ahead(client):
    """llama.vim's `n_predict: 0` warms the cache; the next request finds it."""
    prefix = "".join(f"value_{i} = {i}\n" for i in range(12))
    body = {"input_prefix": prefix, "input_suffix": "", "prompt": "x ="}
    ahead = post(client, "/infill", **body, n_predict=0).json()
    assert ahead["content"] == ""
    after = post(client, "/infill", **body, n_predict=4).json()
    assert after["tokens_cached"] >= after["tokens_evaluated"] - 8


def test_llama_cpp_completion_and_stream(client, lm):
    whole = post(client, "/completion", prompt="def f", n_predict=6).json()
    assert whole["content"] == lm.generate("def f", max_new_tokens=6, strip_prompt=True)
    assert whole["stop_type"] in ("limit", "eos")
    stream = post(client, "/completion", prompt="def f", n_predict=6, stream=True)
    chunks = [json.loads(event) for event in events(stream)]
    assert "".join(chunk["content"] for chunk in chunks) == whole["content"]
    assert [chunk["stop"] for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


def ndjson(response):
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


def test_ollama_generate(client, expected):
    body = {"model": "tiny:latest", "prompt": PREFIX, "suffix": SUFFIX}
    body["options"] = {"num_predict": TOKENS, "temperature": 0}
    *pieces, last = ndjson(post(client, "/api/generate", **body))
    assert "".join(piece["response"] for piece in pieces) == expected.text
    assert not any(piece["done"] for piece in pieces)
    assert last["done"]
    assert last["done_reason"] == "length"
    assert last["eval_count"] == TOKENS
    assert last["total_duration"] >= last["eval_duration"] > 0
    whole = post(client, "/api/generate", **body, stream=False).json()
    assert whole["response"] == expected.text
    loaded = post(client, "/api/generate", model="tiny").json()
    assert loaded["done_reason"] == "load"


def test_ollama_chat(client, lm):
    messages = [{"role": "user", "content": "Add two numbers."}]
    body = {"messages": messages, "options": {"num_predict": 9}}
    whole = post(client, "/api/chat", **body, stream=False).json()
    assert whole["message"]["content"] == lm.chat(messages, max_new_tokens=9)
    pieces = ndjson(post(client, "/api/chat", **body))
    text = "".join(piece["message"]["content"] for piece in pieces)
    assert text == whole["message"]["content"]


def test_tabby(client, lm):
    segments = {
        "prefix": PREFIX,
        "suffix": SUFFIX,
        "filepath": "total.py",
        "declarations": [{"filepath": "a.py", "body": "A = 1\n"}],
    }
    whole = post(client, "/v1/completions", language="python", segments=segments)
    text = lm.session("line").infill(
        PREFIX,
        SUFFIX,
        path="total.py",
        context=[("a.py", "A = 1\n")],
        tidy=True,
        until="block",
    )
    assert whole.json()["choices"] == [{"index": 0, "text": text}]


def test_what_is_here(client, lm):
    get = {
        path: client.get(path).json()
        for path in ("/v1/models", "/props", "/api/tags", "/api/ps", "/api/version")
    }
    assert get["/v1/models"]["data"][0]["id"] == "tiny"
    assert get["/props"]["total_slots"] == 4
    assert get["/api/tags"]["models"][0]["name"] == "tiny:latest"
    shown = post(client, "/api/show", model="tiny").json()
    assert ".Suffix" in shown["template"]  # or Continue sends no suffix
    assert "insert" in shown["capabilities"]
    assert client.get("/v1/health").json()["model"] == "tiny"
    text = "def f(x):\n    return '<|fim_prefix|>'"
    tokens = post(client, "/tokenize", content=text).json()["tokens"]
    assert tokens == lm.tokenizer.encode(text)
    assert post(client, "/detokenize", tokens=tokens).json()["content"] == text


def test_the_openapi_page_has_every_route(client):
    page = client.get("/openapi.json").json()
    assert "/v1/completions" in page["paths"]
    schemas = page["components"]["schemas"]
    assert schemas["InfillBody"]["required"] == ["input_prefix", "input_suffix"]
    assert "behind the cursor" in json.dumps(schemas["CompletionBody"])


def test_metrics_count(client):
    def value(name):
        lines = client.get("/metrics").text.splitlines()
        return sum(float(x.split()[-1]) for x in lines if x.startswith(name))

    before = value("llamacpp:tokens_predicted_total")
    post(client, "/completion", prompt="x =", n_predict=3)
    assert value("llamacpp:tokens_predicted_total") == before + 3
    assert value("codegemma_first_token_seconds_count") > 0
