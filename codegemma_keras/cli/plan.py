"""`codegemma plan PRESET --on v5e:2x4 --mesh fsdp=8`: will it fit, before paying."""

import dataclasses
import json
import os
import sys
from typing import Annotated, Literal

import tyro


@dataclasses.dataclass(frozen=True)
class PlanOptions:
    """Say whether a training run fits a chip, and how fast it can be at best.

    The training step is compiled ahead of time for chips that need not be there. Bytes of
    a chip, collectives and the bound of the roofline are printed. No weights are loaded.
    Exit code 0 if it fits, 1 if not.
    """

    # Name or folder of the model.
    preset: Annotated[str, tyro.conf.Positional]
    # A TPU topology (v5e:2x4, v6e:1x1, ...) or a GPU (t4, l4, a100-40, a100-80, h100).
    on: str
    # What trains: all weights, an adapter, or an adapter on a quantized base.
    recipe: Literal["full", "lora", "qlora"] = "lora"
    # Rows of a step. Without it, the most that fit.
    batch: int | None = None
    # Tokens of a row.
    length: int = 1024
    # fsdp=8, data=2,model=4, ... for several chips.
    mesh: str | None = None
    # What is computed again in the backward pass instead of kept.
    remat: Literal["none", "attention", "block"] = "none"
    # Of the weights. Default: mixed_bfloat16 (float32 weights) for "full", else bfloat16.
    dtype: str | None = None
    # Of the adapter.
    rank: int = 16
    # Of the base of "qlora".
    quantize: Literal["int8", "int4"] = "int8"
    # Print one JSON object.
    json: bool = False


def plan(args: PlanOptions) -> int:
    """Print the plan. Exit code 0 if it fits, 1 if not."""
    os.environ["KERAS_BACKEND"] = "jax"
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the machine's own chips stay free
    from codegemma_keras.plan import Job, estimate, largest_batch

    names = {field.name for field in dataclasses.fields(Job)}
    values = {name: value for name, value in vars(args).items() if name in names}
    rows = values.pop("batch")
    if rows is None:
        unit = _smallest(args.mesh)
        rows, found = largest_batch(Job(batch=unit, **values), args.on)
        found_rows = rows
    else:
        found, found_rows = estimate(Job(batch=rows, **values), args.on), None
    if args.json:
        text = json.dumps(as_json(found, found_rows), indent=1)
    else:
        text = as_text(found, found_rows)
    sys.stdout.write(text + "\n")
    return 0 if found.fits else 1


def _smallest(mesh):
    """The fewest rows that a mesh can split."""
    from codegemma_keras import sharding

    sizes = sharding.parse_mesh(mesh) if mesh else {}
    return max(sizes.get(axis, 1) for axis in sharding.BATCH_AXES)


def as_json(found, largest=None) -> dict:
    """An `Estimate` as plain values."""
    return {
        **dataclasses.asdict(found),
        "fits": found.fits,
        "largest_batch": largest,
    }


def as_text(found, largest=None) -> str:
    """An `Estimate` for people."""
    from codegemma_keras.plan.fit import gib

    job = found.job
    lines = [
        f"{job.preset}, {job.recipe}, {job.batch} rows of {job.length} tokens, "
        f"remat={job.remat}, {job.policy}"
        + (f", base in {job.quantize}" if job.recipe == "qlora" else ""),
        f"on {found.target}: {found.devices} device{'s' * (found.devices > 1)}"
        + (f", mesh {job.mesh}" if job.mesh else ""),
        "",
        "bytes of each device",
    ]
    kinds = ("weights", "optimizer", "gradients", "logits", "activations")
    lines += [f"  {kind:12s}{gib(getattr(found, kind)):>12s}" for kind in kinds]
    lines += [
        f"  {'in all':12s}{gib(found.total):>12s}   of {gib(found.usable)} usable: "
        + ("fits" if found.fits else "DOES NOT FIT"),
        "",
        f"arithmetic of a step: {found.flops / 1e12:,.1f} TFLOP",
    ]
    for kind, (count, size) in found.collectives.items():
        lines.append(f"{kind}: {count} a step, {gib(size)}")
    lines.append(
        "seconds of a step, at best: "
        + ", ".join(f"{name} {value:.3f}" for name, value in found.seconds.items())
    )
    if found.fits:
        rate = job.batch * job.length / max(found.seconds.values())
        lines.append(f"at most {rate:,.0f} tokens/s")
    if largest is not None:
        lines.append(f"largest batch that fits: {largest} rows")
    if found.how == "traced":
        lines += ["", "By the traced step, not a compiled one: see docs/plan.md."]
    return "\n".join(lines)
