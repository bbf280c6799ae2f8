"""`codegemma plan PRESET --on v5e:2x4 --mesh fsdp=8`: will it fit, before paying."""

import dataclasses
import json
import os
import sys


def add_parser(subparsers):
    """Add the command `plan` to the program's `argparse` subparsers."""
    parser = subparsers.add_parser(
        "plan",
        help="will a training run fit, and how fast can it be at best",
        description="Compiles the training step ahead of time for chips that need not "
        "be there, and prints bytes a chip, collectives and the roofline. No weights "
        "are loaded.",
    )
    parser.add_argument("preset", metavar="PRESET", help="name or folder")
    parser.add_argument(
        "--on",
        required=True,
        metavar="DEVICE",
        help="a TPU topology (v5e:2x4, v6e:1x1, ...) or a GPU (t4, l4, a100-40, "
        "a100-80, h100)",
    )
    parser.add_argument(
        "--recipe", choices=("full", "lora", "qlora"), default="lora", help="lora"
    )
    parser.add_argument(
        "--batch", type=int, help="rows of a step (default: the most that fit)"
    )
    parser.add_argument("--length", type=int, default=1024, help="tokens a row (1024)")
    parser.add_argument("--mesh", help="fsdp=8, data=2,model=4, ... for several chips")
    parser.add_argument(
        "--remat", choices=("none", "attention", "block"), default="none"
    )
    parser.add_argument(
        "--dtype", help="bfloat16; full: mixed_bfloat16 (float32 weights)"
    )
    parser.add_argument("--rank", type=int, default=16, help="of the adapter (16)")
    parser.add_argument("--quantize", choices=("int8", "int4"), default="int8")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run_plan)
    return parser


def run_plan(args):
    """`codegemma plan`. Exit code 0 if it fits, 1 if not."""
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
