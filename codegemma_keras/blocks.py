"""The block of the network, in reading order: RMSNorm, attention, GeGLU.

backbone.py stacks it. How a matrix is stored and what adapters add to it is the business
of the layers in layers.py; attention itself is in attention.py, rotary angles in ops.py.
Layer, attribute and variable names equal those of `keras_hub.models.GemmaBackbone`, so
that its `.weights.h5` files load as they are: that is why the classes are called Gemma.

Left out, because Gemma 1 has none of it: biases, logit soft caps, sliding windows,
post-norms.

Shape letters: B batch, T query tokens, S key tokens, D width, F ffn width, N query
heads, K key/value heads, H head size.
"""

import keras
from keras import ops

from codegemma_keras.attention import Mask, attend
from codegemma_keras.layers import Linear
from codegemma_keras.ops import (
    apply_rotary,
    attend_to_cache,
    pick,
    place,
    saturate,
    write_cache,
)


@keras.saving.register_keras_serializable(package="codegemma_keras")
class RMSNormalization(keras.layers.Layer):
    """`x / rms(x) * (1 + scale)` over the last axis, computed in float32."""

    def __init__(self, epsilon=1e-6, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, input_shape):
        # autocast=False: under a mixed policy the scale must not pass through bfloat16.
        self.scale = self.add_weight(
            name="scale",
            shape=(input_shape[-1],),
            initializer="zeros",
            autocast=False,
        )
        self.built = True

    def call(self, x):
        x = ops.cast(x, "float32")
        mean_square = ops.mean(ops.square(x), axis=-1, keepdims=True)
        normed = x * ops.rsqrt(mean_square + self.epsilon)
        normed = normed * (1.0 + ops.cast(self.scale, "float32"))
        return ops.cast(normed, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon}


@keras.saving.register_keras_serializable(package="codegemma_keras")
class CachedGemmaAttention(keras.layers.Layer):
    """Attention with rotary positions; K = 1 is multi-query, K = N multi-head."""

    def __init__(self, num_query_heads, num_key_value_heads, head_dim, **kwargs):
        # autocast=False: Keras would round the float32 rotary angles on the way in.
        super().__init__(autocast=False, **kwargs)
        self.num_query_heads = num_query_heads
        self.num_key_value_heads = num_key_value_heads
        self.head_dim = head_dim
        self.remat = False  # set by `CodeGemmaBackbone.remat`

    def build(self, input_shape):
        def linear(equation, output_shape, name):
            return Linear(equation, output_shape, dtype=self.dtype_policy, name=name)

        queries = (None, self.num_query_heads, self.head_dim)
        keys = (None, self.num_key_value_heads, self.head_dim)
        self.query_dense = linear("btd,ndh->btnh", queries, "query")
        self.key_dense = linear("bsd,kdh->bskh", keys, "key")
        self.value_dense = linear("bsd,kdh->bskh", keys, "value")
        self.output_dense = linear(
            "btnh,nhd->btd", (None, input_shape[-1]), "attention_output"
        )
        for dense in (self.query_dense, self.key_dense, self.value_dense):
            dense.build(input_shape)
        self.output_dense.build((None, *queries))
        self.built = True

    def call(self, x, rotary, mask, cache=None, cache_index=None, only=None):
        """Attend.

        Args:
            x: `[B, T, D]`.
            rotary: `(cos, sin)`, each float32 `[B or 1, T, 1, H / 2]`.
            mask: `attention.Mask`, where a query may look; without `only` also a bool
                `[B or 1, T, S]`.
            cache: None, or `(keys, values)`, each `[B, K, S, H]`.
            cache_index: slot of the first of the T tokens, scalar or `[B]`.
            only: None, or int `[B]`: the one of the T tokens that attends; of the
                others only keys and values are wanted.

        Returns:
            `[B, T, D]` (with `only`, T is 1), and the new `(keys, values)` when a cache
            was given.
        """
        key = apply_rotary(self.key_dense(x), *rotary)  # [B, T, K, H]
        value = self.value_dense(x)
        if only is not None:
            x, mask = pick(x, only), Mask(pick(mask.allowed, only))
            rotary = [pick(part, only) for part in rotary]
        query = apply_rotary(self.query_dense(x), *rotary)  # [B, T, N, H]
        query = place(query, "rows", None, "model", None)
        if cache is not None:
            key = write_cache(cache[0], key, cache_index)  # [B, K, S, H]
            value = write_cache(cache[1], value, cache_index)
            cache = (key, value)
            attended = attend_to_cache(query, key, value, mask.allowed)
        else:
            attended = attend(query, key, value, mask, self.remat)  # [B, T, N, H]
        output = self.output_dense(attended)
        return output if cache is None else (output, cache)

    def compute_output_shape(self, input_shape, *args, **kwargs):
        return input_shape


