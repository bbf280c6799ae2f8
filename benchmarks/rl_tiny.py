"""What reinforcement learning does to a small model, beside two controls.

    KERAS_BACKEND=jax python benchmarks/rl_tiny.py runs/rl_tiny --seeds 0 1 2

The embedded preset is first tuned on worked problems of mathematics and on small
functions, half of which have a mistake: a carry that was forgotten, or another operator.
So it is right now and then, as a model that learnt from people's answers. From there three
runs start, with the same prompts and the same number of answers: `reinforce`; the same with
rewards that change places among the answers of a step, which must teach nothing; and
`rejection`, fine-tuning on the answers that were right. Each is then asked held-out tasks,
whose numbers no run has seen, several times at temperature 1. Programs run in the sandbox.

Writes `benchmarks/results/rl_tiny.json` and `docs/images/rl_tiny.svg`. An interrupted run
goes on, and runs that are in the file already are not made again: remove it to begin
afresh. `--draw` only draws the picture again.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import re

import keras
import numpy as np

from codegemma_keras import CodeGemmaCausalLM, lora
from codegemma_keras.recipes import rl, sft
from codegemma_keras.rl import rewards, rollout
from codegemma_keras.rl.curve import read
from codegemma_keras.tasks import maths, programs, prompts, small_functions

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "rl_tiny.json"
PICTURE = ROOT / "docs" / "images" / "rl_tiny.svg"
# Tasks that runs of RL see (with other numbers), and families that only tuning has seen.
TRAINED = {
    "mathematics": ("maths/sum", "maths/difference"),
    "functions": tuple(f"functions/{n}" for n in ("plus", "times", "filter", "scale")),
}
UNSEEN = {
    "mathematics, other families": ("maths/words: gain",),
    "functions, other families": ("functions/minus", "functions/above"),
}
OTHER = {"+": "-", "-": "+", "*": "+", ">": "<", "<": ">"}  # operators of mistakes
ARMS = ("reinforce", "shuffled", "rejection")
NEW = 64  # tokens of an answer
KEPT = ("step", "reward", "kl", "entropy")  # of a curve


def arguments(description):
    """A parser with what makes a run what it is."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--problems", type=int, default=1200, help="worked, to tune on")
    parser.add_argument("--functions", type=int, default=240, help="the same")
    parser.add_argument("--mistakes", type=float, default=0.5, help="share of them")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--test", type=int, default=60, help="tasks of each group")
    parser.add_argument("--samples", type=int, default=16, help="answers to each")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--arms", nargs="+", default=ARMS, choices=ARMS)
    parser.add_argument("--rate", type=float, default=2e-3)
    return parser


def main():
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--draw", action="store_true", help="only the picture")
    options = parser.parse_args()
    if options.draw:
        draw(json.loads(RESULTS.read_text()))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    start = tuned(options)
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    scores = known.get("scores", {})
    if "before" not in scores:
        scores["before"] = score(start, None, options)
        print("before", scores["before"], flush=True)
    for seed in options.seeds:
        for arm in options.arms:
            name = f"{arm} {seed}"
            if name in scores:
                continue
            config = settings(arm, start, options, seed)
            one_run(arm, config)
            adapter = pathlib.Path(config.out) / "adapter"
            scores[name] = score(start, adapter, options)
            print(name, scores[name], flush=True)
            write(options, scores)
    write(options, scores)
    draw(json.loads(RESULTS.read_text()))


def one_run(arm, config):
    """A run, from its last checkpoint."""
    train, _ = rl.prompts_of(config)
    with rewards.opened(config.rewards, config.isolation) as judges:
        if arm == "shuffled":
            judges = [(w, n, Shuffled(f)) for w, n, f in judges]
        rl.run(config, train, [], judges)


def tuned(options):
    """The folder of the preset to start from."""
    data, out = options.out / "worked.jsonl", options.out / "tuned"
    if not (out / "preset").exists():
        lines = worked(options.problems, options.functions, options.mistakes)
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


def worked(problems, functions, mistakes):
    """Answered tasks of all families as lines of JSON; none of those that are held out."""
    names = [f for each in (TRAINED, UNSEEN) for group in each.values() for f in group]
    families = {
        group: [f.partition("/")[2] for f in names if f.startswith(group)]
        for group in ("maths", "functions")
    }
    rng = np.random.default_rng(0)
    conversations = []
    for problem in maths.problems(families["maths"], problems):
        conversations.append(problem.messages())
        if rng.random() < mistakes:
            right, wrong = (f"Answer: {problem.answer + n}" for n in (0, 10))
            answer = conversations[-1][1]
            answer["content"] = answer["content"].replace(right, wrong)
    while len(conversations) < problems + functions:
        family = families["functions"][len(conversations) % len(families["functions"])]
        task = small_functions.generate(family, rng)
        if not programs.is_held_out((family, programs.rule_of(task))):
            conversations.append(task.messages())
            if rng.random() < mistakes:
                answer = conversations[-1][1]
                other = lambda found: f" {OTHER[found[1]]} "  # noqa: E731
                answer["content"] = re.sub(r" ([-+*<>]) ", other, answer["content"])
    return [json.dumps({"messages": each}) for each in conversations]


