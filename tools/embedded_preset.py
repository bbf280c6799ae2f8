"""Evaluate a pretrained run and its FIM-free twin, and make the embedded preset of them.

    KERAS_BACKEND=jax python tools/embedded_preset.py runs/tiny runs/twin

Writes `codegemma_keras/assets/code_gemma_tiny_py/` (float16 weights, tokenizer, model
card, curves) and `benchmarks/results/embedded_preset.json`. Held-out packages are read
from this environment; none of them was trained on.
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
ROOT = pathlib.Path(__file__).parents[1]
ASSETS = ROOT / "codegemma_keras" / "assets" / NAME
RESULTS = ROOT / "benchmarks" / "results" / "embedded_preset.json"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("twin", type=pathlib.Path)
    parser.add_argument("--tasks", type=int, default=400, help="infilling tasks")
    parser.add_argument("--megabytes", type=float, default=1.0, help="of held-out text")
    options = parser.parse_args()
    config = json.loads((options.run / "config.json").read_text())
    documents = list(corpus.python_files(config["held_out"]))
    tasks = infilling.single_line_tasks(documents, options.tasks)
    sample = held_out_sample(documents, options.megabytes * 1e6)
    scores = {}
    for label, run in (("fim", options.run), ("twin", options.twin)):
        lm = CodeGemmaCausalLM.from_preset(str(run / "preset"))
        scores[label] = evaluate(lm, sample, tasks)
        print(label, json.dumps(scores[label], indent=1), flush=True)
    result = {
        "command": "python tools/embedded_preset.py RUN TWIN",
        "date": datetime.date.today().isoformat(),
        "device": f"{platform.machine()}, CPU, {keras.config.backend()} backend",
        "held_out": describe(config["held_out"]),
        "tasks": len(tasks),
        "scores": scores,
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    embed(options.run)
    draw(options.run, options.twin, ASSETS / "curves.png")
    (ASSETS / "README.md").write_text(card(config, result, curve(options.run)))


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


def embed(run):
    """The trained weights as float16 into the package."""
    trained = CodeGemmaCausalLM.from_preset(str(run / "preset"))
    half = CodeGemmaBackbone.from_config(
        {**trained.backbone.get_config(), "dtype": "float16"}
    )
    for target, source in zip(half.weights, trained.backbone.weights, strict=True):
        target.assign(source.value)
    lm = CodeGemmaCausalLM(half, trained.preprocessor, name=NAME)
    lm.save_to_preset(str(ASSETS))


def curve(run):
    with (run / "curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [(int(r["tokens"]), float(r["loss"])) for r in rows]


def draw(run, twin, file):
    """Training loss of both, by token."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.6), dpi=110)
    for path, label in ((run, "FIM rate 0.9"), (twin, "FIM rate 0 (twin)")):
        tokens, loss = zip(*curve(path), strict=True)
        axes.plot(np.array(tokens) / 1e6, loss, label=label, linewidth=1.2)
    axes.set(
        xlabel="tokens seen (millions)",
        ylabel="training loss (nats a token)",
        title=NAME,
    )
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(file, metadata={"Software": None})


def describe(packages):
    """`{package: [version, licence]}`."""
    return {package: list(corpus.licence_of(package)) for package in packages}


def card(config, result, points):
    """The model card, every number from the run or the evaluation."""

    def row(label, key):
        s = result["scores"][key]
        cells = [f"{s['bits_per_byte']:.3f}"]
        for mode in ("psm", "spm", "prefix"):
            m = s[mode]
            cells.append(f"{m['exact_match']:.1%} / {m['parse_rate']:.1%}")
            cells.append(f"{m['stop_rate']:.1%}")
        return f"| {label} | " + " | ".join(cells) + " |"

    sources = "\n".join(
        f"| {name} | {version} | {licence} |"
        for name, (version, licence) in describe(config["packages"]).items()
    )
    held = ", ".join(f"{k} {v[0]}" for k, v in result["held_out"].items())
    parameters = CodeGemmaBackbone.from_preset(str(ASSETS)).count_params()
    return CARD.format(
        name=NAME,
        parameters=parameters / 1e6,
        tokens=points[-1][0] / 1e6,
        final=points[-1][1],
        sources=sources,
        held=held,
        held_bytes=result["scores"]["fim"]["bytes"] / 1e6,
        tasks=result["tasks"],
        date=result["date"],
        rows="\n".join([row("this model", "fim"), row("FIM-free twin", "twin")]),
        **config,
    )


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

{steps} steps of {batch_size} rows of {sequence_length} tokens ({tokens:.1f} M tokens, \
each seen once) on two CPU cores, TensorFlow backend, float32. AdamW, peak learning rate
{learning_rate}, warm-up {warmup_steps} steps, linear decay over the last
{decay:.0%}, weight decay {weight_decay}, gradient norm clipped at {clip_norm}. \
Last training loss: {final:.2f} nats a token.

Fill-in-the-middle: rate {fim_rate}, PSM and SPM half and half (suffix-first order),
split at characters, loss on all parts; files are cut into pieces that fit a row, each
with its path line, packed with attention inside a piece only.

| trained on | version | licence |
|---|---|---|
{sources}

Tests, files over 200 kB, files with lines over 400 characters and exact duplicates were
left out; a random part of the rest was used.

![training curves](curves.png)

## Scores

On packages it never saw ({held}), {date}. Bits per byte on {held_bytes:.2f} MB; \
single-line infilling on {tasks} lines, greedy, at most 128 tokens: exact match / share of
completed files that parse, and how often it stopped by itself. "Prefix only" is
left-to-right up to the line's end, all that the twin (same tokens, FIM rate 0) can do.

| | bits/byte | PSM | stops | SPM | stops | prefix only | stops |
|---|---|---|---|---|---|---|---|
{rows}

## Limits

A few million tokens is very little. Names that it was not shown it cannot know; long
completions drift. It was trained on Python only, and the licences above cover what it
learnt from; it may repeat common lines of them.
"""


if __name__ == "__main__":
    main()
