"""The decode engine: fast paths give what the slow path gives."""

import keras
import numpy as np
import pytest

from codegemma_keras import CodeGemmaCausalLM
from codegemma_keras.decoding import Engine, Sampling, buckets
from codegemma_keras.decoding.programs import compile_program
from tests.tiny_models import our_backbone

V = 53
STOPS = (3, 4)
SAMPLED = Sampling(temperature=0.8, top_k=20, top_p=0.95, min_p=0.01)
rng = np.random.default_rng(11)
PROMPTS = [rng.integers(5, V, n).tolist() for n in (1, 8, 9, 33, 61, 130)]


@pytest.fixture(scope="module")
def model():
    return CodeGemmaCausalLM(our_backbone())


@pytest.fixture(scope="module")
def engine(model):
    return model.engine


@pytest.fixture(scope="module")
def uncached(model):
    """`row of ids -> logits [V]` of the next token: the whole row, no cache."""
    forward = compile_program(
        model, lambda ids: model.backbone.logits(model.backbone.forward(ids))
    )

    def logits(row):
        ids = np.zeros((1, 192), "int32")
        ids[0, : len(row)] = row
        return keras.ops.convert_to_numpy(forward(ids))[0, len(row) - 1]

    return logits


def slow_greedy(uncached, prompt, count, stops=()):
    row = list(prompt)
    for _ in range(count):
        row.append(int(uncached(row).argmax()))
        if row[-1] in stops:
            return row[len(prompt) : -1]
    return row[len(prompt) :]


@pytest.mark.parametrize("prompt", PROMPTS, ids=len)
def test_greedy_is_the_argmax_of_the_uncached_network(engine, uncached, prompt):
    [result] = engine.generate([prompt], 40)
    assert result.token_ids == slow_greedy(uncached, prompt, 40)
    assert result.stop_reason == "max_new_tokens"


def test_log_probabilities_are_those_of_the_uncached_network(engine, uncached):
    prompt = PROMPTS[3]
    [result] = engine.generate([prompt], 5, sampling=SAMPLED)
    row = list(prompt)
    for token, got in zip(result.token_ids, result.log_probabilities, strict=True):
        logits = uncached(row).astype("float64")
        want = logits[token] - np.log(np.exp(logits).sum())
        assert got == pytest.approx(want, abs=1e-4)
        row.append(token)


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


def test_a_stop_token_ends_its_row_and_is_left_out(engine):
    [free] = engine.generate([PROMPTS[1]], 20)
    stop = free.token_ids[7]
    [result] = engine.generate([PROMPTS[1]], 20, [stop])
    assert result.token_ids == free.token_ids[: free.token_ids.index(stop)]
    assert (result.stop_reason, result.stop_token) == ("stop_token", stop)


def test_seeds_differ_and_repeat(engine):
    def generate(seed):
        [result] = engine.generate([PROMPTS[2]], 24, (), Sampling(1.0), [seed])
        return result.token_ids

    assert generate(1) == generate(1)
    assert len({tuple(generate(seed)) for seed in range(8)}) == 8


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


def test_sampling_keeps_only_what_it_says(engine, uncached):
    order = np.argsort(-uncached(PROMPTS[1]))
    results = engine.generate([PROMPTS[1]] * 64, 1, sampling=Sampling(2.0, top_k=3))
    assert {r.token_ids[0] for r in results} == set(order[:3].tolist())


