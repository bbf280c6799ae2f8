"""What `tests/plan/test_estimates.py` looks at, as JSON: run on JAX on either backend.

A process has one backend, and planning wants JAX.
"""

import contextlib
import dataclasses
import io
import json

import keras
import numpy as np

from codegemma_keras import plan
from codegemma_keras.cli import main
from codegemma_keras.cli import plan as cli
from codegemma_keras.plan import step
from codegemma_keras.recipes.pretrain import PretrainConfig
from codegemma_keras.recipes.rl import RLConfig
from codegemma_keras.recipes.sft import SFTConfig
from codegemma_keras.rl import rollout, update
from codegemma_keras.rl.losses import ALGORITHMS
from codegemma_keras.training import hardware
from tests.plan.test_plan import SMALL

TINY = "code_gemma_tiny_py"  # seconds less to trace than the 2B


def command(*words):
    """`(exit code, output, errors)` of `codegemma`."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["plan", *words])
    return code, out.getvalue(), err.getvalue()


def largest():
    hardware.CHIPS["tiny"] = hardware.Chip("tiny", ("tiny",), 0.03, 0.0, 1e12, 1e11)
    config = SFTConfig(
        preset=TINY, lora_rank=0, sequence_length=64, dtype="float32", batch_tokens=64
    )
    rows, found = plan.largest_batch(config, "tiny", sizes=SMALL)
    more = dataclasses.replace(config, batch_tokens=64 * (rows + 1))
    return {
        "rows": rows,
        "found": cli.as_json(found, rows),
        "more": cli.as_json(plan.estimate(more, "tiny", SMALL)),
    }


def large():
    """The 2B with all weights, and an integer 7B on a T4."""
    row = {"remat": "block", "sequence_length": 1024, "batch_tokens": 1024}
    full = plan.estimate(PretrainConfig(preset="code_gemma_2b_en", **row), "a100-40")
    config = SFTConfig(preset="code_gemma_7b_en", quantize="int4", **row)
    integer = plan.estimate(config, "t4")
    try:
        plan.estimate(dataclasses.replace(config, quantize="int8"), "t4")
    except ValueError as error:
        refused = str(error)
    return {
        "full": cli.as_json(full),
        "integer": cli.as_json(integer),
        "integer_text": cli.as_text(integer),
        "int8": refused,
    }


def parts():
    """One part a step, and four."""
    config = SFTConfig(preset=TINY, lora_rank=0, sequence_length=64, batch_tokens=256)
    four = dataclasses.replace(config, accumulation=4)
    return [cli.as_json(plan.estimate(c, "l4", SMALL)) for c in (config, four)]


def shapes(structure):
    """`[shape, dtype]` of each leaf, in order."""
    leaves = keras.tree.flatten(structure)
    return [[list(leaf.shape), str(leaf.dtype)] for leaf in leaves]


def reinforcement():
    """Two losses planned, and what an update of the same settings is given."""
    base = {"prompts_per_step": 2, "group_size": 4, "max_new_tokens": 9}
    answer = rollout.Answer(list(range(2, 9)), list(range(3, 12)), [-1.0] * 9, "", True)
    found = {}
    for loss, accumulation in (("reinforce", 1), ("dpo", 2)):
        config = RLConfig(
            loss=loss,
            sequence_length=15,
            accumulation=accumulation,
            dtype="float32",
            **base,
        )
        config = step.resolved(config, "l4")
        count = 4 if loss == "dpo" else 8
        parts = update.parts_of(
            [answer] * count,
            np.ones(count),
            None,
            ALGORITHMS[loss],
            length=15,
            limit=9,
            count=accumulation,
        )
        part = parts[0]._replace(targets={**parts[0].targets, "fresh": np.bool_(True)})
        full = dataclasses.replace(config, lora_rank=0)
        found[loss] = {
            "planned": shapes(step.batch_of(config)),
            "real": shapes(tuple(part)),
            "adapter": cli.as_json(plan.estimate(config, "l4", SMALL)),
            "full": cli.as_json(plan.estimate(full, "l4", SMALL)),
        }
    words = f"rl --on l4 --preset {TINY} --prompts-per-step 1".split()
    found["text"] = command(*words, "--sequence-length", "300")
    found["no length"] = command(*words)
    return found


if __name__ == "__main__":
    words = f"sft --on l4 --preset {TINY}".split()
    words += "--batch-tokens 128 --sequence-length 64".split()
    print(
        json.dumps(
            {
                "json": command(*words, "--json"),
                "text": command(*words),
                "mesh": command(*words, "--mesh", "fsdp=2"),
                "copies": command(*words, "--mesh", "data=2", "--json"),
                "odd": command(*words, "--mesh", "data=3"),
                "largest": largest(),
                "parts": parts(),
                "rl": reinforcement(),
                **large(),
            }
        )
    )
