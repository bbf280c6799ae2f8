"""The network beside KerasHub, a float64 reference, and itself."""

import gc
import weakref

import keras
import keras_hub
import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from keras import ops

from codegemma_keras import CodeGemmaBackbone
from codegemma_keras.ops import (
    attend_to_cache,
    attention_mask,
    rotary_angles,
    saturate,
    write_cache,
)
from tests import tiny_models
from tests.tiny_models import INPUTS, SIZES, TOKEN_IDS, our_backbone


def numpy_of(tensor):
    return ops.convert_to_numpy(ops.cast(tensor, "float32"))


def reference(weights, token_ids, queries, sizes):
    """Hidden states `[queries, D]` of the last queries of a one-layer model, float64.

    Written from the paper's description, not from the code under test.
    """
    heads, head_dim = sizes["num_query_heads"], sizes["head_dim"]
    w = {path: value.astype("float64") for path, value in weights.items()}

    def norm(x, scale):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * (1 + scale)

    def rotate(x, positions):
        angle = positions[:, None] / 10_000 ** (np.arange(0, head_dim, 2) / head_dim)
        cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
        a, b = np.split(x, 2, axis=-1)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    block = "decoder_block_0/"
    length = len(token_ids)
    embedded = w["token_embedding/embeddings"][token_ids] * sizes["hidden_dim"] ** 0.5
    normed = norm(embedded, w[block + "pre_attention_norm/scale"])
    last = np.arange(length - queries, length)
    q = np.einsum("td,ndh->tnh", normed[last], w[block + "attention/query/kernel"])
    k = np.einsum("sd,kdh->skh", normed, w[block + "attention/key/kernel"])
    v = np.einsum("sd,kdh->skh", normed, w[block + "attention/value/kernel"])
    groups = heads // k.shape[1]
    q = rotate(q, last) * head_dim**-0.5
    k = np.repeat(rotate(k, np.arange(length)), groups, axis=1)
    scores = np.einsum("tnh,snh->nts", q, k)
    scores[:, np.arange(length)[None] > last[:, None]] = -np.inf
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    scores /= scores.sum(-1, keepdims=True)
    mixed = np.einsum("nts,snh->tnh", scores, np.repeat(v, groups, axis=1))
    x = embedded[last] + np.einsum(
        "tnh,nhd->td", mixed, w[block + "attention/attention_output/kernel"]
    )
    normed = norm(x, w[block + "pre_ffw_norm/scale"])
    gate = normed @ w[block + "ffw_gating/kernel"]
    gate = gate * 0.5 * (1 + np.tanh((2 / np.pi) ** 0.5 * (gate + 0.044715 * gate**3)))
    hidden = gate * (normed @ w[block + "ffw_gating_2/kernel"])
    x = x + hidden @ w[block + "ffw_linear/kernel"]
    return norm(x, w["final_normalization/scale"])


def sharp_models(length):
    """Ours, KerasHub's and Transformers' one-layer model with the same sharp attention."""
    sizes = {**SIZES, "num_layers": 1, "num_query_heads": 2, "num_key_value_heads": 1}
    sizes.update(head_dim=32, hidden_dim=24, intermediate_dim=80)
    ours = tiny_models.randomise(CodeGemmaBackbone(**sizes))
    for variable in ours.weights:
        if variable.path.endswith(("query/kernel", "key/kernel")):
            # Attention that looks at few tokens shows wrong angles, flat one hides them.
            variable.assign(variable.value * 4)
    hub = keras_hub.models.GemmaBackbone(**sizes)
    for mine, theirs in zip(ours.weights, hub.weights, strict=True):
        theirs.assign(mine.value)
    token_ids = np.random.default_rng(0).integers(3, 53, length)
    return sizes, ours, hub, token_ids


