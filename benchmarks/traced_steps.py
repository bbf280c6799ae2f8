"""What it costs that a layer of a model is not built: a training step, both ways.

    KERAS_BACKEND=jax python benchmarks/traced_steps.py --preset code_gemma_tiny_py

On JAX, Keras traces the whole network again at every batch while a layer is not built, and
the preprocessor of a preset is a layer that training on rows of tokens never calls. Both ways
alternate in one run: as the package trains, and with what builds the preprocessor taken
away. Milliseconds of a step of an adapter of rank 16, medians.

Left out: whole runs. `tools/smollm2_train.py` and the recipes print their tokens a second.
"""

import argparse
import datetime
import json
import pathlib
import statistics
import time

import keras
import numpy as np
from _data import RESULTS, device

from codegemma_keras import fitting
from codegemma_keras.recipes import pretrain
from codegemma_keras.training import model


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="code_gemma_tiny_py")
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--length", type=int, default=128, help="T")
    parser.add_argument("--steps", type=int, default=7)
    options = parser.parse_args()
    build = fitting.FittedCausalLM._build_preprocessor
    steps = {}
    for name, way in (("built", build), ("not built", lambda lm: None)):
        fitting.FittedCausalLM._build_preprocessor = way
        steps[name] = step_of(options)
        steps[name]()
    taken = {name: [] for name in steps}
    for _ in range(options.steps):
        for name, step in steps.items():
            begin = time.perf_counter()
            step()
            taken[name].append(1000 * (time.perf_counter() - begin))
    found = {name: round(statistics.median(ms), 1) for name, ms in taken.items()}
    found["ratio"] = round(found["not built"] / found["built"], 2)
    asked = (
        f"{options.preset}, {keras.config.backend()}, {options.rows} x {options.length}"
    )
    print(asked, found)
    file = RESULTS / "traced_steps.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    today = datetime.date.today().isoformat()
    known[asked] = {"milliseconds": found, "date": today, "device": device()}
    file.write_text(json.dumps(known, indent=1) + "\n")


def step_of(options):
    """A function that trains on one batch and waits for its loss."""
    config = pretrain.PretrainConfig(
        out=str(pathlib.Path("runs/traced_steps")),
        preset=options.preset,
        lora_rank=16,
        sequence_length=options.length,
        batch_tokens=options.rows * options.length,
        tokens=1_000_000,
    )
    config = pretrain.resolved(config)
    lm = model.load(config, pretrain.ADAPTER)
    model.compile_model(lm, config, 1000)
    lm.preprocessor = None  # as the recipes: rows are tokens already
    shape = options.rows, options.length + 1
    ids = np.random.default_rng(0).integers(20, 1000, shape, "int32")
    x = {"token_ids": ids[:, :-1], "padding_mask": np.ones_like(ids[:, :-1])}
    weight = np.ones((options.rows, options.length), "float32")
    return lambda: float(
        lm.train_on_batch(x, ids[:, 1:], weight, return_dict=True)["loss"]
    )


if __name__ == "__main__":
    main()
