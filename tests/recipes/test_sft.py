"""The instruction-tuning recipe: what is learned, and that a kill changes nothing."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest

from codegemma_keras import CodeGemmaCausalLM, chat, lora
from codegemma_keras.batches import pack
from codegemma_keras.recipes import conversations, sft
from codegemma_keras.training import loop, order
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
    assert whole[0][0] == 0  # evaluated before the first step
    assert whole[-1][2] < whole[1][2]
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


def test_an_adapter_is_trained_further(folder):
    """What the first run left is where the second begins."""
    first = config(folder, "first", lora_targets=("q_proj", "v_proj"))
    sft.train(first)
    adapter = str(folder / "first" / "adapter")
    more = dataclasses.replace(
        first, out=str(folder / "more"), adapter=adapter, lora_rank=None, seed=1
    )
    lm = sft.train(more)
    assert len(lm.trainable_variables) == 2 * 2 * lm.backbone.num_layers
    before, after = losses(folder / "first"), losses(folder / "more")
    assert after[0][3] == pytest.approx(
        min(row[3] for row in before if row[3]), rel=1e-5
    )
    with pytest.raises(ValueError, match=r"lora_rank=8, but the adapter in .* has 4"):
        sft.train(dataclasses.replace(more, lora_rank=8))


def test_stops_early_and_keeps_the_best(folder):
    settings = config(
        folder, "early", learning_rate=1.0, patience=1, evaluate_every=1, epochs=3
    )
    lm = sft.train(settings)
    found = [row[3] for row in losses(folder / "early")]
    assert found[-1] >= min(found)
    assert len(found) == int(np.argmin(found)) + 2
    # The first is of before the first step.
    assert Checkpoints(folder / "early" / "best").steps() == [np.argmin(found)]
    # What the run returns is the best, not the last.
    _, held_out = sft.prepare(sft.resolved(settings), lm.tokenizer)
    lm.preprocessor = None
    again = loop.evaluate(lm, order.in_order(held_out, 2))
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
    tokenizer = our_task().tokenizer
    found = list(conversations.read(folder / "chats.jsonl"))
    rows = [sft.token_row(conversation, tokenizer, 64) for conversation in found]
    assert not any(cut for _, _, cut in rows)
    rows = [(ids, weights) for ids, weights, _ in rows]
    segments, weights = zip(*rows, strict=True)
    x, y, weight = pack(segments, 64, weights=weights)
    # Every target with weight is part of an answer, and none is lost.
    assert weight.sum() == sum(sum(w) for _, w in rows)
    assert (x["padding_mask"] == (x["segment_ids"] > 0)).all()
    same = x["segment_ids"][:, 1:] == x["segment_ids"][:, :-1]
    inside = same & (x["segment_ids"][:, 1:] > 0)
    np.testing.assert_array_equal(y[:, :-1][inside], x["token_ids"][:, 1:][inside])
    # A budget for one round of two keeps that round, end of turn included.
    talk = next(c for c in found if len(c.turns) == 4)
    one = dataclasses.replace(talk, turns=talk.turns[:2])
    ids, weights, cut = sft.token_row(one, tokenizer, 64)
    assert not cut
    stop = ids.index(tokenizer.token_to_id("<end_of_turn>"), weights.index(1.0))
    assert sft.token_row(talk, tokenizer, stop) == (
        ids[: stop + 1],
        weights[: stop + 1],
        True,
    )
    assert sft.token_row(talk, tokenizer, stop - 1) == ([], [], True)
    # An answer of weight 0 is read and not learnt.
    first, answer, *rest = talk.turns
    silent = dataclasses.replace(answer, weight=0.0)
    muted = dataclasses.replace(talk, turns=(first, silent, *rest))
    _, weights, _ = sft.token_row(muted, tokenizer, 64)
    assert 0 < sum(weights) < sum(sft.token_row(talk, tokenizer, 64)[1])


def test_what_is_left_out_is_counted_and_printed(folder, tmp_path, capsys):
    asked, said = ({"role": role, "content": "alpha"} for role in ("user", "model"))
    silent = {**said, "content": ""}
    with (tmp_path / "chats.jsonl").open("w") as file:
        for talk in [
            [said, asked, said, asked, silent, asked],
            [said, asked, said],
            [{**asked, "content": "alpha " * 90}, said],
            [asked, said, {**asked, "content": "beta " * 90}, said],
            [asked],
            *[[asked, said]] * 20,
        ]:
            file.write(json.dumps({"messages": talk}) + "\n")
    data = str(tmp_path / "chats.jsonl")
    sft.prepare(config(folder, "x", data=data, held_out=0.0), our_task().tokenizer)
    shown = capsys.readouterr().out
    for line in (
        "25 conversations",
        "2 answers before the first question, left out",
        "1 questions whose answer is empty, left out",
        "2 questions without an answer, left out",
        "1 conversations too long, cut after the last answer that fits",
        "1 conversations too long, left out",
        "1 conversations without an answer to learn, left out",
        "23 to train on",
    ):
        assert line in shown


def test_settings_that_cannot_work(folder):
    for changes, message in [
        ({"batch_tokens": 100}, "multiple of sequence_length"),
        ({"epochs": 0}, "epochs=0 must be at least 1"),
        ({"held_out": 1.5}, "held_out=1.5 must be at least 0 and below 1"),
        ({"quantize": "int8", "lora_rank": 0}, "nothing to train"),
    ]:
        with pytest.raises(ValueError, match=message):
            config(folder, "x", **changes)
    large = sft.resolved(config(folder, "x", batch_tokens=64000))
    rows, _ = sft.prepare(large, our_task().tokenizer)
    with pytest.raises(ValueError, match="less than one batch") as error:
        sft.with_steps(large, rows.rows)
    most = int(re.search(r"Set batch_tokens to at most (\d+),", str(error.value))[1])
    sft.with_steps(dataclasses.replace(large, batch_tokens=most), rows.rows)
    with pytest.raises(ValueError, match=f"at most {most},"):
        sft.with_steps(dataclasses.replace(large, batch_tokens=most + 64), rows.rows)
    every = config(folder, "x", held_out=0.999)
    with pytest.raises(ValueError, match=r"no conversation to train on.*held_out"):
        sft.prepare(sft.resolved(every), our_task().tokenizer)
    assert not (folder / "x").exists()


@pytest.mark.parametrize(
    ("rows", "changes", "tokens"),
    [
        (2000, {}, 8192),
        (64, {}, 512),  # 8 rows
        (63, {}, 448),
        (3, {}, 64),  # fewer updates than eight, of a row each
        (64, {"accumulation": 3}, 384),
        (1, {"mesh": "data=2,model=2"}, 128),
    ],
)
def test_few_conversations_get_a_small_batch(rows, changes, tokens):
    asked = sft.SFTConfig(sequence_length=64, **changes)
    assert sft.fitted(sft.resolved(asked), rows).batch_tokens == tokens


def test_few_conversations_train_without_a_batch_of_their_own(folder, capsys):
    sft.train(config(folder, "few", batch_tokens=None))
    assert (
        "tokens to an update, since the conversations are few" in capsys.readouterr()[0]
    )
    rows = read(folder / "few" / "curve.csv")
    assert max(int(row["step"]) for row in rows) >= sft.UPDATES


def test_a_row_is_not_longer_than_the_model_s_context():
    assert sft.resolved(sft.SFTConfig(), context=512).sequence_length == 512
    assert sft.resolved(sft.SFTConfig(), context=8192).sequence_length == 1024


@pytest.mark.parametrize("recipe", ["sft", "pretrain"])
def test_every_option_has_help(recipe):
    command = [sys.executable, "-m", f"codegemma_keras.recipes.{recipe}", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    text = " ".join(shown.replace("│", " ").split())
    assert "The rank of the adapter that trains. 0 trains all weights." in text
    assert "The number of tokens in an update, including padding." in text


def test_a_mistake_is_one_line_and_an_interrupt_exits_130(folder):
    bad = start(config(folder, "bad", data=str(folder / "none.jsonl")))
    shown = bad.communicate()[0].splitlines()
    assert bad.returncode == 2
    assert shown[-1].startswith("codegemma: [Errno 2] No such file")
    assert "Traceback" not in "".join(shown)
    with start(config(folder, "stopped", epochs=50)) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("step 2/"):
                process.send_signal(signal.SIGINT)
                break
        rest = process.stdout.read()
    assert process.returncode == 130, "".join(lines) + rest
    assert "The same command goes on from there." in rest
    assert "Traceback" not in rest
    assert Checkpoints(folder / "stopped" / "checkpoints").steps()


def test_the_end_of_a_turn_is_learned_where_its_row_has_twins(tmp_path):
    """With a frozen head, log p of a token with n twins cannot pass ln(1 / (n + 1))."""
    lm = our_task()
    end = lm.tokenizer.codec.control_ids[chat.END_OF_TURN]
    table = keras.ops.convert_to_numpy(lm.backbone.token_embedding.embeddings).copy()
    twins = np.setdiff1d(np.arange(108, 208), [end])
    table[twins] = table[end]
    lm.backbone.token_embedding.embeddings.assign(table)
    lm.save_to_preset(str(tmp_path / "preset"))
    with (tmp_path / "chats.jsonl").open("w") as file:
        for word in WORDS[:4]:
            file.write(json.dumps({"prompt": f"{word}?", "answer": word}) + "\n")
    settings = config(
        tmp_path, "run", epochs=60, held_out=0.0, evaluate_every=0, lora_dropout=0.0
    )
    sft.train(settings)

    tuned = CodeGemmaCausalLM.from_preset(str(tmp_path / "preset"))
    lora.load(tuned, tmp_path / "run" / "adapter")
    turns = [
        {"role": "user", "content": f"{WORDS[0]}?"},
        {"role": "model", "content": WORDS[0]},
    ]
    parts = [part for part, _ in chat.render(turns)]
    ids = [tuned.tokenizer.start_token_id, *tuned.tokenizer.encode(parts)]
    [scores] = tuned.log_probabilities([ids])
    last = max(i for i, token in enumerate(ids) if token == end)
    assert scores[last] > np.log(1 / (len(twins) + 1)) + 2
