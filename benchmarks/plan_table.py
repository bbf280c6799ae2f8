"""What fits where: {LoRA, QLoRA, full} x {2B, 7B} x {1024, 4096, 8192} on common chips.

    KERAS_BACKEND=jax JAX_PLATFORMS=cpu python benchmarks/plan_table.py

Prints the tables of docs/plan.md and README.md and writes
benchmarks/results/plan_table.json: GiB of one chip for a step of one row (of one row a
chip). Nothing is run or compiled: bytes come from the traced step of the whole model
(`plan/liveness.py`, whose error benchmarks/plan_accuracy.py states). The attention is the
einsum that really runs, with its `[T, T]` scores, under `remat="block"`.

`v5e-8` is `fsdp=8`, by arithmetic: an eighth of weights, gradients and optimizer state,
each chip's own row, and the weights of a block and of the embedding collected. How many
rows fit is asked of `codegemma plan`.
"""

import itertools
import json
import pathlib
import time

from codegemma_keras import presets
from codegemma_keras.plan import estimates, program, step
from codegemma_keras.training import chips
from codegemma_keras.training.chips import GIB

MODELS = {"2B": "code_gemma_2b_en", "7B": "code_gemma_7b_en"}
RECIPES = ("lora", "full", "qlora")
LENGTHS = (1024, 4096, 8192)
COLUMNS = ("t4", "l4", "a100-40", "a100-80", "h100", "v5e", "v5e-8")


def row_of(model, recipe, length):
    """One row of the table."""
    job = step.Job(MODELS[model], recipe, 1, length, remat="block")
    config = presets.PRESETS[job.preset].config
    lm = step.model_of(job, config)
    found = program.trace_step(lm, step.batch_of(job))
    kinds = {**estimates.by_kind(lm, job), "temporaries": found.temporaries}
    row = {"model": model, "recipe": recipe, "length": length}
    row["gib_by_kind"] = {kind: size / GIB for kind, size in kinds.items()}
    return row


def add_columns(rows):
    """Bytes on every chip, and whether that fits, from the bytes by kind."""
    lora = {
        (r["model"], r["length"]): r["gib_by_kind"]
        for r in rows
        if r["recipe"] == "lora"
    }
    for row in rows:
        kinds = row["gib_by_kind"]
        state, held = kinds["weights"] + kinds["optimizer"], kinds["temporaries"]
        # What the trace may miss: a quarter of the temporaries, and gradients that are
        # cast to float32 before they are needed so.
        margin = held / 4 + (kinds["gradients"] / 2 if row["recipe"] == "full" else 0)
        for column in COLUMNS:
            size, more = state + held, margin
            if column == "v5e-8":
                activations = lora[row["model"], row["length"]]
                size = sharded(row, kinds, activations)
                more = activations["temporaries"] / 4
            usable = chips.of(column.removesuffix("-8")).usable / GIB
            fits = "yes" if size + more <= usable else "perhaps"
            row[column] = {"gib": size, "fits": fits if size <= usable else "no"}


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
    """Markdown: GiB of one chip; bold where it fits, `?` where it may."""
    lines = ["| model | recipe | T | " + " | ".join(COLUMNS) + " |"]
    lines.append("|" + "---|" * (3 + len(COLUMNS)))
    shown = {"yes": "**{:.1f}**", "perhaps": "{:.1f} ?", "no": "{:.1f}"}
    for row in rows:
        cells = [shown[row[c]["fits"]].format(row[c]["gib"]) for c in COLUMNS]
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


def main():
    file = pathlib.Path(__file__).parent / "results" / "plan_table.json"
    # Rows that an interrupted run left are kept; remove the file to begin anew.
    rows = json.loads(file.read_text())["rows"] if file.exists() else []
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
        out = {
            "what": "GiB of one chip with one row on it; traced, not run",
            "date": time.strftime("%Y-%m-%d"),
            "remat": "block",
            "usable_gib": {
                name: chips.of(name.removesuffix("-8")).usable / 2**30
                for name in COLUMNS
            },
            "rows": rows,
        }
        file.write_text(json.dumps(out, indent=1) + "\n")
        print(recipe, model, length, flush=True)
    print(table(rows))
    print(longest(rows))


if __name__ == "__main__":
    main()
