"""Rows on disk: the same bytes, random access, and batches from any place."""

import json

import numpy as np
import pytest

from codegemma_keras.batches import PackedBatch, pack
from codegemma_keras.data.rows import storage
from tests.small_vocabulary import small_vocabulary


def make_dataset(folder, rows=10, length=8, first=100):
    made = [storage.stored_row([[2, first + i, 1], [2, 1]]) for i in range(rows)]
    for shard in range(2):
        part = made[shard * rows // 2 : (shard + 1) * rows // 2]
        storage.write_shard(folder / storage.shard_name(shard, 2), part)
    storage.write_metadata(folder, [rows // 2] * 2, 1000)
    (folder / "data.json").write_text(json.dumps({"length": length}))
    return folder


def ids_of(batches):
    return [row[1] for x, _, _ in batches for row in x["token_ids"].tolist()]


def take(dataset, number):
    iterator = iter(dataset)
    return [next(iterator) for _ in range(number)]


def test_same_rows_same_bytes_and_tfds_reads_them(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        make_dataset(tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    rows = storage.Rows(tmp_path / "a")
    assert len(rows) == 10
    assert [segment.tolist() for segment in rows[7]] == [[2, 107, 1], [2, 1]]


def test_load_passes_shuffled_and_resumes(tmp_path):
    make_dataset(tmp_path)
    one_pass = list(storage.load(tmp_path, 2, repeat=False))
    assert sorted(ids_of(one_pass)) == list(range(100, 110))
    assert ids_of(one_pass) != list(range(100, 110))
    batches = take(storage.load(tmp_path, 2), 12)
    assert ids_of(batches[:5]) == ids_of(one_pass)
    assert ids_of(batches[5:10]) != ids_of(one_pass)
    resumed = take(storage.load(tmp_path, 2, start=7), 5)
    assert ids_of(resumed) == ids_of(batches[7:])
    iterator = iter(storage.load(tmp_path, 2))
    for _ in range(3):
        next(iterator)
    state = iterator.get_state()
    again = iter(storage.load(tmp_path, 2))
    again.set_state(state)
    assert ids_of([next(again) for _ in range(4)]) == ids_of(batches[3:7])
    shards = [
        ids_of(storage.load(tmp_path, 1, repeat=False, shard=(i, 2))) for i in (0, 1)
    ]
    assert sorted(shards[0] + shards[1]) == list(range(100, 110))


def test_mixtures_keep_their_weights(tmp_path):
    for name, first in (("code", 100), ("prose", 500)):
        (tmp_path / name).mkdir()
        make_dataset(tmp_path / name, first=first)
    mix = {tmp_path / "code": 0.8, tmp_path / "prose": 0.2}
    found = ids_of(take(storage.load(mix, 5), 40))
    assert sum(i < 500 for i in found) == 160


def test_load_says_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match="no finished output"):
        storage.load(tmp_path, 2)
    make_dataset(tmp_path)
    with pytest.raises(ValueError, match="fewer than batch_size=11"):
        storage.load(tmp_path, 11, repeat=False)


def test_batches_are_those_of_the_one_packer(tmp_path):
    make_dataset(tmp_path)
    [batch] = take(storage.load(tmp_path, 2, seed=None), 1)
    assert isinstance(batch, PackedBatch)
    expected = pack(
        [[2, 100, 1], [2, 1], [2, 101, 1], [2, 1]], 8, rows=[[0, 1], [2, 3]]
    )
    for ours, theirs in zip(flat(batch), flat(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def flat(batch):
    return [*batch.inputs.values(), batch.targets, batch.weights]


def test_rows_of_earlier_versions_are_read(tmp_path):
    """They were stored with their padding."""
    make_dataset(tmp_path)
    old = {"tokens": [2, 7, 1, 2, 1, 0, 0, 0], "segment_lengths": [3, 2]}
    old = {name: np.array(values, np.int32) for name, values in old.items()}
    for shard in range(2):
        path = tmp_path / storage.shard_name(shard, 2)
        storage.write_shard(path, [old] * 5)
    [first, second] = storage.Rows(tmp_path)[0]
    assert (first.tolist(), second.tolist()) == ([2, 7, 1], [2, 1])


def test_middles_may_weigh_more(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(small_vocabulary())
    made = storage.stored_row([[2, 200, 67, 201, 69, 202, 68, 203, 1], [2, 204, 1]])
    storage.write_shard(tmp_path / storage.shard_name(0, 1), [made])
    storage.write_metadata(tmp_path, [1], 100)
    (tmp_path / "data.json").write_text(json.dumps({"length": 12}))
    [heavy] = take(storage.load(tmp_path, 1, middle_weight=4.0), 1)
    [light] = take(storage.load(tmp_path, 1), 1)
    assert heavy.weights[0].tolist() == [1] * 6 + [4, 4, 1, 1, 0, 0]
    assert light.weights[0].tolist() == [1] * 10 + [0, 0]
    for value in (-1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="middle_weight"):
            storage.load(tmp_path, 1, middle_weight=value)
