"""The training loop that every recipe runs: restartable, watched, one for all.

A *step* is one update of the weights, over a batch of `batch_tokens` tokens that may be
computed in `accumulation` parts. Batches are numbered (`order.py`), so a run that was
killed goes on with the losses of one that was not.

A recipe prepares a model and numbered batches, and calls `run`.

Left out: overlapping the host with the device. Each step waits for its loss, to stop at
one that is not finite; next to a step of a large model that wait is nothing.
"""

import concurrent.futures
import contextlib
import math
import pathlib
import time
import typing

import numpy as np

from codegemma_keras import hosts, sharding
from codegemma_keras.training import hardware, memory
from codegemma_keras.training.checkpoints import Checkpoints
from codegemma_keras.training.interrupt import Interrupted, Wish
from codegemma_keras.training.order import in_order, own_part, parts_of, rows_of_part
from codegemma_keras.training.progress import Curve, say


def run(lm, config, steps, batches, held_out=None, keep_best=False):
    """Train `lm`, or go on where `config.out` stands.

    Args:
        lm: the compiled model, without a preprocessor.
        config: a `TrainingConfig` with nothing left to derive.
        steps: int, of the whole run.
        batches: function of a number n, the iterator of batches n, n + 1, ..., each
            `(x, y, sample_weight)` of all rows of an update.
        held_out: `(x, y, sample_weight)` of rows to evaluate on, or None. They are
            evaluated before the first step too, so that a run that only gets worse ends
            with the weights that it began with.
        keep_best: whether the model is left with the weights of its best evaluation,
            not with the last ones.

    Raises:
        FloatingPointError: a loss or a weight is not finite; the last good checkpoint
            stays.
        Interrupted: ^C or SIGTERM; a checkpoint was saved.
        OSError: no room for a checkpoint; the older ones stay.
        MemoryError: a step does not fit in the device's memory; see `memory.check`.
        ValueError: the data ended early, and a checkpoint was saved.
    """
    memory.check(lm, rows_of_part(config), config.sequence_length)
    out = pathlib.Path(config.out)
    # One writer: a checkpoint that names the best step is on the disk after that.
    with concurrent.futures.ThreadPoolExecutor(1) as writer:
        checkpoints = Checkpoints(out / "checkpoints", config.keep, writer=writer)
        best = None
        if keep_best:
            best = Checkpoints(out / "best", 1, optimizer=False, writer=writer)
        position = _beginning(lm, config, steps, checkpoints, best)
        curve = _curve(lm, config, position["step"], steps)
        state = _State(position, checkpoints, best, curve)
        with contextlib.ExitStack() as stack:
            stack.callback(curve.close)
            stack.enter_context(checkpoints)
            if best:
                stack.enter_context(best)
            wish = stack.enter_context(Wish())
            _steps(lm, config, steps, batches, held_out, state, wish)
        if best and best.steps():
            best.restore(lm)
        _tell_best(config, position, best)


def _beginning(lm, config, steps, checkpoints, best):
    """The position to start from: of the newest checkpoint, or the beginning."""
    position = checkpoints.restore(lm)
    if position is None:
        if best:
            best.clear()
        return {"step": 0, "best": None, "best_step": None, "worse": 0}
    if position["step"] == steps:
        say(f"{config.out} has all {steps} steps already; nothing is left to train")
    else:
        say(f"goes on after step {position['step']} of {steps} of {config.out}")
    return position


class _State(typing.NamedTuple):
    """What a run carries from step to step.

    `position`, a dictionary that is changed in place, is all that a restart needs beside
    the model: the step, the best held-out loss and its step, and how many evaluations in
    a row were worse.
    """

    position: dict
    checkpoints: Checkpoints
    best: Checkpoints | None
    curve: Curve


def _steps(lm, config, steps, batches, held_out, state, wish):
    """From the position to the last step, or until enough evaluations were worse."""
    position, checkpoints, _, curve = state
    stream = iter(batches(position["step"]))
    if position["step"] == 0 and held_out is not None:
        with memory.explained(lm, rows_of_part(config), config.sequence_length):
            curve.start(_evaluate_best(lm, config, held_out, state))
    while position["step"] < steps and not _given_up(config, position):
        began = time.monotonic()
        batch = next(stream, None)
        if batch is None:
            _ended(lm, position, steps, checkpoints)
        rate = _rate(lm)
        with memory.explained(lm, rows_of_part(config), config.sequence_length):
            loss = _update(lm, batch, config.accumulation)
        step = position["step"] = position["step"] + 1
        if not math.isfinite(loss):
            _not_finite(loss, step, checkpoints)
        curve.add(loss, time.monotonic() - began)
        checkpoints.check()
        found, last = None, step == steps
        if held_out is not None and _due(step, config.evaluate_every, last):
            found = _evaluate_best(lm, config, held_out, state)
        last = last or _given_up(config, position)
        if _due(step, config.log_every, last):
            curve.log(step, found, rate)
        # A signal may reach one process alone, and all must stop after the same step.
        if not last and (not hosts.several() or _due(step, config.log_every, last)):
            signal = hosts.largest(wish.signal or 0)
            if signal:
                _interrupted(lm, config, state, steps, signal)
        if _due(step, config.save_every, last):
            checkpoints.save(lm, step, position)
    if position["step"] < steps:
        say(
            f"stopped early after step {position['step']} of {steps}: {position['worse']} "
            f"evaluations in a row were not better (patience={config.patience})"
        )


