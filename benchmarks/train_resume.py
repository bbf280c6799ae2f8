"""`kill -9` at random moments of training, then go on: the losses are the same.

    KERAS_BACKEND=jax python benchmarks/train_resume.py [--kills 10]
    KERAS_BACKEND=jax python benchmarks/train_resume.py --recipe rl --kills 5

A small model is pretrained from nothing, or the embedded one learns sums by reinforcement,
once undisturbed and once killed again and again, each time after a random number of steps
and a random part of a step; every step is saved, so that most kills hit a checkpoint that
is being written. All that is logged but the speeds (losses, rewards, held-out scores) and
the final weights are compared bit by bit.
"""

import argparse
import hashlib
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

import keras
from _data import record

from codegemma_keras.rl.curve import COLUMNS, TIMED
from codegemma_keras.training.progress import read

ASSETS = pathlib.Path(__file__).parents[1] / "codegemma_keras/assets"
TOKENIZER = ASSETS / "code_gemma_tiny_py/assets/tokenizer/vocabulary.spm"
STEPS = {"pretrain": 60, "rl": 18}
OPTIONS = {
    "pretrain": {
        "tokenizer": TOKENIZER,
        "packages": "rich",
        "held-out": "h5py",
        "num-layers": 2,
        "hidden-dim": 64,
        "intermediate-dim": 256,
        "num-query-heads": 2,
        "head-dim": 32,
        "dtype": "float32",
        "sequence-length": 128,
        "batch-tokens": 256,
        "tokens": 256 * STEPS["pretrain"],
        "warmup-steps": 5,
        "log-every": 1,
        "save-every": 1,
        "evaluate-every": 10,
        "held-out-rows": 4,
    },
    "rl": {
        "preset": "code_gemma_tiny_instruct_py",
        "tasks": "functions/plus",
        "steps": STEPS["rl"],
        "prompts-per-step": 2,
        "group-size": 4,
        "max-new-tokens": 24,
        "dtype": "float32",
        "learning-rate": 1e-3,
        "save-every": 1,
        "evaluate-every": 6,
        "held-out-prompts": 2,
        "held-out-samples": 2,
        "silent-steps": STEPS["rl"],
    },
}
LOGGED = {
    "pretrain": ("step", "tokens", "loss", "held_out_loss", "learning_rate"),
    "rl": tuple(name for name in COLUMNS if name not in TIMED),
}


def start(recipe, out):
    command = [sys.executable, "-m", f"codegemma_keras.recipes.{recipe}", "--out", out]
    for name, value in OPTIONS[recipe].items():
        command += [f"--{name}", str(value)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def series(recipe, out):
    """All that is logged but the speeds."""
    return [
        tuple(row[name] for name in LOGGED[recipe]) for row in read(out / "curve.csv")
    ]


def digest(recipe, out):
    """Of the final checkpoint: weights, optimizer, random states."""
    last = out / "checkpoints" / f"step-{STEPS[recipe]:08d}"
    return hashlib.sha256((last / "variables.safetensors").read_bytes()).hexdigest()


def kill_after(process, steps, seconds):
    """Kill a run after so many lines of steps and a while; whether it still ran."""
    for line in process.stdout:
        steps -= line.startswith("step ")
        if steps <= 0:
            break
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True
    return False


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--recipe", choices=STEPS, default="pretrain")
    args = parser.parse_args()
    recipe = args.recipe
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = pathlib.Path(folder) / "whole", pathlib.Path(folder) / "killed"
        with start(recipe, whole) as process:
            began = steps = 0
            for line in process.stdout:
                if line.startswith("step "):
                    began = began or time.monotonic()
                    steps += 1
            step_seconds = (time.monotonic() - began) / max(1, steps)
        kills = unfinished = 0
        stopped_at = []
        most = STEPS[recipe] // (args.kills + 1)  # so that the run does not end before
        while kills < args.kills:
            process = start(recipe, killed)
            after = rng.uniform(0, 2 * step_seconds)
            kills += kill_after(process, rng.randint(1, most), after)
            stopped_at.append(len(series(recipe, killed)))
            unfinished += any((killed / "checkpoints").glob("step-*.tmp-*"))
        with start(recipe, killed) as process:
            process.stdout.read()
        same = {
            "log_identical": series(recipe, killed) == series(recipe, whole),
            "final_checkpoint_identical": digest(recipe, killed)
            == digest(recipe, whole),
        }
        steps = len(series(recipe, whole))
    record(
        f"{'train' if recipe == 'pretrain' else recipe}_resume_{keras.backend.backend()}",
        {
            "kills": kills,
            "steps": steps,
            "killed_after_step": stopped_at,
            "kills_while_a_checkpoint_was_written": unfinished,
            **same,
        },
    )


if __name__ == "__main__":
    main()