def test_far_positions_are_nearer_to_float64_than_both_peers(tmp_path):
    length, queries = 5040, 32
    sizes, ours, hub, token_ids = sharp_models(length)
    exact = reference(tiny_models.values(ours), token_ids, queries, sizes)
    inputs = {
        "token_ids": token_ids[None],
        "padding_mask": np.ones((1, length), "int32"),
    }

    config = transformers.GemmaConfig(
        vocab_size=53,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        hidden_size=24,
        intermediate_size=40,
        head_dim=32,
    )
    model = transformers.GemmaModel(config).eval()
    layer = model.layers[0]
    value = tiny_models.values(ours)
    block = "decoder_block_0/"
    with torch.no_grad():
        for target, array in (
            (model.embed_tokens, value["token_embedding/embeddings"]),
            (model.norm, value["final_normalization/scale"]),
            (layer.input_layernorm, value[block + "pre_attention_norm/scale"]),
            (layer.post_attention_layernorm, value[block + "pre_ffw_norm/scale"]),
            (layer.mlp.gate_proj, value[block + "ffw_gating/kernel"].T),
            (layer.mlp.up_proj, value[block + "ffw_gating_2/kernel"].T),
            (layer.mlp.down_proj, value[block + "ffw_linear/kernel"].T),
        ):
            target.weight.copy_(torch.tensor(array))
        attention = layer.self_attn
        for target, name in (
            (attention.q_proj, "query"),
            (attention.k_proj, "key"),
            (attention.v_proj, "value"),
        ):
            kernel = value[f"{block}attention/{name}/kernel"]  # [N, D, H]
            target.weight.copy_(
                torch.tensor(kernel.transpose(0, 2, 1).reshape(-1, kernel.shape[1]))
            )
        kernel = value[f"{block}attention/attention_output/kernel"]  # [N, H, D]
        attention.o_proj.weight.copy_(
            torch.tensor(kernel.reshape(-1, kernel.shape[2]).T)
        )
        theirs = model(torch.tensor(token_ids[None])).last_hidden_state
    errors = {
        "ours": numpy_of(ours(inputs))[0, -queries:] - exact,
        "keras_hub": numpy_of(hub(inputs))[0, -queries:] - exact,
        "transformers": theirs.numpy()[0, -queries:] - exact,
    }
    errors = {name: np.abs(error).max() for name, error in errors.items()}
    print(errors)
    assert errors["ours"] < 2e-5 * np.abs(exact).max()
    assert errors["ours"] < errors["keras_hub"]
    assert errors["ours"] < errors["transformers"]


@pytest.mark.parametrize("head_dim", [8, 256])
def test_rotary_angles_against_float64(head_dim):
    positions = np.array([[0, 1, 63, 1000, 5000, 8191]])
    cos, sin = rotary_angles(positions, head_dim)
    angle = positions[..., None, None] / 10_000 ** (
        np.arange(0, head_dim, 2) / head_dim
    )
    np.testing.assert_allclose(numpy_of(cos), np.cos(angle), rtol=0, atol=1e-6)
    np.testing.assert_allclose(numpy_of(sin), np.sin(angle), rtol=0, atol=1e-6)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_cached_equals_uncached(heads):
    """Any way to cut a prompt into chunks, shared or ragged starts: the same states."""
    backbone = our_backbone(num_key_value_heads=heads)
    whole = numpy_of(backbone.forward(TOKEN_IDS))
    cache = backbone.empty_cache(2, 11)
    pieces = []
    for start, end, ragged in [(0, 3, False), (3, 4, True), (4, 7, True)]:
        index = np.array([start, start], "int32") if ragged else start
        states, cache = backbone.forward(
            TOKEN_IDS[:, start:end], cache=cache, cache_index=index
        )
        pieces.append(numpy_of(states))
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, atol=1e-5)


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("rows", [1, 2])
def test_the_only_token_that_is_wanted(heads, rows):
    """One state a row, and the cache as if all were computed."""
    backbone = our_backbone(num_key_value_heads=heads)
    ids, only = TOKEN_IDS[:rows], np.array([2, 5], "int32")[:rows]
    results = [
        backbone.forward(
            ids, cache=backbone.empty_cache(rows, 9), cache_index=0, only=chosen
        )
        for chosen in (None, only)
    ]
    (states, cache), (picked, same) = results
    expected = numpy_of(states)[np.arange(rows), only]
    np.testing.assert_allclose(numpy_of(picked)[:, 0], expected, atol=1e-6)
    for whole, part in zip(cache, same, strict=True):
        for a, b in zip(whole, part, strict=True):
            np.testing.assert_array_equal(numpy_of(a), numpy_of(b))


def test_rows_of_different_lengths_do_not_see_each_other():
    backbone = our_backbone()
    cache = backbone.empty_cache(2, 9)
    _, cache = backbone.forward(TOKEN_IDS, cache=cache, cache_index=0)
    lengths = np.array([7, 5], "int32")  # row 1 is padded from 5 on
    new = np.array([[17], [19]])
    states, _ = backbone.forward(new, cache=cache, cache_index=lengths)
    for row, length in enumerate(lengths):
        ids = np.concatenate([TOKEN_IDS[row, :length], new[row]])[None]
        alone = numpy_of(backbone.forward(ids))[0, -1]
        np.testing.assert_allclose(numpy_of(states)[row, 0], alone, atol=1e-5)


