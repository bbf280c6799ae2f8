"""The last stage of a build: rows of all units, packed, shuffled and written as shards.

    4-shards/SHARD/  SHARD  rows.jsonl  count.json

`rows.jsonl` says of each row which files of which repositories its segments hold.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import pathlib

import numpy as np

from codegemma_keras import batches
from codegemma_keras.data.pipeline.settings import Settings
from codegemma_keras.data.pipeline.stages import write_json
from codegemma_keras.data.rows import storage

# Files of units that are held open at once.
MAX_OPEN = 64
# How array_record says that nothing more can be written.
_DISK_FULL = ("No space left", "RESOURCE_EXHAUSTED", "ENOSPC")


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which segments make up which row.

    Attributes:
        rows: lists of chunk numbers, shuffled.
        unit: number of each chunk's unit.
        offset, lengths: of its tokens in `tokens.bin`.
        line: where its line of `chunks.jsonl` starts, in bytes. All `[chunks]`.
    """

    rows: list[list[int]]
    unit: np.ndarray
    offset: np.ndarray
    lengths: np.ndarray
    line: np.ndarray


def plan_rows(tokens: pathlib.Path, units, settings: Settings) -> Plan:
    """Pack all segments; the order follows from their contents and the seed."""
    unit, offset, lengths, line, hashes = [], [], [], [], []
    for number, name in enumerate(units):
        place = start = 0
        with open(tokens / name / "chunks.jsonl", "rb") as file:
            for data in file:
                entry = json.loads(data)
                unit.append(number)
                offset.append(place)
                lengths.append(entry["length"])
                line.append(start)
                hashes.append(bytes.fromhex(entry["hash"]))
                place += entry["length"]
                start += len(data)
    # By content, so that the same documents pack alike wherever they come from.
    ranked = sorted(range(len(hashes)), key=lambda i: (hashes[i], unit[i], offset[i]))
    # The last token of a segment is only a target, and takes no place.
    packed = batches.plan_rows([lengths[i] - 1 for i in ranked], settings.length)
    rows = [[ranked[i] for i in row] for row in packed]
    seed = settings.fim.seed
    rows.sort(key=lambda row: row_key((hashes[index] for index in row), seed))
    return Plan(
        rows,
        np.array(unit, np.int32),
        np.array(offset, np.int64),
        np.array(lengths, np.int32),
        np.array(line, np.int64),
    )


def row_key(hashes, seed: int) -> bytes:
    """By which rows are shuffled: from the hashes of their segments and the seed."""
    digest = hashlib.blake2b(str(seed).encode(), digest_size=12)
    for value in hashes:
        digest.update(value)
    return digest.digest()


def shard_plan(plan: Plan, settings: Settings, shard: int) -> list:
    """What one shard holds: of each row, `(unit, offset, length, line)` of its segments."""
    size = settings.rows_per_shard()
    parts = (plan.unit, plan.offset, plan.lengths, plan.line)
    return [
        [tuple(int(part[index]) for part in parts) for index in row]
        for row in plan.rows[shard * size : (shard + 1) * size]
    ]


def read_rows(tokens: pathlib.Path, units, rows: list):
    """The rows of a `shard_plan`, lists of segments."""
    maps = {}
    for row in rows:
        segments = []
        for number, start, size, _ in row:
            if number not in maps:
                if len(maps) > MAX_OPEN:
                    maps.clear()
                maps[number] = np.memmap(
                    tokens / units[number] / "tokens.bin", "<i4", "r"
                )
            segments.append(maps[number][start : start + size])
        yield segments


def write_shard(folder: pathlib.Path, name: str, tokens, units, rows):
    """Write one shard into `folder`, what its rows hold, and how large it is.

    Args:
        folder: to write into.
        name: of the shard's file.
        tokens, units, rows: see `read_rows`.

    Raises:
        OSError: the disk is full.
    """
    try:
        made = map(storage.stored_row, read_rows(tokens, units, rows))
        count = storage.write_shard(folder / name, made)
    except (RuntimeError, ValueError) as error:
        # array_record has one kind of error for all that can happen.
        if any(text in str(error) for text in _DISK_FULL):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise
    with open(folder / "rows.jsonl", "w", encoding="utf-8") as file:
        for row in _contents(tokens, units, rows):
            file.write(json.dumps(row) + "\n")
    write_json(folder / "count.json", count)


def _contents(tokens, units, rows):
    """Of each row, `{"repo", "paths"}` of its segments."""
    with contextlib.ExitStack() as stack:
        files = {}
        for row in rows:
            found = []
            for number, _, _, line in row:
                if number not in files:
                    if len(files) > MAX_OPEN:
                        stack.close()
                        files.clear()
                    path = tokens / units[number] / "chunks.jsonl"
                    files[number] = stack.enter_context(open(path, "rb"))
                files[number].seek(line)
                entry = json.loads(files[number].readline())
                found.append({key: entry[key] for key in ("repo", "paths")})
            yield found
