"""OpenAI's API: shapes as their clients read them, and the text that `infill` gives."""

import json

PREFIX = "def total(values):\n    result = 0\n    for value in values:\n        "
SUFFIX = "\n    return result\n"


def events(response):
    """The objects of a stream of server-sent events, and whether it was ended."""
    lines = [line for line in response.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    *chunks, last = [line[len("data: ") :] for line in lines]
    assert last == "[DONE]"
    return [json.loads(chunk) for chunk in chunks]


def test_the_text_between_prompt_and_suffix_is_that_of_infill(client, lm):
    body = {"model": "tiny", "prompt": PREFIX, "suffix": SUFFIX, "max_tokens": 12}
    whole = client.post("/v1/completions", json=body).json()
    expected = lm.session("line").complete(PREFIX, SUFFIX, max_new_tokens=12)
    [choice] = whole["choices"]
    assert choice["text"] == expected.text
    assert whole["usage"]["prompt_tokens"] == expected.prompt_tokens
    stream = client.post("/v1/completions", json={**body, "stream": True})
    chunks = events(stream)
    assert "".join(c["choices"][0]["text"] for c in chunks) == expected.text
    assert chunks[-1]["choices"][0]["finish_reason"] == choice["finish_reason"]
