"""A batch under way: rows of any age and length, and rows that join and leave."""

import random
import weakref

import numpy as np
import pytest

from codegemma_keras import CodeGemmaCausalLM
from codegemma_keras.decoding import Engine, Row, Sampling
from codegemma_keras.decoding import generation as generations
from codegemma_keras.decoding.cache import CachedPrefix
from codegemma_keras.decoding.completion import least_cache
from tests.tiny_models import our_backbone

V = 53
STOPS = (3, 4)
SAMPLED = Sampling(temperature=0.8, top_k=20, top_p=0.95, min_p=0.01)
rng = np.random.default_rng(11)
PROMPTS = [rng.integers(5, V, n).tolist() for n in (1, 8, 9, 33, 61, 130)]
SAMPLINGS = (Sampling(), SAMPLED, Sampling(1.3), Sampling(0.7, top_p=0.8))


def new_rows(seed, count=12):
    """Rows of every kind: lengths, limits, stop ids, samplings, seeds."""
    choice = random.Random(seed)
    return [
        Row(
            choice.choice(PROMPTS[:5]),
            choice.choice((0, 1, 5, 20, 40)),
            choice.choice(((), STOPS)),
            choice.choice(SAMPLINGS),
            choice.randrange(2**32),
        )
        for _ in range(count)
    ]


def outcome(row):
    result = row.result()
    return result.token_ids, result.stop_reason, result.stop_token


@pytest.mark.parametrize("speculate", [False, True])
def test_rows_that_join_get_the_tokens_they_get_alone(engine, speculate):
    """Continuous batching: joins at random visits, some leave early, some are kept."""
    choice = random.Random(5)
    rows = new_rows(seed=1)
    waiting, generation = list(rows), engine.generation(speculate)
    left_early = rows[3]
    left_early.limit = 40
    while waiting or generation.running:
        if waiting and choice.random() < 0.5:
            count = choice.choice((1, 1, 2))
            generation.join(waiting[:count])
            waiting = waiting[count:]
        generation.advance(choice.choice((1, 3, 8)))
        if len(left_early.tokens) > 3:
            left_early.stop("cancelled")
    for row in rows:
        [alone] = engine.generate(
            [row.prompt], row.limit, row.stop_token_ids, row.sampling, [row.seed]
        )
        if row is left_early and row.stop_reason == "cancelled":
            assert alone.token_ids[: len(row.tokens)] == row.tokens
            continue
        assert outcome(row) == (alone.token_ids, alone.stop_reason, alone.stop_token)
        np.testing.assert_allclose(
            row.result().log_probabilities, alone.log_probabilities, atol=1e-4
        )


def test_groups_of_any_size_need_no_programs_of_their_own():
    """With `least`: shorter prompts, and fewer of them, are computed by what exists."""
    engine = Engine(CodeGemmaCausalLM(our_backbone(num_layers=1)))
    prompts = [PROMPTS[5], *PROMPTS[2:5], *PROMPTS[:2], PROMPTS[3][:20]]
    rows = [Row(prompt, 24, seed=n) for n, prompt in enumerate(prompts * 2)]
    least = least_cache(rows, 8)
    assert least == (2, 512, True)
    generation, waiting, compiled = engine.generation(least=least), rows, []
    for count in (8, 2, 2, 1, 1):
        generation.join(waiting[:count])
        while generation.joining:
            generation.advance(1)
        for row in [row for row in rows if row.running and row.tokens][:2]:
            row.stop("places for the next group")
        generation.advance(1)
        waiting = waiting[count:]
        compiled.append(engine.compilations)
    assert not waiting
    assert compiled[1] == compiled[-1]
    while generation.running:
        generation.advance()
    for row in rows:
        [alone] = engine.generate([row.prompt], 24, (), Sampling(), [row.seed])
        assert row.tokens
        assert row.tokens == alone.token_ids[: len(row.tokens)]


