"""Tune the embedded preset on questions, score it, and make its instruct sibling.

    KERAS_BACKEND=tensorflow python tools/instruct_preset.py runs/instruct

Questions are small functions made by rule (`data/small_functions.py`) and documented
functions of the package `algorithms` whose examples run (`data/instruct.py`); training is
`recipes/sft.py`. Scores are of functions whose names training never showed, by executing
the answers; and bits per byte on packages that neither model has seen, for what tuning
forgets. Writes `codegemma_keras/assets/code_gemma_tiny_instruct_py/` and
`benchmarks/results/instruct_preset.json`. Answers run in a sandbox.
"""

import argparse
import datetime
import importlib.util
import json
import pathlib
import platform

import keras
from embedded_preset import describe, draw, embed, held_out_sample

from codegemma_keras import CodeGemmaCausalLM, chat, sandbox
from codegemma_keras.data import Report
from codegemma_keras.data.read import installed as corpus
from codegemma_keras.evals import likelihood
from codegemma_keras.recipes import sft
from codegemma_keras.tasks import instruct, small_functions

NAME, BASE = "code_gemma_tiny_instruct_py", "code_gemma_tiny_py"
ROOT = pathlib.Path(__file__).parents[1]
ASSETS = ROOT / "codegemma_keras" / "assets" / NAME
RESULTS = ROOT / "benchmarks" / "results" / "instruct_preset.json"
HELD_OUT = ("networkx", "rich", "requests", "h5py")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--train", type=int, default=2400, help="small functions")
    parser.add_argument("--test", type=int, default=200)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    made = small_functions.tasks(options.train + options.test)
    test, train = made[: options.test], made[options.test :]
    real = real_tasks()
    test_real, train_real = real[::10], [t for n, t in enumerate(real) if n % 10]
    data = options.out / "chats.jsonl"
    lines = [json.dumps({"messages": t.messages()}) for t in train + train_real]
    data.write_text("\n".join(lines) + "\n", "utf-8")
    config = sft.SFTConfig(
        data=str(data),
        out=str(options.out),
        preset=BASE,
        dtype="mixed_bfloat16",
        lora_rank=0,
        sequence_length=512,
        batch_tokens=2048,
        epochs=3,
        learning_rate=1e-3,
        held_out=0.02,
        log_every=10,
        evaluate_every=50,
    )
    sft.train(config)
    documents = held_out_sample(
        [(d.path, d.text) for d in corpus.python_files(HELD_OUT)], 0.6e6
    )
    models = {BASE: BASE, NAME: str(options.out / "preset")}
    scores = {
        name: evaluate(preset, test, test_real, documents)
        for name, preset in models.items()
    }
    result = {
        "command": "python tools/instruct_preset.py OUT",
        "date": datetime.date.today().isoformat(),
        "device": f"{platform.machine()}, CPU, {keras.config.backend()} backend",
        "trained_on": {"small": len(train), "algorithms": len(train_real)},
        "tested_on": {"small": len(test), "algorithms": len(test_real)},
        "held_out": describe(HELD_OUT),
        "scores": scores,
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    embed(options.out, ASSETS, NAME)
    draw([options.out], ASSETS / "curves.png")
    (ASSETS / "README.md").write_text(card(result, config))


def real_tasks():
    """Functions of `algorithms` whose own examples pass."""
    root = pathlib.Path(importlib.util.find_spec("algorithms").origin).parent
    files = [
        (file.relative_to(root.parent).as_posix(), file.read_text("utf-8"))
        for file in sorted(root.rglob("*.py"))
    ]
    report = Report()
    return list(instruct.keep(instruct.functions(files, report), run, report))


def run(programs):
    """Execute, in the strongest sandbox that is here."""
    return sandbox.run_all(programs, sandbox.Limits(seconds=20.0))


def evaluate(preset, test, test_real, documents):
    """Pass rates, the share of answers that end, and bits per byte."""
    lm = CodeGemmaCausalLM.from_preset(preset, dtype="float32")
    found = {"bits_per_byte": likelihood.bits_per_byte(lm, documents)["bits_per_byte"]}
    for name, tasks in (("small", test), ("algorithms", test_real)):
        prompts = [
            "".join(part for part, _ in chat.render(task.messages()[:1], True))
            for task in tasks
        ]
        answers = lm.generate(prompts, max_new_tokens=96, strip_prompt=True)
        programs = [
            instruct.program(instruct.code_of(answer), task)
            for answer, task in zip(answers, tasks, strict=True)
        ]
        found[name] = sum(r.passed for r in run(programs)) / len(tasks)
    return found


def card(result, config):
    """The model card, every number from the run or the evaluation."""
    rows = "\n".join(
        f"| {name} | {s['small']:.0%} | {s['algorithms']:.0%} | {s['bits_per_byte']:.3f} |"
        for name, s in result["scores"].items()
    )
    return CARD.format(
        name=NAME,
        base=BASE,
        rows=rows,
        held=", ".join(f"{k} {v[0]}" for k, v in result["held_out"].items()),
        **{f"train_{k}": v for k, v in result["trained_on"].items()},
        **{f"test_{k}": v for k, v in result["tested_on"].items()},
        **{
            key: getattr(config, key)
            for key in ("epochs", "learning_rate", "batch_tokens", "sequence_length")
        },
        date=result["date"],
    )


CARD = """# {name}

[{base}](../{base}/README.md), tuned to answer: it writes one-line Python functions of the
fifteen kinds that it was shown, and nothing else. It is there so that chat, instruction
tuning and their tests run offline, with a model that really was tuned.

* sizes, context, vocabulary: those of {base}; weights stored as float16
* licence: Apache-2.0
* made by `tools/instruct_preset.py`, with `python -m codegemma_keras.recipes.sft`

## Training

All weights, {epochs} epochs over {train_small} questions made by rule and
{train_algorithms} documented functions of the package `algorithms` (MIT) whose examples
pass; loss on the answers only; AdamW, {batch_tokens} tokens a step in rows of
{sequence_length}, peak rate {learning_rate}, cosine.

![training curve](curves.png)

## Scores

{date}. Share of answers that do what the question's examples show, greedy: {test_small}
small functions with names that training never showed (of the kinds that it showed), and
{test_algorithms} functions of `algorithms`. Bits per byte of {held}: what tuning forgot.

| | small functions | algorithms | bits/byte |
|---|---|---|---|
{rows}

## Limits

It knows fifteen kinds of sentences. Ask anything else, and it answers with one of them.
"""


if __name__ == "__main__":
    main()
