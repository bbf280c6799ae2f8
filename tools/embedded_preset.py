"""Evaluate the last phase of the embedded preset's training and make the preset of it.

    python tools/preset_data.py runs/preset_data --decontaminate HumanEval.jsonl.gz
    KERAS_BACKEND=tensorflow python -m codegemma_keras.recipes.pretrain \\
        --preset BEFORE --data runs/preset_data --out runs/tiny3 --tokens 10000000 \\
        --learning-rate 0.0015 --decay 0.6 --seed 2 --dtype mixed_bfloat16
    KERAS_BACKEND=tensorflow python -m codegemma_keras.recipes.pretrain \\
        --preset runs/tiny3/preset --out runs/tiny4 --tokens 2400000 \\
        --learning-rate 0.0008 --decay 0.9 --seed 3 --dtype mixed_bfloat16
    KERAS_BACKEND=jax python tools/embedded_preset.py runs/tiny3 runs/tiny4 --before BEFORE

BEFORE is the preset after its first two phases (`EARLIER`), as it was first shipped; it
is scored beside the new one. Left out, it keeps the scores that it has in the results,
as the twin of those phases (the same pieces at FIM rate 0) does. Writes
`codegemma_keras/assets/code_gemma_tiny_py/` (float16 weights, tokenizer, model card,
curve) and `benchmarks/results/embedded_preset.json`. Held-out packages are read from
this environment; none of them was trained on.
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
from codegemma_keras.data.read import installed as corpus
from codegemma_keras.evals import infilling, likelihood

NAME = "code_gemma_tiny_py"
# What the preset was trained on before; the settings and curve of those runs. The second
# continued the first, each with `recipes.pretrain` on installed packages.
EARLIER = """\
| 1 | pieces | 8.0 M | 0.002 | 48 | 52% | 0 |
| 2 | pieces | 1.4 M | 0.001 | 48 | 90% | 1 |"""
EARLIER_TOKENS = 9.4e6
LABELS = {
    "fim": "this model",
    "before": "after phase 2",
    "twin": "twin after phase 2, FIM rate 0",
}
ROOT = pathlib.Path(__file__).parents[1]
ASSETS = ROOT / "codegemma_keras" / "assets" / NAME
RESULTS = ROOT / "benchmarks" / "results" / "embedded_preset.json"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=pathlib.Path, nargs="+", help="phases 3, 4, ...")
    parser.add_argument("--before", type=pathlib.Path, help="a preset")
    parser.add_argument("--tasks", type=int, default=300, help="infilling tasks")
    parser.add_argument("--megabytes", type=float, default=0.6, help="of held-out text")
    options = parser.parse_args()
    configs = [json.loads((run / "config.json").read_text()) for run in options.runs]
    config = configs[0]
    documents = [(d.path, d.text) for d in corpus.python_files(config["held_out"])]
    tasks = infilling.single_line_tasks(documents, options.tasks)
    sample = held_out_sample(documents, options.megabytes * 1e6)
    scores = json.loads(RESULTS.read_text())["scores"]
    presets = {"fim": options.runs[-1] / "preset", "before": options.before}
    for label, preset in presets.items():
        if preset is None:
            continue
        lm = CodeGemmaCausalLM.from_preset(str(preset), dtype="float32")
        scores[label] = evaluate(lm, sample, tasks)
        print(label, json.dumps(scores[label], indent=1), flush=True)
    result = {
        "command": "python tools/embedded_preset.py RUN ... --before BEFORE",
        "date": datetime.date.today().isoformat(),
        "device": f"{platform.machine()}, CPU, {keras.config.backend()} backend",
        "held_out": describe(config["held_out"]),
        "tasks": len(tasks),
        "scores": scores,
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    embed(options.runs[-1], ASSETS, NAME)
    draw(options.runs, ASSETS / "curve_3.png", "tokens of phases 3 and 4 (millions)")
    (ASSETS / "README.md").write_text(card(configs, result, options.runs))


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


def curve(run):
    """`[tokens, loss]` of a run, each an array."""
    with (run / "curve.csv").open() as file:
        lines = [r for r in csv.DictReader(file) if r["loss"]]  # step 0 has none
    rows = [(int(r["tokens"]), float(r["loss"])) for r in lines]
    return np.array(rows).T


def draw(runs, file, label="tokens seen (millions)"):
    """Training loss by token, one run after the other."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.6), dpi=110)
    begin = 0
    for run in runs:
        tokens, loss = curve(run)
        tokens = (begin + tokens) / 1e6
        (line,) = axes.plot(tokens, loss, linewidth=0.6, alpha=0.35)
        smooth = np.convolve(loss, np.ones(9) / 9, "valid")  # of 9 logged means
        axes.plot(tokens[4:-4], smooth, color=line.get_color())
        begin = int(tokens[-1] * 1e6)
    axes.set(xlabel=label, ylabel="training loss (nats a token)")
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(file, metadata={"Software": None})


