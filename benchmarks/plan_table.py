"""What fits where: {LoRA, QLoRA, full} x {2B, 7B} x {1024, 4096, 8192} on common chips.

    KERAS_BACKEND=jax JAX_PLATFORMS=cpu python benchmarks/plan_table.py

Prints the table of docs/plan.md and writes benchmarks/results/plan_table.json. Nothing is
run or compiled: bytes come from the traced step (`plan/liveness.py`, whose error
benchmarks/plan_accuracy.py states). The attention is the einsum that really runs, with
its `[T, T]` scores, under `remat="block"`.

Bytes are a sum of what each layer and each row adds, so a step of 2 and of 3 layers, of
1 and of 2 rows gives every other one. `v5e-8` is `fsdp=8`, by arithmetic: an eighth of
weights, gradients and optimizer state, each chip's own rows, and the weights of a block
and of the embedding collected.
"""

import dataclasses
import itertools
import json
import pathlib
import time

from codegemma_keras import presets
from codegemma_keras.plan import chips, estimates, program, step

MODELS = {"2B": "code_gemma_2b_en", "7B": "code_gemma_7b_en"}
RECIPES = ("lora", "full", "qlora")
LENGTHS = (1024, 4096, 8192)
COLUMNS = ("t4", "l4", "a100-40", "a100-80", "h100", "v5e", "v5e-8")
KINDS = ("weights", "optimizer", "gradients", "logits", "temporaries")


def measured(job, config):
    """Bytes by kind of one traced step."""
    lm = step.model_of(job, config)
    found = program.trace_step(lm, step.batch_of(job))
    return {**estimates.by_kind(lm, job), "temporaries": found.temporaries}


class Bytes:
    """Bytes by kind of a job, for any number of rows."""

    def __init__(self, job, config):
        self.layers = config["num_layers"]
        self.corners = {
            (layers, rows): measured(
                dataclasses.replace(job, batch=rows), {**config, "num_layers": layers}
            )
            for layers in (2, 3)
            for rows in (1, 2)
        }

    def of(self, kind, rows):
        """Bytes of one kind with so many rows."""

        def full(batch):
            two, three = (self.corners[layers, batch][kind] for layers in (2, 3))
            return two + (three - two) * (self.layers - 2)

        return full(1) + (full(2) - full(1)) * (rows - 1)

    def total(self, rows, column, block=0, table=0):
        """Bytes of one chip with so many rows on it."""
        parts = {kind: self.of(kind, rows) for kind in KINDS}
        state = parts["weights"] + parts["optimizer"]
        if column != "v5e-8":
            return state + parts["temporaries"]
        rest = parts["temporaries"] - parts["gradients"]
        return (
            (state + parts["gradients"]) / 8
            + max(rest, parts["logits"])
            + block
            + table
        )


def largest(found, column, config):
    """The most rows of one chip that fit; and bytes with one row."""
    chip = chips.of(column.removesuffix("-8"))
    width, ffn = config["hidden_dim"], config["intermediate_dim"] // 2
    block, table = 2 * 3 * width * ffn, 2 * config["vocabulary_size"] * width
    rows = 0
    while rows < 512 and found.total(rows + 1, column, block, table) <= chip.usable:
        rows += 1
    return rows, found.total(1, column, block, table)


def row_of(model, recipe, length):
    """One row of the table."""
    config = presets.PRESETS[MODELS[model]].config
    found = Bytes(step.Job(MODELS[model], recipe, 1, length, remat="block"), config)
    row = {"model": model, "recipe": recipe, "length": length}
    row["gib_by_kind"] = {kind: found.of(kind, 1) / 2**30 for kind in KINDS}
    for column in COLUMNS:
        rows, one = largest(found, column, config)
        row[column] = {"rows": rows, "gib": one / 2**30}
    return row


def table(rows):
    """Markdown: rows of a chip that fit, and GiB with one row."""
    lines = ["| model | recipe | T | " + " | ".join(COLUMNS) + " |"]
    lines.append("|" + "---|" * (3 + len(COLUMNS)))
    for row in rows:
        cells = [f"{row[c]['rows'] or '-'} ({row[c]['gib']:.1f})" for c in COLUMNS]
        head = f"| {row['model']} | {row['recipe']} | {row['length']} | "
        lines.append(head + " | ".join(cells) + " |")
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
        out = {
            "what": "rows that fit (of one chip) and GiB with one row; traced, not run",
            "date": time.strftime("%Y-%m-%d"),
            "remat": "block",
            "usable_gib": {
                name: chips.of(name.removesuffix("-8")).usable / 2**30
                for name in COLUMNS
            },
            "rows": rows,
        }
        file.write_text(json.dumps(out, indent=1) + "\n")
        print(table(rows[-1:]).splitlines()[-1], flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