def test_padding_does_not_matter():
    backbone = our_backbone()
    real = TOKEN_IDS[1:, :5]
    states = numpy_of(backbone(INPUTS))[1, :5]
    np.testing.assert_allclose(states, numpy_of(backbone.forward(real))[0], atol=1e-5)


def test_left_padding_is_not_attended_to():
    backbone = our_backbone()
    real = TOKEN_IDS[:1]
    padded = np.concatenate([np.zeros((1, 3), real.dtype), real], axis=1)
    mask = (np.arange(10) >= 3).astype("int32")[None]
    states = numpy_of(backbone({"token_ids": padded, "padding_mask": mask}))
    assert np.isfinite(states).all()
    # Rotary positions are relative, so a shift changes nothing but rounding.
    alone = numpy_of(backbone.forward(real))
    np.testing.assert_allclose(states[:, 3:], alone, atol=2e-5)


def test_packed_equals_apart():
    """Two documents in one row, with positions that restart: the same states as alone."""
    backbone = our_backbone()
    row = TOKEN_IDS[:1]
    inputs = {
        "token_ids": row,
        "padding_mask": np.ones((1, 7), "int32"),
        "positions": np.array([[0, 1, 2, 0, 1, 2, 3]]),
        "segment_ids": np.array([[1, 1, 1, 2, 2, 2, 2]]),
    }
    packed = numpy_of(backbone(inputs))[0]
    for part in (slice(0, 3), slice(3, 7)):
        alone = numpy_of(backbone.forward(row[:, part]))[0]
        np.testing.assert_allclose(packed[part], alone, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "mixed_bfloat16"])
def test_other_dtypes_stay_near_float32(dtype):
    exact = tiny_models.hidden(our_backbone())
    states = our_backbone(dtype=dtype)(INPUTS)
    name = keras.backend.standardize_dtype(states.dtype)
    assert name == dtype.removeprefix("mixed_")
    near = numpy_of(states)[TOKEN_IDS != 0]
    bound = 0.01 if dtype == "float16" else 0.08
    assert np.abs(near - exact).max() < bound * np.abs(exact).max()


def test_mixed_keeps_norm_scales_in_float32():
    """Scales that pass through bfloat16 would round many outputs to a neighbour."""
    norm = CodeGemmaBackbone(**SIZES, dtype="mixed_bfloat16").layer_norm
    rng = np.random.default_rng(0)
    scale = rng.uniform(0, 3, 24).astype("float32")
    x = rng.normal(size=(8, 5, 24)).astype(ml_dtypes.bfloat16)
    norm.scale.assign(scale)

    def expected(scale):
        wide = x.astype("float64")
        rms = np.sqrt(np.mean(wide**2, axis=-1, keepdims=True) + 1e-6)
        return (wide / rms * (1 + scale.astype("float64"))).astype(ml_dtypes.bfloat16)

    rounded = np.mean(expected(scale.astype(ml_dtypes.bfloat16)) != expected(scale))
    assert rounded > 0.1
    wrong = np.mean(numpy_of(norm(x)) != expected(scale).astype("float32"))
    assert wrong < 0.01  # float32 against float64, at the border of two bfloat16s


def test_float16_saturates_and_stays_finite():
    backbone = our_backbone(dtype="float16")
    for variable in backbone.weights:
        if "ffw" in variable.path and "norm" not in variable.path:
            variable.assign(variable.value * 300)
    assert np.isfinite(numpy_of(backbone(INPUTS))).all()
    same = np.array([1e30, -1e30], "float32")
    np.testing.assert_array_equal(numpy_of(saturate(ops.convert_to_tensor(same))), same)


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("index", [[0, 3], 2])
def test_write_cache_leaves_the_rest_alone(heads, index):
    cache = np.arange(2 * heads * 5 * 3, dtype="float32").reshape(2, heads, 5, 3)
    update = -np.arange(2 * 2 * heads * 3, dtype="float32").reshape(2, 2, heads, 3)
    out = write_cache(ops.convert_to_tensor(cache), update, np.array(index))
    expected = cache.copy()
    for row, start in enumerate(np.broadcast_to(index, 2)):
        expected[row, :, start : start + 2] = update[row].transpose(1, 0, 2)
    np.testing.assert_array_equal(numpy_of(out), expected)


