"""The update: answers as packed rows, and a loss that never sees logits.

Several answers share a row of tokens, each attending to itself and its prompt. The row's
log-probabilities are then gathered into `[N, L]`, one line an answer, which is what the
losses are functions of.
"""

from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from codegemma_keras.batches import pack, plan_rows
from codegemma_keras.decoding.cache import row_bucket
from codegemma_keras.losses import LossOfHidden
from codegemma_keras.rl import log_probabilities
from codegemma_keras.rl.losses import Algorithm, Answers, Knobs, kl
from codegemma_keras.rl.rollout import Answer

MEANS = ("kl", "entropy", "clipped", "gap")  # of all tokens
MOST = "largest_gap"


class Part(NamedTuple):
    """A part of an update, as `train_on_batch` takes it.

    Attributes:
        inputs: of the network, `[B, T]` each.
        targets: dict: `ids` `[B, T]`, `places` `[N, L]`, where each token of an answer is
            among the B T places, and the fields of `losses.Answers`.
    """

    inputs: dict[str, np.ndarray]
    targets: dict[str, np.ndarray]


def parts_of(
    answers: Sequence[Answer],
    advantages: np.ndarray,
    reference: Sequence[np.ndarray] | None,
    algorithm: Algorithm,
    *,
    length: int,
    limit: int,
    count: int = 1,
) -> list[Part]:
    """The answers of an update in `count` parts of one shape.

    Args:
        answers: N of them.
        advantages: `[N]`.
        reference: log-probabilities of each answer by the first model, or None.
        algorithm: whose loss it is.
        length: T, places of a row.
        limit: L, most tokens of an answer.
        count: parts; each has N / count answers.
    """
    mask = _lines([np.ones(len(a.tokens)) for a in answers], limit)
    old = _lines([a.log_probabilities for a in answers], limit)
    first = old if reference is None else _lines(reference, limit)
    # A part's loss is scaled so that the mean of the parts' gradients is that of all.
    total = np.float32(algorithm.total(advantages, mask, limit) / count)
    tokens = np.float32(max(mask.sum(), 1.0) / count)
    size = len(answers) // count
    groups = [slice(i * size, (i + 1) * size) for i in range(count)]
    plans = [plan_rows(_places(answers[group]), length) for group in groups]
    rows = row_bucket(max(map(len, plans)))
    parts = []
    for group, plan in zip(groups, plans, strict=True):
        inputs, ids, places = _packed(answers[group], plan, rows, length, limit)
        targets = {
            "ids": ids,
            "places": places,
            "advantages": advantages[group].astype("float32"),
            "mask": mask[group],
            "old": old[group],
            "reference": first[group],
            "total": total,
            "tokens": tokens,
        }
        parts.append(Part(inputs, targets))
    return parts


def _places(answers):
    return [len(answer.prompt_ids) + len(answer.tokens) - 1 for answer in answers]


def _lines(values, limit):
    """Lists of numbers as float32 `[N, limit]`, filled up with 0."""
    lines = np.zeros((len(values), limit), "float32")
    for line, given in zip(lines, values, strict=True):
        line[: len(given)] = given
    return lines


def _packed(answers, plan, rows, length, limit):
    """Inputs and targets of packed rows, and where each answer's tokens are in them."""
    plan = plan + [[] for _ in range(rows - len(plan))]
    segments = [answer.prompt_ids + answer.tokens for answer in answers]
    batch = pack(segments, length, rows=plan)
    places = np.zeros((len(answers), limit), "int32")
    for row, members in enumerate(plan):
        start = row * length
        for index in members:
            answer = answers[index]
            # The place of a token is that of the input before it.
            first = start + len(answer.prompt_ids) - 1
            count = len(answer.tokens)
            places[index, :count] = np.arange(first, first + count)
            start += len(segments[index]) - 1
    return batch.inputs, batch.targets, places


class PolicyLoss(LossOfHidden):
    """A loss of `losses.ALGORITHMS` for `CodeGemmaCausalLM.compile`.

    Args:
        algorithm: whose.
        knobs: its numbers.

    Attributes:
        shown: metrics of a part: means over all tokens of the update (which add up to the
            whole over its parts when averaged), and the largest gap.
    """

    def __init__(self, algorithm: Algorithm, knobs: Knobs):
        self._algorithm = algorithm
        self._knobs = knobs
        self.shown = [keras.metrics.Mean(name=name) for name in (*MEANS, MOST)]

    def of(self, lm, y, hidden):
        both = log_probabilities.of_model(lm, hidden, y["ids"])  # [2, B, T]
        flat = ops.take(ops.reshape(both, (2, -1)), y["places"], axis=1)  # [2, N, L]
        now, entropy = flat[0], flat[1]
        answers = Answers(**{name: y[name] for name in Answers._fields})
        gap = ops.abs(now - answers.old) * answers.mask
        # The model that sampled: then the ratio is 1, whatever rounding did.
        itself = ops.where(y["fresh"], ops.stop_gradient(now), answers.old)
        answers = answers._replace(old=itself)
        self._measure(now, entropy, gap, answers, y["tokens"])
        knobs = self._knobs
        if self._algorithm.kl_in_reward:
            knobs = knobs._replace(beta=0.0)
        return self._algorithm.loss(now, answers, knobs)

    def _measure(self, now, entropy, gap, answers, tokens):
        mask = answers.mask
        ratio = self._algorithm.ratio(now, answers)
        outside = ops.logical_or(
            ratio < 1.0 - self._knobs.low, ratio > 1.0 + self._knobs.high
        )
        sums = {
            "kl": kl(now, answers),
            "entropy": entropy,
            "clipped": ops.cast(outside, "float32"),
            "gap": gap,
        }
        for metric in self.shown:
            if metric.name == MOST:
                value = ops.max(gap)
            else:
                value = ops.sum(sums[metric.name] * mask) / tokens
            metric.update_state(ops.stop_gradient(value))


def update(lm, parts: Sequence[Part], fresh=True) -> dict[str, float]:
    """One update from all parts; the loss and the metrics of it.

    Args:
        lm: compiled with a `PolicyLoss`, and with as many accumulation steps as parts.
        fresh: whether `lm` is still the model that sampled the answers.
    """
    logs = []
    for part in parts:
        # Keras's own: KerasHub's would preprocess, and wants one tensor of targets.
        given = part.inputs, {**part.targets, "fresh": np.bool_(fresh)}
        x, y = keras.tree.map_structure(ops.convert_to_tensor, given)
        lm.reset_metrics()  # as `lm.train_on_batch` does it
        logs.append(keras.Model.train_on_batch(lm, x, y, return_dict=True))
    found = {
        name: float(np.mean([float(log[name]) for log in logs]))
        for name in ("loss", *MEANS)
    }
    found[MOST] = max(float(log[MOST]) for log in logs)
    return found