@keras.saving.register_keras_serializable(package="codegemma_keras")
class GemmaDecoderBlock(keras.layers.Layer):
    """Pre-norm attention and GeGLU feed-forward, each added to the residual."""

    def __init__(
        self,
        hidden_dim,
        intermediate_dim,
        head_dim,
        num_query_heads,
        num_key_value_heads,
        layer_norm_epsilon=1e-6,
        dropout=0.0,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)  # as in the attention layer
        policy = self.dtype_policy
        widened = (None, intermediate_dim // 2)  # presets store 2F
        self.pre_attention_norm = RMSNormalization(
            layer_norm_epsilon, dtype=policy, name="pre_attention_norm"
        )
        self.attention = CachedGemmaAttention(
            num_query_heads,
            num_key_value_heads,
            head_dim,
            dtype=policy,
            name="attention",
        )
        self.pre_ffw_norm = RMSNormalization(
            layer_norm_epsilon, dtype=policy, name="pre_ffw_norm"
        )
        self.gating_ffw = Linear(
            "btd,df->btf", widened, dtype=policy, name="ffw_gating"
        )
        self.gating_ffw_2 = Linear(
            "btd,df->btf", widened, dtype=policy, name="ffw_gating_2"
        )
        self.ffw_linear = Linear(
            "btf,fd->btd", (None, hidden_dim), dtype=policy, name="ffw_linear"
        )
        if dropout:
            self.attention_dropout = keras.layers.Dropout(dropout, dtype=policy)
            self.feedforward_dropout = keras.layers.Dropout(dropout, dtype=policy)
        else:
            self.attention_dropout = self.feedforward_dropout = _unchanged

    def build(self, input_shape):
        self.pre_attention_norm.build(input_shape)
        self.attention.build(input_shape)
        self.pre_ffw_norm.build(input_shape)
        self.gating_ffw.build(input_shape)
        self.gating_ffw_2.build(input_shape)
        self.ffw_linear.build(self.gating_ffw.compute_output_shape(input_shape))
        self.built = True

    def call(
        self, x, rotary, mask, cache=None, cache_index=None, only=None, training=None
    ):
        """One block; arguments and returns as `CachedGemmaAttention.call`.

        `training`: whether dropout applies, also that of adapters.
        """
        normed = self.pre_attention_norm(x)
        attended = self.attention(normed, rotary, mask, cache, cache_index, only=only)
        if cache is not None:
            attended, cache = attended
        if only is not None:
            x = pick(x, only)
        x = saturate(x + self.attention_dropout(attended))
        x = place(x, "rows", None, None)

        normed = self.pre_ffw_norm(x)
        gate = keras.activations.gelu(self.gating_ffw(normed), approximate=True)
        hidden = saturate(gate * self.gating_ffw_2(normed))
        hidden = place(hidden, "rows", None, "model")  # [B, T, F]
        x = saturate(x + self.feedforward_dropout(self.ffw_linear(hidden)))
        x = place(x, "rows", None, None)
        return x if cache is None else (x, cache)

    def compute_output_shape(self, input_shape, *args, **kwargs):
        return input_shape


def _unchanged(x):
    return x
