"""The training loop that every recipe runs: restartable, watched, one for all.

A *step* is one update of the weights, over a batch of `batch_tokens` tokens that may be
computed in `accumulation` parts. Batches are numbered: number n is the same whenever it
is asked for, so the step is the position in the data, and a run that was killed goes on
with the losses of one that was not.

A recipe prepares a model and numbered batches, and calls `run`. What the functions here
read of its settings (`config`, a frozen dataclass) is named in their docstrings.

Left out: overlapping the host with the device. Each step waits for its loss, to stop at
one that is not finite; next to a step of a large model that wait is nothing.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import math
import pathlib
import time
import typing

import keras
import numpy as np

from codegemma_keras import files, lora, plan, sharding
from codegemma_keras.losses import NextTokenLoss
from codegemma_keras.training import flops, schedules
from codegemma_keras.training.checkpoints import Checkpoints
from codegemma_keras.training.progress import Curve

# What may be changed between the parts of a run without changing what it computes.
MAY_CHANGE = {
    "out",
    "remat",
    "mesh",
    "save_every",
    "keep",
    "peak_tflops",
    "tensorboard",
}


def rows_of_part(config) -> int:
    """Rows of one part of a batch.

    Args:
        config: with `batch_tokens`, `sequence_length`, `accumulation`, `mesh`.

    Raises:
        ValueError: the batch cannot be divided so.
    """
    rows, rest = divmod(
        config.batch_tokens, config.sequence_length * config.accumulation
    )
    if rest or not rows:
        raise ValueError(
            f"batch_tokens={config.batch_tokens} must be a multiple of sequence_length x "
            f"accumulation = {config.sequence_length} x {config.accumulation}."
        )
    sharding.check_rows(rows, config.mesh)
    return rows


def batch_of(rows, number, size, seed):
    """Batch `number` of rows in memory, in an order of its own for every pass.

    Args:
        rows: `(x, y, sample_weight)` of all rows.
        number: int.
        size: rows of a batch; what fills no batch at a pass's end is left out.
        seed: int.
    """
    x, y, weight = rows
    epoch, place = divmod(number, len(y) // size)
    chosen = _order(len(y), seed, epoch)[place * size : (place + 1) * size]
    return {name: value[chosen] for name, value in x.items()}, y[chosen], weight[chosen]


def batches_of(rows, size, seed, start=0):
    """Batches `start`, `start + 1`, ... of rows in memory, for ever."""
    for number in itertools.count(start):
        yield batch_of(rows, number, size, seed)


@functools.lru_cache(2)
def _order(count, seed, epoch):
    return np.random.default_rng((seed, epoch)).permutation(count)


def in_order(rows, size):
    """All rows once, as they stand; the last batch is filled up with rows of weight 0."""
    x, y, weight = rows
    for start in range(0, len(y), size):
        # All batches alike: one program, and a mesh can split each.
        chosen = np.arange(start, start + size)
        real = (chosen < len(y)).astype("float32")[:, None]
        chosen = chosen % len(y)
        batch = {name: value[chosen] for name, value in x.items()}
        yield batch, y[chosen], weight[chosen] * real


def add_adapter(lm, config, name):
    """Quantize the base and add the adapter that trains, as the settings say.

    Args:
        lm: the model.
        config: with `quantize`, `lora_rank` (0: no adapter, all weights train),
            `lora_alpha`, `lora_dropout`, `seed`.
        name: of the adapter.

    Raises:
        ValueError: a quantized base without an adapter.
    """
    if config.quantize:
        if not config.lora_rank:
            raise ValueError(
                f"quantize={config.quantize!r} freezes the base, and lora_rank=0 leaves "
                "nothing to train. Set lora_rank."
            )
        lora.quantize_base(lm, config.quantize)
    if config.lora_rank:
        lora.add(
            lm,
            name,
            rank=config.lora_rank,
            alpha=config.lora_alpha,
            dropout=config.lora_dropout,
            seed=config.seed,
        )


def compile_model(lm, config, steps):
    """Compile with AdamW for a run of `steps` updates.

    Args:
        lm: the model.
        config: with `schedule`, `learning_rate`, `warmup_steps`, `decay`,
            `weight_decay`, `clip_norm`, `z_loss`, `accumulation`, `remat`.
        steps: int.
    """
    parts = config.accumulation
    rate = schedules.learning_rate(
        config.schedule,
        config.learning_rate,
        steps,
        config.warmup_steps,
        config.decay,
        parts,
    )
    optimizer = keras.optimizers.AdamW(
        rate,
        beta_2=0.95,
        weight_decay=config.weight_decay,
        global_clipnorm=config.clip_norm,
        gradient_accumulation_steps=parts if parts > 1 else None,
    )
    lm.backbone.remat = config.remat
    on_cpu = flops.device_name() == "cpu"
    lm.compile(
        optimizer=optimizer,
        # Parts of a batch add up; `_update` makes it the mean over the weights.
        loss=NextTokenLoss(z_loss=config.z_loss, reduction="sum_over_batch_size"),
        weighted_metrics=[],
        # On a CPU, TensorFlow's own kernels know bfloat16 instructions; XLA's do not.
        jit_compile=not (on_cpu and keras.backend.backend() == "tensorflow"),
    )


def keep_settings(config, **more):
    """Write `config.json`, or refuse to go on with a run of other settings.

    Args:
        config: with `out`.
        more: further values to write down.

    Raises:
        ValueError: `out` has checkpoints of a run with other settings.
    """
    out = pathlib.Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    new = json.loads(json.dumps({**dataclasses.asdict(config), **more}))
    file = out / "config.json"
    if file.exists() and any(out.glob("checkpoints/step-*")):
        old = json.loads(file.read_text())
        changed = sorted(
            name
            for name in (old.keys() | new.keys()) - MAY_CHANGE
            if old.get(name) != new.get(name)
        )
        if changed:
            listed = ", ".join(f"{n}: {old.get(n)} -> {new.get(n)}" for n in changed)
            raise ValueError(
                f"{out} holds a run with other settings ({listed}). Go on with those, or "
                "choose another `out`; nothing was changed."
            )
    files.put(file, (json.dumps(new, indent=2) + "\n").encode())


def digest(file) -> str:
    """A hash of a file, to notice that data have changed since a run began."""
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "blake2b").hexdigest()[:32]


def run(lm, config, steps, batches, held_out=None, keep_best=False):
    """Train `lm`, or go on where `config.out` stands.

    Args:
        lm: the compiled model, without a preprocessor.
        config: with `out`, `sequence_length`, `batch_tokens`, `accumulation`,
            `log_every`, `evaluate_every` (0: never), `save_every` (all in steps),
            `keep`, `patience`, `peak_tflops`, `tensorboard`, `lora_rank`, `mesh`.
        steps: int, of the whole run.
        batches: function of a number n, the iterator of parts n, n + 1, ..., each
            `(x, y, sample_weight)`.
        held_out: `(x, y, sample_weight)` of rows to evaluate on, or None.
        keep_best: whether the model is left with the weights of its best evaluation,
            not with the last ones.

    Raises:
        FloatingPointError: a loss or a weight is not finite; the last good checkpoint
            stays.
        OSError: no room for a checkpoint; the older ones stay.
        MemoryError: a step does not fit in the device's memory; see `plan.check`.
        ValueError: the data ended early, and a checkpoint was saved; settings that do
            not fit together.
    """
    for name in ("evaluate_every", "save_every"):
        if getattr(config, name) % config.log_every:
            raise ValueError(
                f"{name}={getattr(config, name)} must be a multiple of "
                f"log_every={config.log_every}."
            )
    plan.check(lm, rows_of_part(config), config.sequence_length)
    out = pathlib.Path(config.out)
    # One writer: a checkpoint that names the best step is on the disk after that.
    with concurrent.futures.ThreadPoolExecutor(1) as writer:
        checkpoints = Checkpoints(
            out / "checkpoints", max(2, config.keep), writer=writer
        )
        best = None
        if keep_best:
            best = Checkpoints(out / "best", 1, optimizer=False, writer=writer)
        position = checkpoints.restore(lm) or {"step": 0, "best": None, "worse": 0}
        curve = _curve(lm, config, position["step"], steps)
        try:
            with checkpoints, best or contextlib.nullcontext():
                state = _State(position, checkpoints, best, curve)
                _steps(lm, config, steps, batches, held_out, state)
        finally:
            curve.close()
        if best:
            best.restore(lm)


class _State(typing.NamedTuple):
    """What `_steps` changes."""

    position: dict
    checkpoints: Checkpoints
    best: Checkpoints | None
    curve: Curve


def _steps(lm, config, steps, batches, held_out, state):
    """From the position to the last step, or until enough evaluations were worse."""
    position, checkpoints, best, curve = state
    parts = iter(batches(position["step"] * config.accumulation))
    while position["step"] < steps and not _given_up(config, position):
        began = time.monotonic()
        batch = list(itertools.islice(parts, config.accumulation))
        if len(batch) < config.accumulation:
            _ended(lm, position, steps, checkpoints)
        with plan.explained(lm, rows_of_part(config), config.sequence_length):
            loss = _update(lm, batch)
        step = position["step"] = position["step"] + 1
        if not math.isfinite(loss):
            _not_finite(config, loss, step, checkpoints)
        curve.add(loss, time.monotonic() - began)
        checkpoints.check()
        found, last = None, step == steps
        if held_out is not None and _due(step, config.evaluate_every, last):
            found = evaluate(lm, in_order(held_out, rows_of_part(config)))
            if position["best"] is None or found < position["best"]:
                position.update(best=found, worse=0)
                if best:
                    best.save(lm, step, position)
            else:
                position["worse"] += 1
        last = last or _given_up(config, position)
        if _due(step, config.log_every, last):
            curve.log(step, found, float(lm.optimizer.learning_rate))
        if _due(step, config.save_every, last):
            checkpoints.save(lm, step, position)


def _update(lm, batch) -> float:
    """One update from all parts of a batch; the mean loss over the weights of them all.

    Parts hold different numbers of targets (answers, padding): a mean of their means
    would weigh a target by the part it is in.
    """
    total = sum(float(np.sum(weight)) for _, _, weight in batch)
    count = sum(weight.size for _, _, weight in batch)
    scale = np.float32(count / total if total else 0.0)
    losses = [
        lm.train_on_batch(x, y, sample_weight=weight * scale, return_dict=True)["loss"]
        for x, y, weight in batch
    ]
    return math.fsum(float(loss) for loss in losses) / len(losses)


def evaluate(lm, batches) -> float:
    """Mean loss over the weights of all targets in `batches`.

    Raises:
        ValueError: there is none.
    """
    total = count = 0.0
    for x, y, weight in batches:
        targets = float(np.sum(weight))
        # At a mean weight of 1 either reduction of `NextTokenLoss` is the mean.
        scaled = weight * np.float32(weight.size / targets if targets else 0.0)
        logs = lm.test_on_batch(x, y, sample_weight=scaled, return_dict=True)
        total += float(logs["loss"]) * targets
        count += targets
    if not count:
        raise ValueError("The held-out data have no target to evaluate.")
    return total / count


def _due(step, every, last):
    return bool(every) and (last or step % every == 0)


def _given_up(config, position):
    """Whether enough evaluations in a row were not better."""
    return 0 < config.patience <= position["worse"]


def _ended(lm, position, steps, checkpoints):
    checkpoints.save(lm, position["step"], position)
    checkpoints.wait()
    raise ValueError(
        f"The data ended after step {position['step']} of {steps}. A checkpoint of it is "
        f"in {checkpoints.folder}. Bring more data and start again to go on, or ask for "
        "fewer tokens: the learning rate had not come down yet."
    )


def _not_finite(config, loss, step, checkpoints):
    checkpoints.wait()
    first = (step - 1) * config.accumulation
    raise FloatingPointError(
        f"The loss of step {step} is {loss}. The last good checkpoint, of step "
        f"{max(checkpoints.steps(), default=0)}, is in {checkpoints.folder}. Lower "
        "learning_rate or clip_norm, or look at the rows of that step: batches "
        f"{first} to {first + config.accumulation - 1} of the data."
    )


def _curve(lm, config, done, steps):
    sizes = flops.Sizes.of(lm.backbone.get_config())
    trained = sum(math.prod(v.shape) for v in lm.trainable_variables)
    needed = flops.flops_per_token(
        sizes, config.sequence_length, trained if config.lora_rank else 0
    )
    if config.peak_tflops is not None:
        peak = config.peak_tflops * 1e12
    else:
        peak = flops.peak_flops()
    devices = 1
    if config.mesh:
        devices = math.prod(sharding.parse_mesh(config.mesh).values())
    return Curve(
        pathlib.Path(config.out),
        done,
        steps,
        config.batch_tokens,
        needed,
        peak and peak * devices,
        config.tensorboard,
    )
