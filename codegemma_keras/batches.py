"""Batches of training rows: one type, `PackedBatch`, and the one packer that makes it.

A *segment* is one training example as token ids: bos first, eos last, and never seen by
another segment. A row of T places holds one segment or several. A segment of n ids takes
n - 1 places, because its last id is only ever a target:

    segments     [bos a b eos]  [bos c eos]
    token_ids    [ bos  a   b   bos  c   pad ]
    targets      [  a   b  eos   c  eos  pad ]
    weights      [  1   1   1    1   1    0  ]
    positions    [  0   1   2    0   1    0  ]
    segment_ids  [  1   1   1    2   2    0  ]     0 is padding

Everything that trains uses these functions: the preprocessors, the rows of a data build,
and the recipes. Plain numpy, so that workers of a data build load no Keras.

Left out: packing on the fly with a few open rows, as grain does it. Here all lengths are
known before the first row is made, so rows are fuller and each has a fixed number.
"""

import bisect
import collections
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

INPUTS = ("token_ids", "padding_mask", "positions", "segment_ids")


class PackedBatch(NamedTuple):
    """Rows as `fit` takes them: the tuple `(x, y, sample_weight)` with names.

    A target never lies in another segment than its input.

    Attributes:
        inputs: dict of int32 `[B, T]` arrays: `token_ids`, padded on the right;
            `padding_mask`, 1 where there is a token; `positions`, which start at 0 in
            each segment; `segment_ids`, 1, 2, ... within a row and 0 in the padding.
        targets: int32 `[B, T]`, the id that follows each input.
        weights: float32 `[B, T]`, what each target counts in the loss; 0 in the padding.

    Example:
    ```python
    from codegemma_keras.batches import pack

    batch = pack([[2, 5, 6, 1], [2, 7, 1]], length=6)
    assert batch.inputs["token_ids"].tolist() == [[2, 5, 6, 2, 7, 0]]
    assert batch.targets.tolist() == [[5, 6, 1, 7, 1, 0]]
    ```
    """

    inputs: dict[str, np.ndarray]
    targets: np.ndarray
    weights: np.ndarray

    @property
    def rows(self) -> int:
        """B, the number of rows."""
        return len(self.targets)

    def take(self, rows) -> "PackedBatch":
        """The chosen rows: anything that indexes a numpy array, such as a slice."""
        inputs = {name: values[rows] for name, values in self.inputs.items()}
        return PackedBatch(inputs, self.targets[rows], self.weights[rows])


def plan_rows(places: Sequence[int], length: int) -> list[list[int]]:
    """Which segments go into which row: best fit decreasing over all of them.

    Every row takes the longest segment that is left, then the longest that still fits,
    and so on. The plan depends on the lengths and their order alone.

    Args:
        places: the places of each segment, from 1 to `length`: one less than its ids.
        length: T, places of a row.

    Returns:
        A list of indices for each row, in rising order. Every index occurs once.

    Raises:
        ValueError: a segment does not fit in a row, or takes no place.
    """
    by_length = collections.defaultdict(collections.deque)
    for index, size in enumerate(places):
        if not 0 < size <= length:
            raise ValueError(
                f"Segment {index} has {size + 1} ids and takes {size} places; a row has "
                f"{length}, and a segment must take at least 1. Cut it, or make rows longer."
            )
        by_length[size].append(index)
    sizes = sorted(by_length)
    rows = []
    while sizes:
        row, room = [], length
        while (place := bisect.bisect_right(sizes, room) - 1) >= 0:
            size = sizes[place]
            row.append(by_length[size].popleft())
            room -= size
            if not by_length[size]:
                del sizes[place]
        rows.append(sorted(row))
    return rows


def pack(
    segments: Sequence[Sequence[int]],
    length: int,
    *,
    weights: Sequence[Sequence[float]] | None = None,
    rows: Sequence[Sequence[int]] | None = None,
    pad_token_id: int = 0,
) -> PackedBatch:
    """Segments as packed rows.

    Args:
        segments: token ids of each segment, bos and eos included.
        length: T, places of a row.
        weights: for each segment, the weight of each of its ids as a target. The first
            id of a segment is no target, so its weight counts for nothing. None: all 1.
        rows: the indices of the segments of each row, for example from `plan_rows`; a
            row may be empty. None: as `plan_rows` finds it.
        pad_token_id: the id in places without a token.

    Raises:
        ValueError: segments do not fit in their row; a segment has other numbers of ids
            and of weights.
    """
    places = [len(segment) - 1 for segment in segments]
    if rows is None:
        rows = plan_rows(places, length)
    shape = len(rows), length
    inputs = {name: np.zeros(shape, np.int32) for name in INPUTS}
    inputs["token_ids"][:] = pad_token_id
    targets = np.full(shape, pad_token_id, np.int32)
    counts = np.zeros(shape, np.float32)
    for row, members in enumerate(rows):
        start = 0
        for number, index in enumerate(members, 1):
            ids, end = segments[index], start + places[index]
            if not start < end <= length:
                raise ValueError(
                    f"Row {row} has {length} places, and segment {index} of "
                    f"{len(ids)} ids would take those from {start} to {end}."
                )
            inputs["token_ids"][row, start:end] = ids[:-1]
            inputs["positions"][row, start:end] = np.arange(end - start)
            inputs["segment_ids"][row, start:end] = number
            targets[row, start:end] = ids[1:]
            if weights is not None and len(weights[index]) != len(ids):
                raise ValueError(
                    f"Segment {index} has {len(ids)} ids and {len(weights[index])} "
                    "weights; each id needs one."
                )
            counts[row, start:end] = 1.0 if weights is None else weights[index][1:]
            start = end
    inputs["padding_mask"][:] = inputs["segment_ids"] > 0
    return PackedBatch(inputs, targets, counts)
