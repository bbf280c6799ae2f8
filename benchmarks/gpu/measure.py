"""One part of `run.sh`: measures, prints and keeps each line.

Parts: `ceilings` (copying, reading, matrix products), `parity` (against float32 on the CPU),
`train`, `decode`, `first_token`; `attention`, `weights` and `profile` are in `inside.py`,
peers in `peers.py`.
`table` prints what the file holds.

Random weights of the 2B's shape: they take as long as trained ones. Seconds are medians;
the first call of everything compiles and is not counted. The file has an entry for each
kind of device, and a line that is measured again replaces the earlier one.
"""

import argparse
import datetime
import functools
import gc
import importlib
import json
import pathlib
import re
import statistics
import sys
import tempfile
import time

FILE = pathlib.Path(__file__).parents[1] / "results" / "gpu.json"
TWO_B = {
    "vocabulary_size": 256_000,
    "num_layers": 18,
    "num_query_heads": 8,
    "num_key_value_heads": 1,
    "hidden_dim": 2048,
    "intermediate_dim": 32_768,
    "head_dim": 256,
}
TINY = TWO_B | {
    "vocabulary_size": 512,
    "num_layers": 2,
    "hidden_dim": 64,
    "intermediate_dim": 256,
    "head_dim": 32,
}
REPEATS = 3


