"""Choosing the next token: temperature, top-k, top-p, min-p, reproducible per request.

The noise is not drawn from a stateful generator but computed from (seed of the request,
step, token id) by an integer hash, and the token is the argmax of log-probability plus
Gumbel noise. So a request gives the same tokens alone or in any batch, on JAX and on
TensorFlow, and no random state travels through the compiled loop.

Left out: samplers that look at more than one next token (beam search, contrastive
search); `CodeGemmaCausalLM.generate` hands those to KerasHub.
"""

import dataclasses
import math

import keras_hub
from keras import ops


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How to choose a token. The default is greedy.

    Attributes:
        temperature: 0 is greedy; 1 samples from the model's own distribution.
        top_k: keep the k most probable tokens; 0 keeps all.
        top_p: keep the smallest set of tokens whose probabilities reach p; 1 keeps all.
        min_p: drop tokens less probable than min_p times the most probable; 0 drops
            none.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self):
        if self.temperature < 0:
            raise ValueError(
                f"temperature={self.temperature} must be >= 0 (0 is greedy)."
            )
        if self.top_k < 0:
            raise ValueError(f"top_k={self.top_k} must be >= 0 (0 keeps every token).")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p} must be in (0, 1].")
        if not 0 <= self.min_p < 1:
            raise ValueError(f"min_p={self.min_p} must be in [0, 1).")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @classmethod
    def from_keras_hub(cls, sampler) -> "Sampling | None":
        """The same settings as a KerasHub sampler; None if it is of another kind."""
        samplers = keras_hub.samplers
        # Exact types: a user's subclass may do anything.
        if type(sampler) is samplers.GreedySampler:
            return cls()
        if type(sampler) is samplers.RandomSampler:
            return cls(temperature=sampler.temperature)
        if type(sampler) is samplers.TopKSampler:
            return cls(temperature=sampler.temperature, top_k=sampler.k)
        if type(sampler) is samplers.TopPSampler:
            return cls(
                temperature=sampler.temperature, top_k=sampler.k or 0, top_p=sampler.p
            )
        return None


def hash_noise(seeds, steps, vocabulary_size):
    """Gumbel noise from counters.

    Args:
        seeds: uint32 `[B]`, one per request.
        steps: int `[B]`, the index of the token within its request.
        vocabulary_size: V.

    Returns:
        float32 `[B, V]`, independent standard Gumbel variables.
    """
    key = _mix(_mix(seeds) + ops.cast(steps, "uint32"))  # [B]
    token = ops.cast(ops.arange(vocabulary_size, dtype="int32"), "uint32")
    bits = _mix(_mix(key[:, None] + token[None, :]) ^ key[:, None])  # [B, V]
    # 23 bits, at the middle of their interval: never 0 or 1.
    high = ops.cast(ops.right_shift(bits, ops.cast(9, "uint32")), "float32")
    uniform = (high + 0.5) * 2.0**-23
    return -ops.log(-ops.log(uniform))


def _mix(x):
    # A bijection of 32-bit words whose output bits each depend on every input bit
    # (xor-shift and multiply rounds; constants by Wellons' search for low bias).
    def shift(value, count):
        return ops.right_shift(value, ops.cast(count, "uint32"))

    x = (x ^ shift(x, 16)) * ops.cast(0x7FEB352D, "uint32")
    x = (x ^ shift(x, 15)) * ops.cast(0x846CA68B, "uint32")
    return x ^ shift(x, 16)


def filter_logits(logits, sampling: Sampling):
    """Logits `[B, V]` with the dropped tokens at -1e30, scaled by temperature."""
    logits = ops.cast(logits, "float32") / sampling.temperature
    if sampling.min_p:
        best = ops.max(logits, axis=-1, keepdims=True)
        keep = logits >= best + math.log(sampling.min_p)
        logits = ops.where(keep, logits, -1e30)
    if sampling.top_k and sampling.top_k < logits.shape[-1]:
        kth = ops.top_k(logits, sampling.top_k)[0][:, -1:]
        logits = ops.where(logits >= kth, logits, -1e30)
    if sampling.top_p < 1:
        ordered = -ops.sort(-logits, axis=-1)
        probability = ops.softmax(ordered, axis=-1)
        before = ops.cumsum(probability, axis=-1) - probability
        # The least logit that is kept: the last one before p was reached.
        kept = ops.where(before < sampling.top_p, ordered, 1e30)
        logits = ops.where(
            logits >= ops.min(kept, axis=-1, keepdims=True), logits, -1e30
        )
    return logits


def choose(logits, sampling: Sampling, seeds, steps):
    """The next token of each row.

    Args:
        logits: `[B, V]`.
        seeds: uint32 `[B]`.
        steps: int `[B]`.

    Returns:
        int32 `[B]`.
    """
    if sampling.greedy:
        return ops.cast(ops.argmax(logits, axis=-1), "int32")
    logits = filter_logits(logits, sampling)
    noise = hash_noise(seeds, steps, logits.shape[-1])
    return ops.cast(ops.argmax(logits + noise, axis=-1), "int32")
