"""Checkpoints that survive a kill at any moment.

A checkpoint is a folder `step-00000100` with `variables.safetensors` (what training
changes: trainable variables, the optimizer with its step, random states; by name) and
`position.json` (what the recipe must know to go on). It is written under another name
and renamed when all of it is on the disk, so a folder of that name is always complete.
What is frozen, such as the base under an adapter, is not in it.

Left out: writing in the background. A step waits until its checkpoint is on the disk;
`save` returns the seconds, so that a recipe can show them.
"""

import json
import os
import pathlib
import shutil
import time

import numpy as np
import safetensors.numpy
from keras import ops

VARIABLES = "variables.safetensors"
POSITION = "position.json"


class Checkpoints:
    """The checkpoints in a folder; the newest `keep` are kept.

    Args:
        folder: created where it does not exist. What an interrupted save left is
            removed.
        keep: int, at least 1.
    """

    def __init__(self, folder, keep=2):
        if keep < 1:
            raise ValueError(f"keep={keep}: at least 1, or there is nothing to resume.")
        self.folder = pathlib.Path(folder)
        self.keep = keep
        self.folder.mkdir(parents=True, exist_ok=True)
        for unfinished in self.folder.glob("new-*"):
            shutil.rmtree(unfinished)

    def steps(self) -> list[int]:
        """Steps that there are complete checkpoints of, oldest first."""
        return sorted(int(p.name.split("-")[1]) for p in self.folder.glob("step-*"))

    def save(self, lm, step, position) -> float:
        """Save model, optimizer and `position` (JSON); returns the seconds it took.

        Raises:
            OSError: no room or no right to write; older checkpoints are untouched.
        """
        began = time.monotonic()
        new = self.folder / f"new-{step:08d}"
        final = self.folder / f"step-{step:08d}"
        if final.exists():
            return 0.0
        try:
            new.mkdir()
            safetensors.numpy.save_file(_values(lm), new / VARIABLES)
            (new / POSITION).write_text(json.dumps({**position, "step": step}))
            for name in (VARIABLES, POSITION):
                _sync(new / name)
            new.replace(final)
            _sync(self.folder)
        except (OSError, safetensors.SafetensorError) as error:
            shutil.rmtree(new, ignore_errors=True)
            need = sum(v.nbytes for v in _values(lm).values())
            free = shutil.disk_usage(self.folder).free
            raise OSError(
                f"Checkpoint of step {step} could not be written to {self.folder}: "
                f"{error}. It needs {need / 2**20:.0f} MiB; {free / 2**20:.0f} MiB are "
                f"free. Make room and start again: the run goes on from step "
                f"{max(self.steps(), default=0)}."
            ) from error
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(self.folder / f"step-{old:08d}")
        return time.monotonic() - began

    def restore(self, lm):
        """Load the newest checkpoint into `lm`; returns its position, or None.

        Raises:
            ValueError: it is of another model, adapter or optimizer.
        """
        if not self.steps():
            return None
        folder = self.folder / f"step-{self.steps()[-1]:08d}"
        stored = safetensors.numpy.load_file(folder / VARIABLES)
        variables = _variables(lm)
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
            variable.assign(stored[name])
        return json.loads((folder / POSITION).read_text())


def _variables(lm):
    """Name -> variable of all that training changes."""
    lm.optimizer.build(lm.trainable_variables)
    weights = {id(v) for v in lm.weights}
    states = [
        v
        for v in lm.non_trainable_variables
        if id(v) not in weights or "seed" in v.path
    ]
    metrics = {id(v) for v in lm.metrics_variables}
    states = [v for v in states if id(v) not in metrics]
    groups = {
        "model": lm.trainable_variables,
        "optimizer": lm.optimizer.variables,
        "state": states,
    }
    # Keras numbers the optimizers and seeds of a process ("adam_w_1"), so their names
    # are of no use in another one; their order and own names are the same.
    return {
        f"{group}/{number}/"
        + (variable.path if group == "model" else variable.name): variable
        for group, variables in groups.items()
        for number, variable in enumerate(variables)
    }


def _values(lm):
    # NumPy has no bfloat16; float32 holds each of its values exactly.
    return {
        name: np.array(
            ops.convert_to_numpy(
                ops.cast(variable.value, "float32")
                if variable.dtype == "bfloat16"
                else variable.value
            ),
            order="C",
        )
        for name, variable in _variables(lm).items()
    }


def _sync(path):
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