def settings(arm, start, options, seed):
    return rl.RLConfig(
        preset=start,
        out=str(options.out / f"{arm}-{seed}"),
        tasks=tuple(f for group in TRAINED.values() for f in group),
        task_count=1000,
        loss="rejection" if arm == "rejection" else "reinforce",
        learning_rate=options.rate,
        steps=options.steps,
        prompts_per_step=8,
        group_size=8,
        max_new_tokens=NEW,
        evaluate_every=0,
        silent_steps=options.steps,
        seed=seed,
    )


class Shuffled:
    """A reward whose values change places among the answers that it judges in a step."""

    def __init__(self, reward):
        self._reward = reward

    def __call__(self, prompts, completions, **columns):
        values = self._reward(prompts, completions, **columns)
        judged = [place for place, value in enumerate(values) if value is not None]
        seed = rollout.seed_of("shuffled", completions)
        mixed = np.random.default_rng(seed).permutation([values[p] for p in judged])
        for place, value in zip(judged, mixed, strict=True):
            values[place] = float(value)
        return values


def score(preset, adapter, options):
    """pass@1 and pass@k by group of tasks, with 95 % intervals over tasks."""
    lm = CodeGemmaCausalLM.from_preset(preset, dtype="float32")
    if adapter:
        lora.load(lm, adapter)
    found = {}
    for name, families in (TRAINED | UNSEEN).items():
        asked = prompts.made(families, options.test, 7, held_out=True)
        groups = rollout.sample(lm, asked, options.samples, NEW, "score")
        each = [prompt for prompt in asked for _ in range(options.samples)]
        texts = [answer.text for group in groups for answer in group]
        with rewards.opened(rewards.TASK) as judges:
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


def write(options, scores):
    RESULTS.write_text(json.dumps(result(options, scores), indent=1) + "\n")


def result(options, scores):
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    curves = {
        name: read(options.out / name.replace(" ", "-") / "curve.csv")
        for name in scores
        if name != "before"
    }
    rows = [row for curve in curves.values() for row in curve]
    # The folder of a run that was made elsewhere is not here; its curve is kept.
    curves = {name: curve or known["curves"][name] for name, curve in curves.items()}
    given = {k: v for k, v in vars(options).items() if k not in ("out", "draw", "arms")}
    given["seeds"] = sorted({int(name.split()[1]) for name in curves})
    speeds = ("rollout_tokens_per_second", "update_tokens_per_second")
    return {
        "command": "python benchmarks/rl_tiny.py OUT",
        "options": given,
        "date": datetime.date.today().isoformat(),
        "device": f"{platform.machine()}, {os.cpu_count()} CPUs, "
        f"{keras.config.backend()} backend",
        "scores": scores,
        "largest_gap": max(
            known.get("largest_gap", 0.0), *(row["largest_gap"] for row in rows)
        ),
        "median_speed": {
            name: float(np.median([r[name] for r in rows])) for name in speeds
        },
        "curves": {
            name: [{k: row[k] for k in KEPT} for row in curve]
            for name, curve in curves.items()
        },
    }


def draw(found):
    """Rewards by step, and held-out scores with their intervals, of every run."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = (
        "rl_tiny"  # the same bytes from the same figures
    )
    import matplotlib.pyplot as plt

    colours = dict(zip(("before", *ARMS), ("0.5", "C0", "C3", "C2"), strict=True))
    groups = [*TRAINED, *UNSEEN]
    figure, (left, *others) = plt.subplots(
        1, 3, figsize=(12, 4), width_ratios=(1.2, 1, 1), layout="constrained"
    )
    for name, curve in found["curves"].items():
        arm, seed = name.split()
        reward = np.array([row["reward"] for row in curve], float)
        smooth = np.convolve(reward, np.ones(5) / 5, "valid")
        label = arm if seed == str(found["options"]["seeds"][0]) else None
        left.plot(np.arange(len(smooth)) + 3, smooth, color=colours[arm], label=label)
    left.plot([], [], color=colours["before"], label="before")
    left.set(xlabel="step", ylabel="reward, mean of 5 steps", ylim=(0, 1))
    left.set_title("Rewards in training")
    left.legend(frameon=False)
    for axes, kind in zip(
        others, ("pass@1", f"pass@{found['options']['samples']}"), strict=True
    ):
        # Runs of one arm beside each other, in the order of the seeds.
        runs = sorted(
            found["scores"].items(),
            key=lambda run: (list(colours).index(run[0].split()[0]), run[0]),
        )
        for number, (name, scored) in enumerate(runs):
            arm, shift = name.split()[0], number - (len(found["scores"]) - 1) / 2
            for row, group in enumerate(groups):
                low, mean, high = scored[group][kind]
                at = row + shift * 0.8 / max(len(found["scores"]), 6)
                axes.plot([low, high], [at, at], color=colours[arm], linewidth=2)
                axes.plot([mean], [at], "o", color=colours[arm], markersize=4)
        axes.set(
            xlim=(0, 1.02), yticks=range(len(groups)), ylim=(len(groups) - 0.5, -0.5)
        )
        axes.set_yticklabels(groups if axes is others[0] else [])
        axes.set_title(f"{kind}, held-out tasks")
    figure.savefig(PICTURE, metadata={"Date": None})


if __name__ == "__main__":
    main()
