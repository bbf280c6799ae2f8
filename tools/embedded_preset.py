"""Evaluate a pretrained model and make the embedded preset of it.

    KERAS_BACKEND=jax python tools/embedded_preset.py runs/tiny runs/tiny2 \\
        --twin runs/twin runs/twin2

The runs are phases of one training, in order; the last one's model is taken. `--twin`
takes those of a model trained on the same pieces at FIM rate 0, to be scored beside it.
Writes `codegemma_keras/assets/code_gemma_tiny_py/` (float16 weights,
tokenizer, model card, curves) and `benchmarks/results/embedded_preset.json`. Held-out
packages are read from this environment; none of them was trained on.
"""

import argparse
import csv
import datetime
import json
import pathlib
import platform

import keras
import numpy as np

from codegemma_keras import CodeGemmaBackbone, CodeGemmaCausalLM
from codegemma_keras.evals import infilling, likelihood
from codegemma_keras.recipes import corpus

NAME = "code_gemma_tiny_py"
LABELS = {"fim": "this model", "twin": "twin, FIM rate 0"}
ROOT = pathlib.Path(__file__).parents[1]
ASSETS = ROOT / "codegemma_keras" / "assets" / NAME
RESULTS = ROOT / "benchmarks" / "results" / "embedded_preset.json"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("phases", type=pathlib.Path, nargs="+")
    parser.add_argument("--twin", type=pathlib.Path, nargs="+")
    parser.add_argument("--tasks", type=int, default=400, help="infilling tasks")
    parser.add_argument("--megabytes", type=float, default=1.0, help="of held-out text")
    options = parser.parse_args()
    configs = [json.loads((run / "config.json").read_text()) for run in options.phases]
    config = configs[0]
    documents = list(corpus.python_files(config["held_out"]))
    tasks = infilling.single_line_tasks(documents, options.tasks)
    sample = held_out_sample(documents, options.megabytes * 1e6)
    scores = {}
    runs = {"fim": options.phases, "twin": options.twin}
    runs = {label: phases for label, phases in runs.items() if phases}
    for label, phases in runs.items():
        preset = str(phases[-1] / "preset")
        lm = CodeGemmaCausalLM.from_preset(preset, dtype="float32")
        scores[label] = evaluate(lm, sample, tasks)
        print(label, json.dumps(scores[label], indent=1), flush=True)
    result = {
        "command": "python tools/embedded_preset.py PHASES --twin PHASES",
        "date": datetime.date.today().isoformat(),
        "device": f"{platform.machine()}, CPU, {keras.config.backend()} backend",
        "held_out": describe(config["held_out"]),
        "tasks": len(tasks),
        "scores": scores,
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    embed(options.phases[-1], ASSETS, NAME)
    draw(runs, ASSETS / "curves.png")
    (ASSETS / "README.md").write_text(card(configs, result, options.phases))


def held_out_sample(documents, size):
    """Whole documents of about `size` bytes, spread over all packages."""
    order = np.random.default_rng(0).permutation(len(documents))
    chosen, total = [], 0
    for i in order:
        chosen.append(documents[i])
        total += len(documents[i][1])
        if total >= size:
            break
    return chosen


def evaluate(lm, sample, tasks):
    """Bits per byte, and infilling in every mode."""
    scores = likelihood.bits_per_byte(lm, sample)
    for mode in ("psm", "spm", "prefix"):
        scores[mode] = infilling.summary(infilling.run(lm, tasks, mode))
    return scores


def embed(run, folder, name):
    """The trained weights as float16 into the package."""
    trained = CodeGemmaCausalLM.from_preset(str(run / "preset"), dtype="float32")
    half = CodeGemmaBackbone.from_config(
        {**trained.backbone.get_config(), "dtype": "float16"}
    )
    for target, source in zip(half.weights, trained.backbone.weights, strict=True):
        target.assign(source.value)
    lm = CodeGemmaCausalLM(half, trained.preprocessor, name=name)
    lm.save_to_preset(str(folder))


def curve(phases):
    """`(tokens, loss)` of all phases, tokens counted on."""
    points, before = [], 0
    for run in phases:
        with (run / "curve.csv").open() as file:
            rows = list(csv.DictReader(file))
        points += [(before + int(r["tokens"]), float(r["loss"])) for r in rows]
        before = points[-1][0]
    return points


def draw(runs, file):
    """Training loss by token."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.6), dpi=110)
    for key, phases in runs.items():
        tokens, loss = np.array(curve(phases)).T
        (line,) = axes.plot(tokens / 1e6, loss, linewidth=0.6, alpha=0.35)
        smooth = np.convolve(loss, np.ones(9) / 9, "valid")  # of 9 logged means
        axes.plot(tokens[4:-4] / 1e6, smooth, color=line.get_color(), label=LABELS[key])
    axes.set(xlabel="tokens seen (millions)", ylabel="training loss (nats a token)")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(file, metadata={"Software": None})


def describe(packages):
    """`{package: [version, licence]}`."""
    return {package: list(corpus.licence_of(package)) for package in packages}


def card(configs, result, phases):
    """The model card, every number from the runs or the evaluation."""

    def row(label, key):
        s = result["scores"][key]
        cells = [f"{s['bits_per_byte']:.3f}"]
        for mode in ("psm", "spm", "prefix"):
            m = s[mode]
            cells += [f"{m['exact_match']:.1%}", f"{m['parse_rate']:.1%}"]
            cells.append(f"{m['stop_rate']:.1%}")
        return f"| {label} | " + " | ".join(cells) + " |"

    rows = [row(LABELS[key], key) for key in result["scores"]]
    config, points = configs[0], curve(phases)
    steps = "\n".join(
        f"| {i} | {curve([run])[-1][0] / 1e6:.1f} M | {phase['learning_rate']} | "
        f"{phase['warmup_steps']} | {phase['decay']:.0%} | {phase['seed']} |"
        for i, (phase, run) in enumerate(zip(configs, phases, strict=True), 1)
    )
    sources = "\n".join(
        f"| {name} | {version} | {licence} |"
        for name, (version, licence) in describe(config["packages"]).items()
    )
    held = ", ".join(f"{k} {v[0]}" for k, v in result["held_out"].items())
    parameters = CodeGemmaBackbone.from_preset(str(ASSETS)).count_params()
    values = {
        "name": NAME,
        "parameters": parameters / 1e6,
        "tokens": points[-1][0] / 1e6,
        "final": np.mean([loss for _, loss in points[-5:]]),
        "sources": sources,
        "held": held,
        "held_bytes": result["scores"]["fim"]["bytes"] / 1e6,
        "tasks": result["tasks"],
        "date": result["date"],
        "phases": steps,
        "rows": "\n".join(rows),
    }
    return CARD.format_map({**config, **values})


CARD = """# {name}

A real, small CodeGemma (Gemma 1 architecture) trained from nothing by this project, so
that everything runs offline. It knows the shape of Python, not its meaning: use it to
learn, to test and to try things out, not to write software.

* {parameters:.1f} M parameters: {num_layers} layers, width {hidden_dim}, \
{num_query_heads} query heads and 1 key/value head of size {head_dim}, \
{vocabulary_size} pieces; weights stored as float16
* context: {sequence_length} tokens
* licence: Apache-2.0
* made by `python -m codegemma_keras.recipes.pretrain`, then `tools/embedded_preset.py`

## Training

{tokens:.1f} M tokens (padding included) on one CPU core, the twin at the same time on
another (TensorFlow, {dtype}). AdamW, {batch_size} rows of {sequence_length} tokens a step,
warm-up, constant rate, linear decay to 0; weight decay {weight_decay}, gradient norm
clipped at {clip_norm}. Training loss of the last 100 steps: {final:.2f} nats a token.

| phase | tokens | peak rate | warm-up steps | share of steps that decay | seed of the order |
|---|---|---|---|---|---|
{phases}

In the first phase each piece is seen once (it was planned for 10 M tokens and shortened
after step 1,900, before the decay began); the second draws pieces of the same packages
anew. It is there because of the middles: in the first, half of the line spans went on for
another line, and a model that finds stopping after a line less likely than going on does
not stop when it decodes greedily (55 % stopped, PSM).

Fill-in-the-middle at rate {fim_rate}, PSM and SPM half and half (suffix-first order),
loss on all parts. A quarter of the middles (first phase: half) are spans of characters of
log-uniform length, the others whole lines or the rest of a line, three of four (first
phase: one of two) of one line only. Files are cut into pieces of a quarter to a
whole row, each with its path line, packed with attention inside a piece only. The twin
saw the same pieces at FIM rate 0.

| trained on | version | licence |
|---|---|---|
{sources}

Tests, files over 200 kB, files with lines over 400 characters and exact duplicates were
left out; a random part of the rest was used.

![training curves](curves.png)

## Scores

On packages it never saw ({held}), {date}. Bits per byte on {held_bytes:.2f} MB; \
single-line infilling on {tasks} lines, greedy, at most 128 tokens: exact match, share of
completed files that parse, share that stopped by itself. "Prefix only" is left-to-right
up to the line's end.

| | bits/byte | PSM exact | parses | stops | SPM exact | parses | stops | \
prefix only exact | parses | stops |
|---|---|---|---|---|---|---|---|---|---|---|
{rows}

## Limits

Ten million tokens is very little: look at the columns above before you rely on it. In
PSM the end of the prefix stands far before the middle, and it has not learnt to look
there: no hidden line came back exactly; ask it in SPM. It often does not stop. Names
that it was not shown it cannot know; long completions drift and repeat. It was trained
on Python only, and the licences above cover what it learnt from; it may repeat common
lines of them.
"""


if __name__ == "__main__":
    main()
