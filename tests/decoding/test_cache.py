"""Sizes of caches and plans of prefill; whether a cache is still true."""

import keras
import ml_dtypes
import numpy as np
import pytest

from codegemma_keras import CodeGemmaCausalLM, platforms
from codegemma_keras.decoding import cache
from codegemma_keras.decoding.cache import Cache, CachedPrefix
from tests.tiny_models import our_backbone, our_task


def test_plan_covers_every_token_and_pads_less_than_half():
    for lengths in [(480, 96, 64, 32), (1,), (9,), (700, 3), (513, 512, 40, 40, 8)]:
        plan = cache.prefill_plan(lengths)
        offsets = [offset for offset, _, _ in plan]
        assert offsets == list(np.cumsum([0] + [w for _, w, _ in plan])[:-1])
        assert plan[-1][0] + plan[-1][1] >= lengths[0]
        for offset, _, rows in plan:
            assert all(n <= offset for n in lengths[rows:])
        computed = sum(width * rows for _, width, rows in plan)
        assert computed <= 2 * sum(lengths) + 8 * len(plan)


def test_a_plan_of_fixed_rows_has_few_shapes():
    rng = np.random.default_rng(3)
    shapes = set()
    for _ in range(50):
        lengths = sorted(rng.integers(1, 600, 5).tolist(), reverse=True)
        plan = cache.prefill_plan(lengths, room=768, rows=8)
        end = 0
        for offset, width, rows in plan:
            assert (offset, rows) == (end, 8)
            end += width
        assert lengths[0] <= end <= 768
        shapes |= {width for _, width, _ in plan}
    assert shapes == set(cache.FEW_CHUNKS)


def test_buckets_hold_and_are_few():
    sizes = {cache.bucket(n) for n in range(1, 8193)}
    assert all(cache.bucket(n) >= n for n in range(1, 8193))
    assert sorted(sizes)[:8] == [64, 128, 192, 256, 384, 512, 768, 1024]
    assert len(sizes) == 14


@pytest.mark.parametrize("room", [64, 256, 512])
def test_a_plan_stays_within_its_room(room):
    """A full context of 512 tokens takes 512 slots."""
    for start in (0, 1, 5, 13, room - 9, room - 1):
        for length in {start + 1, min(start + 40, room), room - 3, room}:
            if length <= start:
                continue
            plan = cache.prefill_plan([length], start, room=room)
            assert plan[0][0] <= start
            assert plan[0][0] > start - 8
            end = plan[0][0]
            for offset, width, _ in plan:
                assert offset == end
                end = offset + width
            assert length <= end <= room


def test_a_full_context_takes_no_larger_cache():
    lm = CodeGemmaCausalLM(our_backbone(num_layers=1))
    sizes = []
    decode = lm.engine.decode
    lm.engine.decode = lambda *a: sizes.append(a[3].slots) or decode(*a)
    [row] = lm.engine.generate([[5] * 100], 28)
    assert len(row.token_ids) == 28
    assert max(sizes) == 128


def test_what_a_cached_prefix_is_good_for():
    held = CachedPrefix((2, 5, 6, 7), Cache([1]), None, "now")
    assert held.usable([2, 5, 6, 9, 9], None, "now") == (3, Cache([1]))
    assert held.usable([2, 5, 6], None, "now") == (2, Cache([1]))
    assert held.usable([2, 5, 6, 9], None, "later") == (0, None)
    assert CachedPrefix().usable([2], None, "now") == (0, None)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])  # sums on the host, on the device
def test_any_change_of_the_weights_is_another_version(platform):
    lm = our_task()
    engine = lm.engine
    with platforms.planned_for(platform):
        before = engine.weights_version()
        assert engine.weights_version() == before
        first = lm.backbone.weights[0]
        value = keras.ops.convert_to_numpy(first.value)
        changed = np.copy(value)
        changed[3, 5] += 1e-3  # one element
        first.assign(changed)
        assert engine.weights_version() != before
        later = engine.weights_version()
        changed[[0, 1]] = changed[[1, 0]]  # two rows change places
        first.assign(changed)
        assert engine.weights_version() != later


