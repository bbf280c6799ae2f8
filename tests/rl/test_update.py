"""Rollout and update: one network, one distribution, whatever rows and parts there are."""

import keras
import numpy as np
import pytest

from codegemma_keras import lora
from codegemma_keras.rl import rollout, update
from codegemma_keras.rl.losses import ALGORITHMS
from codegemma_keras.tasks.prompts import Prompt
from tests.tiny_models import our_task

LIMIT = 6
PROMPTS = [Prompt("letters", "a"), Prompt("letters", "b c")]


@pytest.fixture(scope="module")
def lm():
    lm = our_task()
    lora.add(lm, "rl", rank=2)
    for variable in lm.trainable_variables:  # B is zero in a new adapter
        variable.assign(np.random.default_rng(0).normal(0, 0.1, variable.shape))
    return lm


@pytest.fixture(scope="module")
def answers(lm):
    groups = rollout.sample(lm, PROMPTS, 4, LIMIT, "seed", rows=8)
    return [answer for group in groups for answer in group]


def test_samples_depend_on_prompt_and_seed_alone(lm, answers):
    again = rollout.sample(lm, PROMPTS[::-1], 4, LIMIT, "seed", rows=8)
    assert [a.tokens for a in again[1] + again[0]] == [a.tokens for a in answers]
    other = rollout.sample(lm, PROMPTS, 4, LIMIT, "other", rows=8)
    assert [a.tokens for g in other for a in g] != [a.tokens for a in answers]
    for answer in answers:
        ended = answer.tokens[-1] in lm.tokenizer.stop_token_ids
        assert answer.stopped == ended
        assert len(answer.tokens) == len(answer.log_probabilities) <= LIMIT


def test_the_reference_is_the_base_without_the_adapter(lm, answers):
    found = rollout.Reference(lm).log_probabilities(answers)
    texts = [answer.prompt_ids + answer.tokens for answer in answers]
    lora.select(lm, None)
    wanted = lm.engine.log_probabilities(texts)
    lora.select(lm, "rl")
    adapted = lm.engine.log_probabilities(texts)
    for answer, ours, base, own in zip(answers, found, wanted, adapted, strict=True):
        start = len(answer.prompt_ids)
        np.testing.assert_allclose(ours, base[start:], atol=1e-5)
        np.testing.assert_allclose(answer.log_probabilities, own[start:], atol=1e-4)
        assert np.abs(ours - own[start:]).max() > 1e-3


def values(lm):
    """Of what trains; copies, as an update may work in the memory of its input."""
    return [np.array(keras.ops.convert_to_numpy(v)) for v in lm.trainable_variables]


def updated(lm, answers, length, parts, name):
    """The adapter after one update, and its measures; the model is as before then."""
    algorithm = ALGORITHMS[name]
    before = values(lm)
    optimizer = keras.optimizers.SGD(
        0.5, gradient_accumulation_steps=parts if parts > 1 else None
    )
    loss = update.PolicyLoss(algorithm, algorithm.knobs)
    lm.compile(optimizer=optimizer, loss=loss)
    rewards = np.random.default_rng(1).random((2, 4))
    made = update.parts_of(
        answers,
        algorithm.advantages(rewards).ravel(),
        None,
        algorithm,
        length=length,
        limit=LIMIT,
        count=parts,
    )
    measures = update.update(lm, made)
    after = values(lm)
    for variable, value in zip(lm.trainable_variables, before, strict=True):
        variable.assign(value)
    moved = [a - b for a, b in zip(after, before, strict=True)]
    return moved, measures


@pytest.mark.parametrize("name", ["reinforce", "grpo", "dapo"])
def test_packing_and_parts_change_nothing(lm, answers, name):
    longest = max(len(a.prompt_ids) + LIMIT for a in answers)
    moved, measures = updated(lm, answers, longest, 1, name)
    assert max(np.abs(m).max() for m in moved) > 1e-3
    assert measures["largest_gap"] < 1e-4
    assert measures["clipped"] == 0.0
    for length, parts in ((4 * longest, 1), (longest, 2)):
        others, again = updated(lm, answers, length, parts, name)
        for ours, theirs in zip(moved, others, strict=True):
            np.testing.assert_allclose(theirs, ours, atol=2e-6)
        assert again["loss"] == pytest.approx(measures["loss"], abs=1e-5)
        assert again["entropy"] == pytest.approx(measures["entropy"], rel=1e-5)
