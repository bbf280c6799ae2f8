"""Arithmetic of a training step by formula, and what share of the chip's it is (MFU).

What the mathematics needs is counted, not what a program happens to do: recomputation
(`remat`) and padding masks add nothing, a packed row counts attention over its whole
length. A product `[m, k] @ [k, n]` is `2 m k n` operations.

Shape letters: D width, F ffn width, V vocabulary, L layers, N and K query and key/value
heads, H head size, T tokens of a row.
"""

import dataclasses

import keras

# Dense bfloat16 (T4: float16) operations a second of one chip, without sparsity, from
# the makers' data sheets: the peak that MFU is stated against. The first whose name is
# part of the device's counts.
PEAKS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "T4": 65e12,
    "TPU v6": 918e12,  # v6e
    "TPU v5 lite": 197e12,  # v5e
    "TPU v5": 459e12,  # v5p
    "TPU v4": 275e12,
    "TPU v3": 61.5e12,  # JAX shows each of the two cores of a chip as a device
}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What the formula needs to know of a network."""

    hidden_dim: int
    intermediate_dim: int  # 2F
    num_layers: int
    num_query_heads: int
    num_key_value_heads: int
    head_dim: int
    vocabulary_size: int

    @classmethod
    def of(cls, config):
        """From `CodeGemmaBackbone.get_config()`."""
        return cls(**{f.name: config[f.name] for f in dataclasses.fields(cls)})

    def matrix_weights(self) -> int:
        """Weights that each token is multiplied with: L blocks, and the head `V D`."""
        heads = 2 * self.num_query_heads + 2 * self.num_key_value_heads
        attention = heads * self.head_dim * self.hidden_dim
        ffn = 3 * self.hidden_dim * (self.intermediate_dim // 2)
        return (
            self.num_layers * (attention + ffn) + self.vocabulary_size * self.hidden_dim
        )


def flops_per_token(sizes, length, adapter_weights=0) -> float:
    """Operations of a training step for each token of a row.

    Forward 2 a weight; backward 2 for the gradient of the input and 2 for that of the
    weight, which frozen ones under an adapter do not need. Attention: scores and mix are
    `2 T N H` each a token, half of it masked away, and backward twice forward.

    Args:
        sizes: `Sizes`.
        length: int. T.
        adapter_weights: int, all weights of the adapters that train alone; 0: all
            weights train.
    """
    matrices = sizes.matrix_weights()
    attention = sizes.num_layers * 2 * length * sizes.num_query_heads * sizes.head_dim
    if adapter_weights:
        return 4 * matrices + 6 * adapter_weights + 3 * attention
    return 6 * matrices + 3 * attention


def peak_flops(device=None) -> float | None:
    """Peak operations a second of one device; None where no data sheet states it.

    Args:
        device: str, a device's name; default: that of the first one here.
    """
    name = device_name() if device is None else device
    return next((peak for key, peak in PEAKS.items() if key in name), None)


def device_name() -> str:
    """What the backend calls the first device."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.devices()[0].device_kind
    import tensorflow as tf

    found = tf.config.list_physical_devices("GPU")
    if not found:
        return "cpu"
    return tf.config.experimental.get_device_details(found[0]).get("device_name", "gpu")
