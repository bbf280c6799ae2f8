"""Losses of reinforcement learning: those of TRL, to 1e-5, values and gradients."""

import json
import pathlib

import keras
import numpy as np
import pytest
from keras import ops

from codegemma_keras.rl import losses
from codegemma_keras.rl.losses import ALGORITHMS, Answers, Knobs

# `make rl-goldens` makes it, with TRL in an environment of its own.
GOLDEN = json.loads(
    (pathlib.Path(__file__).parents[1] / "golden" / "rl_losses.json").read_text()
)
TENSORS = {name: np.array(v, "float32") for name, v in GOLDEN["tensors"].items()}
OF_GROUPS = ("reinforce", "grpo", "dr_grpo", "dapo", "gspo")


def value_and_gradient(function, x):
    """Of a scalar function, on either backend."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.value_and_grad(function)(x)
    import tensorflow as tf

    variable = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(variable)
        value = function(variable)
    return value, tape.gradient(value, variable)


def loss_of(name, now, advantages, **changes):
    """Loss and gradient of an algorithm on the golden tensors."""
    golden = GOLDEN["losses"].get(name, {"low": 0.2, "high": 0.2, "beta": 0.0})
    algorithm = ALGORITHMS[name]
    known = {n: changes.get(n, TENSORS[n]) for n in ("mask", "old", "reference")}
    total = algorithm.total(advantages, known["mask"], GOLDEN["limit"])
    answers = Answers(advantages=advantages, total=np.float32(total), **known)
    beta = 0.0 if algorithm.kl_in_reward else golden["beta"]
    knobs = Knobs(golden["low"], golden["high"], beta)
    value, gradient = value_and_gradient(
        lambda x: algorithm.loss(x, answers, knobs), now
    )
    return float(value), ops.convert_to_numpy(gradient)


def rewards_of(name):
    """The golden rewards, with the divergence in them where the loss wants it there."""
    rewards = TENSORS["rewards"].astype("float64")
    if ALGORITHMS[name].kl_in_reward:
        far = (TENSORS["old"] - TENSORS["reference"]) * TENSORS["mask"]
        beta = GOLDEN["losses"][name]["beta"]
        rewards = rewards - beta * far.sum(axis=1).reshape(rewards.shape)
    return rewards


@pytest.mark.parametrize("name", OF_GROUPS)
def test_loss_and_gradient_are_those_of_trl(name):
    golden = GOLDEN["losses"][name]
    advantages = ALGORITHMS[name].advantages(rewards_of(name)).ravel()
    np.testing.assert_allclose(advantages, golden["advantages"], atol=1e-5)
    loss, gradient = loss_of(name, TENSORS["now"], advantages)
    assert loss == pytest.approx(golden["loss"], abs=1e-5)
    np.testing.assert_allclose(gradient, golden["gradient"], atol=1e-5)
    assert np.abs(golden["gradient"]).max() > 1e-2


def test_dpo_is_that_of_trl():
    golden, half = GOLDEN["losses"]["dpo"], len(TENSORS["now"]) // 2
    # TRL has all chosen answers first; here a pair stands together.
    order = np.arange(2 * half).reshape(2, half).T.ravel()
    pairs = {name: TENSORS[name][order] for name in ("mask", "old", "reference")}
    signs = np.tile([1.0, -1.0], half).astype("float32")
    loss, gradient = loss_of("dpo", TENSORS["now"][order], signs, **pairs)
    assert loss == pytest.approx(golden["loss"], abs=1e-5)
    np.testing.assert_allclose(gradient, np.array(golden["gradient"])[order], atol=1e-5)


@pytest.mark.parametrize("name", OF_GROUPS)
def test_on_policy_the_gradient_is_reinforce(name):
    """At ratio 1 and without a divergence, it is -advantage, weighed by token."""
    advantages = ALGORITHMS[name].advantages(TENSORS["rewards"]).ravel()
    _, gradient = loss_of(name, TENSORS["old"], advantages, reference=TENSORS["old"])
    mask, limit = TENSORS["mask"], GOLDEN["limit"]
    lengths = mask.sum(axis=1, keepdims=True)
    share = {
        "reinforce": 1 / len(mask) * np.ones_like(lengths),
        "grpo": 1 / len(mask) / lengths,
        "gspo": 1 / len(mask) / lengths,
        "dr_grpo": 1 / (len(mask) * limit) * np.ones_like(lengths),
        "dapo": 1 / mask.sum() * np.ones_like(lengths),
    }[name]
    np.testing.assert_allclose(gradient, -advantages[:, None] * mask * share, atol=1e-6)


@pytest.mark.parametrize("name", OF_GROUPS)
def test_equal_rewards_give_no_gradient(name):
    advantages = ALGORITHMS[name].advantages(np.full((3, 4), 0.7)).ravel()
    np.testing.assert_allclose(advantages, 0.0, atol=1e-6)
    _, gradient = loss_of(name, TENSORS["old"], advantages, reference=TENSORS["old"])
    np.testing.assert_allclose(gradient, 0.0, atol=1e-6)


def test_divergence_of_a_model_from_itself_is_zero():
    old, mask = TENSORS["old"], TENSORS["mask"]
    answers = Answers(None, mask, old, old, None)
    assert float(ops.max(ops.abs(losses.kl(old, answers)))) == 0.0
    assert float(ops.min(losses.kl(TENSORS["now"], answers))) >= 0.0


@pytest.mark.parametrize("name", OF_GROUPS)
def test_what_stands_in_the_padding_does_not_matter(name):
    advantages = ALGORITHMS[name].advantages(rewards_of(name)).ravel()
    loss, gradient = loss_of(name, TENSORS["now"], advantages)
    for value in (-500.0, 500.0):
        now = np.where(TENSORS["mask"] > 0, TENSORS["now"], np.float32(value))
        found, again = loss_of(name, now, advantages)
        assert found == pytest.approx(loss, abs=1e-6)
        np.testing.assert_allclose(again, gradient, atol=1e-6)


def test_rejection_is_the_cross_entropy_of_what_passed():
    advantages = losses.passing(TENSORS["rewards"]).ravel()
    loss, _ = loss_of("rejection", TENSORS["now"], advantages)
    kept = TENSORS["mask"] * (advantages[:, None] > 0)
    assert loss == pytest.approx(-(TENSORS["now"] * kept).sum() / kept.sum(), rel=1e-5)


def test_answers_without_a_reward_leave_their_group():
    rewards = np.array([[1.0, 0.0, np.nan, 1.0], [np.nan, np.nan, np.nan, 1.0]])
    for function in (
        losses.against_others,
        losses.against_mean,
        losses.standardised,
    ):
        found = function(rewards)
        np.testing.assert_allclose(
            found[0, [0, 1, 3]], function(np.array([[1.0, 0.0, 1.0]]))[0], atol=1e-6
        )
        assert found[0, 2] == 0
        np.testing.assert_array_equal(found[1], 0)
    assert losses.signal(rewards).tolist() == [True, False]
    assert losses.best_and_worst(rewards).tolist() == [[1, -1, 0, 0], [0, 0, 0, 0]]
    assert losses.passing(rewards).tolist() == [[1, 0, 0, 1], [0, 0, 0, 1]]
