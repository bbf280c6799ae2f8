"""What TPUs would hold and bear, by programs compiled for TPUs that are not here.

    pip install "codegemma-keras[tpu]"
    KERAS_BACKEND=jax JAX_PLATFORMS=cpu python benchmarks/tpu_compile.py [part of a name ...]
    ... python benchmarks/tpu_compile.py --layers 4 [part of a name ...]

Compiles the recipes' own training step and the decode loop for the chips in `CASES`, most
telling first, and writes benchmarks/results/tpu_compile.json after each. A case that is
there already is not compiled again: remove its row, or the file, to do so. Arguments pick
the cases whose names hold one of them, as `decode` or `lora-8192`. With `--layers`, networks
have so many layers and all other sizes as they are: minutes less of CPU, rows of their own.

Nothing runs. Bytes are what the compiler assigned; seconds are bounds of the roofline, from
data sheets: no program is faster. `einsum` is the same step with the attention that every
device had before the kernel.

The decode loop is one visit of the engine: greedy, a cache of `SLOTS` tokens. Its copies are
read from the program's text: results of `copy` or `transpose` inside the loop that are as
large as a weight matrix.
"""

import argparse
import contextlib
import dataclasses
import json
import pathlib
import time
from importlib import metadata

import jax
import keras

from codegemma_keras import CodeGemmaBackbone, layers, ops, platforms, presets, sharding
from codegemma_keras.decoding import loop
from codegemma_keras.decoding.generation import MAX_STOP_IDS, VISIT
from codegemma_keras.decoding.sampling import Sampling, Settings, Work
from codegemma_keras.formats import weights
from codegemma_keras.plan import estimates, program, step
from codegemma_keras.recipes.sft import SFTConfig
from codegemma_keras.training import hardware
from codegemma_keras.training.hardware import GIB

FILE = pathlib.Path(__file__).parent / "results" / "tpu_compile.json"
PRESETS = {"2b": "code_gemma_2b_en", "7b": "code_gemma_7b_en"}
SLOTS = 2048  # of the decoder's cache
LARGE = 2**20  # bytes; the smallest matrix of the 2B has 2 MiB in bfloat16


@dataclasses.dataclass(frozen=True)
class Training:
    """A training step: one row of `length` tokens on each chip."""

    model: str
    recipe: str
    length: int
    target: str
    mesh: str | None
    attention: str  # "splash" or "einsum"
    layers: int | None = None  # None: those of the model
    plain: bool = False

    @property
    def name(self):
        size = f"{self.recipe}-{self.length}-{self.target}-{self.attention}"
        size += "-plain" if self.plain else ""
        return f"{self.model}{_cut(self.layers)}-{size}"


@dataclasses.dataclass(frozen=True)
class Decoding:
    """The decode loop of so many rows."""

    model: str
    rows: int
    target: str
    mesh: str | None = None
    layers: int | None = None

    @property
    def name(self):
        return f"{self.model}{_cut(self.layers)}-decode-{self.rows}-{self.target}"


def _cut(layers):
    return f"-{layers}-layers" if layers else ""


def sizes_of(case) -> dict:
    """Arguments of the case's network."""
    sizes = dict(presets.PRESETS[PRESETS[case.model]].config)
    return sizes | ({"num_layers": case.layers} if case.layers else {})


def both(*args):
    return [Training(*args, way) for way in ("splash", "einsum")]


