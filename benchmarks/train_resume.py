"""`kill -9` at random moments of training, then go on: the losses are the same.

    KERAS_BACKEND=jax python benchmarks/train_resume.py [--kills 10]

A small model is pretrained from nothing, once undisturbed and once killed again and
again, each time after a random number of steps and a random part of a step; every step
is saved, so that most kills hit a checkpoint that is being written. The loss of every
step, the held-out losses and the final weights are compared bit by bit.
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

from codegemma_keras.training.progress import read

STEPS = 60
ASSETS = pathlib.Path(__file__).parents[1] / "codegemma_keras/assets"
TOKENIZER = ASSETS / "code_gemma_tiny_py/assets/tokenizer/vocabulary.spm"
OPTIONS = {
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
    "tokens": 256 * STEPS,
    "warmup-steps": 5,
    "log-every": 1,
    "save-every": 1,
    "evaluate-every": 10,
    "held-out-rows": 4,
}


def start(out):
    command = [sys.executable, "-m", "codegemma_keras.recipes.pretrain", "--out", out]
    for name, value in OPTIONS.items():
        command += [f"--{name}", str(value)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def series(out):
    """All that is logged but the speeds."""
    names = ("step", "tokens", "loss", "held_out_loss", "learning_rate")
    return [tuple(row[name] for name in names) for row in read(out / "curve.csv")]


def digest(out):
    """Of the final checkpoint: weights, optimizer, random states."""
    file = out / "checkpoints" / f"step-{STEPS:08d}" / "variables.safetensors"
    return hashlib.sha256(file.read_bytes()).hexdigest()


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
    args = parser.parse_args()
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = pathlib.Path(folder) / "whole", pathlib.Path(folder) / "killed"
        with start(whole) as process:
            began = steps = 0
            for line in process.stdout:
                if line.startswith("step "):
                    began = began or time.monotonic()
                    steps += 1
            step_seconds = (time.monotonic() - began) / max(1, steps)
        kills = unfinished = 0
        stopped_at = []
        most = STEPS // (args.kills + 1)  # so that the run does not end before
        while kills < args.kills:
            process = start(killed)
            after = rng.uniform(0, 2 * step_seconds)
            kills += kill_after(process, rng.randint(1, most), after)
            stopped_at.append(len(series(killed)))
            unfinished += any((killed / "checkpoints").glob("step-*.tmp-*"))
        with start(killed) as process:
            process.stdout.read()
        same = {
            "losses_identical": series(killed) == series(whole),
            "final_checkpoint_identical": digest(killed) == digest(whole),
        }
        steps = len(series(whole))
    record(
        f"train_resume_{keras.backend.backend()}",
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
