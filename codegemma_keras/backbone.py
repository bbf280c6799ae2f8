"""The model: CodeGemma's network (Gemma 1), in reading order.

RMSNorm, rotary attention (multi-query or multi-head), GeGLU, the block, the stack.

One forward, `CodeGemmaBackbone.forward`, serves the graph call, prefill, decode and
scoring; only the presence of a cache tells them apart. Layer, attribute and variable
names equal those of `keras_hub.models.GemmaBackbone`, so that its `.weights.h5` files
load as they are: that is why the inner layers are called Gemma here.

Left out, because Gemma 1 has none of it: biases, logit soft caps, sliding windows,
post-norms.

Shape letters: B batch, T query tokens, S key tokens, D width, F ffn width, V
vocabulary, L layers, N query heads, K key/value heads, G = N / K, H head size.
"""

import contextlib
import functools
import warnings

import keras
from keras import ops
from keras_hub.models import Backbone
from keras_hub.src.utils.python_utils import classproperty

from codegemma_keras import presets
from codegemma_keras.formats.keras_hub import save_backbone
from codegemma_keras.formats.transformers import save_transformers
from codegemma_keras.ops import (
    apply_rotary,
    attention_mask,
    pick,
    place,
    remat,
    rotary_angles,
    saturate,
    slots_of,
    traced_once,
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


def adapted(layer, x, training=None, apply=None):
    """`layer(x)`, with what its LoRA adapter adds if it has one (see lora.py).

    Args:
        apply: computes `layer(x)` in another way; default: the layer itself.
    """
    # Keras's quantized layers return float32 at any dtype, for their float32 scales.
    y = ops.cast((apply or layer)(x), layer.compute_dtype)
    adapter = getattr(layer, "adapter", None)
    return y if adapter is None else adapter(y, x, training=training)


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
        width = input_shape[-1]
        self.query_dense = self._dense("btd,ndh->btnh", self.num_query_heads, "query")
        self.key_dense = self._dense("bsd,kdh->bskh", self.num_key_value_heads, "key")
        self.value_dense = self._dense(
            "bsd,kdh->bskh", self.num_key_value_heads, "value"
        )
        # N and H as `a` and `c`: JAX contracts in the order of the alphabet, and in any
        # order but memory's it would copy the kernel at every decoded token.
        self.output_dense = keras.layers.EinsumDense(
            "btac,acd->btd",
            output_shape=(None, width),
            dtype=self.dtype_policy,
            name="attention_output",
        )
        for dense in (self.query_dense, self.key_dense, self.value_dense):
            dense.build(input_shape)
        self.output_dense.build((None, None, self.num_query_heads, self.head_dim))
        self.built = True

    def _dense(self, equation, heads, name):
        return keras.layers.EinsumDense(
            equation,
            output_shape=(None, heads, self.head_dim),
            dtype=self.dtype_policy,
            name=name,
        )

    def call(
        self,
        x,
        rotary,
        mask,
        cache=None,
        cache_index=None,
        training=None,
        only=None,
    ):
        """Attend.

        Args:
            x: `[B, T, D]`.
            rotary: `(cos, sin)`, each float32 `[B or 1, T, 1, H / 2]`.
            mask: bool `[B or 1, T, S]`, True where a query may look.
            cache: None, or `(keys, values)`, each `[B, S, K, H]`.
            cache_index: slot of the first of the T tokens, scalar or `[B]`.
            training: whether dropout of adapters applies.
            only: None, or int `[B]`: the one of the T tokens that attends; of the
                others only keys and values are wanted.

        Returns:
            `[B, T, D]` (with `only`, T is 1), and the new `(keys, values)` when a cache
            was given.
        """
        asking, asking_rotary = x, rotary
        if only is not None:
            asking, mask = pick(x, only), pick(mask, only)
            asking_rotary = [pick(part, only) for part in rotary]
        one = asking.shape[1] == 1 and self.query_dense.quantization_mode is None
        query = adapted(
            self.query_dense, asking, training, self._query_of_one if one else None
        )
        query = apply_rotary(query, *asking_rotary)
        key = apply_rotary(adapted(self.key_dense, x, training), *rotary)
        value = adapted(self.value_dense, x, training)  # [B, T, K, H]
        if cache is not None:
            key = write_cache(cache[0], key, cache_index)  # [B, S, K, H]
            value = write_cache(cache[1], value, cache_index)
            cache = (key, value)
        attend = functools.partial(self._attend, mask=mask)
        if self.remat:
            attend = keras.remat(attend)
        query = place(query, "rows", None, "model", None)
        attended = attend(query, key, value)  # [B, T, N, H]
        output = adapted(self.output_dense, attended, training)
        return output if cache is None else (output, cache)

    def _query_of_one(self, x):
        """`query_dense(x)` of one token a row.

        The kernel is `[N, D, H]`. With N as a batch it is read as it stands; else XLA
        would make a copy `[D, N, H]` at every decoded token.
        """
        kernel = ops.cast(self.query_dense.kernel, x.dtype)
        shape = (ops.shape(x)[0], 1, self.num_query_heads, x.shape[-1])
        x = ops.broadcast_to(x[:, :, None, :], shape)
        return ops.einsum("btnd,ndh->btnh", x, kernel)

    def _attend(self, query, key, value, mask):
        groups = self.num_query_heads // self.num_key_value_heads
        query = query * ops.cast(self.head_dim**-0.5, query.dtype)
        batch, length = ops.shape(query)[0], ops.shape(query)[1]
        query = ops.reshape(
            query, (batch, length, self.num_key_value_heads, groups, self.head_dim)
        )
        key, value = ops.cast(key, query.dtype), ops.cast(value, query.dtype)
        # In this order of axes nothing is transposed where K is 1.
        scores = ops.einsum("btkgh,bskh->bktgs", query, key)
        # Softmax in float32. A row that may look at nothing (padding before the first
        # token) becomes uniform: finite, and nobody reads it.
        scores = ops.cast(scores, "float32")
        scores = ops.where(mask[:, None, :, None, :], scores, -1e30)
        weights = ops.cast(ops.softmax(scores, axis=-1), query.dtype)
        attended = ops.einsum("bktgs,bskh->btkgh", weights, value)
        return ops.reshape(
            attended, (batch, length, self.num_query_heads, self.head_dim)
        )

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
        ffn_dim = intermediate_dim // 2  # presets store 2F
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
        self.gating_ffw = keras.layers.EinsumDense(
            "btd,df->btf", (None, ffn_dim), dtype=policy, name="ffw_gating"
        )
        self.gating_ffw_2 = keras.layers.EinsumDense(
            "btd,df->btf", (None, ffn_dim), dtype=policy, name="ffw_gating_2"
        )
        self.ffw_linear = keras.layers.EinsumDense(
            "btf,fd->btd", (None, hidden_dim), dtype=policy, name="ffw_linear"
        )
        self.dropout = dropout
        if dropout:
            self.attention_dropout = keras.layers.Dropout(dropout, dtype=policy)
            self.feedforward_dropout = keras.layers.Dropout(dropout, dtype=policy)

    def build(self, input_shape):
        self.pre_attention_norm.build(input_shape)
        self.attention.build(input_shape)
        self.pre_ffw_norm.build(input_shape)
        self.gating_ffw.build(input_shape)
        self.gating_ffw_2.build(input_shape)
        self.ffw_linear.build(self.gating_ffw.compute_output_shape(input_shape))
        self.built = True

    def call(
        self,
        x,
        rotary,
        mask,
        cache=None,
        cache_index=None,
        training=None,
        only=None,
    ):
        """One block; arguments and returns as `CachedGemmaAttention.call`."""
        attended = self.attention(
            self.pre_attention_norm(x),
            rotary,
            mask,
            cache,
            cache_index,
            training=training,
            only=only,
        )
        if only is not None:
            x = pick(x, only)
        if cache is not None:
            attended, cache = attended
        if self.dropout:
            attended = self.attention_dropout(attended, training=training)
        x = place(saturate(x + attended), "rows", None, None)

        normed = self.pre_ffw_norm(x)
        gate = adapted(self.gating_ffw, normed, training)
        gate = keras.activations.gelu(gate, approximate=True)
        hidden = adapted(self.gating_ffw_2, normed, training)
        hidden = place(saturate(gate * hidden), "rows", None, "model")  # [B, T, F]
        hidden = adapted(self.ffw_linear, hidden, training)
        if self.dropout:
            hidden = self.feedforward_dropout(hidden, training=training)
        x = place(saturate(x + hidden), "rows", None, None)
        return x if cache is None else (x, cache)

    def compute_output_shape(self, input_shape, *args, **kwargs):
        return input_shape


@keras.saving.register_keras_serializable(package="codegemma_keras")
class CodeGemmaBackbone(Backbone):
    """CodeGemma's network without the head: token ids in, hidden states out.

    Args:
        vocabulary_size: int. V, the number of token ids.
        num_layers: int. L.
        num_query_heads: int. N.
        num_key_value_heads: int. K; must divide N. 1 is multi-query attention (2B), N
            is multi-head attention (7B).
        hidden_dim: int. D, the width of the residual stream.
        intermediate_dim: int. 2F: both branches of the gated feed-forward, as Keras
            presets store it.
        head_dim: int. H; even.
        layer_norm_epsilon: float. Of every norm.
        rope_max_wavelength: float. Base of the rotary angles (`rope_theta` in
            Transformers): wavelengths rise from 2 pi towards 2 pi times this, in
            tokens.
        dropout: float. Rate on both residual branches, in training only.
        dtype: string or `keras.DTypePolicy`. `"float32"`, `"bfloat16"`, `"float16"` and
            the mixed policies. Norms, rotary angles and softmax are float32 always.

    Call arguments: a dictionary of int tensors `[B, T]`
        token_ids: the tokens, right-padded.
        padding_mask: nonzero where there is a token.
        positions: optional; rotary position of each token. Defaults to 0..T-1.
        segment_ids: optional; the document of each token in packed rows, 0 for
            padding. Tokens attend within their own document only.

    Returns of a call: hidden states `[B, T, D]` after the final norm, at the compute
    dtype.

    Example:
    ```python
    import numpy as np
    from codegemma_keras import CodeGemmaBackbone

    backbone = CodeGemmaBackbone(
        vocabulary_size=53,
        num_layers=3,
        num_query_heads=4,
        num_key_value_heads=2,
        hidden_dim=24,
        intermediate_dim=80,
        head_dim=8,
    )
    token_ids = np.array([[2, 5, 7, 11, 0]])
    hidden = backbone({"token_ids": token_ids, "padding_mask": token_ids != 0})
    assert hidden.shape == (1, 5, 24)
    ```
    """

    def __init__(
        self,
        vocabulary_size,
        num_layers,
        num_query_heads,
        num_key_value_heads,
        hidden_dim,
        intermediate_dim,
        head_dim,
        layer_norm_epsilon=1e-6,
        rope_max_wavelength=10_000.0,
        dropout=0.0,
        dtype=None,
        **kwargs,
    ):
        _check_sizes(num_query_heads, num_key_value_heads, intermediate_dim, head_dim)
        self.token_embedding = keras.layers.ReversibleEmbedding(
            vocabulary_size,
            hidden_dim,
            tie_weights=True,
            embeddings_initializer=keras.initializers.VarianceScaling(
                scale=1.0, mode="fan_in", distribution="untruncated_normal"
            ),
            dtype=dtype,
            name="token_embedding",
        )
        self.transformer_layers = [
            GemmaDecoderBlock(
                hidden_dim=hidden_dim,
                intermediate_dim=intermediate_dim,
                head_dim=head_dim,
                num_query_heads=num_query_heads,
                num_key_value_heads=num_key_value_heads,
                layer_norm_epsilon=layer_norm_epsilon,
                dropout=dropout,
                dtype=dtype,
                name=f"decoder_block_{i}",
            )
            for i in range(num_layers)
        ]
        self.layer_norm = RMSNormalization(
            layer_norm_epsilon, dtype=dtype, name="final_normalization"
        )
        self.vocabulary_size = vocabulary_size
        self.num_layers = num_layers
        self.num_query_heads = num_query_heads
        self.num_key_value_heads = num_key_value_heads
        self.hidden_dim = hidden_dim
        self.intermediate_dim = intermediate_dim
        self.head_dim = head_dim
        self.layer_norm_epsilon = layer_norm_epsilon
        self.rope_max_wavelength = rope_max_wavelength
        self.dropout = dropout
        self.remat = "none"

        inputs = {
            name: keras.Input(shape=(None,), dtype="int32", name=name)
            for name in ("token_ids", "padding_mask")
        }
        outputs = self.forward(**inputs)
        super().__init__(inputs=inputs, outputs=outputs, dtype=dtype, **kwargs)

    def call(self, inputs, training=None, mask=None):
        # Not the recorded graph but the code itself: so the two optional inputs need
        # not be given, and there is one forward.
        del mask  # Keras's implicit masks; ours is `padding_mask`.
        return self.forward(**inputs, training=training)

    @property
    def input_spec(self):
        # The recorded graph knows two inputs; `forward` checks the rest by its names.
        return None

    def forward(
        self,
        token_ids,
        padding_mask=None,
        positions=None,
        segment_ids=None,
        cache=None,
        cache_index=None,
        training=None,
        only=None,
        after_layer=None,
    ):
        """The one forward of training, prefill, decode and scoring.

        Args:
            token_ids: int `[B, T]`.
            padding_mask: `[B, T]`, or with a cache `[B, S]` or None; nonzero where a
                key slot holds a token.
            positions: int `[B, T]`; default: the slot of each token.
            segment_ids: int `[B, T]`, without a cache only.
            cache: None, or a list of L pairs `(keys, values)`, each `[B, S, K, H]`,
                left-aligned: row b holds its tokens in slots 0..length[b]-1.
            cache_index: int scalar or `[B]`, the slot that the first of the T tokens
                goes to. Slots above a query's own are never attended to, so what they
                hold does not matter.
            only: None, or int `[B]`: the one of the T tokens whose hidden state is
                wanted. The last block then computes no more of the others than what the
                cache holds. With a cache only.
            after_layer: None, or `(x, layer) -> x`, called with the embeddings before
                scaling (layer -1) and with the output `[B, T, D]` of each block.

        Returns:
            Hidden states `[B, T, D]` (with `only`, T is 1); with a cache,
            `(hidden states, new cache)`.
        """
        slots = key_slots = slots_of(token_ids)  # [1, T]
        if cache is not None:
            cache_index = ops.convert_to_tensor(cache_index, dtype="int32")
            slots = slots + ops.reshape(cache_index, (-1, 1))  # [B or 1, T]
            key_slots = slots_of(cache[0][0][:, :, 0, 0])  # [1, S]
        mask = attention_mask(slots, key_slots, padding_mask, segment_ids)
        rotary = rotary_angles(
            slots if positions is None else positions,
            self.head_dim,
            self.rope_max_wavelength,
        )
        x = self.embed(token_ids, after_layer)
        new_cache, cached_block = [], traced_once(self.transformer_layers)
        for i, block in enumerate(self.transformer_layers):
            if cache is None and self.remat == "block" and training:
                # Only x is an argument: TensorFlow wants a gradient for each.
                def step(x, block=block):
                    return block(x, rotary, mask, training=training)

                x = remat(step, block)(x)
            elif cache is None:
                x = block(x, rotary, mask, training=training)
            else:
                asked = only if i == self.num_layers - 1 else None
                x, pair = cached_block(
                    block, x, rotary, mask, cache[i], cache_index, None, asked
                )
                new_cache.append(pair)
            if after_layer is not None:
                x = after_layer(x, i)
        x = self.layer_norm(x)
        return x if cache is None else (x, new_cache)

    @property
    def remat(self):
        """What the backward pass computes again instead of keeping it.

        `"none"`; `"attention"`, the scores `[B, N, T, T]`, which grow with the square
        of T; `"block"`, everything but the residual stream between blocks: the least
        memory for a third more work. Set it before training:
        `lm.backbone.remat = "block"`.
        """
        return self._remat

    @remat.setter
    def remat(self, value):
        if value not in ("none", "attention", "block"):
            raise ValueError(f"remat={value!r}: give 'none', 'attention' or 'block'.")
        self._remat = value
        for block in self.transformer_layers:
            block.attention.remat = value == "attention"

    def embed(self, token_ids, after_layer=None):
        """Token ids `[B, T]` -> scaled embeddings `[B, T, D]`."""
        x = self.token_embedding(token_ids)
        if after_layer is not None:
            x = after_layer(x, -1)
        # The factor itself is rounded to the compute dtype, as in training of Gemma.
        return place(x * ops.cast(self.hidden_dim**0.5, x.dtype), "rows", None, None)

    def logits(self, hidden_states):
        """Hidden states `[..., D]` -> logits `[..., V]` over the tied embedding."""
        return self.token_embedding(hidden_states, reverse=True)

    def empty_cache(self, batch_size, length):
        """A zeroed cache of `length` slots: L pairs of `[B, S, K, H]`."""
        shape = (batch_size, length, self.num_key_value_heads, self.head_dim)
        dtype = self.compute_dtype
        return [
            (ops.zeros(shape, dtype), ops.zeros(shape, dtype))
            for _ in range(self.num_layers)
        ]

    def quantize(self, *args, **kwargs):
        """As `keras.Model.quantize`, for example `quantize("int8")`."""
        with quiet_quantization():
            super().quantize(*args, **kwargs)

    def get_config(self):
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "num_layers": self.num_layers,
            "num_query_heads": self.num_query_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "hidden_dim": self.hidden_dim,
            "intermediate_dim": self.intermediate_dim,
            "head_dim": self.head_dim,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "rope_max_wavelength": self.rope_max_wavelength,
            "dropout": self.dropout,
        }

    @classproperty
    def presets(cls):
        """Presets that `from_preset` knows by name, as in KerasHub."""
        return presets.listing()

    @classmethod
    def from_preset(cls, preset, load_weights=True, dtype=None, **kwargs):
        """Build the network of a preset and load its weights.

        Args:
            preset: see `codegemma_keras.presets`.
            load_weights: bool. False gives random weights.
            dtype: dtype or policy of the variables; default Keras's own, whatever the
                files are stored at; `"auto"`: what they are stored at.

        Raises:
            ValueError, OSError: one clear error that says what to do.
        """
        opened = presets.Preset(preset)
        return opened.backbone(cls, load_weights, dtype, **kwargs)

    def save_to_preset(self, preset_dir, max_shard_size=10):
        """Save as a KerasHub preset folder (shards of `max_shard_size` GB)."""
        save_backbone(self, preset_dir, max_shard_size)

    def export_to_transformers(self, path):
        """Write `config.json` and safetensors that Transformers reads, LoRA merged."""
        save_transformers(self, None, path)


@contextlib.contextmanager
def quiet_quantization():
    """Without Keras's warning for each layer that has nothing to quantise."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have a `quantize` method")
        yield


def _check_sizes(num_query_heads, num_key_value_heads, intermediate_dim, head_dim):
    if num_query_heads % num_key_value_heads:
        raise ValueError(
            f"num_key_value_heads={num_key_value_heads} must divide "
            f"num_query_heads={num_query_heads}: each key/value head serves an equal "
            "group of query heads."
        )
    if intermediate_dim % 2:
        raise ValueError(
            f"intermediate_dim={intermediate_dim} must be even: it counts both branches "
            "of the gated feed-forward (2F)."
        )
    if head_dim % 2:
        raise ValueError(
            f"head_dim={head_dim} must be even: rotary positions turn the two halves "
            "of a head."
        )