class Run:
    """The sizes of a run, and its results in a file."""

    def __init__(self, tiny=False, out=None, layers=None, only=""):
        self.tiny = tiny
        self.sizes = TINY if tiny else TWO_B
        self.layers = layers
        self.only = only
        if layers:
            self.sizes = self.sizes | {"num_layers": layers}
        scratch = pathlib.Path(tempfile.gettempdir()) / "codegemma_keras_gpu_tiny.json"
        self.file = pathlib.Path(out) if out else (scratch if tiny else FILE)

    def scaled(self, number, least=1):
        """A size of the real run, or one thirty-second of it in a rehearsal."""
        return max(least, number // 32) if self.tiny else number

    def content(self):
        """What the file holds: `{device: {"date": ..., "parts": {part: {line: ...}}}}`."""
        return json.loads(self.file.read_text()) if self.file.exists() else {}

    def put(self, part, line, **figures):
        """Keep and print one line."""
        content = self.content()
        own = content.setdefault(device(), {"parts": {}})
        own["date"] = datetime.date.today().isoformat()
        if self.layers:
            line = f"{self.layers} layers, {line}"
        own["parts"].setdefault(part, {})[line] = figures
        self.file.write_text(json.dumps(content, indent=1) + "\n")
        print(part, line, json.dumps(figures), flush=True)

    def tried(self, part, line, measure):
        """`put` what `measure()` gives, or why it did not work.

        A line that `only` does not match is left out.
        """
        if not re.search(self.only, line):
            return
        try:
            found = measure()
        except Exception as error:  # one way that fails must not end the others
            found = {"failed": f"{type(error).__name__}: {error}"[:300]}
        self.put(part, line, **found)
        gc.collect()  # a Keras model is a cycle, and the next one needs its memory

    def ceiling(self, name, otherwise):
        """A ceiling that was measured here, else the data sheet's."""
        own = self.content().get(device(), {})
        found = own.get("parts", {}).get("ceilings", {})
        return found.get(name, {}).get("per_second", otherwise)


def device() -> str:
    import jax

    return jax.devices()[0].device_kind


def seconds_of(call, repeats=REPEATS) -> float:
    """Median seconds; `call` waits for its result."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def seconds_in_a_row(call, count=20, repeats=REPEATS) -> float:
    """Median seconds of a call whose result is not waited for, of `count` in a row.

    Waiting for one result costs up to a third of a millisecond on a virtual machine, which
    a loop that never waits does not pay.
    """
    import jax

    def burst():
        results = [call() for _ in range(count)]
        jax.block_until_ready(results[-1])

    return seconds_of(burst, repeats) / count


def peak(run) -> float:
    """Operations a second that a matrix product reached, or that the data sheet says."""
    from codegemma_keras.training import hardware

    return run.ceiling("bfloat16 product", hardware.peak_flops() or 1e12)


# --- Parts --------------------------------------------------------------------------


def ceilings(run):
    """What the memory and the matrix units of this card reach."""
    import jax
    from jax import numpy as jnp

    x = jnp.ones(run.scaled(2**32) // 4, "bfloat16")
    y = jnp.ones_like(x)
    add = jax.jit(lambda x, y: x + 1, donate_argnums=1, keep_unused=True)
    held = [y]

    def copy():
        held[0] = add(x, held[0])
        return held[0]

    taken = seconds_in_a_row(copy)
    run.put("ceilings", "copy", per_second=2 * x.nbytes / taken)
    total = jax.jit(lambda x: x.max())
    taken = seconds_in_a_row(lambda: total(x))
    run.put("ceilings", "read", per_second=x.nbytes / taken)
    n = run.scaled(8192, 256)
    a = jax.random.normal(jax.random.key(0), (n, n), "bfloat16")
    product = jax.jit(lambda a: a @ a)
    taken = seconds_in_a_row(lambda: product(a))
    run.put("ceilings", "bfloat16 product", per_second=2 * n**3 / taken)


def parity(run):
    """Logits, loss, gradients and greedy tokens, against float32 on the CPU."""
    import jax
    import keras
    import numpy as np

    from codegemma_keras import CodeGemmaBackbone, CodeGemmaCausalLM

    sizes = {**run.sizes, "vocabulary_size": 8192, "num_layers": 2}
    sizes |= {} if run.tiny else {"hidden_dim": 512, "intermediate_dim": 4096}
    rng = np.random.default_rng(0)
    ids = rng.integers(3, 8192, (2, 513))
    segments = np.repeat([[1, 2, 0]], 2, 0).repeat([200, 250, 62], axis=1)
    x = {"token_ids": ids[:, :-1], "padding_mask": segments > 0}
    x |= {"segment_ids": segments}
    weight = (segments > 0).astype("float32")
    prompt = ids[0, :64].tolist()

    def outcome(where, dtype, weights=None):
        with jax.default_device(where):
            backbone = CodeGemmaBackbone(**sizes, dtype=dtype)
            if weights is not None:
                backbone.set_weights(weights)
            before = backbone.get_weights()
            lm = CodeGemmaCausalLM(backbone)
            tokens = lm.engine.generate([prompt], 32)[0].token_ids
            hidden = backbone({k: np.asarray(v, "int32") for k, v in x.items()})
            logits = np.asarray(backbone.logits(hidden), "float32")[segments > 0]
            lm.compile(optimizer=keras.optimizers.SGD(1.0))  # a step is the gradient
            logs = lm.train_on_batch(x, ids[:, 1:], weight, return_dict=True)
            after = backbone.get_weights()
        moved = [
            np.asarray(b, "float32") - np.asarray(a, "float32")
            for a, b in zip(before, after, strict=True)
        ]
        return before, logits, float(logs["loss"]), moved, tokens

    keras.utils.set_random_seed(0)
    weights, logits, loss, moved, tokens = outcome(jax.devices("cpu")[0], "float32")
    for line in ("float32", "float32, TF32", "mixed_bfloat16", "mixed_float16"):
        dtype = line.split(",")[0]
        # A GPU multiplies float32 as TF32, of 10 bits, unless it is told not to.
        with jax.default_matmul_precision(
            "highest" if line == "float32" else "default"
        ):
            found = outcome(jax.devices()[0], dtype, weights)

        def apart(a, b):
            return float(np.linalg.norm(a - b) / np.linalg.norm(b))

        flat = [np.concatenate([m.ravel() for m in each]) for each in (found[3], moved)]
        run.put(
            "parity",
            line,
            logits=apart(found[1], logits),
            loss=abs(found[2] - loss) / loss,
            gradients=apart(*flat),
            same_tokens=sum(a == b for a, b in zip(found[4], tokens, strict=True)) / 32,
        )


def train(run):
    """A step of the recipe, tokens a second and share of the measured peak."""
    for recipe in ("lora", "full"):
        for length, rows in ((2048, 4), (8192, 1)):
            length = run.scaled(length)
            for remat in ("none", "block"):
                line = f"{recipe}, {rows} x {length} tokens, remat {remat}"
                measure = functools.partial(_step, run, recipe, length, rows, remat)
                run.tried("train", line, measure)


def trained(run, recipe, length, rows, remat):
    """`(step, model, trained numbers of an adapter)`: one call of `step` is one step."""
    import numpy as np

    from codegemma_keras import CodeGemmaBackbone, CodeGemmaCausalLM
    from codegemma_keras.recipes import sft
    from codegemma_keras.training import model

    config = sft.SFTConfig(
        lora_rank=0 if recipe == "full" else 16,
        remat=remat,
        sequence_length=length,
        batch_tokens=rows * length,
        warmup_steps=1,
    )
    config = sft.resolved(config, half=lambda: "bfloat16")
    backbone = CodeGemmaBackbone(**run.sizes, dtype=config.dtype)
    model.add_adapter(backbone, config, "adapter")
    lm = CodeGemmaCausalLM(backbone)
    model.compile_model(lm, config, 100)
    rng = np.random.default_rng(0)
    ids = rng.integers(3, run.sizes["vocabulary_size"], (rows, length + 1), "int32")
    x = {"token_ids": ids[:, :-1], "padding_mask": np.ones_like(ids[:, :-1])}
    x |= {"segment_ids": np.ones_like(ids[:, :-1])}
    weight = np.ones((rows, length), "float32")
    adapters = sum(int(np.prod(v.shape)) for v in lm.trainable_variables)

    def step():
        lm.train_on_batch(x, ids[:, 1:], weight)

    return step, lm, 0 if recipe == "full" else adapters


def _step(run, recipe, length, rows, remat):
    from codegemma_keras.training import hardware

    step, _, adapters = trained(run, recipe, length, rows, remat)
    taken = seconds_of(step)
    flops = hardware.flops_per_token(run.sizes, length, adapters)
    tokens = rows * length / taken
    return {
        "seconds": taken,
        "tokens_per_second": tokens,
        "share_of_peak": tokens * flops / peak(run),
    }


def engine_of(run, kind):
    """The decode engine of a model with random weights.

    Args:
        kind: `"bfloat16"`, `"int8"` or `"int4"`, of which the last two may be followed by
            `" weights"`: activations stay floats then. `"bfloat16 einsum"` multiplies
            one token as it does many, which may suit a GPU better than
            `Linear._of_one_token`, made for CPUs and TPUs.
    """
    import keras

    from codegemma_keras import CodeGemmaBackbone, CodeGemmaCausalLM, adapters, layers

    if kind == "bfloat16 einsum":  # integers, which come after it, do not use it
        layers.Linear._of_one_token = keras.layers.EinsumDense.call
    backbone = CodeGemmaBackbone(**run.sizes, dtype="bfloat16")
    if not kind.startswith("bfloat16"):
        backbone.quantize(kind.split()[0])
    if kind.endswith(" weights"):
        adapters.keep_activations_float(backbone)
    return CodeGemmaCausalLM(backbone).engine


def decode(run):
    """Tokens a second by dtype and rows, and the share of what reading reaches.

    The difference of 57 tokens and 1 after prompts of 130, whose cache keeps its size.
    """
    import numpy as np

    kinds = (
        "bfloat16",
        "bfloat16 einsum",
        "int8",
        "int8 weights",
        "int4",
        "int4 weights",
    )
    for kind in kinds:
        built = functools.cache(functools.partial(engine_of, run, kind))
        rng = np.random.default_rng(0)
        for rows in (1, 32, 8):
            top = run.sizes["vocabulary_size"]
            prompts = rng.integers(3, top, (rows, 130)).tolist()

            def measure(built=built, prompts=prompts, rows=rows):
                engine = built()
                size = sum(v.value.nbytes for v in engine.backbone.variables)
                taken = [
                    seconds_of(functools.partial(engine.generate, prompts, new), 5)
                    for new in (57, 1)
                ]
                step = (taken[0] - taken[1]) / 56
                moved = size + engine.cache_bytes(rows, 192)
                return {
                    "tokens_per_second": rows / step,
                    "share_of_bandwidth": moved / step / run.ceiling("read", 1e12),
                }

            run.tried("decode", f"{kind}, {rows} rows", measure)


def first_token(run):
    """Seconds to the first token by the length of the prompt."""
    import numpy as np

    engine = engine_of(run, "bfloat16")
    rng = np.random.default_rng(0)
    for length in (128, 1024, 8000):
        length = run.scaled(length, 4)
        prompts = rng.integers(3, run.sizes["vocabulary_size"], (1, length)).tolist()
        taken = seconds_of(functools.partial(engine.generate, prompts, 1))
        run.put("first_token", f"{length} tokens", milliseconds=1000 * taken)


def table(run):
    """Print what the file holds, as Markdown."""
    for name, own in run.content().items():
        print(f"\n{name}, {own['date']}")
        for part, lines in own["parts"].items():
            names = list(
                dict.fromkeys(n for figures in lines.values() for n in figures)
            )
            print(f"\n| {part} | {' | '.join(names)} |\n|{'---|' * (1 + len(names))}")
            for line, figures in lines.items():
                cells = [figures.get(name, "") for name in names]
                cells = [f"{c:.4g}" if isinstance(c, float) else str(c) for c in cells]
                print(f"| {line} | {' | '.join(cells)} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--only", default="", help="lines that this expression matches")
    parser.add_argument("--out")
    args = parser.parse_args()
    ours = (ceilings, parity, train, decode, first_token, table)
    call = {part.__name__: part for part in ours}.get(args.part)
    for other in ("inside", "peers"):
        call = call or getattr(importlib.import_module(other), args.part, None)
    if call is None:
        sys.exit(f"{args.part!r} is no part; run.sh lists them.")
    started = time.perf_counter()
    call(Run(args.tiny, args.out, args.layers, args.only))
    print(f"{args.part}: {time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
