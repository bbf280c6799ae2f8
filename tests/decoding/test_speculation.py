"""Guesses, of a draft model or looked up, change no token; right ones save forwards."""

import keras
import numpy as np
import pytest

from codegemma_keras import CodeGemmaCausalLM
from codegemma_keras.decoding import Engine, Sampling
from codegemma_keras.decoding.speculation import lookup_draft
from tests.tiny_models import our_backbone, our_task

V = 53
STOPS = (3, 4)
SAMPLED = Sampling(temperature=0.8, top_k=20, top_p=0.95, min_p=0.01)
rng = np.random.default_rng(12)
PROMPTS = [rng.integers(5, V, n).tolist() for n in (1, 9, 33)]


@pytest.fixture(scope="module")
def model():
    return CodeGemmaCausalLM(our_backbone(num_layers=2))


@pytest.fixture(scope="module")
def stranger():
    """Another network of the same vocabulary: nearly every guess is wrong."""
    sizes = {"num_layers": 1, "num_query_heads": 2, "num_key_value_heads": 1}
    return CodeGemmaCausalLM(our_backbone(**sizes, head_dim=6))


def forwards(engine, prompts, new, **how):
    generation, rows = engine.start(prompts, new, **how)
    while generation.running:
        generation.advance(32)
    return generation.forwards, [row.tokens for row in rows]


@pytest.mark.parametrize("sampling", [Sampling(), SAMPLED], ids=["greedy", "sampled"])
def test_a_draft_model_changes_no_token(model, stranger, sampling):
    engine, limits = model.engine, [40, 3, 17]
    plain = engine.generate(PROMPTS, limits, STOPS, sampling)
    for draft in (stranger, model):
        guessed = engine.generate(PROMPTS, limits, STOPS, sampling, speculate=draft)
        for a, b in zip(plain, guessed, strict=True):
            assert (a.token_ids, a.stop_token) == (b.token_ids, b.stop_token)
            np.testing.assert_allclose(
                a.log_probabilities, b.log_probabilities, atol=1e-4
            )


@pytest.mark.parametrize("sampling", [Sampling(), SAMPLED], ids=["greedy", "sampled"])
def test_a_draft_model_that_is_right_gives_five_tokens_a_forward(model, sampling):
    """The model as its own draft: every guess is right, with noise too."""
    count, _ = forwards(
        model.engine, PROMPTS[1:2], 26, sampling=sampling, speculate=model
    )
    assert count == 5  # 25 tokens after the first


def test_samples_after_guesses_follow_the_distribution(model, stranger):
    """The third token of 2,048 samples, guessed and not: chi-square of two samples."""
    how = {"sampling": Sampling(temperature=0.9), "speculate": stranger}
    draws = 2048
    guessed = model.engine.generate([PROMPTS[0]] * draws, 3, **how)
    how = {"sampling": Sampling(temperature=0.9), "seeds": range(draws, 2 * draws)}
    plain = model.engine.generate([PROMPTS[0]] * draws, 3, **how)
    a, b = (
        np.bincount([r.token_ids[2] for r in results], minlength=V)
        for results in (guessed, plain)
    )
    common = a + b >= 10
    a = np.append(a[common], a[~common].sum())
    b = np.append(b[common], b[~common].sum())
    statistic = ((a - b) ** 2 / np.maximum(a + b, 1)).sum()
    n = len(a) - 1
    assert statistic < n + 5 * np.sqrt(2 * n)


def test_another_vocabulary_is_refused(model):
    other = CodeGemmaCausalLM(our_backbone(vocabulary_size=59, num_layers=1))
    with pytest.raises(ValueError, match=r"has 59 token ids, this model 53.*True"):
        model.engine.generate(PROMPTS, 3, speculate=other)


def test_the_cache_of_both_counts_against_the_limit(model, stranger):
    engine = Engine(model)
    # ours: 2 * L 2 * K 2 * H 8 * 4 bytes = 256 a token; the draft's 2 * 1 * 1 * 6 * 4
    engine.cache_limit_bytes = 64 * 256
    assert len(engine.generate([[5]], 3)[0].token_ids) == 3
    with pytest.raises(ValueError, match=f"takes {64 * (256 + 48):,} bytes"):
        engine.generate([[5]], 3, speculate=stranger)


