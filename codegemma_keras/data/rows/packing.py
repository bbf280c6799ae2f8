"""Packing segments of any length into rows of one length.

Best fit decreasing over all lengths at once, from counts of lengths alone: the fullest
row that still has room takes the next longest segment. Rows are then shuffled by a hash
of what they hold, so the order depends on the contents and a seed only.

grain packs on the fly with a few open bins (`FirstFitPackIterDataset`); packing before
storage sees all lengths at once, makes every row random access, and leaves nothing but
an index to save as the loader's position.

    row        [ bos a a a eos  bos b b eos  pad pad ]
    segment    [  1  1 1 1  1    2  2 2  2    0   0  ]
    position   [  0  1 2 3  4    0  1 2  3    0   0  ]
    target     [  a  a a eos -   b  b eos -   -   -  ]     - has weight 0
"""

import bisect
import collections
from collections.abc import Sequence

import numpy as np


def pack_lengths(lengths: Sequence[int], length: int) -> list[list[int]]:
    """Which segments go into which row.

    Args:
        lengths: tokens of each segment, each from 1 to `length`.
        length: tokens of a row.

    Returns:
        Lists of indices; within a row in rising order. Every index once.

    Raises:
        ValueError: a segment is longer than a row.
    """
    by_length = collections.defaultdict(list)
    for index, size in enumerate(lengths):
        if not 0 < size <= length:
            raise ValueError(
                f"Segment {index} has {size} tokens; rows hold 1 to {length}."
            )
        by_length[size].append(index)
    sizes = sorted(by_length)
    queues = {size: collections.deque(by_length[size]) for size in sizes}
    rows = []
    while sizes:
        row, room = [], length
        # The longest that fits, again and again: best fit seen from the row.
        while (place := bisect.bisect_right(sizes, room) - 1) >= 0:
            size = sizes[place]
            row.append(queues[size].popleft())
            room -= size
            if not queues[size]:
                del sizes[place]
        rows.append(sorted(row))
    return rows


def fill_row(segments: Sequence[Sequence[int]], length: int) -> dict[str, np.ndarray]:
    """One row of the segments' tokens, right-padded.

    Returns:
        `tokens` and `segment_lengths`, int32, `[length]` and `[number of segments]`.
    """
    tokens = np.zeros(length, np.int32)
    sizes = np.array([len(s) for s in segments], np.int32)
    if sizes.sum() > length:
        raise ValueError(f"{sizes.sum()} tokens do not fit in a row of {length}.")
    tokens[: sizes.sum()] = np.concatenate([np.asarray(s, np.int32) for s in segments])
    return {"tokens": tokens, "segment_lengths": sizes}


def model_inputs(tokens: np.ndarray, segment_lengths: np.ndarray):
    """`(x, y, sample_weight)` of one row, as docs/design.md defines them.

    Args:
        tokens: `[T]` int32, right-padded with 0.
        segment_lengths: `[number of segments]`.

    Returns:
        `x` with `token_ids`, `padding_mask`, `positions` and `segment_ids`, `y` the next
        token and `sample_weight` 0 where there is none in the same segment; all `[T]`.
    """
    length = len(tokens)
    sizes = np.asarray(segment_lengths, np.int64)
    ends = np.cumsum(sizes)
    used = int(ends[-1]) if len(ends) else 0
    segment_ids = np.zeros(length, np.int32)
    positions = np.zeros(length, np.int32)
    segment_ids[:used] = np.repeat(np.arange(1, len(sizes) + 1), sizes)
    positions[:used] = np.arange(used) - np.repeat(ends - sizes, sizes)
    y = np.zeros(length, np.int32)
    weight = np.zeros(length, np.float32)
    same = (segment_ids[1:] == segment_ids[:-1]) & (segment_ids[1:] > 0)
    y[:-1][same] = tokens[1:][same]
    weight[:-1][same] = 1.0
    x = {
        "token_ids": np.asarray(tokens, np.int32),
        "padding_mask": (segment_ids > 0).astype(np.int32),
        "positions": positions,
        "segment_ids": segment_ids,
    }
    return x, y, weight


def pack_documents(documents, length: int):
    """Documents with a weight for each target, as packed model inputs.

    Args:
        documents: `(ids, weights)` pairs of equally long lists; `weights[i]` is that of
            `ids[i]` as a target, so the first counts for nothing.
        length: T. A document has at most T + 1 ids: its last is a target only.

    Returns:
        `(x, y, sample_weight)` as docs/design.md defines them, each `[rows, T]`. A
        target never lies in another document.

    Raises:
        ValueError: a document is longer, or shorter than 2 ids.
    """
    documents = list(documents)
    groups = pack_lengths([len(ids) - 1 for ids, _ in documents], length)
    names = ("token_ids", "positions", "segment_ids", "targets")
    x = {name: np.zeros((len(groups), length), np.int32) for name in names}
    weight = np.zeros((len(groups), length), np.float32)
    for row, group in enumerate(groups):
        start = 0
        for segment, index in enumerate(group, 1):
            ids, weights = documents[index]
            end = start + len(ids) - 1
            x["token_ids"][row, start:end] = ids[:-1]
            x["targets"][row, start:end] = ids[1:]
            x["positions"][row, start:end] = np.arange(end - start)
            x["segment_ids"][row, start:end] = segment
            weight[row, start:end] = weights[1:]
            start = end
    y = x.pop("targets")
    x["padding_mask"] = (x["segment_ids"] > 0).astype(np.int32)
    return x, y, weight
