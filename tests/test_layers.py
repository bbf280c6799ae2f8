"""Products of few tokens, gradients of the embedding, blocks that share one trace."""

import functools
import math
import re

import keras
import ml_dtypes
import numpy as np
import pytest
from keras import ops

from codegemma_keras import blocks, lora, platforms
from codegemma_keras.layers import TOKENS_APART, Linear, ReversibleEmbedding
from tests.tiny_models import INPUTS, our_backbone, relative_difference

V, D, TOKENS = 11, 6, 4096


def gradients(layer, variable, ids, upstream):
    """Numpy gradient of `sum(layer(ids) * upstream)` with respect to one variable."""
    if keras.backend.backend() == "jax":
        import jax

        def loss(value):
            with keras.StatelessScope(state_mapping=[(variable, value)]):
                return ops.sum(ops.cast(layer(ids), "float32") * upstream)

        found = jax.jit(jax.grad(loss))(variable.value)
    else:
        import tensorflow as tf

        @tf.function(jit_compile=True)
        def run():
            with tf.GradientTape() as tape:
                value = ops.sum(ops.cast(layer(ids), "float32") * upstream)
            return tf.convert_to_tensor(tape.gradient(value, variable.value))

        found = run()
    return ops.convert_to_numpy(ops.cast(found, "float32"))


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "bfloat16"])
@pytest.mark.parametrize("rows", [None, [3, 7]], ids=["table", "adapter of rows"])
def test_gradients_of_a_frequent_token_add_up(dtype, rows):
    # A sum of bfloat16 numbers, one after the other, stays at 256 times its terms.
    layer = ReversibleEmbedding(V, D, dtype=dtype)
    layer.build((None, None))
    variable = layer._embeddings
    if rows:
        layer.add_adapter("a", rows)
        layer.active_adapter = "a"
        variable = layer.adapters["a"].values
    rng = np.random.default_rng(0)
    ids = rng.integers(0, V, (2, TOKENS // 2))
    ids[:, ::2] = 3
    upstream = rng.normal(1.0, 0.1, (2, TOKENS // 2, D)).astype("float32")
    if dtype != "float32":  # what reaches the layer is rounded already
        upstream = upstream.astype(ml_dtypes.bfloat16).astype("float32")
    expected = np.zeros((V, D))
    np.add.at(expected, ids, upstream)
    found = gradients(layer, variable, ids.astype("int32"), upstream)
    if rows:
        expected = expected[rows]
    step = 1e-5 if dtype == "float32" else 2**-7
    np.testing.assert_allclose(found, expected, rtol=step)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize("batch", [1, 3, TOKENS_APART + 1])
def test_products_of_few_tokens_are_those_of_many(batch, platform):
    layer = Linear("btd,ndh->btnh", (None, 3, 8))
    layer.build((None, None, 16))
    x = np.random.default_rng(batch).standard_normal((batch, 40, 16), "float32")
    with platforms.planned_for(platform):
        whole = ops.convert_to_numpy(layer(x))
        for length in (1, 2, 3, TOKENS_APART, TOKENS_APART + 1):
            few = ops.convert_to_numpy(layer(x[:, :length]))
            np.testing.assert_allclose(few, whole[:, :length], atol=1e-5)
    kernel = ops.convert_to_numpy(layer.kernel)  # [N, D, H]
    np.testing.assert_allclose(whole, np.einsum("btd,ndh->btnh", x, kernel), atol=1e-5)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize(
    ("equation", "outputs", "inputs"),
    [
        ("btf,fd->btd", (None, 8), (1280,)),
        ("btf,fd->btd", (None, 8), (521,)),  # a prime, which has no parts
        ("btf,fd->btd", (None, 600), (300,)),  # more outputs than inputs
        ("btnh,nhd->btd", (None, 16), (4, 192)),
        ("btd,ndh->btnh", (None, 1, 8), (768,)),
    ],
)
def test_a_product_of_one_token_is_that_of_the_whole(
    equation, outputs, inputs, platform
):
    layer = Linear(equation, outputs)
    layer.build((None, None, *inputs))
    x = np.random.default_rng(0).standard_normal((1, 1, *inputs), "float32")
    with platforms.planned_for(platform):
        found = ops.convert_to_numpy(layer(x))
    kernel = ops.convert_to_numpy(layer.kernel).astype("float64")
    np.testing.assert_allclose(found, np.einsum(equation, x, kernel), atol=1e-5)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize("shape", [(1, 1), (1,), (2, 1), (1, 3)])
@pytest.mark.parametrize("rows", [None, [3, 7]], ids=["table", "adapter of rows"])
def test_logits_are_products_with_the_table(rows, shape, platform):
    layer = ReversibleEmbedding(V, D)
    layer.build((None, None))
    if rows:
        layer.add_adapter("a", rows)
        layer.active_adapter = "a"
        layer.adapters["a"].values.assign(ops.ones((2, D)))
    x = np.random.default_rng(1).standard_normal((*shape, D), "float32")
    with platforms.planned_for(platform):
        found = ops.convert_to_numpy(layer(x, reverse=True))
    table = ops.convert_to_numpy(layer.table())
    np.testing.assert_allclose(found, x @ table.T, atol=1e-5)


def test_a_loop_over_one_token_copies_no_matrix():
    """As in decoding. A copy of each matrix in every step would halve the speed."""
    up = Linear("btd,df->btf", (None, 768))
    down = Linear("btf,fd->btd", (None, 64))
    key = Linear("btd,ndh->btnh", (None, 1, 48))
    table = ReversibleEmbedding(640, 64)
    for layer, size in ((up, 64), (down, 768), (key, 64), (table, None)):
        layer.build((None, None, size))
    # What XLA knows as a constant it may order as it likes.
    variables = [up._kernel, down._kernel, key._kernel, table._embeddings]

    def step(i, x):
        x = x + down(ops.gelu(up(x))) + ops.sum(key(x))
        return i + 1, x + ops.max(table(x, reverse=True), axis=-1, keepdims=True)

    def run(x, *values):
        with keras.StatelessScope(list(zip(variables, values, strict=True))):
            return ops.while_loop(lambda i, _: i < 4, step, (0, x))[1]

    arguments = [np.ones((1, 1, 64), "float32")]
    arguments += [ops.convert_to_numpy(variable) for variable in variables]
    if keras.config.backend() == "jax":
        import jax

        program = jax.jit(run).lower(*arguments).compile().as_text()
    else:
        import tensorflow as tf

        arguments = [tf.constant(each) for each in arguments]
        compiled = tf.function(run, jit_compile=True, autograph=False)
        program = compiled.experimental_get_compiler_ir(*arguments)("optimized_hlo")
    sizes = {math.prod(variable.shape) for variable in variables}
    made = re.findall(r"f32\[([\d,]+)\]\S* (?:copy|transpose)\(", program)
    assert not sizes & {math.prod(map(int, shape.split(","))) for shape in made}


# Blocks that share one trace


def traced(function):
    """A function of tensors, as a program of the backend."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    return tf.function(function, autograph=False)


@pytest.fixture
def calls(monkeypatch):
    """The names of the blocks whose code runs."""
    names, call = [], blocks.GemmaDecoderBlock.call

    @functools.wraps(call)  # Keras reads the signature
    def watched(self, *args, **kwargs):
        names.append(self.name)
        return call(self, *args, **kwargs)

    monkeypatch.setattr(blocks.GemmaDecoderBlock, "call", watched)
    return names


def test_alike_blocks_are_traced_once_and_compute_the_same(calls):
    backbone = our_backbone(num_layers=3)
    ids, padding = INPUTS["token_ids"], INPUTS["padding_mask"]
    cache = backbone.empty_cache(len(ids), 8)

    def with_cache(ids, cache):
        return backbone.forward(ids, cache=cache, cache_index=0)[0]

    def without(ids, padding):
        return backbone.forward(ids, padding)

    programs = [(with_cache, (ids, cache), 1)]
    on_jax = keras.backend.backend() == "jax"
    programs.append((without, (ids, padding), 3 if on_jax else 1))
    for function, args, count in programs:
        args = keras.tree.map_structure(ops.convert_to_tensor, args)
        expected = ops.convert_to_numpy(function(*args))
        calls.clear()
        found = ops.convert_to_numpy(traced(function)(*args))
        assert len(calls) == count
        assert relative_difference(found, expected) < 1e-5


def test_gradients_reach_the_variables_of_each_block(calls):
    backbone = our_backbone(num_layers=3)
    lora.add(backbone, "mine", rank=2)
    for number, variable in enumerate(backbone.trainable_variables):
        draw = np.random.default_rng(number).normal(0, 0.1, variable.shape)
        variable.assign(draw)
    ids = ops.convert_to_tensor(INPUTS["token_ids"])
    variables = backbone.trainable_variables

    def loss(values):
        mapping = list(zip(variables, values, strict=True))
        with keras.StatelessScope(state_mapping=mapping):
            hidden = backbone.forward(ids, training=True)
        return ops.mean(ops.square(ops.cast(hidden, "float32")))

    values = [ops.convert_to_tensor(v.value) for v in variables]
    if keras.backend.backend() == "jax":
        import jax

        apart, found = jax.grad(loss)(values), jax.jit(jax.grad(loss))(values)
    else:
        import tensorflow as tf

        def gradients(*values):
            with tf.GradientTape() as tape:
                tape.watch(values)
                value = loss(values)
            return tape.gradient(value, values)

        apart = gradients(*values)
        calls.clear()
        found = tf.function(gradients, autograph=False)(*values)
        assert len(calls) == 1
    for one, other in zip(apart, found, strict=True):
        one, other = map(ops.convert_to_numpy, (one, other))
        assert np.abs(one).max() > 0
        assert relative_difference(other, one) < 1e-4


def test_dropout_in_training_is_drawn_in_each_block(calls):
    backbone = our_backbone(num_layers=3, dropout=0.5)
    ids = ops.convert_to_tensor(INPUTS["token_ids"])

    def hidden(training):
        return backbone.forward(ids, training=training)

    if keras.backend.backend() == "tensorflow":
        program = traced(lambda: hidden(True))
        first, second = (ops.convert_to_numpy(program()) for _ in "12")
        assert len(calls) == 3
        assert relative_difference(first, second) > 0.01
    still = [ops.convert_to_numpy(hidden(False)) for _ in "12"]
    np.testing.assert_array_equal(*still)