def test_new_weights_of_the_draft_model_reach_the_compiled_program(model):
    draft = CodeGemmaCausalLM(our_backbone(num_layers=2))  # as the model: always right
    how = {"speculate": draft}
    before, tokens = forwards(model.engine, PROMPTS[1:2], 26, **how)
    for variable in draft.backbone.weights:
        variable.assign(variable * 0.0)
    after, same = forwards(model.engine, PROMPTS[1:2], 26, **how)
    assert before == 5
    assert after > 12
    assert same == tokens


def test_a_session_keeps_the_draft_models_cache_too():
    lm, draft = our_task(), our_task(seed=4)
    prefix, suffix = "def total(values):\n    result = ", "\n    return result\n"
    how = {"max_new_tokens": 5, "seed": 1, "sampling": SAMPLED}
    session = lm.session()
    warmed = session.warm(prefix, suffix, speculate=draft, max_new_tokens=5)
    for typed in ("", "v", "va"):
        got = session.complete(prefix + typed, suffix, speculate=draft, **how)
        want = lm.session().complete(prefix + typed, suffix, **how)
        assert got.token_ids == want.token_ids
        assert got.computed_tokens < 8 < warmed
    # Without the draft its part is dropped; with it again, both are computed anew.
    plain = session.complete(prefix + "val", suffix, **how)
    assert plain.computed_tokens < 8
    again = session.complete(prefix + "val", suffix, speculate=draft, **how)
    assert again.computed_tokens == again.prompt_tokens
    assert again.token_ids == plain.token_ids


def test_after_warm_up_a_draft_model_compiles_nothing():
    model = CodeGemmaCausalLM(our_backbone(num_layers=1))
    draft = CodeGemmaCausalLM(our_backbone(num_layers=1, hidden_dim=16))
    model.engine.warm_up(20, (2,), speculate=draft)
    compiled = model.engine.compilations, draft.engine.compilations
    for length in (1, 5, 12):
        prompt = rng.integers(5, V, length).tolist()
        model.engine.generate([prompt], 8, STOPS, speculate=draft)
        model.engine.generate([prompt] * 2, 8, STOPS, seeds=[1, 2], speculate=draft)
    assert (model.engine.compilations, draft.engine.compilations) == compiled


@pytest.mark.parametrize("sampling", [Sampling(), SAMPLED], ids=["greedy", "sampled"])
def test_lookup_changes_no_token(model, sampling):
    rows = [p + p[: len(p) // 2] for p in PROMPTS]
    limits, engine = [70, 3, 0], model.engine
    plain = engine.generate(rows, limits, STOPS, sampling)
    guessed = engine.generate(rows, limits, STOPS, sampling, speculate=True)
    for a, b in zip(plain, guessed, strict=True):
        assert (a.token_ids, a.stop_token) == (b.token_ids, b.stop_token)
        np.testing.assert_allclose(a.log_probabilities, b.log_probabilities, atol=1e-4)


def test_speculation_saves_forwards_where_text_repeats(model):
    # Random weights fall into a loop when greedy, and a loop can be looked up.
    count, _ = forwards(model.engine, [PROMPTS[2]], 96, speculate=True)
    assert count < 95 / 2


def test_lookup_takes_the_longest_and_latest_agreement():
    #           0  1  2  3  4  5  6  7  8
    history = [[1, 2, 9, 5, 2, 7, 1, 2, 0], [4, 6, 4, 6, 0, 0, 0, 0, 0]]
    positions = np.array([7, 3], "int32")
    draft = lookup_draft(keras.ops.array(history, "int32"), positions, 4)
    # Row 0 ends in "1 2": the one at 0, 1 agrees twice; "2" at 4 only once.
    # Row 1 has a period of two.
    np.testing.assert_array_equal(draft, [[9, 5, 2, 7], [4, 6, 4, 6]])
