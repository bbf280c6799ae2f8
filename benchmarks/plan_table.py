"""What fits where: {LoRA, QLoRA, full} x {2B, 7B} x {1024, 4096, 8192} on common chips.

    KERAS_BACKEND=jax JAX_PLATFORMS=cpu python benchmarks/plan_table.py

Prints the tables of docs/plan.md and writes
benchmarks/results/plan_table.json: GiB of one chip for a step of one row (of one row a
chip), the margin of tracing included. Nothing is run or compiled: bytes come from the
traced step of the whole model (`plan/liveness.py`, whose error
benchmarks/plan_accuracy.py states), built from the recipes' own settings with
`remat="block"`. The attention is that of a GPU without cuDNN's kernel. Cells of TPUs that
`benchmarks/tpu_compile.py` has compiled are taken from there, without a margin.

A base that is made integer is loaded as floats first; a chip on which that does not fit
is marked so, even if the step would.

Other cells of `v5e-8` (`fsdp=8`) are arithmetic: an eighth of weights, gradients and
optimizer state, each chip's own row, and the weights of a block and of the embedding
collected.
"""

import itertools
import json
import pathlib
import time

from codegemma_keras import presets
from codegemma_keras.plan import estimates, program, step, supervised
from codegemma_keras.recipes.sft import SFTConfig
from codegemma_keras.training import hardware
from codegemma_keras.training.hardware import GIB

MODELS = {"2B": "code_gemma_2b_en", "7B": "code_gemma_7b_en"}
RECIPES = ("lora", "full", "qlora")
LENGTHS = (1024, 4096, 8192)
RESULTS = pathlib.Path(__file__).parent / "results"
FILE = RESULTS / "plan_table.json"
COMPILED = RESULTS / "tpu_compile.json"
COLUMNS = ("t4", "l4", "a100-40", "a100-80", "h100", "v5e-1", "v5e-8")


def settings(model, recipe, length):
    """The configuration of a row; `qlora` is int8. A T4 takes int4, which needs less."""
    return SFTConfig(
        preset=MODELS[model],
        lora_rank=0 if recipe == "full" else 16,
        quantize="int8" if recipe == "qlora" else None,
        remat="block",
        sequence_length=length,
        batch_tokens=length,
    )


def row_of(model, recipe, length):
    """One row of the table."""
    # Of the same bytes on every chip: float16 where there is no bfloat16.
    config = step.resolved(settings(model, recipe, length), "a100-80")
    lm = step.model_of(config)
    found = program.trace_step(lm, step.batch_of(config))
    kinds = {**estimates.by_kind(lm, config), "temporaries": found.temporaries}
    row = {"model": model, "recipe": recipe, "length": length}
    row["gib_by_kind"] = {kind: size / GIB for kind, size in kinds.items()}
    return row


def add_columns(rows):
    """Bytes on every chip with the margin, and whether that fits, from bytes by kind."""
    lora = {
        (r["model"], r["length"]): r["gib_by_kind"]
        for r in rows
        if r["recipe"] == "lora"
    }
    compiled = json.loads(COMPILED.read_text())["rows"] if COMPILED.exists() else {}
    for row in rows:
        kinds = row["gib_by_kind"]
        held = max(kinds["temporaries"], kinds["gradients"] + kinds["logits"])
        floats = kinds["weights"]
        if row["recipe"] == "qlora":  # in bfloat16, before they are integers
            config = presets.PRESETS[MODELS[row["model"]]].config
            floats = 2 * hardware.matrix_weights(config) / GIB
        for column in COLUMNS:
            size = kinds["weights"] + kinds["optimizer"] + held
            margin, loading = held, floats
            if column == "v5e-8":
                activations = lora[row["model"], row["length"]]
                size = sharded(row, kinds, activations)
                margin, loading = activations["temporaries"], loading / 8
            size += supervised.TRACE_ERROR * margin
            usable = hardware.chip_of(column).usable / GIB
            fits = "yes" if size <= usable else "no"
            if fits == "yes" and loading > usable:
                fits = "not loaded"
            row[column] = {"gib": size, "fits": fits}
            name = f"{row['model'].lower()}-{row['recipe']}-{row['length']}-{column}"
            if found := compiled.get(f"{name}-splash"):
                fits = "yes" if found["fits"] else "no"
                row[column] = {
                    "gib": found["total_gib"],
                    "fits": fits,
                    "compiled": True,
                    "traced_gib": size,
                }


