"""Choosing tokens: distributions, limits, and settings that are data."""

import keras
import keras_hub
import numpy as np
import pytest

from codegemma_keras import CodeGemmaCausalLM
from codegemma_keras.decoding import Engine, Sampling
from codegemma_keras.decoding.sampling import Settings, Work, choose, seeds
from tests.tiny_models import our_backbone

V = 53
rng = np.random.default_rng(11)
PROMPTS = [rng.integers(5, V, n).tolist() for n in (1, 8, 9)]


def test_samples_follow_the_distribution(engine, uncached):
    """Chi-square over 4,096 first tokens, against the network's own probabilities."""
    prompt, draws = PROMPTS[1], 4096
    results = engine.generate([prompt] * draws, 1, sampling=Sampling(temperature=0.7))
    counts = np.bincount([r.token_ids[0] for r in results], minlength=V)
    logits = uncached(prompt).astype("float64") / 0.7
    expected = np.exp(logits - logits.max())
    expected *= draws / expected.sum()
    common = expected >= 5
    observed = np.append(counts[common], counts[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum())
    statistic = ((observed - wanted) ** 2 / np.maximum(wanted, 1e-9)).sum()
    # Mean n, deviation sqrt(2 n): five deviations, for a seed that never changes.
    n = len(wanted) - 1
    assert statistic < n + 5 * np.sqrt(2 * n)


def test_the_least_temperature_takes_the_likeliest_token(engine):
    greedy = engine.generate(PROMPTS, 6)
    cold = engine.generate(PROMPTS, 6, sampling=Sampling(1e-6, top_k=8, min_p=0.01))
    assert [r.token_ids for r in cold] == [r.token_ids for r in greedy]


def test_sampling_keeps_only_what_it_says(engine, uncached):
    order = np.argsort(-uncached(PROMPTS[1]))
    results = engine.generate([PROMPTS[1]] * 64, 1, sampling=Sampling(2.0, top_k=3))
    assert {r.token_ids[0] for r in results} == set(order[:3].tolist())


def slow_choice(logits, s, noise):
    """One row, in float64 and by loops: what `choose` must give."""
    if s.greedy:
        return int(np.argmax(logits))
    logits = logits.astype("float64") / s.temperature
    kept = np.full(len(logits), True)
    if s.min_p:
        kept &= logits >= logits.max() + np.log(s.min_p)
    order = np.argsort(-logits)
    order = [i for i in order if kept[i]]
    if s.top_k:
        order = order[: s.top_k]
    if s.top_p < 1:
        p = np.exp(logits[order] - logits.max())
        before = np.cumsum(p / p.sum()) - p / p.sum()
        order = [i for i, b in zip(order, before, strict=True) if b < s.top_p]
    return int(max(order, key=lambda i: logits[i] + noise[i]))


def test_each_row_of_a_batch_has_its_own_settings():
    from codegemma_keras.decoding.sampling import hash_noise

    samplings = [
        Sampling(),
        Sampling(0.5),
        Sampling(1.5, top_k=3),
        Sampling(1.0, top_p=0.6),
        Sampling(0.9, 12, 0.8, 0.02),
        Sampling(2.0, min_p=0.2),
        Sampling(1.0, top_k=5000),
    ]
    logits = rng.normal(0, 2, (len(samplings), V)).astype("float32")
    for step in range(20):
        row_seeds = np.arange(len(samplings), dtype="uint32") + 7
        steps = np.full(len(samplings), step, "int32")
        got = choose(
            keras.ops.array(logits),
            Work.of(samplings),
            Settings.of(samplings),
            keras.ops.array(row_seeds),
            keras.ops.array(steps),
        )
        noise = np.asarray(hash_noise(keras.ops.array(row_seeds), steps, V))
        want = [
            slow_choice(*each) for each in zip(logits, samplings, noise, strict=True)
        ]
        assert np.asarray(got).tolist() == want


def test_forty_temperatures_are_one_program():
    engine = Engine(CodeGemmaCausalLM(our_backbone(num_layers=1)))
    engine.generate([[5, 6]], 4, sampling=Sampling(1.0))
    compiled = engine.compilations
    for number in range(1, 41):
        engine.generate([[5, 6]], 4, sampling=Sampling(0.05 * number, min_p=0.001))
    assert engine.compilations == compiled


def test_the_work_that_settings_ask_for():
    assert Work.of([Sampling(), Sampling()]) == Work(False, 0)
    assert Work.of([Sampling(), Sampling(0.3, min_p=0.1)]) == Work(True, 0)
    assert Work.of([Sampling(1, 20), Sampling(1, 50, 0.9)]) == Work(True, 64)
    assert Work.of([Sampling(1, 20), Sampling(1, top_p=0.9)]) == Work(True, -1)
    assert Work.of([Sampling(0, 20, 0.5)]) == Work(False, 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": float("nan")}, "temperature=nan must be a number"),
        ({"temperature": float("inf")}, "from 1e-06 to 1e"),
        ({"temperature": 1e308}, "must be 0, which is greedy, or a number from 1e-06"),
        ({"temperature": 1e-40}, "temperature=1e-40 must be 0, which is greedy"),
        ({"temperature": -1}, "temperature=-1 must be"),
        ({"temperature": "hot"}, "temperature='hot' must be a number"),
        ({"top_k": 2.5}, "top_k=2.5 must be a whole number"),
        ({"top_p": 0}, "top_p=0 must be in"),
        ({"top_p": float("nan")}, "top_p=nan"),
        ({"min_p": 1}, "min_p=1 must be in"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**settings)


def test_seeds_come_from_where_a_user_sets_them():
    assert seeds(5, 2) == seeds(np.uint32(5), 2)
    assert len(set(seeds(5, 100))) == 100
    keras.utils.set_random_seed(1)
    first = seeds(None, 1)
    assert seeds(None, 1) != first
    keras.utils.set_random_seed(1)
    assert seeds(None, 1) == first

    def of_a_sampler():
        sampler = keras_hub.samplers.RandomSampler(seed=3)
        return seeds(None, 1, sampler), seeds(None, 1, sampler)

    assert of_a_sampler() == of_a_sampler()
    one, two = of_a_sampler()
    assert one != two
