"""What reinforcement learning does to a small model, beside two controls.

    KERAS_BACKEND=jax python benchmarks/rl_tiny.py runs/rl_tiny

The embedded preset is first tuned on worked problems, but for so short a time that it is
right now and then. From there three runs of the same length and samples: `reinforce`; the
same with rewards that are shuffled among the answers of a step, which must teach nothing;
and `rejection`, fine-tuning on the answers that were right. Each is then asked held-out
problems, numbers that no run has seen, several times at temperature 1.

Writes `benchmarks/results/rl_tiny.json`. A run that was interrupted goes on.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform

import keras
import numpy as np

from codegemma_keras import CodeGemmaCausalLM, lora
from codegemma_keras.recipes import rl, sft
from codegemma_keras.rl import rewards, rollout
from codegemma_keras.rl.curve import read
from codegemma_keras.tasks import maths, prompts

RESULTS = pathlib.Path(__file__).parent / "results" / "rl_tiny.json"
FAMILIES = ("maths/sum", "maths/difference", "maths/x + a = b")
UNSEEN = ("maths/words: gain",)  # tuned on with the others, never in a run of RL
ARMS = ("reinforce", "shuffled", "rejection")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--problems", type=int, default=1600)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--test", type=int, default=120, help="problems")
    parser.add_argument("--samples", type=int, default=8, help="answers to each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=1e-3)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    start = tuned(options)
    scores = {"before": score(start, None, options)}
    print("before", scores["before"], flush=True)
    for arm in ARMS:
        config = settings(arm, start, options)
        train, _ = rl.prompts_of(config)
        with rewards.opened(config.rewards, config.isolation) as judges:
            if arm == "shuffled":
                judges = [(w, n, Shuffled(f)) for w, n, f in judges]
            rl.run(config, train, [], judges)
        scores[arm] = score(start, pathlib.Path(config.out) / "adapter", options)
        print(arm, scores[arm], flush=True)
    curves = {arm: read(options.out / arm / "curve.csv") for arm in ARMS}
    RESULTS.write_text(json.dumps(result(options, scores, curves), indent=1) + "\n")


def tuned(options):
    """The folder of the preset to start from."""
    data, out = options.out / "worked.jsonl", options.out / "tuned"
    if not (out / "preset").exists():
        families = [f.partition("/")[2] for f in FAMILIES + UNSEEN]
        made = maths.problems(families, options.problems)
        lines = [json.dumps({"messages": p.messages()}) for p in made]
        data.write_text("\n".join(lines) + "\n")
        config = sft.SFTConfig(
            data=str(data),
            out=str(out),
            preset="code_gemma_tiny_py",
            lora_rank=0,
            sequence_length=256,
            batch_tokens=1024,
            epochs=options.epochs,
            learning_rate=2e-3,
            held_out=0.0,
            log_every=10,
            evaluate_every=0,
        )
        sft.train(config)
    return str(out / "preset")


def settings(arm, start, options):
    return rl.RLConfig(
        preset=start,
        out=str(options.out / arm),
        tasks=FAMILIES,
        task_count=1000,
        rewards=("answer",),
        isolation="limits",  # numbers are compared; nothing is run
        loss="rejection" if arm == "rejection" else "reinforce",
        learning_rate=options.rate,
        steps=options.steps,
        prompts_per_step=8,
        group_size=8,
        max_new_tokens=40,
        evaluate_every=0,
        silent_steps=options.steps,
        seed=options.seed,
    )


class Shuffled:
    """A reward whose values change places among the answers of a step."""

    def __init__(self, reward):
        self._reward = reward

    def __call__(self, prompts, completions, **columns):
        values = self._reward(prompts, completions, **columns)
        seed = rollout.seed_of("shuffled", completions)
        return list(np.random.default_rng(seed).permutation(values))


def score(preset, adapter, options):
    """pass@1 and pass@k by kind of problem, with 95 % intervals over problems."""
    lm = CodeGemmaCausalLM.from_preset(preset, dtype="float32")
    if adapter:
        lora.load(lm, adapter)
    found = {}
    for name, families in (("trained families", FAMILIES), ("unseen family", UNSEEN)):
        asked = prompts.made(families, options.test, 7, held_out=True)
        groups = rollout.sample(lm, asked, options.samples, 40, "score")
        each = [prompt for prompt in asked for _ in range(options.samples)]
        texts = [answer.text for group in groups for answer in group]
        with rewards.opened(["answer"], "limits") as judges:
            right = rewards.score(judges, each, texts).reshape(len(asked), -1) > 0.5
        found[name] = {
            "problems": len(asked),
            "pass@1": interval(right.mean(axis=1)),
            f"pass@{options.samples}": interval(right.any(axis=1)),
        }
    return found


def interval(values):
    """`[low, mean, high]`: the middle 95 % of means of resampled problems."""
    rng = np.random.default_rng(0)
    means = [rng.choice(values, len(values)).mean() for _ in range(2000)]
    low, high = np.percentile(means, [2.5, 97.5])
    return [round(float(v), 4) for v in (low, np.mean(values), high)]


def result(options, scores, curves):
    return {
        "command": "python benchmarks/rl_tiny.py OUT",
        "options": {k: v for k, v in vars(options).items() if k != "out"},
        "date": datetime.date.today().isoformat(),
        "device": f"{platform.machine()}, {os.cpu_count()} CPUs, "
        f"{keras.config.backend()} backend",
        "scores": scores,
        "largest_gap": max(r["largest_gap"] for c in curves.values() for r in c),
        "curves": {
            arm: [{k: r[k] for k in ("step", "reward", "kl", "entropy")} for r in rows]
            for arm, rows in curves.items()
        },
    }


if __name__ == "__main__":
    main()
