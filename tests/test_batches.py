"""The one packer: where segments go, and what is a target of what."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codegemma_keras import batches


def test_what_rows_look_like():
    x, y, weight = batches.pack([[2, 5, 6, 1], [2, 7, 1], [2, 8, 9, 10, 1]], 6)
    assert x["token_ids"].tolist() == [[2, 7, 2, 8, 9, 10], [2, 5, 6, 0, 0, 0]]
    assert y.tolist() == [[7, 1, 8, 9, 10, 1], [5, 6, 1, 0, 0, 0]]
    assert x["segment_ids"].tolist() == [[1, 1, 2, 2, 2, 2], [1, 1, 1, 0, 0, 0]]
    assert x["positions"].tolist() == [[0, 1, 0, 1, 2, 3], [0, 1, 2, 0, 0, 0]]
    assert x["padding_mask"].tolist() == [[1] * 6, [1, 1, 1, 0, 0, 0]]
    assert weight.tolist() == [[1.0] * 6, [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]]
    types = {v.dtype for v in x.values()} | {y.dtype}
    assert (types, weight.dtype) == ({np.dtype("int32")}, np.dtype("float32"))


segments = st.lists(
    st.lists(st.integers(3, 99), min_size=2, max_size=20), min_size=1, max_size=30
)


@settings(deadline=None)
@given(segments, st.integers(19, 40), st.data())
def test_every_pair_of_neighbours_is_one_target_and_no_other(segments, length, data):
    weights = [
        data.draw(st.lists(st.integers(0, 9), min_size=len(s), max_size=len(s)))
        for s in segments
    ]
    batch = batches.pack(segments, length, weights=weights, pad_token_id=77)
    found = []
    for row in range(batch.rows):
        used = batch.inputs["segment_ids"][row]
        assert (batch.inputs["padding_mask"][row] == (used > 0)).all()
        assert (batch.inputs["token_ids"][row][used == 0] == 77).all()
        assert not batch.weights[row][used == 0].any()
        for number in range(1, used.max() + 1):
            here = used == number
            ids = batch.inputs["token_ids"][row][here].tolist()
            targets = batch.targets[row][here].tolist()
            assert ids[1:] == targets[:-1]
            assert batch.inputs["positions"][row][here].tolist() == list(
                range(len(ids))
            )
            found.append(([*ids, targets[-1]], batch.weights[row][here].tolist()))
    given = [
        (s, [float(w) for w in ws[1:]]) for s, ws in zip(segments, weights, strict=True)
    ]
    assert sorted(found) == sorted(given)


@settings(deadline=None)
@given(st.lists(st.integers(1, 64), max_size=80))
def test_a_plan_places_every_segment_once_and_wastes_little(places):
    rows = batches.plan_rows(places, 64)
    assert sorted(i for row in rows for i in row) == list(range(len(places)))
    filled = [sum(places[i] for i in row) for row in rows]
    assert all(0 < used <= 64 for used in filled)
    # What a row has left is less than the least segment of every later row.
    for number, used in enumerate(filled):
        later = [places[i] for row in rows[number + 1 :] for i in row]
        assert not later or 64 - used < min(later)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="Segment 1 has 66 ids and takes 65 places"):
        batches.plan_rows([1, 65], 64)
    with pytest.raises(ValueError, match="Segment 0 has 1 ids and takes 0 places"):
        batches.pack([[2]], 8)
    with pytest.raises(ValueError, match="Row 0 has 3 places, and segment 1"):
        batches.pack([[2, 3, 1], [2, 4, 1]], 3, rows=[[0, 1]])
    with pytest.raises(ValueError, match="Segment 0 has 3 ids and 2 weights"):
        batches.pack([[2, 3, 1]], 3, weights=[[1, 1]])


def test_rows_can_be_chosen_and_empty():
    batch = batches.pack([[2, 3, 1], [2, 4, 1]], 3, rows=[[0], [], [1]])
    assert batch.rows == 3
    assert batch.targets.tolist() == [[3, 1, 0], [0, 0, 0], [4, 1, 0]]
    taken = batch.take([2, 0])
    assert taken.inputs["token_ids"].tolist() == [[2, 4, 0], [2, 3, 0]]
    assert taken.weights.tolist() == [[1, 1, 0], [1, 1, 0]]
    assert batches.pack([], 5).targets.shape == (0, 5)


def test_workers_of_a_build_load_no_keras():
    program = (
        "import sys; import codegemma_keras.data.pipeline.stages; "
        "print(sorted({'keras', 'jax', 'tensorflow'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
