"""The recipe of reinforcement learning: that it learns, stops, and survives a kill."""

import dataclasses
import inspect
import json
import os
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest

from codegemma_keras import CodeGemmaCausalLM, lora
from codegemma_keras.recipes import rl
from codegemma_keras.rl.curve import TIMED
from codegemma_keras.tasks.prompts import Prompt
from codegemma_keras.training.progress import read
from tests.tiny_models import our_task

PROMPTS = [Prompt("letters", text) for text in ("a", "b c", "de", "f", "g h", "ij")]


def letters(prompts, completions, **columns):
    """The share of a few letters in the answer: something that any model can learn."""
    return [
        sum(text.count(letter) for letter in "aeiou") / max(len(text), 1)
        for text in completions
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A preset of a random model, and its prompts as a file."""
    folder = tmp_path_factory.mktemp("rl")
    our_task().save_to_preset(str(folder / "preset"))
    texts = [a + b for a in "abcdef" for b in "ghijk"]
    lines = [json.dumps({"prompt": text}) for text in texts]
    (folder / "prompts.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "letters.py").write_text(inspect.getsource(letters))
    return folder


def config(folder, out, **changes):
    options = {
        "out": str(folder / out),
        "preset": str(folder / "preset"),
        "lora_rank": 4,
        "learning_rate": 3e-2,
        "steps": 6,
        "prompts_per_step": 4,
        "group_size": 4,
        "max_new_tokens": 8,
        "rollout_rows": 16,
        "evaluate_every": 3,
        "held_out_samples": 4,
        "save_every": 2,
        "warmup_steps": 1,
        **changes,
    }
    return rl.RLConfig(**options)


def run(settings, reward=letters, prompts=PROMPTS):
    return rl.run(settings, prompts[:4], prompts[4:], [(1.0, "letters", reward)])


def curve(out):
    """All that does not depend on the clock."""
    return [
        {name: value for name, value in row.items() if name not in TIMED}
        for row in read(out / "curve.csv")
    ]


def test_the_reward_rises_and_engine_and_update_agree(folder):
    settings = config(
        folder,
        "rises",
        lora_rank=0,
        beta=0.0,
        learning_rate=1e-2,
        steps=48,
        group_size=8,
        rollout_rows=32,
        save_every=48,
        evaluate_every=0,
    )
    run(settings)
    rows = curve(folder / "rises")
    first, last = (
        np.mean([row["reward"] for row in part]) for part in (rows[:4], rows[-4:])
    )
    assert last > first + 0.2
    assert rows[-1]["entropy"] < rows[0]["entropy"]
    assert max(row["largest_gap"] for row in rows) < 1e-4  # float32
    assert (folder / "rises" / "curve.png").stat().st_size > 1000
    assert (folder / "rises" / "preset" / "config.json").exists()


def command(settings):
    options = []
    for name, value in dataclasses.asdict(settings).items():
        if value is not None and name not in ("tasks", "rewards"):
            options += ["--" + name.replace("_", "-"), str(value)]
    options += ["--rewards", *settings.rewards]
    return [sys.executable, "-m", "codegemma_keras.recipes.rl", *options]


def test_killed_runs_go_on_with_the_same_answers_and_weights(folder):
    settings = config(
        folder,
        "undisturbed",
        data=str(folder / "prompts.jsonl"),
        rewards=(f"{folder / 'letters.py'}:letters",),
    )
    lm = rl.train(settings)
    rows = curve(folder / "undisturbed")
    assert rows[0]["held_out_pass_1"] is not None
    assert abs(rows[1]["kl"]) < 1e-6  # a new adapter is the first model itself
    assert rows[-1]["kl"] > 1e-4
    killed = dataclasses.replace(settings, out=str(folder / "killed"))
    for step in (3, 5):
        with subprocess.Popen(
            command(killed), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            for line in process.stdout:
                if line.startswith(f"step {step}/"):
                    os.kill(process.pid, signal.SIGKILL)
                    break
        assert process.returncode == -signal.SIGKILL
    rl.train(killed)
    assert curve(folder / "killed") == curve(folder / "undisturbed")
    first, second = (
        (folder / name / "adapter" / "adapter_model.safetensors").read_bytes()
        for name in ("undisturbed", "killed")
    )
    assert first == second
    again = CodeGemmaCausalLM.from_preset(str(folder / "preset"))
    lora.load(again, folder / "killed" / "adapter")
    ids = np.arange(3, 13)[None]
    x = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(again(x)),
        keras.ops.convert_to_numpy(lm(x)),
        atol=1e-6,
    )


def test_all_groups_without_signal_stop_the_run(folder):
    def constant(prompts, completions, **columns):
        return [0.0] * len(completions)

    with pytest.raises(ValueError, match=r"2 steps in a row.*equal rewards"):
        run(config(folder, "silent", silent_steps=2, evaluate_every=0), constant)


def test_prompts_that_do_not_fit_are_refused(folder):
    long = [Prompt("letters", f"a{n} " * 100) for n in range(4)]
    with pytest.raises(ValueError, match=r"more than the .* of the context"):
        run(config(folder, "long"), prompts=[*long, *PROMPTS[:2]])
    with pytest.raises(ValueError, match="There are 2 prompts"):
        rl.run(config(folder, "few"), PROMPTS[:2], [], [(1.0, "l", letters)])


def test_other_settings_for_the_same_folder_are_refused(folder):
    settings = config(folder, "same", steps=1, evaluate_every=0)
    run(settings)
    with pytest.raises(ValueError, match="other settings"):
        run(dataclasses.replace(settings, loss="grpo"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group_size": 1}, "group_size=1 must be at least 2"),
        ({"loss": "ppo"}, "loss='ppo'"),
        ({"loss": "dpo", "epsilon": 0.2}, "clips nothing"),
        ({"loss": "dpo", "beta": 0.0}, "beta=0.0 must be greater than 0"),
        ({"accumulation": 3}, "accumulation=3 must divide the 16 answers"),
        ({"tasks": ("maths/cubes",)}, "no family of tasks 'maths/cubes'"),
        ({"loss": "rejection", "beta": 0.1}, "it has no beta"),
    ],
)
def test_settings_that_cannot_work_are_refused(folder, changes, message):
    with pytest.raises(ValueError, match=message):
        config(folder, "refused", **changes)


def test_dapo_draws_again_and_prompts_of_no_use_are_left_out(folder):
    """Prompts with a `b` have one reward for all answers."""

    def some(prompts, completions, **columns):
        values = letters(prompts, completions)
        return [1.0 if "b" in p else v for p, v in zip(prompts, values, strict=True)]

    prompts = [Prompt("letters", text) for text in ("a", "b", "c", "b b", "d", "b c")]
    settings = config(
        folder, "dapo", loss="dapo", steps=2, prompts_per_step=2, evaluate_every=0
    )
    rl.run(settings, prompts, [], [(1.0, "some", some)])
    assert [row["silent"] for row in curve(folder / "dapo")] == [0.0, 0.0]
    settings = dataclasses.replace(
        settings,
        out=str(folder / "filtered"),
        loss="dpo",
        accumulation=2,
        filter_samples=2,
        least_pass=0.0,
        most_pass=0.9,
        steps=1,
    )
    rl.run(settings, prompts, [], [(1.0, "some", some)])
    kept = json.loads((folder / "filtered" / "difficulty.json").read_text())["kept"]
    assert kept == [0, 2, 4]
    [row] = curve(folder / "filtered")
    assert row["loss"] == pytest.approx(np.log(2), abs=1e-4)  # no preference yet
    assert row["clipped"] is None
