"""Checkpoints that survive a kill at any moment, written while training goes on.

A checkpoint is a folder `step-00000100` with `variables.safetensors` (what training
changes: trainable variables, the optimizer with its step, random states; by name) and
`position.json` (what the loop must know to go on). It is written under another name
and renamed when all of it is on the disk, so a folder of that name is always complete.
What is frozen, such as the base under an adapter, is not in it.

`save` copies the values to the host and returns; a thread writes them. So memory of the
host holds one copy of what training changes while a write is under way (the next `save`
waits for it). Whole values are stored, so a run may go on with another mesh; sums of
gradients, which are zero between two updates, are not, so it may go on with another
`accumulation`.

With several processes, the first one gathers the values and writes; the others read what
it wrote, so the folder must be on a file system that all of them share.

Left out: each host writing its own part. Why not `keras.callbacks.OrbaxCheckpoint`: see
docs/design.md.
"""

import concurrent.futures
import json
import pathlib
import re
import shutil

import numpy as np
import safetensors.numpy

from codegemma_keras import files, hosts

VARIABLES = "variables.safetensors"
POSITION = "position.json"
_FILES = {VARIABLES, POSITION}
_NAME = re.compile(r"step-(\d{8,})")


class Checkpoints:
    """The checkpoints in a folder; the newest `keep` are kept.

    Used as a context manager, it waits at the end until all is written.

    Args:
        folder: created where it does not exist. What an interrupted save left in it is
            removed, and nothing else.
        keep: int, at least 1.
        optimizer: False leaves out optimizer and random states: weights to use, not to
            go on from.
        writer: a `concurrent.futures.Executor` of one thread. Checkpoints that share one
            are on the disk in the order in which they were saved.
    """

    def __init__(self, folder, keep=2, optimizer=True, writer=None):
        if keep < 1:
            raise ValueError(f"keep={keep}: at least 1, or there is nothing to resume.")
        self.folder = pathlib.Path(folder)
        self.keep = keep
        self._optimizer = optimizer
        self._writer = writer or concurrent.futures.ThreadPoolExecutor(1)
        self._writing = None
        self.folder.mkdir(parents=True, exist_ok=True)
        if not hosts.is_first():
            return
        for left in self.folder.glob("step-*"):
            ours = _NAME.match(left.name) and files.is_temporary(left) and left.is_dir()
            if ours and {p.name for p in left.iterdir()} <= _FILES:
                shutil.rmtree(left)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.wait()

    def steps(self) -> list[int]:
        """Steps that there are complete checkpoints of, oldest first."""
        names = (p.name for p in self.folder.glob("step-*") if p.is_dir())
        return sorted(
            int(match[1]) for name in names if (match := _NAME.fullmatch(name))
        )

    def clear(self):
        """Remove all checkpoints, when a run begins anew."""
        if hosts.is_first():
            for step in self.steps():
                shutil.rmtree(self.folder / f"step-{step:08d}")
        hosts.wait("checkpoints cleared")

    def save(self, lm, step, position):
        """Start saving model, optimizer and `position` (JSON).

        Raises:
            OSError, FloatingPointError: an earlier one could not be written (see
                `wait`).
        """
        self.wait()
        there = (self.folder / f"step-{step:08d}").exists()
        if hosts.largest(there):
            return
        values = {name: _copy(v) for name, v in self._variables(lm).items()}
        for name in filter(_counts, values):
            values[name] = np.asarray(values[name] // _parts(lm))
        if not hosts.is_first():
            return
        # As text now: the loop goes on changing it.
        position = json.dumps({**position, "step": step})
        self._writing = self._writer.submit(self._write, step, values, position)

    def wait(self):
        """Until the last `save` is on the disk.

        Raises:
            OSError: there was no room or no right to write.
            FloatingPointError: a value to save was not finite.
            Older checkpoints are untouched by either.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def check(self):
        """Raise what `wait` would, but only if the writing is over."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def _write(self, step, values, position):
        _check_finite(step, values, self.where())
        try:
            with files.new_folder(self.folder / f"step-{step:08d}") as new:
                safetensors.numpy.save_file(values, new / VARIABLES)
                (new / POSITION).write_text(position)
        except (OSError, safetensors.SafetensorError) as error:
            need = sum(value.nbytes for value in values.values())
            free = shutil.disk_usage(self.folder).free
            raise OSError(
                f"Checkpoint of step {step} could not be written to {self.folder}: "
                f"{error}. It needs {need / 2**20:.0f} MiB; {free / 2**20:.0f} MiB are "
                f"free. Make room and start again: the run goes on from "
                f"{self._last() or 'its beginning'}."
            ) from error
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(self.folder / f"step-{old:08d}")

    def _last(self):
        return f"step {max(self.steps())}" if self.steps() else None

    def where(self) -> str:
        """What there is to go on from, as a sentence."""
        if not self.steps():
            return "No checkpoint was saved yet."
        return f"The last good checkpoint, of {self._last()}, is in {self.folder}."

    def restore(self, lm):
        """Load the newest checkpoint into `lm`; returns its position, or None.

        Raises:
            ValueError: it is of another model, adapter or optimizer.
        """
        self.wait()
        hosts.wait("checkpoint written")
        step = max(self.steps(), default=-1)
        newest = hosts.largest(step)
        # All processes ask and all stop, or those that see it would wait for the others.
        if hosts.largest(step != newest):
            raise ValueError(
                f"Not every host sees the checkpoint of step {newest} in {self.folder}. "
                "Put `out` on a file system that all hosts share."
            )
        if step < 0:
            return None
        folder = self.folder / f"step-{step:08d}"
        stored = safetensors.numpy.load_file(folder / VARIABLES)
        variables = self._variables(lm)
        for name in sorted(stored.keys() ^ variables.keys()):
            where = "the checkpoint" if name in stored else "the model"
            raise ValueError(
                f"Only {where} has {name!r}: {folder} is of a run with another model, "
                "adapter or optimizer. Use the same settings, or another `out`."
            )
        for name, variable in variables.items():
            if stored[name].shape != tuple(variable.shape):
                raise ValueError(
                    f"{folder} has {name} of shape {stored[name].shape}, the model of "
                    f"{tuple(variable.shape)}: use the same settings, or another `out`."
                )
        for name, variable in variables.items():
            times = _parts(lm) if _counts(name) else 1
            variable.assign(stored[name] * times if times > 1 else stored[name])
        return json.loads((folder / POSITION).read_text())

    def _variables(self, lm):
        """Name -> variable of all that is saved."""
        groups = {"model": lm.trainable_variables}
        if self._optimizer:
            if not lm.optimizer.built:  # Keras would add variables a second time
                lm.optimizer.build(lm.trainable_variables)
            groups["optimizer"] = _optimizer_state(lm.optimizer)
            groups["state"] = _states(lm)
        # Keras numbers the optimizers and seeds of a process ("adam_w_1"), so their
        # names are of no use in another one; their order and own names are the same.
        return {
            f"{group}/{number}/"
            + (variable.path if group == "model" else variable.name): variable
            for group, variables in groups.items()
            for number, variable in enumerate(variables)
        }


def _inner(optimizer):
    """The optimizer under a scaling of the loss."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def _optimizer_state(optimizer):
    """The optimizer's variables without its sums of gradients, which are zero.

    Where the loss is scaled, a part with an overflow is skipped, the parts of an update
    no longer begin where a step does, and the sums must be kept.
    """
    if _inner(optimizer) is not optimizer:
        return optimizer.variables
    return [v for v in optimizer.variables if "gradient_accumulator" not in v.path]


def _counts(name):
    """Whether a saved value is the optimizer's count of steps, which is of parts."""
    return name.startswith("optimizer/") and name.endswith("/iteration")


def _parts(lm):
    """Steps of the optimizer in one update."""
    optimizer = lm.optimizer
    if _inner(optimizer) is not optimizer:
        return 1  # saved as it is, with the sums
    return optimizer.gradient_accumulation_steps or 1


def _states(lm):
    """Variables that change without being trained: random states."""
    weights = {id(v) for v in lm.weights}
    metrics = {id(v) for v in lm.metrics_variables}
    return [
        v
        for v in lm.non_trainable_variables
        if (id(v) not in weights or "seed" in v.path) and id(v) not in metrics
    ]


def _copy(variable):
    """The value on the host. A copy: the next step may overwrite its memory."""
    return np.array(hosts.to_host(variable.value), order="C")


def _check_finite(step, values, last):
    # The loss of a step is known before its update: it may be finite and the weights
    # after it not. Such a checkpoint would take the place of a good one.
    for name, value in values.items():
        if value.dtype.kind in "iub":
            continue
        if not np.isfinite(value).all():
            raise FloatingPointError(
                f"{name} is not finite after step {step}, so it was not saved. {last} "
                "Lower learning_rate or clip_norm."
            )
