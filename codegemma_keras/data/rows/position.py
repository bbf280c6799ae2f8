"""The loader's position, saved beside a model's checkpoints."""

import json
import os
import pathlib

import keras


class SavePosition(keras.callbacks.Callback):
    """Counts the batches that were trained, in a file.

        position = data.SavePosition("run/position.json")
        dataset = data.load("out", 8, start=position.batches)
        backup = keras.callbacks.BackupAndRestore("run")
        model.fit(dataset, ..., callbacks=[backup, position])

    Only batches that took part in a training step count; those that were loaded ahead
    do not, so none is lost and none is seen twice.

    Args:
        path: of the file; read now if it exists, written at the end of each epoch.
        every: also written every so many batches; 0: at the end of epochs only. Set it
            to `BackupAndRestore`'s `save_freq`, so that both stand at the same step.
    """

    def __init__(self, path, every: int = 0):
        super().__init__()
        self._path = pathlib.Path(path)
        self._every = every
        self.batches = 0
        if self._path.exists():
            self.batches = json.loads(self._path.read_text())["batches"]

    def on_train_batch_end(self, batch, logs=None):
        self.batches += 1
        if self._every and self.batches % self._every == 0:
            self._write()

    def on_epoch_end(self, epoch, logs=None):
        self._write()

    def _write(self):
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(self._path.name + ".tmp")
        temporary.write_text(json.dumps({"batches": self.batches}) + "\n")
        os.replace(temporary, self._path)
