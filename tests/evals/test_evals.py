"""Evaluations: the numbers mean what they say."""

import math

import keras
import numpy as np
import pytest

from codegemma_keras import fim
from codegemma_keras.decoding import Generated
from codegemma_keras.evals import infilling, likelihood
from tests import tiny_models

FILES = [
    ("a/one.py", "import os\n\n# note\ndef f(x):\n    return os.path.join(x, 'y')\n"),
    ("a/two.py", "class C:\n    def g(self):\n        self.value = 10\n        pass\n"),
    ("a/broken.py", "def broken(:\n    value = 12345\n"),
]


@pytest.fixture(scope="module")
def lm():
    return tiny_models.our_task()


def test_bits_per_byte_equals_the_plain_sum(lm):
    text = FILES[0][1]
    ids = [2, *lm.tokenizer.encode("a/one.py\n"), *lm.tokenizer.encode(text)]
    logits = keras.ops.convert_to_numpy(
        lm.backbone.logits(lm.backbone.forward(np.array([ids])))
    )[0].astype("float64")
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    head = len(ids) - len(lm.tokenizer.encode(text))
    nats = -sum(log_p[i - 1, ids[i]] for i in range(head, len(ids)))
    got = likelihood.bits_per_byte(lm, FILES[:1])
    expected = nats / math.log(2) / len(text.encode())
    assert got["bits_per_byte"] == pytest.approx(expected, rel=1e-5)
    assert got["bytes"] == len(text.encode())


def test_bits_per_byte_counts_each_byte_once_in_long_files(lm):
    text = "value = 1\n" * 200
    got = likelihood.bits_per_byte(lm, [("long.py", text)], batch_size=3)
    assert got["bytes"] == len(text)
    assert got["tokens"] == len(lm.tokenizer.encode(text))
    assert 0 < got["bits_per_byte"] < 16


def test_tasks_reassemble_and_are_code():
    tasks = infilling.single_line_tasks(FILES, 50)
    texts = dict(FILES)
    assert tasks
    for task in tasks:
        whole = task["prefix"] + task["middle"] + task["suffix"]
        assert whole == texts[task["path"]]
        assert task["middle"].strip()
        assert not task["middle"].strip().startswith("#")
    assert "a/broken.py" not in {t["path"] for t in tasks}
    assert infilling.single_line_tasks(FILES, 50) == tasks


def test_the_rest_of_a_line_begins_behind_a_word_of_it():
    whole = {t["task_id"]: t for t in infilling.single_line_tasks(FILES, 50)}
    tasks = infilling.single_line_tasks(FILES, 50, rest=True)
    assert {t["task_id"] for t in tasks} <= set(whole)
    cut = 0
    for task in tasks:
        line = whole[task["task_id"]]["middle"]
        start = line.removesuffix(task["middle"])
        assert task["prefix"] == whole[task["task_id"]]["prefix"] + start
        assert task["middle"].strip()
        assert start == start.rstrip()  # a space belongs to what is to be written
        cut += bool(start)
    assert cut > len(tasks) / 2
    assert infilling.single_line_tasks(FILES, 50, rest=True) == tasks


def test_the_right_answer_scores_one_and_an_empty_one_zero(lm, monkeypatch):
    tasks = infilling.single_line_tasks(FILES, 4)
    answers = {}

    def oracle(prompts, *args, **kwargs):
        return [Generated(answers[tuple(p)], "stop_token", 1) for p in prompts]

    for text_of, exact in ((lambda t: t["middle"], 1.0), (lambda t: "", 0.0)):
        encode = lm.tokenizer.encode
        limit = lm.preprocessor.sequence_length - 8 - 1
        for task in tasks:
            prefix, suffix, _ = fim.shrink(
                task["prefix"], task["suffix"], (), limit, encode, path=task["path"]
            )
            parts = fim.render(prefix, suffix, path=task["path"])
            answers[(2, *encode(parts))] = encode(text_of(task))
        monkeypatch.setattr(lm.engine, "generate", oracle)
        records = infilling.run(lm, tasks, "psm", max_new_tokens=8)
        summary = infilling.summary(records)
        assert summary["exact_match"] == exact
        assert summary["stop_rate"] == 1.0
        if exact:
            assert summary["parse_rate"] == 1.0


def test_every_mode_runs_on_a_real_model():
    lm = tiny_models.our_task()
    tasks = infilling.single_line_tasks(FILES, 3)
    for mode in infilling.MODES:
        records = infilling.run(lm, tasks, mode, max_new_tokens=6, batch_size=2)
        assert [r["task_id"] for r in records] == [t["task_id"] for t in tasks]
        assert infilling.summary(records)["tasks"] == len(tasks)


def test_none_is_the_mode_of_the_preset(monkeypatch):
    lm = tiny_models.our_task()
    tasks = infilling.single_line_tasks(FILES, 3)
    lm.preprocessor.infill_mode = "left_to_right"
    asked = []
    generate = lm.engine.generate

    def watched(prompts, *args, **kwargs):
        asked.extend(prompts)
        return generate(prompts, *args, **kwargs)

    monkeypatch.setattr(lm.engine, "generate", watched)
    own, named = (
        infilling.run(lm, tasks, mode, max_new_tokens=6, prompt_tokens=40)
        for mode in (None, "left_to_right")
    )
    assert own == named
    assert max(len(prompt) for prompt in asked) <= 41  # and bos
    assert not any("\n" in r["completion"].removesuffix("\n") for r in own)


def test_a_wrong_mode_or_too_long_a_prompt_is_refused():
    lm = tiny_models.our_task()
    with pytest.raises(ValueError, match="'middle' is unknown; choose one of psm"):
        infilling.run(lm, [], "middle")
    with pytest.raises(ValueError, match="has room for"):
        infilling.run(lm, [], max_new_tokens=8, prompt_tokens=10**6)