def _rate(lm):
    """The learning rate of the next update."""
    optimizer = getattr(lm.optimizer, "inner_optimizer", lm.optimizer)
    return float(optimizer.learning_rate)


def _update(lm, batch, parts) -> float:
    """One update from all parts of a batch; the mean loss over the weights of them all.

    Parts hold different numbers of targets (answers, padding): a mean of their means
    would weigh a target by the part it is in.
    """
    total, count = float(np.sum(batch[2])), batch[2].size
    scale = np.float32(count / total if total else 0.0)
    losses = [
        lm.train_on_batch(x, y, sample_weight=weight * scale, return_dict=True)["loss"]
        for x, y, weight in map(own_part, parts_of(batch, parts))
    ]
    return math.fsum(float(loss) for loss in losses) / len(losses)


def _evaluate_best(lm, config, held_out, state) -> float:
    """The held-out loss; weights better than all before are kept."""
    position = state.position
    found = evaluate(lm, in_order(held_out, rows_of_part(config)))
    if position["best"] is None or found < position["best"]:
        position.update(best=found, best_step=position["step"], worse=0)
        if state.best:
            state.best.save(lm, position["step"], position)
    else:
        position["worse"] += 1
    return found


def evaluate(lm, batches) -> float:
    """Mean cross-entropy over the weights of all targets in `batches`, without a z-loss.

    Raises:
        ValueError: there is none.
    """
    total = count = 0.0
    with _without_z_loss(lm.loss):
        for x, y, weight in batches:
            targets = float(np.sum(weight))
            # At a mean weight of 1 either reduction of `NextTokenLoss` is the mean.
            scaled = weight * np.float32(weight.size / targets if targets else 0.0)
            x, y, scaled = own_part((x, y, scaled))
            logs = lm.test_on_batch(x, y, sample_weight=scaled, return_dict=True)
            total += float(logs["loss"]) * targets
            count += targets
    if not count:
        raise ValueError("The held-out data have no target to evaluate.")
    return total / count


@contextlib.contextmanager
def _without_z_loss(loss):
    """Inside, steps are traced without the term that only training needs.

    A model traces its test step here and its training step outside, each once.
    """
    factor = getattr(loss, "z_loss", None)
    if not factor:
        yield
        return
    loss.z_loss = 0.0
    try:
        yield
    finally:
        loss.z_loss = factor


def _due(step, every, last):
    return bool(every) and (last or step % every == 0)


def _given_up(config, position):
    """Whether enough evaluations in a row were not better."""
    return 0 < config.patience <= position["worse"]


def _interrupted(lm, config, state, steps, number):
    step = state.position["step"]
    state.checkpoints.save(lm, step, state.position)
    state.checkpoints.wait()
    raise Interrupted(
        f"Interrupted after step {step} of {steps}, which is saved in "
        f"{state.checkpoints.folder}. The same command goes on from there.",
        number,
    )


def _ended(lm, position, steps, checkpoints):
    checkpoints.save(lm, position["step"], position)
    checkpoints.wait()
    raise ValueError(
        f"The data ended after step {position['step']} of {steps}. A checkpoint of it is "
        f"in {checkpoints.folder}. Bring more data and start again to go on, or ask for "
        "fewer tokens: the learning rate had not come down yet."
    )


def _not_finite(loss, step, checkpoints):
    checkpoints.wait()
    raise FloatingPointError(
        f"The loss of step {step} is {loss}. {checkpoints.where()} Lower learning_rate or "
        f"clip_norm, or look at the rows of that step: batch {step - 1} of the data."
    )


def _tell_best(config, position, best):
    if position["best"] is None:
        return
    found = f"held-out loss {position['best']:.3f}"
    if best is None:
        say(f"best evaluation: step {position['best_step']}, {found}")
    elif position["best_step"] == 0:
        say(
            f"no evaluation was better than the one before the first step ({found}), so "
            "the result has the weights that the run began with; lower learning_rate"
        )
    else:
        say(f"the result has the weights of step {position['best_step']}, {found}")


def _curve(lm, config, done, steps):
    trained = sum(math.prod(v.shape) for v in lm.trainable_variables)
    needed = hardware.flops_per_token(
        lm.backbone.get_config(),
        config.sequence_length,
        trained if config.lora_rank else 0,
    )
    if config.peak_tflops is not None:
        peak = config.peak_tflops * 1e12
    else:
        peak = hardware.peak_flops()
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
