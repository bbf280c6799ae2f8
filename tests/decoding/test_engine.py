"""The decode engine: fast paths give what the slow path gives."""

import keras
import numpy as np
import pytest

from codegemma_keras import CodeGemmaCausalLM, ops
from codegemma_keras.decoding import Engine, Row, Sampling
from codegemma_keras.decoding.cache import CachedPrefix
from tests.tiny_models import our_backbone

V = 53
STOPS = (3, 4)
SAMPLED = Sampling(temperature=0.8, top_k=20, top_p=0.95, min_p=0.01)
rng = np.random.default_rng(11)
PROMPTS = [rng.integers(5, V, n).tolist() for n in (1, 8, 9, 33, 61, 130)]


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


def test_requests_are_served_between_the_programs_of_a_warm_up():
    engine = Engine(CodeGemmaCausalLM(our_backbone(num_layers=1)))
    [expected] = engine.generate([[1, 5, 6]], 4)
    found = []

    def pause():  # would wait for ever if the warm-up had the turn
        if len(found) < 3:
            found.append(engine.generate([[1, 5, 6]], 4)[0].token_ids)

    engine.warm_up(24, pause=pause)
    assert found == [expected.token_ids] * 3


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


def test_after_warm_up_rows_join_without_compiling():
    """As in a server: one prompt after the other, and what a row leaves is kept."""
    engine = Engine(CodeGemmaCausalLM(our_backbone(num_layers=1)))
    engine.warm_up(100, (4,), joining=True, prompts=1)
    compiled = engine.compilations
    with counted_compilations() as count:
        generation, lengths = engine.generation(may_compile=False), (3, 70, 9, 20, 5)
        for number, length in enumerate(lengths):
            prompt = rng.integers(5, V, length).tolist()
            row = Row(prompt, 25, seed=number, cached=CachedPrefix())
            generation.join([row])
            while not row.tokens:
                generation.advance(1)
            if number == 2:
                assert generation.keep(row).cache.rows == 1
        while generation.running:
            generation.advance()
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
    # It is refused before anything is computed if only its growth would be too much.
    engine.cache_limit_bytes = 64 * 384
    assert len(engine.generate([[5]], 64)[0].token_ids) == 64
    with pytest.raises(ValueError, match="1 rows of 128 tokens takes 49,152 bytes"):
        engine.generate([[5]], 65)
    engine.cache_limit_bytes = None
    assert engine.generate([], 3) == []
    assert len(engine.generate([[5]], 3)[0].token_ids) == 3


def test_scores_are_those_of_the_uncached_network(model, uncached, monkeypatch):
    monkeypatch.setattr(ops, "CHUNK_BYTES", 4 * V * 24)  # several chunks a row
    scores = Engine(model).log_probabilities(PROMPTS, batch_size=4)
    for prompt, got in zip(PROMPTS, scores, strict=True):
        assert got.shape == (len(prompt),)
        assert got[0] == 0
        for i in {len(prompt) // 2, len(prompt) - 1} - {0}:
            logits = uncached(prompt[:i]).astype("float64")
            want = logits[prompt[i]] - np.log(np.exp(logits).sum())
            assert got[i] == pytest.approx(want, abs=1e-4)