def test_one_call_outside_of_a_trace_compiles_no_loop(monkeypatch):
    monkeypatch.setattr(ops, "fori_loop", None)
    cache = ops.zeros((1, 1, 4, 2))
    found = numpy_of(write_cache(cache, ops.ones((1, 1, 1, 2)), 2))
    assert found[0, 0].tolist() == [[0, 0], [0, 0], [1, 1], [0, 0]]


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("length", [1, 4])  # of a step, and of a draft that is verified
def test_a_loop_of_steps_copies_no_cache(rows, heads, length):
    """It gives what the steps give one by one; on JAX its program shows no copy."""
    slots, size, count = 48, 16, 5
    rng = np.random.default_rng(0)
    first = rng.standard_normal((rows, length, 2 * heads, size)).astype("float32")
    empty = np.zeros((rows, heads, slots, size), "float32")
    key_slots = np.arange(slots, dtype="int32")[None]

    def step(i, x, keys, values):
        index = length * (i if rows == 1 else ops.broadcast_to(i, (rows,)))
        keys = write_cache(keys, x[:, :, :heads], index)
        values = write_cache(values, x[:, :, heads:], index)
        slots_of_queries = ops.reshape(index, (-1, 1)) + ops.arange(
            length, dtype="int32"
        )
        mask = attention_mask(slots_of_queries, key_slots)
        # Half of the sum: the states stay near one, and so do their rounding errors.
        x = (attend_to_cache(x, keys, values, mask) + x) / 2
        return i + 1, x, keys, values

    def run(x, keys, values):
        state = (ops.convert_to_tensor(0, "int32"), x, keys, values)
        return ops.while_loop(lambda i, *_: i < count, step, state)[1:]

    state = (ops.convert_to_tensor(0, "int32"), *map(ops.convert_to_tensor, (first,)))
    state = (*state, ops.convert_to_tensor(empty), ops.convert_to_tensor(empty))
    for _ in range(count):
        state = step(*state)
    if keras.config.backend() == "jax":
        import jax

        compiled = jax.jit(run, donate_argnums=(1, 2)).lower(first, empty, empty)
        compiled = compiled.compile()
        shape = f"f32[{rows},{heads},{slots},{size}]"
        lines = [line for line in compiled.as_text().split("\n") if shape in line]
        assert lines
        # A program may begin with one copy: numpy's memory is not its own.
        inside = [line for line in lines if " copy(" in line and "%param" not in line]
        assert not inside
        arrays = map(jax.numpy.asarray, (first, empty, empty))
        found = compiled(*arrays)
    else:
        import tensorflow as tf

        arrays = map(tf.constant, (first, empty, empty))
        found = tf.function(run, jit_compile=True)(*arrays)
    for one, other in zip(found, state[1:], strict=True):
        np.testing.assert_allclose(numpy_of(one), numpy_of(other), atol=1e-5)


def test_config_round_trip():
    backbone = our_backbone(dtype="bfloat16")
    copy = CodeGemmaBackbone.from_config(backbone.get_config())
    assert copy.get_config() == backbone.get_config()
    assert [v.path for v in copy.weights] == [v.path for v in backbone.weights]


def test_lora_trains_adapters_only():
    backbone = our_backbone()
    before = tiny_models.hidden(backbone)
    backbone.enable_lora(rank=2)
    assert all("lora" in v.path for v in backbone.trainable_variables)
    # query and value in each block, two factors each.
    assert len(backbone.trainable_variables) == 3 * 2 * 2
    np.testing.assert_allclose(tiny_models.hidden(backbone), before, atol=1e-6)


@pytest.mark.parametrize(("mode", "bound"), [("int8", 0.05), ("int4", 0.5)])
def test_quantized_stays_near(mode, bound):
    backbone = our_backbone()
    before = tiny_models.hidden(backbone)
    backbone.quantize(mode)
    after = tiny_models.hidden(backbone)
    assert 0 < np.abs(after - before).max() < bound * np.abs(before).max()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_key_value_heads": 3}, "num_key_value_heads=3 must divide"),
        ({"intermediate_dim": 81}, "intermediate_dim=81 must be even"),
        ({"head_dim": 7}, "head_dim=7 must be even"),
    ],
)
def test_sizes_that_cannot_be(change, words):
    with pytest.raises(ValueError, match=words):
        CodeGemmaBackbone(**{**SIZES, **change})


def test_quantizing_lets_the_float_matrices_go():
    backbone = our_backbone()
    layers = [
        layer for layer in backbone._flatten_layers() if hasattr(layer, "_kernel")
    ]
    floats = [weakref.ref(layer._kernel) for layer in layers]
    frozen = gc.get_freeze_count()
    backbone.quantize("int8")
    assert floats
    assert all(matrix() is None for matrix in floats)
    assert gc.get_freeze_count() <= frozen