def describe(packages):
    """`{package: [version, licence]}`."""
    return {package: list(corpus.licence_of(package)) for package in packages}


def card(configs, result, runs):
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
    config, seen = configs[0], [curve(run)[0][-1] for run in runs]
    steps = "\n".join(
        f"| {i} | {'data build' if phase['data'] else 'pieces'} | {tokens / 1e6:.1f} M | "
        f"{phase['learning_rate']} | {phase['warmup_steps']} | {phase['decay']:.0%} | "
        f"{phase['seed']} |"
        for i, (phase, tokens) in enumerate(zip(configs, seen, strict=True), 3)
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
        "tokens": (EARLIER_TOKENS + sum(seen)) / 1e6,
        "final": np.mean(curve(runs[-1])[1][-5:]),
        "sources": sources,
        "held": held,
        "held_bytes": result["scores"]["fim"]["bytes"] / 1e6,
        "tasks": result["tasks"],
        "date": result["date"],
        "phases": f"{EARLIER}\n{steps}",
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

{tokens:.1f} M tokens (padding included) on one or two CPU cores (TensorFlow, {dtype}). AdamW,
{batch_size} rows of {sequence_length} tokens a step, warm-up, constant rate, linear decay to 0;
weight decay {weight_decay}, gradient norm clipped at {clip_norm}. Training loss of the last 100
steps: {final:.2f} nats a token; phases differ in data, so their losses are not one curve.

| phase | rows | tokens | peak rate | warm-up steps | steps that decay | seed of the order |
|---|---|---|---|---|---|---|
{phases}

**Pieces** (phases 1, 2 and 4, `recipes.pretrain`): files cut into pieces of a quarter to a
whole row, each with its path line, packed with attention inside a piece only. Each piece
is seen once. Phase 2 is there because of the middles: in phase 1 half of the line spans
went on for another line, and a model that finds stopping after a line less likely than
going on does not stop when it decodes greedily. Its twin saw the same pieces at FIM rate
0. The preset was first shipped after phase 2.

**Data build** (phase 3, `tools/preset_data.py`): all files of the packages through the
whole pipeline of `codegemma data build`: filters, secrets, HumanEval removed, exact and
near duplicates, files in the order of their repository's imports, several short ones to a
segment. Half of the middles are whole lines or the rest of one, 30 % end where a node of
the syntax tree does, the others are any span. A part of the rows is seen, each once. So
many long middles unlearn stopping, by greedy decoding (PSM 38 %, SPM 68 %), as phase 1
did; phase 4 is phase 2 again, on other pieces. It brings stopping back, and gives back
some of the bits per byte: on another 1.0 MB of the same packages they were 1.772 after
phase 2 and 1.558 after phase 3.

Fill-in-the-middle at rate {fim_rate}, PSM and SPM half and half (suffix-first order),
loss on all parts.

| trained on | version | licence |
|---|---|---|
{sources}

Of phases 1, 2 and 4 tests, files over 200 kB, files with lines over 400 characters and exact
duplicates were left out.

Phases 1 and 2, with the twin:

![training curves](curves.png)

Phases 3 and 4:

![training curves of phases 3 and 4](curve_3.png)

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

Twenty million tokens is very little: look at the columns above before you rely on it. In
PSM the end of the prefix stands far before the middle, and it has not learnt to look
there: no hidden line came back exactly, and a fifth of the completions do not stop; ask
it in SPM. Names
that it was not shown it cannot know; long completions drift and repeat. It was trained
on Python only, and the licences above cover what it learnt from; it may repeat common
lines of them.
"""


if __name__ == "__main__":
    main()