CASES = [
    *both("2b", "lora", 8192, "v5e-1", None),
    Decoding("2b", 1, "v5e-1"),
    *both("7b", "lora", 8192, "v5e-8", "fsdp=8"),
    Decoding("2b", 32, "v5e-1"),
    *both("2b", "full", 8192, "v5e-8", "fsdp=8"),
    Decoding("7b", 1, "v5e-4", "model=4"),
    Training("7b", "full", 4096, "v5e-256", "fsdp=256", "splash"),
    *both("7b", "lora", 4096, "v5e-8", "fsdp=8"),
    *both("7b", "lora", 2048, "v5e-8", "fsdp=8"),
    Decoding("7b", 32, "v5e-4", "model=4"),
    *both("2b", "lora", 4096, "v5e-1", None),
    *both("2b", "lora", 2048, "v5e-1", None),
    Training("7b", "full", 4096, "v5e-16", "fsdp=16", "splash"),
    Training("7b", "full", 4096, "v5e-64", "fsdp=64", "splash"),
    *both("7b", "lora", 8192, "v5e-16", "fsdp=16"),
    *both("7b", "lora", 8192, "v6e-1", None),
    *both("7b", "lora", 8192, "v5p:2x2x1", "fsdp=4"),
    *(
        Training(*args, "splash", plain=True)
        for args in (
            ("7b", "full", 4096, "v5e-16", "fsdp=16"),
            ("7b", "lora", 8192, "v5e-8", "fsdp=8"),
            ("7b", "full", 4096, "v5e-256", "fsdp=256"),
            ("2b", "full", 8192, "v5e-8", "fsdp=8"),
            ("7b", "lora", 4096, "v5e-8", "fsdp=8"),
        )
    ),
    # The cells of docs/plan.md's table that are not above.
    Training("2b", "lora", 1024, "v5e-1", None, "splash"),
    *(
        Training(model, recipe, length, "v5e-8", "fsdp=8", "splash")
        for model, recipe, length in (
            ("2b", "full", 4096),
            ("7b", "full", 1024),
            ("7b", "full", 4096),
            ("2b", "lora", 8192),
            ("2b", "lora", 4096),
            ("7b", "lora", 1024),
        )
    ),
]


def train(case) -> dict:
    """Bytes of a chip and the roofline's bounds of a training step."""
    devices = hardware.tpu_devices(case.target)
    chip = hardware.chip_of(case.target)
    config = SFTConfig(
        preset=PRESETS[case.model],
        lora_rank=0 if case.recipe == "full" else 16,
        remat="block",
        sequence_length=case.length,
        batch_tokens=case.length * len(devices),
        mesh=case.mesh,
    )
    config = step.resolved(config, case.target)
    lm, batch = step.model_of(config, sizes_of(case)), step.batch_of(config)
    layout = None
    if case.mesh:
        layout = sharding.distribution(
            case.mesh,
            num_query_heads=lm.backbone.num_query_heads,
            num_key_value_heads=lm.backbone.num_key_value_heads,
            devices=devices,
        )
    # A CPU has the einsum.
    platform = "tpu" if case.attention == "splash" else "cpu"
    with left_to_the_compiler() if case.plain else contextlib.nullcontext():
        found = program.compile_step(lm, batch, layout, devices[0], platform)
    seconds = estimates.roofline(found, chip, len(devices))
    tokens = case.length * len(devices)
    return {
        "arguments_gib": found.arguments / GIB,
        "temporaries_gib": found.temporaries / GIB,
        "total_gib": found.total / GIB,
        "fits": found.fits and found.total <= chip.usable,
        "seconds": seconds,
        "links_share": seconds.get("links", 0.0) / max(seconds.values()),
        "collectives_gib": {k: s / GIB for k, (_, s) in found.collectives.items()},
        "tokens_per_second_at_most": tokens / max(seconds.values()),
        "bound_by": max(seconds, key=seconds.get),
        "tflop": found.flops / 1e12,
    }


@contextlib.contextmanager
def left_to_the_compiler():
    """Steps without what the package does about split weights."""
    options, cut = platforms.compiler_options, layers.cut_gradient
    platforms.compiler_options = lambda distribution: {}
    layers.cut_gradient = lambda weights, variable: weights
    try:
        yield
    finally:
        platforms.compiler_options, layers.cut_gradient = options, cut


