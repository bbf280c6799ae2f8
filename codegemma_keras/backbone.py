"""The model: CodeGemma's network (Gemma 1), from token ids to hidden states and logits.

One forward, `CodeGemmaBackbone.forward`, serves the graph call, prefill, decode and
scoring; only the presence of a cache tells them apart. It embeds, makes the mask and the
rotary angles, and calls the blocks of blocks.py, where the mathematics is.

Shape letters: B batch, T query tokens, S key tokens, D width, F ffn width, V
vocabulary, L layers, N query heads, K key/value heads, H head size.
"""

import contextlib
import gc
import warnings

import keras
from keras import ops
from keras_hub.models import Backbone
from keras_hub.src.utils.python_utils import classproperty

from codegemma_keras import adapters as adapter_state
from codegemma_keras import export, presets
from codegemma_keras.attention import mask_of
from codegemma_keras.blocks import GemmaDecoderBlock, RMSNormalization
from codegemma_keras.formats.keras_hub import save_backbone
from codegemma_keras.layers import ReversibleEmbedding
from codegemma_keras.ops import place, rotary_angles, slots_of, variable_axes
from codegemma_keras.tracing import draws, remat, traced_apart, traced_once


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
        float_activations: bool. Of a network in int8: multiply float activations by
            what the integers stand for, as `lora.quantize_base` does.
        adapters: dict or None, as `get_config` gives it: the adapters of `lora`, whose
            values are to be loaded.
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
        float_activations=False,
        adapters=None,
        dtype=None,
        **kwargs,
    ):
        _check_sizes(num_query_heads, num_key_value_heads, intermediate_dim, head_dim)
        self.token_embedding = ReversibleEmbedding(
            vocabulary_size,
            hidden_dim,
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
        self.version = 0

        inputs = {
            name: keras.Input(shape=(None,), dtype="int32", name=name)
            for name in ("token_ids", "padding_mask")
        }
        outputs = self.forward(**inputs)
        super().__init__(inputs=inputs, outputs=outputs, dtype=dtype, **kwargs)

        self.float_activations = False
        if float_activations:
            adapter_state.keep_activations_float(self)
        self.transformers_name = None  # of the same model there, where it is known
        self.adapters = {}  # name -> adapters.Adapter
        self.active_adapter = None
        if adapters:
            adapter_state.restore(self, adapters)

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
            cache: None, or a list of L pairs `(keys, values)`, each `[B, K, S, H]`,
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
            key_slots = slots_of(cache[0][0][:, 0, :, 0])  # [1, S]
        cached = cache is not None
        mask = mask_of(slots, key_slots, padding_mask, segment_ids, cached)
        rotary = rotary_angles(
            slots if positions is None else positions,
            self.head_dim,
            self.rope_max_wavelength,
        )
        x = self.embed(token_ids, after_layer)
        new_cache, cached_block = [], traced_once(self.transformer_layers)
        plain_block = cached_block
        # On JAX tracing is quick, and `plan.liveness` reads the trace of a whole step.
        if keras.config.backend() == "jax" or (
            training and draws(self.transformer_layers)
        ):
            plain_block = traced_apart
        for i, block in enumerate(self.transformer_layers):
            if cache is not None:
                asked = only if i == self.num_layers - 1 else None
                x, pair = cached_block(
                    block, x, rotary, mask, cache[i], cache_index, asked
                )
                new_cache.append(pair)
            elif self.remat == "block" and training:
                # Only x is an argument: TensorFlow wants a gradient for each.
                def step(x, block=block):
                    return block(x, rotary, mask, training=training)

                x = remat(step, block)(x)
            else:
                x = plain_block(block, x, rotary, mask, training=training)
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
        # Where the table is split, each device looks up its columns, of all rows.
        x = place(self.token_embedding(token_ids), None, None, "fsdp")
        if after_layer is not None:
            x = after_layer(x, -1)
        # The factor itself is rounded to the compute dtype, as in training of Gemma.
        return place(x * ops.cast(self.hidden_dim**0.5, x.dtype), "rows", None, None)

    def logits(self, hidden_states):
        """Hidden states `[..., D]` -> logits `[..., V]` over the tied embedding."""
        return self.token_embedding(hidden_states, reverse=True)

    def empty_cache(self, batch_size, length):
        """A zeroed cache of `length` slots: L pairs of `[B, K, S, H]`."""
        shape = (batch_size, self.num_key_value_heads, length, self.head_dim)
        dtype = self.compute_dtype
        return [
            (ops.zeros(shape, dtype), ops.zeros(shape, dtype))
            for _ in range(self.num_layers)
        ]

    def changed(self):
        """Note that adapters, quantization or matrices were changed in place.

        `version` counts the changes. A program compiled from an older version computes
        something else, and keys and values of one do not belong to this network.
        """
        self.version += 1

    def quantize(self, *args, **kwargs):
        """As `keras.Model.quantize`, for example `quantize("int8")`."""
        with quantizing():
            super().quantize(*args, **kwargs)
        self.changed()

    def without_adapters(self):
        """The same network over the same values, as files of whole models hold it.

        Merged adapters are in the matrices.

        Raises:
            ValueError: an adapter is active and would be left out.
        """
        return adapter_state.without_adapters(self)

    def enable_lora(self, *args, **kwargs):
        """As KerasHub's; `codegemma_keras.lora` does more and is read by PEFT."""
        if self.adapters:
            raise ValueError(
                f"The model has the adapters {list(self.adapters)} of lora.add; Keras's "
                "own cannot stand beside them. Remove one kind: lora.remove(lm, name)."
            )
        super().enable_lora(*args, **kwargs)
        self.changed()

    def get_config(self):
        config = {
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
        # Only where they say something: KerasHub has no such arguments.
        if self.float_activations:
            config["float_activations"] = True
        if self.adapters:
            config["adapters"] = adapter_state.config_of(self)
        return config

    @classproperty
    def presets(cls):
        """Presets that `from_preset` knows by name, as in KerasHub."""
        return presets.listing()

    @staticmethod
    def get_layout_map(
        device_mesh,
        model_parallel_dim_name="model",
        data_parallel_dim_name="batch",
        num_key_value_heads=1,
    ):
        """As `keras_hub.models.GemmaBackbone.get_layout_map`; `sharding.use` does more.

        Args:
            device_mesh: a `keras.distribution.DeviceMesh` with both axes.
            model_parallel_dim_name, data_parallel_dim_name: names of its axes.
            num_key_value_heads: K of the network. Where the model axis does not divide
                it, as the 1 of the 2B, keys and values are stored split along D.

        Returns:
            A `keras.distribution.LayoutMap` of every matrix, adapters included.

        Raises:
            ValueError: the mesh has no such axis.
        """
        sizes = dict(zip(device_mesh.axis_names, device_mesh.shape, strict=True))
        for name in (model_parallel_dim_name, data_parallel_dim_name):
            if name not in sizes:
                raise ValueError(f"The mesh has the axes {list(sizes)}, not {name!r}.")
        layout_map = keras.distribution.LayoutMap(device_mesh)
        split_heads = num_key_value_heads % sizes[model_parallel_dim_name] == 0
        axes = variable_axes(
            model_parallel_dim_name, data_parallel_dim_name, split_heads
        )
        for path, axis in axes.items():
            layout_map[path] = axis
        return layout_map

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
        export.transformers.update(export.of_backbone(self), path)


@contextlib.contextmanager
def quantizing():
    """Scope of a `quantize`: quick, and without a warning for each other layer.

    Keras searches for garbage after each layer, so that its float matrix is freed. The
    time grows with the number of objects in the process: it was 0.7 s a layer with
    TensorFlow and JAX loaded. Objects that existed before are left out of the search.
    """
    gc.freeze()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*not have a `quantize` method")
            yield
    finally:
        gc.unfreeze()


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
