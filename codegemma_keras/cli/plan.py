"""`codegemma plan sft --preset NAME --on v5e-8 --mesh fsdp=8`: will it fit, before paying.

Every option of the recipe is an option here, with the same default, because the recipe's
own configuration is what is planned.
"""

import dataclasses
import json
import sys
from typing import Annotated, Generic, TypeVar

import tyro

from codegemma_keras.plan import estimate, largest_batch
from codegemma_keras.plan.step import kind_of
from codegemma_keras.recipes.pretrain import PretrainConfig
from codegemma_keras.recipes.rl import RLConfig
from codegemma_keras.recipes.sft import SFTConfig
from codegemma_keras.training.memory import gib
from codegemma_keras.training.model import described

Config = TypeVar("Config")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question(Generic[Config]):
    """Say whether a training run fits a chip, and how fast it can be at best.

    The training step of the recipe is compiled for a TPU, which need not be present, or
    traced for a GPU. The command prints the bytes of each chip, the communication between
    chips, and the bound on the speed by the roofline model. It loads no weights. The exit
    code is 0 if the run fits and 1 if it does not.
    """

    on: str
    """The device: a GPU (t4, l4, l40s, a100-40, a100-80, h100, h200) or a TPU, by its number
    of chips (v5e-8, v6e-1) or its topology (v5e:2x4, v4:2x2x1)."""
    json: bool = False
    """Print the plan as one JSON object."""
    config: Annotated[Config, tyro.conf.arg(name="")]
    """Settings of the recipe."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batches(Question[Config]):
    __doc__ = Question.__doc__

    largest: bool = False
    """Find the largest number of rows that fit at once, instead of planning batch_tokens."""


def plan_sft(question: Batches[SFTConfig]) -> int:
    """Print the plan of `sft`. Exit code 0 if it fits, 1 if not."""
    return _plan(question)


def plan_pretrain(question: Batches[PretrainConfig]) -> int:
    """Print the plan of `pretrain`. Exit code 0 if it fits, 1 if not."""
    return _plan(question)


def plan_rl(question: Question[RLConfig]) -> int:
    """Print the plan of `rl`. Exit code 0 if it fits, 1 if not."""
    return _plan(question)


def _plan(question):
    largest = None
    if getattr(question, "largest", False):
        largest, found = largest_batch(question.config, question.on)
    else:
        found = estimate(question.config, question.on)
    if question.json:
        text = json.dumps(as_json(found, largest), indent=1)
    else:
        text = as_text(found, largest)
    sys.stdout.write(text + "\n")
    return 0 if found.fits else 1


def as_json(found, largest=None) -> dict:
    """An `Estimate` as plain values."""
    return {**dataclasses.asdict(found), "fits": found.fits, "largest_batch": largest}


def as_text(found, largest=None) -> str:
    """An `Estimate` for people."""
    config = found.config
    lines = [
        f"{config.preset or 'a new network'}: {described(config, found.target)}",
        f"{found.rows} rows of {config.sequence_length} tokens at once, "
        f"remat={config.remat}, {found.devices} device{'s' * (found.devices > 1)}",
        "",
        "bytes of each device",
    ]
    kinds = ["weights", "optimizer", "gradients", "logits", "activations"]
    if found.margin:
        kinds.append("margin")
    lines += [f"  {kind:12s}{gib(getattr(found, kind)):>12s}" for kind in kinds]
    lines.append(
        f"  {'in all':12s}{gib(found.total + found.margin):>12s}   of "
        f"{gib(found.usable)} usable: " + ("fits" if found.fits else "DOES NOT FIT")
    )
    if found.rollout:
        sampling = found.weights + found.optimizer + found.rollout
        lines.append(
            f"  while answers are sampled, weights, optimizer and cache: {gib(sampling)}"
        )
    if found.loading > found.usable:
        lines.append(
            f"  the base is loaded as floats, {gib(found.loading)}, and quantized then: it "
            "cannot be loaded there"
        )
    lines += ["", f"arithmetic of a step: {found.flops / 1e12:,.1f} TFLOP"]
    for kind, (count, size) in found.collectives.items():
        lines.append(f"{kind}: {count} a step, {gib(size)}")
    lines.append(
        "seconds of a step, at best: "
        + ", ".join(f"{name} {value:.3f}" for name, value in found.seconds.items())
    )
    if found.fits:
        rate = found.rows * config.sequence_length / max(found.seconds.values())
        lines.append(
            f"at most {rate:,.0f} tokens/s" + " in updates" * bool(found.rollout)
        )
    if largest is not None:
        lines.append(f"largest batch that fits: {largest} rows at once")
    if found.how == "traced":
        lines += [
            "",
            "By the traced step, not a compiled one. Compared with compiled steps it was "
            f"too low by up to {kind_of(config).TRACE_ERROR:.0%} of gradients, logits and "
            "activations: the margin (docs/plan.md).",
        ]
    return "\n".join(lines)