@pytest.mark.parametrize("sampling", [Sampling(), SAMPLED], ids=["greedy", "sampled"])
def test_speculation_changes_no_token(engine, sampling):
    rows = [p + p[: len(p) // 2] for p in PROMPTS]
    limits = [40, 3, 0, 17, 1, 70]
    plain = engine.generate(rows, limits, STOPS, sampling)
    guessed = engine.generate(rows, limits, STOPS, sampling, speculate=True)
    for a, b in zip(plain, guessed, strict=True):
        assert (a.token_ids, a.stop_token) == (b.token_ids, b.stop_token)
        np.testing.assert_allclose(a.log_probabilities, b.log_probabilities, atol=1e-4)


def test_speculation_saves_forwards_where_text_repeats(engine):
    # Random weights fall into a loop when greedy, and a loop can be looked up.
    run = engine.start([PROMPTS[3]], 96, speculate=True)
    while run.running:
        run.advance(32)
    assert run.forwards < 95 / 2


def test_lookup_takes_the_longest_and_latest_agreement():
    from codegemma_keras.decoding.drafts import lookup_draft

    #           0  1  2  3  4  5  6  7  8
    history = [[1, 2, 9, 5, 2, 7, 1, 2, 0], [4, 6, 4, 6, 0, 0, 0, 0, 0]]
    positions = np.array([7, 3], "int32")
    draft = lookup_draft(keras.ops.array(history, "int32"), positions, 4)
    # Row 0 ends in "1 2": the one at 0, 1 agrees twice; "2" at 4 only once.
    # Row 1 has a period of two.
    np.testing.assert_array_equal(draft, [[9, 5, 2, 7], [4, 6, 4, 6]])


def test_equal_prompts_are_prefilled_once(engine):
    run = engine.start([PROMPTS[4]] * 3, 4, seeds=[1, 2, 3], sampling=SAMPLED)
    while not run.tokens[0]:
        run.advance(1)
    assert run.prefilled == len(PROMPTS[4])


def test_after_warm_up_nothing_compiles():
    model = CodeGemmaCausalLM(our_backbone(num_layers=1))
    engine = Engine(model)
    assert engine.warm_up(24, (2,), speculate=True) > 0
    compiled = engine.compilations
    assert engine.warm_up(24, (1, 2), speculate=True) == 0
    with counted_compilations() as count:
        for length in range(1, 15):
            prompt = rng.integers(5, V, length).tolist()
            engine.generate([prompt], 10, STOPS)
            if length % 3 == 0:
                engine.generate([prompt, [8, 9]], [2, 9], STOPS)
                engine.generate([prompt], 10, STOPS, speculate=True)
                engine.generate([prompt] * 2, 10, STOPS, seeds=[3, 4])
    assert engine.compilations == compiled
    assert count() == 0


class counted_compilations:  # noqa: N801
    """Counts what JAX compiles; elsewhere 0, and the engine's own count must do."""

    def __enter__(self):
        self.events = []
        if keras.config.backend() == "jax":
            import jax

            jax.monitoring.register_event_duration_secs_listener(self._listen)
        return lambda: len(self.events)

    def _listen(self, event, duration, **kwargs):
        if event.endswith("backend_compile_duration"):
            self.events.append(event)

    def __exit__(self, *exception):
        self._listen = lambda *args, **kwargs: None


def test_rows_that_ended_are_dropped_once_warm():
    model = CodeGemmaCausalLM(our_backbone(num_layers=1))
    limits = [22, 2]
    cold = Engine(model).generate(PROMPTS[:2], limits)
    engine = Engine(model)
    engine.warm_up(32, (2,))
    run = engine.start(PROMPTS[:2], limits)
    widths = []
    while run.running:
        run.advance(4)
        widths.append(len(run._rows))
    assert widths[0] == 2
    assert widths[-1] == 1
    assert [r.token_ids for r in run.generations()] == [r.token_ids for r in cold]


def test_plan_covers_every_token_and_pads_less_than_half():
    for lengths in [(480, 96, 64, 32), (1,), (9,), (700, 3), (513, 512, 40, 40, 8)]:
        plan = buckets.prefill_plan(lengths)
        offsets = [offset for offset, _, _ in plan]
        assert offsets == list(np.cumsum([0] + [w for _, w, _ in plan])[:-1])
        assert plan[-1][0] + plan[-1][1] >= lengths[0]
        for offset, _, rows in plan:
            assert all(n <= offset for n in lengths[rows:])
        computed = sum(width * rows for _, width, rows in plan)
        assert computed <= 2 * sum(lengths) + 8 * len(plan)


def test_buckets_hold_and_are_few():
    sizes = {buckets.bucket(n) for n in range(1, 8193)}
    assert all(buckets.bucket(n) >= n for n in range(1, 8193))
    assert sorted(sizes)[:8] == [64, 128, 192, 256, 384, 512, 768, 1024]
    assert len(sizes) == 14


def test_errors_say_what_is_wrong_and_leave_the_engine_usable(model):
    engine = Engine(model)
    with pytest.raises(ValueError, match="Prompt 1 is empty"):
        engine.generate([[5], []], 3)
    with pytest.raises(ValueError, match="token id 53; ids go from 0 to 52"):
        engine.generate([[5, 53]], 3)
    with pytest.raises(ValueError, match="max_new_tokens=-1"):
        engine.generate([[5]], -1)
    with pytest.raises(ValueError, match="at most 16 fit"):
        engine.generate([[5]], 3, range(17))
    engine.cache_limit_bytes = 1000
    # 2 * L 3 * K 2 * H 8 * 4 bytes = 384 a token, 64 tokens a row
    with pytest.raises(ValueError, match="takes 24,576 bytes, but the limit is 1,000"):
        engine.generate([[5]], 3)
    engine.cache_limit_bytes = None
    assert engine.generate([], 3) == []
    assert len(engine.generate([[5]], 3)[0].token_ids) == 3


def test_compiled_programs_are_kept_on_disk(tmp_path):
    from codegemma_keras.decoding.programs import keep_compiled

    if keras.config.backend() != "jax":
        with pytest.raises(ValueError, match="on the JAX backend only"):
            keep_compiled(tmp_path)
        return
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    names = [
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
        "jax_persistent_cache_min_entry_size_bytes",
    ]
    before = {name: getattr(jax.config, name) for name in names}
    folder = tmp_path / "compiled"
    try:
        keep_compiled(folder)
        model = CodeGemmaCausalLM(our_backbone(num_layers=1))
        model.engine.generate([[5, 6]], 2)
        kept = {path.name for path in folder.iterdir()}
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
    assert len([name for name in kept if name.startswith("jit_")]) >= 4


def test_scores_are_those_of_the_uncached_network(engine, uncached):
    from codegemma_keras.decoding.scoring import score

    scores = score(engine, PROMPTS, batch_size=4)
    for prompt, got in zip(PROMPTS, scores, strict=True):
        assert got.shape == (len(prompt),)
        assert got[0] == 0
        for i in {len(prompt) // 2, len(prompt) - 1} - {0}:
            logits = uncached(prompt[:i]).astype("float64")
            want = logits[prompt[i]] - np.log(np.exp(logits).sum())
            assert got[i] == pytest.approx(want, abs=1e-4)