def sharded(row, kinds, lora):
    """GiB of one of eight chips under `fsdp=8`.

    Activations are those of the adapter's step: where all weights train, the worst
    moment of one chip has their gradients in it, and hides the activations.
    """
    config = presets.PRESETS[MODELS[row["model"]]].config
    width, ffn = config["hidden_dim"], config["intermediate_dim"] // 2
    table = config["vocabulary_size"] * width
    rest = 2 * (3 * width * ffn + table)  # collected, in bfloat16
    if row["recipe"] == "full":
        rest += 4 * table  # the float32 gradient of the embedding
    state = kinds["weights"] + kinds["optimizer"] + kinds["gradients"]
    activations = lora["temporaries"] - lora["gradients"]
    return state / 8 + activations + rest / GIB


def table(rows):
    """Markdown: GiB of one chip; bold where it fits.

    `L`: it cannot be loaded; `c`: compiled, not traced.
    """
    lines = ["| model | recipe | T | " + " | ".join(COLUMNS) + " |"]
    lines.append("|" + "---|" * (3 + len(COLUMNS)))
    shown = {"yes": "**{:.1f}**", "not loaded": "{:.1f} L", "no": "{:.1f}"}
    for row in rows:
        cells = [
            shown[row[c]["fits"]].format(row[c]["gib"])
            + (" c" if row[c].get("compiled") else "")
            for c in COLUMNS
        ]
        head = f"| {row['model']} | {row['recipe']} | {row['length']} | "
        lines.append(head + " | ".join(cells) + " |")
    return "\n".join(lines)


def longest(rows):
    """Markdown: the most tokens of a row that fit on each chip, the margin included."""
    lines = ["| | " + " | ".join(COLUMNS) + " |", "|" + "---|" * (1 + len(COLUMNS))]
    for recipe, model in itertools.product(("qlora", "lora", "full"), MODELS):
        mine = [r for r in rows if (r["recipe"], r["model"]) == (recipe, model)]
        fit = [
            max((r["length"] for r in mine if r[c]["fits"] == "yes"), default=None)
            for c in COLUMNS
        ]
        cells = [f"{length:,}" if length else "–" for length in fit]
        lines.append(f"| {model}, {recipe} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write(rows):
    """The result so far; a run that is cut off keeps it."""
    out = {
        "what": "GiB of one chip with one row on it; traced, with margin, or compiled",
        "trace_error": supervised.TRACE_ERROR,
        "date": time.strftime("%Y-%m-%d"),
        "remat": "block",
        "usable_gib": {n: hardware.chip_of(n).usable / GIB for n in COLUMNS},
        "rows": rows,
    }
    FILE.write_text(json.dumps(out, indent=1) + "\n")


def main():
    # Rows that an interrupted run left are kept; remove the file to begin anew.
    rows = json.loads(FILE.read_text())["rows"] if FILE.exists() else []
    done = {(row["model"], row["recipe"], row["length"]) for row in rows}
    wanted = list(itertools.product(RECIPES, MODELS, LENGTHS))
    for recipe, model, length in wanted:
        if (model, recipe, length) in done:
            continue
        rows.append(row_of(model, recipe, length))
        rows.sort(
            key=lambda row: (row["model"], RECIPES.index(row["recipe"]), row["length"])
        )
        add_columns(rows)
        write(rows)
        print(recipe, model, length, flush=True)
    add_columns(rows)
    write(rows)
    print(table(rows))
    print(longest(rows))


if __name__ == "__main__":
    main()
