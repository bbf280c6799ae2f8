"""Is the text that the server streams the text of `infill`? Asked 1,000 times.

    KERAS_BACKEND=jax python benchmarks/serve_same_text.py

Places at random in the standard library's source, asked by 16 threads at once through the
application in this process, so that batches, joins and shared caches are as under load;
then each again by `lm.session().infill`, alone. Where a text differs, the result has the
smallest gap between the two best logits on the way to it: batches of other sizes round
differently, which can exchange two tokens that are equally likely, and nothing else.
"""

import concurrent.futures
import json
import pathlib
import random

import keras
import keystrokes
import numpy as np
from _data import record
from starlette.testclient import TestClient

from codegemma_keras import CodeGemmaCausalLM
from codegemma_keras.decoding import Cursor
from codegemma_keras.decoding.answering import cursor_limit
from codegemma_keras.server.app import create_app
from codegemma_keras.server.settings import Settings

PROMPTS, THREADS, TOKENS, PRESET = 1_000, 16, 16, "code_gemma_tiny_py"


def main():
    lm = CodeGemmaCausalLM.from_preset(PRESET)
    places = list(random_places(random.Random(5)))
    settings = Settings(PRESET, rows=8, max_waiting=64, max_seconds=600)
    with TestClient(
        create_app(settings, lambda: lm), base_url="http://127.0.0.1"
    ) as client:
        while client.get("/health").status_code != 200:
            pass
        with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
            streamed = list(pool.map(lambda place: stream(client, *place), places))
        metrics = client.get("/metrics").text.splitlines()
    session = lm.session()
    alone = [
        session.complete(prefix, suffix, path=path, max_new_tokens=TOKENS)
        for prefix, suffix, path in places
    ]
    different = [
        {
            "streamed": text,
            "alone": found.text,
            **smallest_gap(lm, session, place, found),
        }
        for place, text, found in zip(places, streamed, alone, strict=True)
        if text != found.text
    ]
    cached = [
        m for m in metrics if m.startswith("codegemma_cached_prompt_tokens_total")
    ]
    figures = {
        "prompts": PROMPTS,
        "threads": THREADS,
        "different": different,
        "not_empty": sum(bool(found.text) for found in alone),
        "cached_prompt_tokens": float(cached[0].split()[-1]),
    }
    record("serve_same_text", figures)


def smallest_gap(lm, session, place, found):
    """Between the two best logits, of the tokens that were written alone."""
    prefix, suffix, path = place
    prompt, *_ = session.prompt(Cursor(prefix, suffix, path), cursor_limit(lm, TOKENS))
    tokens = found.token_ids
    ids = np.array([[*prompt, *tokens]], "int32")
    logits = lm({"token_ids": ids, "padding_mask": np.ones_like(ids)})
    logits = keras.ops.convert_to_numpy(logits)[0, len(prompt) - 1 : -1]
    best = np.sort(logits, axis=-1)
    gaps = best[:, -1] - best[:, -2]
    return {"smallest_gap": float(gaps.min()), "at_token": int(gaps.argmin())}


def random_places(choice):
    """`(prefix, suffix, path)`; some follow the one before by a keystroke."""
    files = {"argparse.py": keystrokes.source()}
    for name in ("json/decoder.py", "textwrap.py", "queue.py"):
        folder = pathlib.Path(json.__file__).parents[1]
        files[name] = (folder / name).read_text(encoding="utf-8")
    for _ in range(PROMPTS):
        path = choice.choice(list(files))
        cut = choice.randrange(len(files[path]))
        prefix = files[path][max(0, cut - choice.randrange(600)) : cut]
        yield prefix, files[path][cut : cut + choice.randrange(300)], path


def stream(client, prefix, suffix, path):
    body = {"prompt": prefix, "suffix": suffix, "path": path, "max_tokens": TOKENS}
    response = client.post("/v1/completions", json={**body, "stream": True})
    lines = [line[6:] for line in response.text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return "".join(json.loads(line)["choices"][0]["text"] for line in lines)


if __name__ == "__main__":
    main()