def decode(case) -> dict:
    """Bytes, the roofline's tokens a second, and the copies inside the decode loop."""
    devices = hardware.tpu_devices(case.target)
    chip = hardware.chip_of(case.target)
    sizes = {**sizes_of(case), "dtype": "bfloat16"}
    backbone = weights.build_empty(lambda: CodeGemmaBackbone(**sizes))
    layout = None
    if case.mesh:
        heads = ("num_query_heads", "num_key_value_heads")
        layout = sharding.distribution(
            case.mesh, **{name: sizes[name] for name in heads}, devices=devices
        )
    variables, arguments = decode_arguments(backbone, case.rows, layout, devices[0])

    def run(values, *args):
        mapping = zip(variables, values, strict=True)
        with keras.StatelessScope(state_mapping=mapping):
            return loop.decode(backbone, Work.of([Sampling()]), *args)

    scope = layout.scope() if layout else contextlib.nullcontext()
    with scope, platforms.planned_for("tpu"):
        traced = jax.jit(run, donate_argnums=4).trace(*arguments)
        compiled = traced.lower().compile()
    memory = compiled.memory_analysis()
    held = program.bytes_of(arguments[0])
    cache = program.bytes_of(arguments[4])
    # Each token reads all weights once for all rows, and the cache of each row.
    seconds = (held + cache) / chip.bandwidth
    copies = program.loop_copies(compiled.as_text(), LARGE)
    return {
        "weights_gib": held / GIB,
        "cache_gib": cache / GIB,
        "temporaries_gib": memory.temp_size_in_bytes / GIB,
        "total_gib": (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / GIB,
        "tokens_per_second_at_most": case.rows / seconds,
        "large_copies_in_loop": copies,
    }


def decode_arguments(backbone, rows, layout, device):
    """The variables, and the shapes with places that `loop.decode` takes."""
    one = jax.sharding.SingleDeviceSharding(device)
    whole = cache_place = one
    if layout is not None:
        mesh = layout.device_mesh.backend_mesh
        whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        heads = ops.axes_by_kind(layout)["model"]
        split = backbone.num_key_value_heads % ops.devices_of(layout.device_mesh, heads)
        spec = jax.sharding.PartitionSpec(None, None if split else heads)
        cache_place = jax.sharding.NamedSharding(mesh, spec)

    def place(variable):
        if layout is None:
            return one
        return layout.get_variable_layout(variable).backend_layout

    def shape(dims, dtype, where=None):
        return jax.ShapeDtypeStruct(dims, dtype, sharding=where or whole)

    variables = list(backbone.variables)
    values = [shape(tuple(v.shape), v.dtype, place(v)) for v in variables]
    settings = Settings.of([Sampling()] * rows)
    state = loop.Rows(
        *(shape((rows,), "int32") for _ in range(4)),
        shape((rows,), "bool"),
        shape((rows,), "uint32"),
        shape((rows, MAX_STOP_IDS), "int32"),
        jax.tree.map(lambda a: shape(a.shape, a.dtype), settings),
    )
    of_cache = (rows, backbone.num_key_value_heads, SLOTS, backbone.head_dim)
    pair = [shape(of_cache, "bfloat16", cache_place)] * 2
    cache = [tuple(pair) for _ in range(backbone.num_layers)]
    steps, output = shape((), "int32"), shape((rows, VISIT), "int32")
    return variables, (values, state, steps, output, cache)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int)
    parser.add_argument("parts", nargs="*")
    asked = parser.parse_args()
    out = {"rows": {}}
    if FILE.exists():
        out = json.loads(FILE.read_text())
    for case in CASES:
        case = dataclasses.replace(case, layers=asked.layers)
        known = case.name in out["rows"]
        if known or (asked.parts and not any(p in case.name for p in asked.parts)):
            continue
        began = time.process_time()
        found = train(case) if isinstance(case, Training) else decode(case)
        out["rows"][case.name] = {**dataclasses.asdict(case), **found}
        out |= {
            "what": "programs compiled for TPUs that were not there; nothing ran",
            "libtpu": metadata.version("libtpu"),
            "jax": jax.__version__,
            "date": time.strftime("%Y-%m-%d"),
        }
        FILE.write_text(json.dumps(out, indent=1) + "\n")
        spent = time.process_time() - began
        print(case.name, f"{spent:.0f} s of CPU", json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
