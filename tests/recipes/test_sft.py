"""The instruction-tuning recipe: what is learned, and that a kill changes nothing."""

import dataclasses
import json
import os
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest

from codegemma_keras import CodeGemmaCausalLM, lora
from codegemma_keras.batches import pack
from codegemma_keras.preprocessor import CodeGemmaChatPreprocessor
from codegemma_keras.recipes import sft
from codegemma_keras.training import loop as training
from codegemma_keras.training.checkpoints import Checkpoints
from codegemma_keras.training.progress import read
from tests.tiny_models import our_task

WORDS = "alpha beta gamma delta epsilon zeta eta theta iota kappa".split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A preset and a file of conversations."""
    folder = tmp_path_factory.mktemp("sft")
    our_task().save_to_preset(str(folder / "preset"))
    generator = np.random.default_rng(3)
    with (folder / "chats.jsonl").open("w") as file:
        for number in range(60):
            a, b = generator.choice(WORDS, 2)
            if number % 2:
                item = {"prompt": f"{a} {b}?", "answer": f"{b} {a}"}
            else:
                texts = [f"{a}?", a, f"{b}?", b]
                item = {
                    "messages": [
                        {"role": ("user", "model")[i % 2], "content": text}
                        for i, text in enumerate(texts)
                    ]
                }
            file.write(json.dumps(item) + "\n")
    return folder


def config(folder, out, **changes):
    """Small settings; 2 rows of 64 tokens a step."""
    options = {
        "data": str(folder / "chats.jsonl"),
        "out": str(folder / out),
        "preset": str(folder / "preset"),
        "sequence_length": 64,
        "batch_tokens": 128,
        "lora_rank": 4,
        "lora_dropout": 0.1,  # so that the random state matters
        "learning_rate": 1e-2,
        "epochs": 1,
        "held_out": 0.1,
        "evaluate_every": 4,
        "save_every": 3,
        **changes,
    }
    return sft.SFTConfig(**options)


def losses(out):
    """The loss series; equal means equal to the last bit."""
    names = ("step", "tokens", "loss", "held_out_loss", "learning_rate")
    return [tuple(row[name] for name in names) for row in read(out / "curve.csv")]


def start(config):
    options = []
    for name, value in dataclasses.asdict(config).items():
        if value is not None and not isinstance(value, bool):
            options += ["--" + name.replace("_", "-"), str(value)]
    command = [sys.executable, "-m", "codegemma_keras.recipes.sft", *options]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_killed_runs_go_on_with_the_same_losses(folder):
    lm = sft.train(config(folder, "whole"))
    whole = losses(folder / "whole")
    assert len(whole) > 8
    assert whole[-1][2] < whole[0][2]
    generator = np.random.default_rng(1)
    for kill in generator.integers(2, len(whole) - 2, 2):
        with start(config(folder, "killed")) as process:
            for line in process.stdout:
                if line.startswith("step ") and int(line[5:].split("/")[0]) >= kill:
                    os.kill(process.pid, signal.SIGKILL)
                    break
    sft.train(config(folder, "killed"))
    assert losses(folder / "killed") == whole
    # The adapter is in the output, and is what the run returned.
    again = CodeGemmaCausalLM.from_preset(str(folder / "preset"))
    lora.load(again, folder / "killed" / "adapter")
    ids = np.arange(3, 13)[None]
    x = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(again(x)),
        keras.ops.convert_to_numpy(lm(x)),
        atol=1e-6,
    )
    assert (folder / "whole" / "curve.png").stat().st_size > 1000


def test_stops_early_and_keeps_the_best(folder):
    settings = config(
        folder, "early", learning_rate=1.0, patience=1, evaluate_every=1, epochs=3
    )
    lm = sft.train(settings)
    found = [row[3] for row in losses(folder / "early")]
    assert found[-1] >= min(found)
    assert len(found) == int(np.argmin(found)) + 2
    assert Checkpoints(folder / "early" / "best").steps() == [np.argmin(found) + 1]
    # What the run returns is the best, not the last.
    _, held_out = sft.prepare(settings, lm.tokenizer)
    lm.preprocessor = None
    again = training.evaluate(lm, training.in_order(held_out, 2))
    assert again == pytest.approx(min(found), rel=1e-6)


def test_an_update_in_parts_follows_the_schedule_to_its_end(folder):
    settings = config(folder, "parts", accumulation=2, evaluate_every=0, lora_dropout=0)
    sft.train(settings)
    parts = losses(folder / "parts")
    sft.train(dataclasses.replace(settings, out=str(folder / "one"), accumulation=1))
    one = losses(folder / "one")
    assert [row[:2] for row in parts] == [row[:2] for row in one]
    # Each target weighs the same, whichever part it is in.
    np.testing.assert_allclose(
        [row[2] for row in parts], [row[2] for row in one], rtol=1e-3
    )
    rates = [row[4] for row in parts]
    assert rates == [row[4] for row in one]
    assert rates[-1] < 0.1 * max(rates)


def test_rows_have_loss_on_answers_only_and_whole_rounds(folder):
    preprocessor = CodeGemmaChatPreprocessor(our_task().tokenizer)
    conversations = list(sft.read_conversations(folder / "chats.jsonl"))
    rows, dropped = sft.rows_of(conversations, preprocessor, 64)
    assert dropped == 0
    segments, weights = zip(*rows, strict=True)
    x, y, weight = pack(segments, 64, weights=weights)
    # Every target with weight is part of an answer, and none is lost.
    assert weight.sum() == sum(sum(w) for _, w in rows)
    assert (x["padding_mask"] == (x["segment_ids"] > 0)).all()
    same = x["segment_ids"][:, 1:] == x["segment_ids"][:, :-1]
    inside = same & (x["segment_ids"][:, 1:] > 0)
    np.testing.assert_array_equal(y[:, :-1][inside], x["token_ids"][:, 1:][inside])
    # A budget for one round of two keeps that round, end of turn included.
    talk = next(c for c in conversations if len(c) == 4)
    one = preprocessor.row(talk[:2])
    assert sft.rows_of([talk], preprocessor, len(one[0])) == ([one], 0)
    assert sft.rows_of([talk], preprocessor, 5) == ([], 1)


@pytest.mark.parametrize(
    ("line", "message"),
    [("{", "line 1: no JSON"), ('{"text": "a"}', r"\['text'\].*must have 'messages'")],
)
def test_bad_lines_are_named(tmp_path, line, message):
    (tmp_path / "bad.jsonl").write_text(line)
    with pytest.raises(ValueError, match=message):
        list(sft.read_conversations(tmp_path / "bad.jsonl"))


def test_settings_that_cannot_work(folder):
    with pytest.raises(ValueError, match="multiple of sequence_length"):
        training.rows_of_part(config(folder, "x", batch_tokens=100))
    with pytest.raises(ValueError, match="less than one batch"):
        sft.prepare(config(folder, "x", batch_tokens=64000), our_task().tokenizer)
    with pytest.raises(ValueError, match="nothing to train"):
        sft.model_of(config(folder, "x", quantize="int8", lora_rank=0))
