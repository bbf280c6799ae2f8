"""Scores: mathematics on verdicts, and nothing else.

A problem has n samples of which c are right. With one sample the score is the share of
right ones, with Wilson's interval; with several it is pass@k, unbiased (Chen et al. 2021),
with an interval from resampling the problems, since samples of one problem are alike;
where all problems have the same share of right samples, it is Wilson's on the problems.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

CONFIDENCE_Z = 1.959963984540054  # of 95 %
RESAMPLES = 10_000
KS = (1, 10, 100)


@dataclasses.dataclass(frozen=True)
class Score:
    """A share with what makes it comparable.

    Attributes:
        right: problems solved; a fraction where each has several samples.
        of: problems.
        low, high: 95 % interval of the share.
    """

    right: float
    of: int
    low: float
    high: float

    @property
    def share(self) -> float:
        return self.right / self.of

    def to_json(self) -> dict:
        """As JSON's types; shares in percent."""
        return {
            "right": round(self.right, 6),
            "of": self.of,
            "percent": round(100 * self.share, 2),
            "interval": [round(100 * self.low, 2), round(100 * self.high, 2)],
        }


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that one of k samples is right, if c of n were: unbiased.

    Raises:
        ValueError: not 0 <= c <= n, or k outside 1 to n.
    """
    if not 0 <= c <= n:
        raise ValueError(
            f"c={c} must be from 0 to n={n}: it is how many of n samples are right."
        )
    if not 1 <= k <= n:
        raise ValueError(
            f"pass@{k} needs at least {k} samples a problem, and there are {n}. Take "
            f"more samples, or ask for pass@{max(n, 1)} or less."
        )
    if n - c < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(n - c + 1, n + 1))


def wilson(right: float, of: int) -> tuple[float, float]:
    """The 95 % interval of a share, by Wilson's formula; (0, 1) of nothing."""
    if not of:
        return 0.0, 1.0
    z = CONFIDENCE_Z
    share, scale = right / of, 1 + z * z / of
    middle = (share + z * z / (2 * of)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return max(0.0, middle - half), min(1.0, middle + half)


def score(counts: Mapping[str, tuple[int, int]], k: int = 1) -> Score:
    """pass@k over problems.

    Args:
        counts: `{problem: (samples, right ones)}`.
        k: samples that one may try.

    Raises:
        ValueError: a problem has fewer samples than k; names it.
    """
    values = []
    for problem, (n, c) in counts.items():
        try:
            values.append(pass_at_k(n, c, k))
        except ValueError as error:
            raise ValueError(f"{problem}: {error}") from None
    if all(n == 1 for n, _ in counts.values()):
        return Score(sum(values), len(values), *wilson(int(sum(values)), len(values)))
    total = math.fsum(values)
    if len(set(values)) == 1:
        # Resampling equal values gives an interval of no width, as if they were certain.
        return Score(total, len(values), *wilson(total, len(values)))
    return Score(total, len(values), *resampled(values))


def resampled(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of a mean, from resampling the values; repeatable."""
    values = np.asarray(values, "float64")
    rng = np.random.default_rng(seed)
    parts = [
        values[rng.integers(0, len(values), (RESAMPLES // 100, len(values)))].mean(1)
        for _ in range(100)
    ]
    low, high = np.quantile(np.concatenate(parts), [0.025, 0.975])
    return float(low), float(high)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two runs of the same problems.

    Attributes:
        only_first, only_second: problems that one of them alone solved.
        both, neither: the others.
        p_value: of the exact test of McNemar, two-sided: how often chance alone would
            divide the problems that differ so unevenly.
    """

    only_first: int
    only_second: int
    both: int
    neither: int
    p_value: float


def compare(first: Mapping[str, bool], second: Mapping[str, bool]) -> Comparison:
    """The paired test of two runs.

    Args:
        first, second: `{problem: whether it was solved}`.

    Raises:
        ValueError: they are not of the same problems.
    """
    if first.keys() != second.keys():
        odd = sorted(first.keys() ^ second.keys())
        raise ValueError(
            f"Runs of different problems cannot be compared: {len(first)} and "
            f"{len(second)}, and only one of them has {', '.join(odd[:3])}"
            f"{', ...' * (len(odd) > 3)}. Evaluate both on the same problems."
        )
    pairs = [(first[problem], second[problem]) for problem in first]
    a, b = pairs.count((True, False)), pairs.count((False, True))
    tail = sum(math.comb(a + b, i) for i in range(min(a, b) + 1)) / 2 ** (a + b)
    both, neither = pairs.count((True, True)), pairs.count((False, False))
    return Comparison(a, b, both, neither, min(1.0, 2 * tail))
