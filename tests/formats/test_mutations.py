"""Damaged folders load right or end in one ValueError or OSError; see `mutations`."""

from tests.formats import mutations


def test_damaged_folders(tmp_path):
    bad = [
        (seed, what, trace)
        for seed, what, outcome, trace in mutations.run(range(120), tmp_path)
        if trace
    ]
    assert not bad, bad[0]