def test_a_running_row_goes_on_while_a_long_prompt_joins(engine):
    first, long = Row(PROMPTS[1], 40), Row(PROMPTS[5], 3)
    generation = engine.generation()
    generation.join([first])
    while len(first.tokens) < 3:
        generation.advance(1)
    generation.join([long])
    before, visits = len(first.tokens), 0
    while not long.tokens:
        generation.advance(2)
        visits += 1
    # Chunks of prefill and visits of decoding take turns.
    assert visits > 1
    assert len(first.tokens) >= before + 2 * (visits // 2)


def test_a_kept_row_serves_the_next_one_that_begins_alike(engine):
    """What a server keeps of a row that leaves a batch of several."""
    kept = Row(PROMPTS[3], 6, cached=CachedPrefix())
    other = Row(PROMPTS[2], 30, seed=4, sampling=SAMPLED)
    generation = engine.generation()
    generation.join([kept, other])
    while kept.running:
        generation.advance(2)
    prefix = generation.keep(kept)
    assert prefix.token_ids == tuple(PROMPTS[3] + kept.tokens[:-1])
    follower = Row([*prefix.token_ids, 7, 8], 5, cached=prefix)
    generation.join([follower])
    while generation.running:
        generation.advance(4)
    assert follower.computed_tokens <= 8
    [alone] = engine.generate([follower.prompt], 5)
    assert follower.tokens == alone.token_ids
    [alone] = engine.generate([PROMPTS[2]], 30, (), SAMPLED, [4])
    assert other.tokens == alone.token_ids


@pytest.fixture
def chunks(engine, monkeypatch):
    """The widths of the prefill chunks that the engine computes."""
    widths, prefill = [], engine.prefill
    monkeypatch.setattr(
        engine,
        "prefill",
        lambda ids, *a: widths.append(ids.shape[1]) or prefill(ids, *a),
    )
    return widths


def held(engine, prompt):
    """A cache that holds all of a prompt."""
    row = Row(prompt, 1, cached=CachedPrefix())
    generation = engine.generation()
    generation.join([row])
    while generation.running:
        generation.advance()
    return generation.keep(row)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_one_new_token_needs_no_prefill(engine, chunks, sampling):
    """Most keystrokes add one token; the decode loop computes it with the other rows."""
    prefix = held(engine, PROMPTS[4])
    other = Row(PROMPTS[2], 30, seed=4, sampling=SAMPLED)
    generation = engine.generation()
    generation.join([other])
    while generation.joining:
        generation.advance(1)
    del chunks[:]
    row = Row([*PROMPTS[4], 7], 9, seed=6, sampling=sampling, cached=prefix)
    generation.join([row])
    # A prompt that has chunks to come doesn't hold it up.
    behind = Row(PROMPTS[5], 3)
    generation.join([behind])
    generation.advance(1)
    assert len(row.tokens) == 1
    assert row.computed_tokens == 1
    while generation.running:
        generation.advance(4)
    assert chunks == [128, 8]  # those of `behind`
    for each in (row, other, behind):
        [alone] = engine.generate(
            [each.prompt], each.limit, (), each.sampling, [each.seed]
        )
        assert each.tokens == alone.token_ids
        np.testing.assert_allclose(
            each.log_probabilities, alone.log_probabilities, atol=1e-4
        )


def test_a_prompt_asked_again_is_the_last_token_only(engine, chunks):
    prefix = held(engine, PROMPTS[3])
    del chunks[:]
    row = Row(PROMPTS[3], 5, cached=prefix)
    generation = engine.generation()
    generation.join([row])
    assert generation.joining
    generation.advance(5)
    assert (chunks, len(row.tokens), generation.prefilled) == ([], 5, 1)
    assert generation.keep(row).token_ids == tuple(PROMPTS[3] + row.tokens[:-1])


def test_a_row_that_ends_before_its_last_prompt_token_leaves_the_rest(engine):
    prefix = held(engine, PROMPTS[3])
    row, other = Row(PROMPTS[3], 5, cached=prefix), Row(PROMPTS[2], 9)
    generation = engine.generation()
    generation.join([row])
    kept = generation.keep(row)
    assert kept.token_ids == tuple(PROMPTS[3])  # nothing has begun
    again = Row(PROMPTS[3], 5, cached=kept)
    generation.join([again])
    generation._admit_ready()
    kept = generation.keep(again)
    assert kept.token_ids == tuple(PROMPTS[3][:-1])
    generation.join([other])
    while generation.running:
        generation.advance()
    assert len(other.tokens) == 9


def test_new_weights_compute_a_prompt_anew_that_lacked_one_token():
    lm = CodeGemmaCausalLM(our_backbone(num_layers=1))
    prefix = held(lm.engine, PROMPTS[3])
    variable = lm.backbone.trainable_variables[0]
    variable.assign(variable * 0.5)
    row = Row([*PROMPTS[3], 7], 6, cached=prefix)
    generation = lm.engine.generation()
    generation.join([row])
    while generation.running:
        generation.advance()
    assert row.computed_tokens == len(row.prompt)
    [alone] = lm.engine.generate([row.prompt], 6)
    assert row.tokens == alone.token_ids


def test_a_batch_that_could_outgrow_the_limit_is_refused_when_it_joins():
    engine = CodeGemmaCausalLM(our_backbone(num_layers=1)).engine
    engine.cache_limit_bytes = 2 * 64 * 128  # two rows of 64 tokens, 128 bytes each
    generation = engine.generation()
    rows = [Row([5, 6], 50), Row([7], 60), Row([8], 2)]
    generation.join(rows[:2])
    generation.advance()
    with pytest.raises(ValueError, match="4 rows of 64 tokens"):
        generation.join(rows[2:])
    while generation.running:
        generation.advance()
    assert [len(row.tokens) for row in rows] == [50, 60, 0]


def test_equal_prompts_are_prefilled_once(engine):
    generation, rows = engine.start(
        [PROMPTS[4]] * 3, 4, seeds=[1, 2, 3], sampling=SAMPLED
    )
    while not rows[0].tokens:
        generation.advance(1)
    assert generation.prefilled == len(PROMPTS[4])
    assert [row.computed_tokens for row in rows] == [len(PROMPTS[4])] * 3


@pytest.mark.parametrize("speculate", [False, True])
@pytest.mark.parametrize("ends", [(5, 12, 40), (0, 3), (9, 9, 9, 1, 70)])
def test_a_beginning_that_all_share_is_computed_once(engine, ends, speculate):
    """Such as worked examples; the tokens are those that each prompt has alone."""
    rng = np.random.default_rng(len(ends))
    shared = rng.integers(5, V, 300).tolist()
    prompts = [shared + rng.integers(5, V, n).tolist() for n in ends]
    generation, rows = engine.start(prompts, 6, sampling=SAMPLED, speculate=speculate)
    while generation.running:
        generation.advance(4)
    for row in rows:
        [alone] = engine.generate([row.prompt], 6, (), SAMPLED, [row.seed])
        assert row.result().token_ids == alone.token_ids
    rest = sum(len(prompt) for prompt in prompts) - len(prompts) * len(shared)
    # Where a prompt is all shared, its last token is computed again.
    assert generation.prefilled <= len(shared) + rest + len(prompts)
    longest = max(rows, key=lambda row: len(row.prompt))
    assert longest.computed_tokens == len(longest.prompt)


def test_a_shared_beginning_survives_a_row_that_leaves(engine):
    shared = list(range(5, 53)) * 4
    generation, rows = engine.start([[*shared, n] for n in range(5, 9)], 3)
    generation.advance()
    rows[1].stop("cancelled")
    while generation.running:
        generation.advance()
    for row in rows[0], *rows[2:]:
        [alone] = engine.generate([row.prompt], 3)
        assert row.tokens == alone.token_ids


def test_a_row_that_leaves_does_not_take_the_cache_of_its_equals(engine):
    """Two rows of one prompt share its prefill, whose cache has one row."""
    rows = [Row(PROMPTS[5], 3, cached=CachedPrefix()) for _ in range(2)]
    generation = engine.generation()
    generation.join(rows)
    generation.advance()
    assert not rows[0].tokens
    assert generation.keep(rows[0]).cache is None
    while generation.running:
        generation.advance()
    [alone] = engine.generate([PROMPTS[5]], 3)
    assert rows[1].tokens == alone.token_ids


def test_rows_that_ended_are_dropped_once_warm():
    model = CodeGemmaCausalLM(our_backbone(num_layers=1))
    limits = [22, 2]
    cold = Engine(model).generate(PROMPTS[:2], limits)
    engine = Engine(model)
    engine.warm_up(32, (2,))
    generation, rows = engine.start(PROMPTS[:2], limits)
    widths = []
    while generation.running:
        generation.advance(4)
        widths.append(len(generation._places))
    assert widths[0] == 2
    assert widths[-1] == 1
    assert [row.result().token_ids for row in rows] == [r.token_ids for r in cold]


@pytest.mark.parametrize("may_compile", [True, False])
def test_a_row_that_goes_on_for_long_gets_a_program_of_its_own(
    engine, may_compile, monkeypatch
):
    """Unless somebody waits, as for a server."""
    monkeypatch.setattr(generations, "WORTH_A_PROGRAM", 100)
    monkeypatch.setattr(engine, "is_compiled", lambda *args: False)
    generation = engine.generation(may_compile=may_compile)
    rows = [Row(PROMPTS[1], 1 if n else 90, seed=n) for n in range(4)]
    generation.join(rows)
    widths = []
    while generation.running:
        generation.advance()
        widths.append(len(generation._places))
    assert widths[-1] == (1 if may_compile else 4)
    [alone] = engine.generate([PROMPTS[1]], 90)
    assert rows[0].tokens == alone.token_ids


@pytest.mark.parametrize("sampling", [Sampling(), SAMPLED], ids=["greedy", "sampled"])
def test_ragged_rows_are_as_one_by_one(engine, sampling):
    limits = [40, 3, 0, 17, 1, 33]
    seeds = [5, 6, 7, 8, 2**32 - 1, 5]
    together = engine.generate(PROMPTS, limits, STOPS, sampling, seeds)
    for prompt, limit, seed, row in zip(PROMPTS, limits, seeds, together, strict=True):
        [alone] = engine.generate([prompt], limit, STOPS, sampling, [seed])
        assert row.token_ids == alone.token_ids
        assert row.stop_reason == alone.stop_reason
        assert row.stop_token == alone.stop_token
        np.testing.assert_allclose(
            row.log_probabilities, alone.log_probabilities, atol=1e-4
        )


def test_a_row_lets_go_of_the_cache_that_it_begins_with():
    """A row may live for long after its request, and rows held gigabytes of caches."""
    engine = Engine(CodeGemmaCausalLM(our_backbone(num_layers=1)))
    first = Row(PROMPTS[5], 4, cached=CachedPrefix())
    generation = engine.generation()
    generation.join([first])
    generation.advance(2)
    generation.advance(2)
    held = generation.keep(first)
    assert held.token_ids[: len(first.prompt)] == tuple(first.prompt)
    second = Row([*first.prompt, 7, 8, 9], 4, cached=held)
    held = weakref.ref(held)
    generation.join([second])
    generation.advance(2)
    assert second.computed_tokens < len(second.prompt)
    assert held() is None
    assert generation.keep(second).token_ids  # and it is still worth holding
