"""Texts and arrays in memory as batches for `fit` and `evaluate`.

KerasHub hands them to grain, in the same order in every epoch, and Keras then warns that
`shuffle` is ignored. Here they are shuffled anew in each epoch, as Keras does it.
"""

import math
import random

import keras
import numpy as np
from keras import tree


def in_memory(x) -> bool:
    """Whether `x` is texts or arrays, not a dataset, which has an order of its own."""
    return isinstance(x, (str, list, tuple, dict, np.ndarray)) or keras.ops.is_tensor(x)


class Batches(keras.utils.PyDataset):
    """Batches of data in memory, each preprocessed when it is asked for.

    Args:
        preprocess: function of `x, y, sample_weight` of a batch that gives model inputs.
        data: `(x, y, sample_weight)`; the last two may be None. x is a list of texts or
            of conversations, an array, or a dictionary or tuple of such.
        batch_size: int, rows of a batch; the last one may be smaller.
        shuffle: bool, whether every epoch has an order of its own. It follows
            `keras.utils.set_random_seed`.

    Raises:
        ValueError: the parts of `data` have different lengths, or none.
    """

    def __init__(self, preprocess, data, batch_size=None, shuffle=False):
        super().__init__()
        self._preprocess, self._data = preprocess, data
        self._batch_size = batch_size or 32  # Keras's default
        self._order = np.arange(count(data))
        self._random = (
            np.random.default_rng(random.getrandbits(32)) if shuffle else None
        )
        self.on_epoch_end()

    def __len__(self):
        return math.ceil(len(self._order) / self._batch_size)

    def __getitem__(self, index):
        start = index * self._batch_size
        rows = self._order[start : start + self._batch_size]
        batch = self._preprocess(*(take(part, rows) for part in self._data))
        # A preprocessor may answer in TensorFlow's tensors, on JAX too.
        return tree.map_structure(lambda x: x if x is None else np.asarray(x), batch)

    def on_epoch_end(self):
        """Keras calls it after each epoch."""
        if self._random is not None:
            self._random.shuffle(self._order)


def count(data) -> int:
    """The rows of `(x, y, sample_weight)`.

    Raises:
        ValueError: its parts have different lengths, or it is empty.
    """
    lengths = sorted({len(leaf) for leaf in _leaves(data)})
    if lengths in ([], [0]):
        raise ValueError("There is nothing to train on or to evaluate: 0 rows.")
    if len(lengths) > 1:
        raise ValueError(
            f"x, y and sample_weight must have equally many rows, and have {lengths}."
        )
    return lengths[0]


def take(part, rows):
    """The chosen rows of x, y or sample_weight; a list is one column, not a structure."""
    if part is None:
        return None
    if isinstance(part, dict):
        return {name: take(value, rows) for name, value in part.items()}
    if isinstance(part, tuple):
        return tuple(take(value, rows) for value in part)
    if isinstance(part, list):
        return [part[row] for row in rows]
    chosen = np.asarray(part)[rows]
    if chosen.dtype.kind not in "OSU":
        return chosen
    # An array or a TensorFlow tensor of strings, as bytes.
    return [t.decode() if isinstance(t, bytes) else t for t in chosen.tolist()]


def split(data, share):
    """`(data, held_out)`: the last `share` of the rows kept apart, as Keras does it.

    Raises:
        ValueError: one of the two would be empty.
    """
    rows = count(data)
    border = math.floor(rows * (1.0 - share))
    if not 0 < border < rows:
        raise ValueError(
            f"validation_split={share} leaves {border} of {rows} rows to train on. Give "
            "more rows, or another share."
        )
    parts = np.arange(border), np.arange(border, rows)
    return tuple(tuple(take(part, rows) for part in data) for rows in parts)


def _leaves(part):
    if part is None:
        return []
    if isinstance(part, dict):
        part = tuple(part.values())
    if isinstance(part, tuple):
        return [leaf for value in part for leaf in _leaves(value)]
    return [part]
