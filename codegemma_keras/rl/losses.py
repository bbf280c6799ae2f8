"""Losses of reinforcement learning: from rewards to advantages to a gradient.

A step samples G answers to each of P prompts. Their rewards become *advantages* `[P, G]`,
how much better an answer is than its group, in numpy. A loss then is a function of the
tokens' log-probabilities `[N, L]` (N answers, L tokens), and its value and gradient equal
those of TRL 1.16 on the same tensors (`tests/rl/test_losses.py`).

    name        action    baseline         divided by         from
    reinforce   answer    others' mean     answers            Gemma 1; RLOO (2402.14740)
    grpo        token     mean, std        own tokens         DeepSeekMath (2402.03300)
    dr_grpo     token     mean             longest allowed    2503.20783
    dapo        token     mean, std        all tokens         2503.14476
    gspo        answer    mean, std        own tokens         2507.18071
    dpo         pair      -                pairs              2305.18290
    rejection   token     -                tokens that pass   the control: SFT on what passed

`reinforce` is Gemma 1's published choice: the divergence from the first model is part of
the reward. `grpo`, `dr_grpo`, `dapo` and `gspo` may have it as a term of the loss.

Left out: corrections for a rollout by another engine. Here one engine does both.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from keras import ops

# --- Rewards to advantages: numpy, rewards [P, G]; NaN is an answer without a reward -----


def against_others(rewards):
    """Reward less the mean of the *other* answers (leave-one-out).

    Examples:
        >>> against_others(np.array([[1.0, 0.0, 0.0]])).tolist()
        [[1.0, -0.5, -0.5]]
    """
    count = np.sum(np.isfinite(rewards), axis=1, keepdims=True)
    others = np.nansum(rewards, axis=1, keepdims=True) - rewards
    return _known(np.where(count > 1, rewards - others / np.maximum(count - 1, 1), 0))


def against_mean(rewards):
    """Reward less the mean of the group.

    Examples:
        >>> against_mean(np.array([[1.0, 0.0]])).tolist()
        [[0.5, -0.5]]
        >>> against_mean(np.array([[1.0, np.nan]])).tolist()  # one answer has no reward
        [[0.0, 0.0]]
    """
    return _known(rewards - _mean(rewards))


def standardised(rewards):
    """Reward less the group's mean, over its standard deviation.

    Examples:
        >>> print(standardised(np.array([[2.0, 0.0]])).round(3))
        [[ 0.707 -0.707]]
    """
    count = np.sum(np.isfinite(rewards), axis=1, keepdims=True)
    centred = rewards - _mean(rewards)
    variance = np.nansum(centred**2, axis=1, keepdims=True) / np.maximum(count - 1, 1)
    return _known(centred / (np.sqrt(variance) + 1e-4))


def best_and_worst(rewards):
    """1 for the first best answer of a group, -1 for the first worst; 0 without a gap.

    Examples:
        >>> best_and_worst(np.array([[0.2, 0.9, 0.1], [1.0, 1.0, 1.0]])).tolist()
        [[0.0, 1.0, -1.0], [0.0, 0.0, 0.0]]
    """
    chosen = np.zeros(rewards.shape, "float32")
    for row, group in zip(chosen, rewards, strict=True):
        if signal(group[None])[0]:
            row[np.nanargmax(group)], row[np.nanargmin(group)] = 1, -1
    return chosen


def passing(rewards):
    """1 for answers whose reward is positive and the best of their group.

    Examples:
        >>> passing(np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])).tolist()
        [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    """
    best = np.nanmax(np.nan_to_num(rewards, nan=-np.inf), axis=1, keepdims=True)
    return ((rewards == best) & (rewards > 0)).astype("float32")


def signal(rewards):
    """bool `[P]`: whether the rewards of a group differ, so that there is a gradient.

    Examples:
        >>> signal(np.array([[1.0, 0.0], [1.0, 1.0]])).tolist()
        [True, False]
    """
    low = np.min(np.where(np.isfinite(rewards), rewards, np.inf), axis=1)
    high = np.max(np.where(np.isfinite(rewards), rewards, -np.inf), axis=1)
    return high > low


def _mean(rewards):
    count = np.sum(np.isfinite(rewards), axis=1, keepdims=True)
    return np.nansum(rewards, axis=1, keepdims=True) / np.maximum(count, 1)


def _known(advantages):
    return np.nan_to_num(advantages, nan=0.0).astype("float32")


# --- Advantages to a loss: tensors ------------------------------------------------------


class Answers(NamedTuple):
    """What is known of N answers of at most L tokens before an update.

    Attributes:
        advantages: `[N]`.
        mask: `[N, L]`, 1 where there is a token.
        old: `[N, L]`, log-probabilities when the answers were sampled.
        reference: `[N, L]`, those of the first model; `old` where none is needed.
        total: scalar, what the loss is divided by: answers, tokens or pairs of the whole
            update, of which these N may be a part. See `Algorithm.total`.

    Examples:
        >>> now = np.log(np.float32([[0.5, 0.25]]))
        >>> mask = np.ones((1, 2), "f")
        >>> Answers(np.float32([1]), mask, old=now, reference=now, total=1.0).total
        1.0
    """

    advantages: Any
    mask: Any
    old: Any
    reference: Any
    total: Any


class Knobs(NamedTuple):
    """Numbers of a loss.

    Attributes:
        low, high: the ratio of probabilities counts between 1 - low and 1 + high.
        beta: weight of the divergence from the first model; of DPO, its temperature.

    Examples:
        >>> ALGORITHMS["dapo"].knobs
        Knobs(low=0.2, high=0.28, beta=0.0)
    """

    low: float
    high: float
    beta: float


# The probability of an action now, over that when it was sampled: what a loss clips.


def of_tokens(now, answers):
    """A token is an action: `[N, L]`.

    Examples:
        >>> old = np.log(np.float32([[0.5, 0.25]]))
        >>> now = np.log(np.float32([[0.5, 0.5]]))
        >>> answers = Answers(np.float32([1]), np.ones((1, 2), "f"), old, old, 1.0)
        >>> print(ops.convert_to_numpy(of_tokens(now, answers)).round(3))
        [[1. 2.]]
    """
    return ops.exp((now - answers.old) * answers.mask)


def of_answers(now, answers):
    """An answer is an action: `[N, 1]`.

    Examples:
        >>> old = np.log(np.float32([[0.5, 0.25]]))
        >>> now = np.log(np.float32([[0.5, 0.5]]))
        >>> answers = Answers(np.float32([1]), np.ones((1, 2), "f"), old, old, 1.0)
        >>> print(ops.convert_to_numpy(of_answers(now, answers)).round(3))
        [[2.]]
    """
    log_ratio = (now - answers.old) * answers.mask
    return ops.exp(ops.sum(log_ratio, axis=1, keepdims=True))


def of_means(now, answers):
    """The geometric mean of an answer's tokens: `[N, 1]`.

    Examples:
        >>> old = np.log(np.float32([[0.5, 0.25]]))
        >>> now = np.log(np.float32([[0.5, 0.5]]))
        >>> answers = Answers(np.float32([1]), np.ones((1, 2), "f"), old, old, 1.0)
        >>> print(ops.convert_to_numpy(of_means(now, answers)).round(3))
        [[1.414]]
    """
    log_ratio = (now - answers.old) * answers.mask
    lengths = ops.maximum(ops.sum(answers.mask, axis=1, keepdims=True), 1.0)
    return ops.exp(ops.sum(log_ratio, axis=1, keepdims=True) / lengths)


def reinforce(now, answers: Answers, knobs: Knobs):
    """An answer is one action: the probability of all of it, times its advantage.

    Examples:
        >>> old = np.log(np.float32([[0.5, 0.25]]))
        >>> now = np.log(np.float32([[0.5, 0.5]]))
        >>> answers = Answers(np.float32([1]), np.ones((1, 2), "f"), old, old, 1.0)
        >>> round(float(reinforce(now, answers, ALGORITHMS["reinforce"].knobs)), 3)
        -1.2
    """
    gain = _clipped(of_answers(now, answers)[:, 0], answers.advantages, knobs)
    return -ops.sum(gain) / answers.total


def grpo(now, answers: Answers, knobs: Knobs):
    """A token is an action, and each answer counts the same, whatever its length.

    Examples:
        >>> old = np.log(np.float32([[0.5, 0.25]]))
        >>> now = np.log(np.float32([[0.5, 0.5]]))
        >>> answers = Answers(np.float32([1]), np.ones((1, 2), "f"), old, old, 1.0)
        >>> round(float(grpo(now, answers, ALGORITHMS["grpo"].knobs)), 3)
        -1.1
    """
    lengths = ops.maximum(ops.sum(answers.mask, axis=1), 1.0)
    per_token = _per_token(now, answers, knobs)
    return ops.sum(ops.sum(per_token, axis=1) / lengths) / answers.total


def dr_grpo(now, answers: Answers, knobs: Knobs):
    """A token is an action, and each counts the same: `total` is a constant.

    Examples:
        >>> old = np.log(np.float32([[0.5, 0.25]]))
        >>> now = np.log(np.float32([[0.5, 0.5]]))
        >>> answers = Answers(np.float32([1]), np.ones((1, 2), "f"), old, old, 1.0)
        >>> round(float(dr_grpo(now, answers, ALGORITHMS["dr_grpo"].knobs)), 3)
        -2.2
    """
    return ops.sum(_per_token(now, answers, knobs)) / answers.total


dapo = dr_grpo  # `total` is the number of tokens, and the clip is wider above


def gspo(now, answers: Answers, knobs: Knobs):
    """The geometric mean of an answer's token ratios is clipped once for all of them.

    Examples:
        >>> old = np.log(np.float32([[0.5, 0.25]]))
        >>> now = np.log(np.float32([[0.5, 0.5]]))
        >>> answers = Answers(np.float32([1]), np.ones((1, 2), "f"), old, old, 1.0)
        >>> round(float(gspo(now, answers, ALGORITHMS["gspo"].knobs)), 3)
        -1.0
    """
    lengths = ops.maximum(ops.sum(answers.mask, axis=1), 1.0)
    gain = _clipped(of_means(now, answers)[:, 0], answers.advantages, knobs)
    divergence = knobs.beta * kl(now, answers) * answers.mask
    return ops.sum(ops.sum(divergence, axis=1) / lengths - gain) / answers.total


def dpo(now, answers: Answers, knobs: Knobs):
    """Chosen answers at even places, each with its rejected one after it.

    Examples:
        >>> old = np.log(np.float32([[0.5], [0.5]]))
        >>> now = np.log(np.float32([[0.8], [0.3]]))
        >>> mask = np.ones((2, 1), "f")
        >>> answers = Answers(np.float32([1, -1]), mask, old, old, 1.0)
        >>> round(float(dpo(now, answers, ALGORITHMS["dpo"].knobs)), 3)
        0.645
    """
    score = ops.sum((now - answers.reference) * answers.mask, axis=1)
    margin = knobs.beta * (score[0::2] - score[1::2])
    real = ops.cast(answers.advantages[0::2] > 0, margin.dtype)  # the rest is padding
    return -ops.sum(ops.log_sigmoid(margin) * real) / answers.total


def rejection(now, answers: Answers, knobs: Knobs):
    """Cross-entropy of the answers that passed, which have the advantage 1.

    Examples:
        >>> old = np.log(np.float32([[0.5, 0.25]]))
        >>> now = np.log(np.float32([[0.5, 0.5]]))
        >>> answers = Answers(np.float32([1]), np.ones((1, 2), "f"), old, old, 1.0)
        >>> round(float(rejection(now, answers, ALGORITHMS["rejection"].knobs)), 3)
        1.386
    """
    kept = answers.mask * answers.advantages[:, None]
    return -ops.sum(now * kept) / answers.total


def kl(now, answers):
    """An estimate of KL(now || reference) from each sampled token, never negative.

    Examples:
        >>> old = np.log(np.float32([[0.5, 0.25]]))
        >>> now = np.log(np.float32([[0.5, 0.5]]))
        >>> answers = Answers(np.float32([1]), np.ones((1, 2), "f"), old, old, 1.0)
        >>> print(ops.convert_to_numpy(kl(now, answers)).round(3))
        [[0.    0.193]]
    """
    # Masked before the exponential: a place without a token may hold any number.
    log_ratio = (answers.reference - now) * answers.mask
    return ops.exp(log_ratio) - log_ratio - 1.0


def _per_token(now, answers, knobs):
    """Clipped loss of each token, with the divergence; 0 in the padding. `[N, L]`."""
    gain = _clipped(of_tokens(now, answers), answers.advantages[:, None], knobs)
    divergence = kl(now, answers)
    return (knobs.beta * divergence - gain) * answers.mask


def _clipped(ratio, advantages, knobs):
    """What an action gains; nothing more once its ratio has left the trusted range."""
    inside = ops.clip(ratio, 1.0 - knobs.low, 1.0 + knobs.high)
    return ops.minimum(ratio * advantages, inside * advantages)


# --- The table ---------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """A loss with what belongs to it.

    Attributes:
        loss: `(log-probabilities, Answers, Knobs) -> scalar`.
        advantages: `rewards [P, G] -> [P, G]`.
        knobs: its published numbers.
        divided_by: `"answers"`, `"limit"` (answers times the longest allowed), `"tokens"`,
            `"pairs"` or `"kept"` (tokens of answers with an advantage).
        ratio: `(log-probabilities, Answers) -> [N, L] or [N, 1]`, what it clips.
        kl_in_reward: whether beta lowers the reward instead of adding to the loss.
        resamples: whether groups without signal are replaced by those of other prompts.

    Examples:
        >>> algorithm = ALGORITHMS["dr_grpo"]
        >>> algorithm.advantages(np.array([[1.0, 0.0]])).tolist()
        [[0.5, -0.5]]
        >>> algorithm.total(np.array([0.5, -0.5]), np.ones((2, 7)), limit=128)
        256.0
    """

    loss: Callable
    advantages: Callable
    knobs: Knobs
    divided_by: str
    ratio: Callable = of_tokens
    kl_in_reward: bool = False
    resamples: bool = False

    def total(self, advantages, mask, limit) -> float:
        """What the loss of an update is divided by.

        Args:
            advantages: `[N]`.
            mask: `[N, L]`.
            limit: int, the longest answer allowed.
        """
        return max(
            1.0,
            {
                "answers": lambda: float(len(mask)),
                "limit": lambda: float(len(mask) * limit),
                "tokens": lambda: float(mask.sum()),
                "pairs": lambda: float((advantages > 0).sum()),
                "kept": lambda: float((mask * (advantages[:, None] > 0)).sum()),
            }[self.divided_by](),
        )


ALGORITHMS = {
    "reinforce": Algorithm(
        reinforce, against_others, Knobs(0.2, 0.2, 0.05), "answers", of_answers, True
    ),
    "grpo": Algorithm(grpo, standardised, Knobs(0.2, 0.2, 0.0), "answers"),
    "dr_grpo": Algorithm(dr_grpo, against_mean, Knobs(0.2, 0.2, 0.0), "limit"),
    "dapo": Algorithm(
        dapo, standardised, Knobs(0.2, 0.28, 0.0), "tokens", resamples=True
    ),
    "gspo": Algorithm(gspo, standardised, Knobs(3e-4, 4e-4, 0.0), "answers", of_means),
    "dpo": Algorithm(dpo, best_and_worst, Knobs(0.0, 0.0, 0.1), "pairs"),
    "rejection": Algorithm(rejection, passing, Knobs(0.0, 0.0, 0.0), "kept"),
}


def knobs_of(name, beta=None, epsilon=None, epsilon_high=None) -> Knobs:
    """The numbers of a loss: those that are given, else its own.

    Args:
        name: a key of `ALGORITHMS`.
        beta, epsilon, epsilon_high: see `recipes.rl.RLConfig`.

    Examples:
        >>> knobs_of("grpo", beta=0.04)
        Knobs(low=0.2, high=0.2, beta=0.04)
    """
    own = ALGORITHMS[name].knobs
    low = own.low if epsilon is None else epsilon
    high = own.high if epsilon is None else epsilon
    high = high if epsilon_high is None else epsilon_high
    return Knobs(low, high, own.beta if beta is None else beta)
