"""Texts and arrays in memory as batches for `fit` and `evaluate`.

KerasHub hands them to grain, in the same order in every epoch, and Keras then warns that
`shuffle` is ignored. Here they are shuffled anew in each epoch, as Keras does it, and a
preprocessor that draws at random can ask `epoch` and draw anew, too.
"""

import contextvars
import math
import random
import warnings

import keras
import numpy as np
from keras import tree

_EPOCH = contextvars.ContextVar("epoch", default=0)


def epoch() -> int:
    """The epoch, from 0, of the training batch that is being made; 0 elsewhere."""
    return _EPOCH.get()


def in_memory(x) -> bool:
    """Whether `x` is texts or arrays, not a dataset, which has an order of its own."""
    return isinstance(x, (str, list, tuple, dict, np.ndarray)) or keras.ops.is_tensor(x)


class Batches(keras.utils.PyDataset):
    """Batches of data in memory, each preprocessed when it is asked for.

    Args:
        task: has `preprocess_samples(x, y, sample_weight)`, which gives model inputs, and
            `preprocessor`. If that has `has_targets`, rows in which it finds nothing to
            learn are left out, with a warning that says how many.
        data: `(x, y, sample_weight)`; the last two may be None. x is a list of texts or
            of conversations, an array, or a dictionary or tuple of such.
        batch_size: int, rows of a batch; the last one may be smaller.
        shuffle: bool, whether every epoch has an order of its own. It follows
            `keras.utils.set_random_seed`.
        training: bool, whether the batches of different epochs may differ. Those for
            evaluation are always those of epoch 0.

    Raises:
        ValueError: the parts of `data` have different lengths, or none; no row has
            anything to learn.
    """

    def __init__(self, task, data, batch_size=None, shuffle=False, training=False):
        super().__init__()
        self._preprocess, self._data = task.preprocess_samples, data
        self._batch_size = batch_size or 32  # Keras's default
        self._order = rows_with_targets(task.preprocessor, data)
        self._random = (
            np.random.default_rng(random.getrandbits(32)) if shuffle else None
        )
        self._training, self._epoch = training, 0
        self._shuffle()

    def __len__(self):
        return math.ceil(len(self._order) / self._batch_size)

    def __getitem__(self, index):
        start = index * self._batch_size
        rows = self._order[start : start + self._batch_size]
        token = _EPOCH.set(self._epoch)
        try:
            batch = self._preprocess(*(take(part, rows) for part in self._data))
        finally:
            _EPOCH.reset(token)
        # A preprocessor may answer in TensorFlow's tensors, on JAX too.
        return tree.map_structure(lambda x: x if x is None else np.asarray(x), batch)

    def on_epoch_end(self):
        """Keras calls it after each epoch."""
        self._epoch += self._training
        self._shuffle()

    def _shuffle(self):
        if self._random is not None:
            self._random.shuffle(self._order)


def rows_with_targets(preprocessor, data) -> np.ndarray:
    """The numbers of the rows in which there is something to learn.

    Raises:
        ValueError: as `count`, or there is no such row.
    """
    rows = np.arange(count(data))
    has_targets = getattr(preprocessor, "has_targets", None)
    if has_targets is None or not isinstance(data[0], list):
        return rows
    kept = np.array([row for row in rows if has_targets(data[0][row])], int)
    length = preprocessor.sequence_length
    why = f"no answer that fits in sequence_length={length} tokens"
    if not len(kept):
        raise ValueError(
            f"Of {len(rows)} conversations none can be learnt from: they have {why}. "
            "Raise sequence_length, or look at the data."
        )
    if len(kept) < len(rows):
        warnings.warn(
            f"{len(rows) - len(kept)} of {len(rows)} conversations are left out: they "
            f"have {why}.",
            stacklevel=4,
        )
    return kept


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


def unpack(data):
    """`(x, y, sample_weight)` of `validation_data`.

    A tuple is the three of them, as in Keras. So is a list of arrays. Any other list is x
    alone, as it is in `fit`: texts, pairs or conversations.
    """
    if isinstance(data, str):
        data = [data]
    if isinstance(data, list) and not any(_is_arrays(part) for part in data):
        return data, None, None
    return keras.utils.unpack_x_y_sample_weight(data)


def _is_arrays(part):
    if isinstance(part, dict):
        return any(hasattr(value, "shape") for value in part.values())
    return hasattr(part, "shape")


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
