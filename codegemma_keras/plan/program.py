"""One training step, traced and compiled ahead of time, and what the program says.

Nothing runs and no weight exists. Floating-point operations are counted on the traced
step (recomputation and each turn of a loop included), bytes and collectives are read
from the compiled program, which is the one that the chips would run.
"""

import collections
import contextlib
import dataclasses
import math
import re

import jax

from codegemma_keras import platforms
from codegemma_keras.plan import liveness, step

_WIDTH = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "bf16": 2, "f16": 2, "u16": 2}
_WIDTH |= {"s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
_KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all")
_KINDS += ("collective-permute",)
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")
_CALLED = re.compile(
    r"(body|calls|to_apply|branch_computations|called_computations|true_computation"
    r"|false_computation)=\{?%?([\w.\-]+(?:, *%?[\w.\-]+)*)"
)
_TURNS = re.compile(r'known_trip_count[":{ ]+n"?:"?(\d+)')
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(_KINDS)})(-start)?\(")
_OUT_OF_MEMORY = re.compile(r"Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_COPY = re.compile(r"= (\w+)\[([\d,]+)\](?:\{[^ ]*\})? (copy|transpose)\(")
# Where the temporaries alone are too much.
_TEMPORARIES = re.compile(r"required for HLO temporaries \(([\d.]+)([KMGT])\)")


@dataclasses.dataclass(frozen=True)
class Program:
    """What one device does in a step. All bytes are of one device.

    Attributes:
        arguments: bytes of weights, optimizer state, metrics and batch.
        temporaries: bytes the program needs beside them: gradients, activations,
            logits of a chunk, results that do not replace an argument.
        flops: operations of matrix products, of all devices together.
        traffic: bytes between chip and memory, as XLA estimates them; None if unknown.
        collectives: kind -> (how many a step, bytes received).
        fits: False if the compiler refused it for want of memory.
    """

    arguments: int
    temporaries: int
    flops: float
    traffic: float | None = None
    collectives: dict = dataclasses.field(default_factory=dict)
    fits: bool = True

    @property
    def total(self) -> int:
        """Bytes of the program while it runs."""
        return self.arguments + self.temporaries


def shardings(lm, batch, distribution=None, device=None):
    """`(state, batch)` as shapes with their places: the arguments of the step."""
    if distribution is None:
        one = jax.sharding.SingleDeviceSharding(device or jax.devices()[0])
        place, place_rows = (lambda variable: one), (lambda array: one)
    else:
        whole = jax.sharding.NamedSharding(
            distribution.device_mesh.backend_mesh, jax.sharding.PartitionSpec()
        )

        def place(variable):
            layout = getattr(variable, "_layout", None)
            return whole if layout is None else layout.backend_layout

        def place_rows(array):
            return distribution.get_data_layout(array.shape).backend_layout

    rows = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place_rows(a)), batch
    )
    return step.state_of(lm, place), rows


def compile_step(lm, batch, distribution=None, device=None, platform=None) -> Program:
    """Compile the step of a model from `step.model_of`.

    Args:
        lm: the model.
        batch: shapes, as from `step.batch_of`.
        distribution: as from `sharding.distribution`, over the target's devices; None
            for one device.
        device: the one device; default: this process's first.
        platform: as of `platforms.planned_for`, whose attention the step has; default:
            that of the devices.
    """
    step.prepare(lm, batch, distribution)
    state, rows = shardings(lm, batch, distribution, device)
    if platform is None:
        place = next(iter(jax.tree.leaves(rows)[0].sharding.device_set))
        platform = place.platform
    scope = distribution.scope() if distribution else contextlib.nullcontext()
    # As `FittedCausalLM.make_train_function`.
    options, out = platforms.compiler_options(distribution), None
    if distribution is not None:
        out = (None, jax.tree.map(lambda shape: shape.sharding, state))
    with scope, platforms.planned_for(platform):
        traced = jax.jit(lm.train_step, donate_argnums=0, out_shardings=out).trace(
            state, rows
        )
        flops = matrix_flops(traced.jaxpr.jaxpr)
        arguments = bytes_of((state, rows))
        try:
            compiled = traced.lower().compile(options or None)
        except jax.errors.JaxRuntimeError as error:
            return _refused(error, arguments, flops)
    return read(compiled, flops)


def trace_step(lm, batch, platform="gpu") -> Program:
    """The step for one device, as `compile_step`, from its trace alone."""
    step.prepare(lm, batch)
    state, rows = shardings(lm, batch)
    with platforms.planned_for(platform):
        traced = jax.jit(lm.train_step, donate_argnums=0).trace(state, rows)
    jaxpr = traced.jaxpr.jaxpr
    return Program(
        arguments=bytes_of((state, rows)),
        temporaries=liveness.peak_bytes(jaxpr),
        flops=matrix_flops(jaxpr),
    )


def read(compiled, flops) -> Program:
    """What a compiled program says about itself."""
    memory = compiled.memory_analysis()
    new = memory.output_size_in_bytes - memory.alias_size_in_bytes
    cost = compiled.cost_analysis() or {}
    return Program(
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes + max(0, new),
        flops=flops,
        traffic=cost.get("bytes accessed"),
        collectives=collectives(compiled.as_text()),
    )


def bytes_of(shapes) -> int:
    """Bytes that one device holds of a tree of placed shapes."""
    return sum(
        math.prod(a.sharding.shard_shape(a.shape)) * a.dtype.itemsize
        for a in jax.tree.leaves(shapes)
    )


def _refused(error, arguments, flops):
    """The TPU's compiler states what a program needs when it refuses it."""

    def size(found):
        return int(float(found[1]) * 2 ** (10 * ("KMGT".index(found[2]) + 1)))

    if found := _TEMPORARIES.search(str(error)):
        return Program(arguments, size(found), flops, fits=False)
    if found := _OUT_OF_MEMORY.search(str(error)):
        return Program(arguments, max(0, size(found) - arguments), flops, fits=False)
    raise error


def matrix_flops(jaxpr) -> float:
    """Operations of all matrix products of a traced function, loops unrolled."""
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            total += _product_flops(equation)
        inner = sum(matrix_flops(body) for body in _inner(equation))
        total += _turns(equation) * inner if inner else 0.0
    return total


def _turns(equation) -> float:
    """How often an operation does what is written in it once, on all devices together."""
    kind, params = equation.primitive.name, equation.params
    if kind == "scan":
        return params["length"]
    if kind == "shard_map":  # written for one device; each has its own part
        return params["mesh"].size
    if kind == "pallas_call":
        grid = params["grid_mapping"].grid
        blocks = grid[-1]
        # Splash attention goes over all pairs of blocks, and leaves out those that
        # causality masks.
        return math.prod(grid) * (blocks + 1) / (2 * blocks)
    return 1


def _inner(equation):
    if equation.primitive.name == "cond":  # one of them runs
        return [max((b.jaxpr for b in equation.params["branches"]), key=matrix_flops)]
    return list(liveness.inner_jaxprs(equation))


def _product_flops(equation):
    a, b = (variable.aval.shape for variable in equation.invars)
    (contracted, _), (batched, _) = equation.params["dimension_numbers"]
    shared = math.prod(a[i] for i in (*contracted, *batched))
    rest = math.prod(n for i, n in enumerate(a) if i not in (*contracted, *batched))
    of_b = math.prod(b) // max(1, shared)
    return 2.0 * shared * rest * of_b


def collectives(text) -> dict[str, tuple[int, int]]:
    """Kind -> (how many, bytes of their results) in one step, from a program's text.

    What stands in a loop counts as often as the loop turns, where XLA knows that. What
    begins in one fusion, goes on in others and ends in a last one stands in all of them,
    with one channel, and counts once.
    """
    bodies = _computations(text)
    called = {
        name for lines in bodies.values() for line in lines for name, _ in _calls(line)
    }
    found = {}
    for name in bodies.keys() - called:
        _find(name, 1, bodies, found)
    total = collections.defaultdict(lambda: (0, 0))
    for (kind, _), (times, size) in found.items():
        count, received = total[kind]
        total[kind] = count + times, received + times * size
    return dict(sorted(total.items()))


def loop_copies(text, least) -> dict[str, int]:
    """Copies that a program's loops make at each turn: what is copied -> how many.

    `copy-start` is none of them: on a TPU it brings data into the fast memory ahead of
    their use, which is how each weight is read anyway.

    Args:
        text: of a compiled program.
        least: bytes; smaller results of `copy` and `transpose` do not count.
    """
    bodies = _computations(text)
    todo = re.findall(r"body=%?([\w.\-]+)", text)
    found = collections.Counter()
    while todo:
        for line in bodies.pop(todo.pop(), ()):
            todo += [name for name, _ in _calls(line)]
            hit = _COPY.search(line)
            if hit and _bytes(hit[1], hit[2]) >= least:
                found[f"{hit[3]} {hit[1]}[{hit[2]}]"] += 1
    return dict(found)


def _computations(text):
    bodies, lines = {}, []
    for line in text.splitlines():
        start = re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line)
        if start and not line.startswith(" "):
            lines = bodies.setdefault(start[1], [])
        else:
            lines.append(line)
    return bodies


def _calls(line):
    turns = _TURNS.search(line)
    for how, names in _CALLED.findall(line):
        times = int(turns[1]) if how == "body" and turns else 1
        for name in re.split(r", *%?", names):
            yield name, times


def _find(name, times, bodies, found):
    """Fill `{(kind, channel): (how often, bytes)}`; what has no channel is one of its own."""
    for line in bodies.get(name, ()):
        hit = _COLLECTIVE.search(line)
        if hit:
            shapes = _SHAPE.findall(hit[1])
            if hit[3] and hit[2] != "all-reduce":
                # A start gives (operands, results, counters u32[]).
                shapes = [s for s in shapes if s[1] or s[0] not in ("u32", "s32")]
                shapes = shapes[len(shapes) // 2 :]
            channel = _CHANNEL.search(line)
            key = hit[2], channel[1] if channel else object()
            found[key] = times, sum(_bytes(*s) for s in shapes)
        for inner, turns in _calls(line):
            _find(inner, times * turns, bodies, found)


def _bytes(kind, dims):
    count = math.prod(int(n) for n in dims.split(",") if n)
    return count * _WIDTH.get(kind, 1)