@pytest.mark.parametrize("dtype", ["float32", ml_dtypes.bfloat16, "int8"])
@pytest.mark.parametrize("shape", [(3,), (7, 5), (300, 1024), (9, 2**16)])
def test_sums_on_the_host_show_every_change(shape, dtype, monkeypatch):
    monkeypatch.setattr(cache, "SUMMED_WORDS", 2**15)  # several parts, each of rows

    def sums(value):
        return cache.bit_sums_on_host([value.astype(dtype)]).tolist()

    rng = np.random.default_rng(0)
    value = rng.integers(-100, 100, shape).astype("float32")
    seen = [sums(value)]
    assert sums(value) == seen[0]
    for place in {0, value.size // 2, value.size - 1}:
        changed = value.copy()
        changed.flat[place] += 1
        seen.append(sums(changed))
    if value.ndim == 2:
        for other in {1, len(value) // 2, len(value) - 1}:
            changed = value.copy()
            changed[[0, other]] = changed[[other, 0]]
            seen.append(sums(changed))
    assert len(set(map(tuple, seen))) == len(seen)


@pytest.mark.parametrize("change", ["assign", "fit", "load_weights"])
def test_a_session_computes_anew_after_the_weights_changed(change, tmp_path):
    lm = our_task()
    prefix, suffix = "def total(values):\n    return ", "\n"
    if change == "load_weights":
        lm.save_weights(tmp_path / "a.weights.h5")
        for variable in lm.backbone.weights:
            variable.assign(variable + 0.05)
    session = lm.session()
    session.complete(prefix, suffix, max_new_tokens=4)
    if change == "fit":
        lm.compile(optimizer=keras.optimizers.Adam(0.01))
        lm.fit(["x = 1\n"] * 2, batch_size=2, verbose=0)
    elif change == "load_weights":
        lm.load_weights(tmp_path / "a.weights.h5")
    else:
        variable = lm.backbone.transformer_layers[0].attention.value_dense.kernel
        variable.assign(variable * 1.5)
    warm = session.complete(prefix, suffix, max_new_tokens=4)
    cold = lm.session().complete(prefix, suffix, max_new_tokens=4)
    assert warm.computed_tokens == warm.prompt_tokens
    assert warm.token_ids == cold.token_ids
    assert warm.log_probabilities == pytest.approx(cold.log_probabilities, abs=1e-5)
    again = session.complete(prefix, suffix, max_new_tokens=4)
    assert again.computed_tokens <= 8


@pytest.mark.parametrize(
    ("source", "places"), [([0], [2]), ([1, 0], [0, 3]), ([1, 1, 1], [4, 4, 4])]
)
def test_rows_are_put_into_a_batch(source, places):
    rng = np.random.default_rng(0)
    batch, others = (
        [(rng.random((rows, 2, 5, 3), "f"), rng.random((rows, 2, 5, 3), "f"))]
        for rows in (5, 2)
    )
    put = cache.put_rows(
        keras.tree.map_structure(keras.ops.convert_to_tensor, batch),
        keras.tree.map_structure(keras.ops.convert_to_tensor, others),
        np.array(source, "int32"),
        np.array(places, "int32"),
    )
    for before, new, after in zip(batch[0], others[0], put[0], strict=True):
        expected = before.copy()
        expected[places] = new[source]
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(after), expected)


def test_a_row_that_joins_takes_the_memory_of_the_batch():
    """Copying the batch took twenty times as long: benchmarks/join_row.py."""

    def is_gone(array):  # TensorFlow gives no memory away
        return keras.config.backend() == "jax" and array.is_deleted()

    engine = our_task().engine
    _, batch = engine.empty(4, 64)
    _, one = engine.empty(1, 64)
    place = np.array([3], "int32")
    joined = engine.put_rows(batch, one, np.zeros(1, "int32"), place)
    on_jax = keras.config.backend() == "jax"
    assert all(is_gone(x) == on_jax for x in keras.tree.flatten(batch))
    assert not any(map(is_gone, keras.tree.flatten(one)))
    assert joined.rows == 4
