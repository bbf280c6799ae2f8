"""Choosing the next token: temperature, top-k, top-p, min-p, reproducible per request.

The noise is not drawn from a stateful generator but computed from (seed of the request,
step, token id) by an integer hash, and the token is the argmax of log-probability plus
Gumbel noise. So a request gives the same tokens alone or in any batch, on JAX and on
TensorFlow, and no random state travels through the compiled loop.

A caller's settings are data: each row of a batch has its own, and another temperature
needs no other program. Only the `Work` that they ask for is a constant of a program:
whether noise is needed at all, and how many of the likeliest tokens must be sorted.

Samplers that look at more than one next token (beam search, contrastive search, a
user's own) run in KerasHub's loop; `generate_step` is their door to our cache.
"""

import dataclasses
import math
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras_hub
import numpy as np
from keras import ops

DROPPED = -1e30  # the logit of a token that is not to be chosen
WHOLE_VOCABULARY = -1  # as `Work.sorted_tokens`
# Below, logits divided by the temperature would overflow float32, and no token would be the
# likeliest; above, the temperature itself would.
TEMPERATURES = 1e-6, 1e6


@dataclasses.dataclass(frozen=True)
class Sampling:
    r"""How to choose a token. The default is greedy.

    Attributes:
        temperature: 0 is greedy; 1 samples from the model's own distribution. From 1e-6
            to 1e6.
        top_k: keep the k most probable tokens; 0 keeps all.
        top_p: keep the smallest set of tokens whose probabilities reach p; 1 keeps all.
        min_p: drop tokens less probable than min_p times the most probable; 0 drops
            none.

    Raises:
        ValueError: a value outside these limits, or one that is no number.

    Examples:
        >>> drawn = Sampling(temperature=0.8, top_p=0.95)
        >>> lm.infill(
        ...     "def f(", "):\n", sampling=drawn, seed=1, max_new_tokens=4
        ... ) is not None
        True
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self):
        _require_number("temperature", self.temperature)
        low, high = TEMPERATURES
        if self.temperature != 0 and not low <= self.temperature <= high:
            raise ValueError(
                f"temperature={self.temperature} must be 0, which is greedy, or a number "
                f"from {low:g} to {high:g}."
            )
        _require_number("top_k", self.top_k)
        if self.top_k < 0 or self.top_k != int(self.top_k):
            raise ValueError(
                f"top_k={self.top_k} must be a whole number >= 0 (0 keeps every token)."
            )
        object.__setattr__(self, "top_k", int(self.top_k))
        _require_number("top_p", self.top_p)
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p} must be in (0, 1].")
        _require_number("min_p", self.min_p)
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


def _require_number(name, value):
    number = isinstance(value, (int, float, np.integer, np.floating))
    if not number or isinstance(value, bool) or math.isnan(value):
        raise ValueError(f"{name}={value!r} must be a number.")


def seeds(seed: int | None, rows: int, sampler=None) -> list[int]:
    """A seed for each of `rows` rows that are asked together.

    Args:
        seed: int, or None to draw one: from the seed that the compiled sampler was
            given, if it has one, else from Python's generator, which
            `keras.utils.set_random_seed` sets.
        rows: how many.
        sampler: the compiled KerasHub sampler if its settings are used, else None.
    """
    if seed is None and getattr(sampler, "seed", None) is not None:
        # Its generator's state is (seed, how often it was asked).
        first, count = (int(n) for n in np.asarray(sampler.seed_generator.next()))
        seed = first + 0x632BE5AB * count
    elif seed is None:
        seed = random.randrange(2**32)
    seed = int(seed)  # NumPy's would overflow
    # Far apart, so that (seed, row 1) is not (seed + 1, row 0).
    return [(seed + 0x9E3779B9 * i) % 2**32 for i in range(rows)]


class Work(NamedTuple):
    """What choosing takes: the part of the settings that a program is compiled for.

    Attributes:
        noise: bool. False: every row is greedy.
        sorted_tokens: how many of the likeliest tokens are sorted: 0, a power of two,
            or WHOLE_VOCABULARY.
    """

    noise: bool = False
    sorted_tokens: int = 0

    @classmethod
    def of(cls, samplings: Sequence[Sampling]) -> "Work":
        """Enough for every row of a batch."""
        drawn = [s for s in samplings if not s.greedy]
        if any(s.top_p < 1 and not s.top_k for s in drawn):
            return cls(True, WHOLE_VOCABULARY)
        most = max((s.top_k for s in drawn), default=0)
        return cls(bool(drawn), 1 << (most - 1).bit_length() if most else 0)


class Settings(NamedTuple):
    """The settings of each row as arrays `[B]`: data of a program.

    Attributes:
        temperature, top_p: float32.
        top_k: int32; 0 keeps all.
        log_min_p: float32, the logarithm of min-p; minus infinity drops none.
    """

    temperature: Any
    top_k: Any
    top_p: Any
    log_min_p: Any

    @classmethod
    def of(cls, samplings: Sequence[Sampling]) -> "Settings":
        log_min_p = [math.log(s.min_p) if s.min_p else -math.inf for s in samplings]
        most = 2**31 - 1
        return cls(
            np.array([s.temperature for s in samplings], "float32"),
            np.array([min(s.top_k, most) for s in samplings], "int32"),
            np.array([s.top_p for s in samplings], "float32"),
            np.array(log_min_p, "float32"),
        )


def choose(logits, work: Work, settings: Settings, seeds, steps):
    """The next token of each row.

    Args:
        logits: `[B, V]`.
        work: a constant; at least what the settings ask for.
        settings: arrays `[B]`.
        seeds: uint32 `[B]`, one per request.
        steps: int `[B]`, the index of the token within its request.

    Returns:
        int32 `[B]`.
    """
    if not work.noise:
        return ops.cast(ops.argmax(logits, axis=-1), "int32")
    logits = ops.cast(logits, "float32")
    greedy = (settings.temperature == 0)[:, None]
    temperature = ops.where(
        greedy, ops.ones((), "float32"), settings.temperature[:, None]
    )
    scaled = _dropped(logits / temperature, work, settings)
    noisy = scaled + hash_noise(seeds, steps, logits.shape[-1])
    return ops.cast(ops.argmax(ops.where(greedy, logits, noisy), axis=-1), "int32")


def _dropped(logits, work, settings):
    """float32 logits `[B, V]` with min-p, top-k and top-p applied, in this order."""
    dropped = ops.cast(DROPPED, "float32")
    best = ops.max(logits, axis=-1, keepdims=True)
    keep = logits >= best + settings.log_min_p[:, None]
    logits = ops.where(keep, logits, dropped)
    if not work.sorted_tokens:
        return logits
    width = logits.shape[-1]
    if work.sorted_tokens == WHOLE_VOCABULARY:
        ordered = -ops.sort(-logits, axis=-1)
    else:
        width = min(work.sorted_tokens, width)
        ordered = ops.top_k(logits, width)[0]  # [B, W], the largest first
    # The least logit that top-k keeps: the k-th, or without top-k any.
    top_k = settings.top_k[:, None]
    limited = ops.logical_and(top_k > 0, top_k <= width)
    last = ops.clip(top_k - 1, 0, width - 1)
    least = ops.where(limited, ops.take_along_axis(ordered, last, axis=1), dropped)
    # The least one that top-p keeps: the last before the probabilities reach p.
    ordered = ops.where(ordered >= least, ordered, dropped)
    probability = ops.softmax(ordered, axis=-1)
    before = ops.cumsum(probability, axis=-1) - probability
    top_p = settings.top_p[:, None]
    kept = ops.where(before < top_p, ordered, -dropped)
    reached = ops.min(kept, axis=-1, keepdims=True)
    least = ops.where(top_p < 1, ops.maximum(least, reached), least)
    return ops.where(logits >= least, logits, dropped)


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


def log_probability(logits, token):
    """Of `token` `[B]` in the model's own distribution (temperature 1), float32 `[B]`."""
    logits = ops.cast(logits, "float32")
    picked = ops.take_along_axis(logits, token[:, None], axis=-1)[:, 0]
    return picked - ops.logsumexp(logits, axis=-1)


def generate_step(lm, inputs, stop_token_ids=None):
    """One batch, as `keras_hub.models.CausalLM.generate_step`, in KerasHub's own loop."""
    backbone = lm.backbone
    token_ids, padding_mask = inputs["token_ids"], inputs["padding_mask"]
    lengths = ops.sum(ops.cast(padding_mask, "int32"), axis=-1)
    cache = backbone.empty_cache(*ops.shape(token_ids))
    hidden, cache = backbone.forward(token_ids, cache=cache, cache_index=0)

    def next_token(prompt, cache, index):
        token = ops.slice(prompt, [0, index - 1], [ops.shape(prompt)[0], 1])
        hidden, cache = backbone.forward(token, cache=cache, cache_index=index - 1)
        return backbone.logits(hidden)[:, 0], hidden[:, 0], cache

    token_ids = lm.sampler(
        next=next_token,
        prompt=token_ids,
        cache=cache,
        index=ops.min(lengths),
        mask=padding_mask,
        stop_token_ids=stop_token_ids,
        hidden_states=hidden,
        model=lm,
    )
    mask = _output_mask(token_ids, padding_mask, stop_token_ids)
    return {"token_ids": token_ids, "padding_mask": mask}


def _output_mask(token_ids, padding_mask, stop_token_ids):
    """Mask `[B, T]` of prompt and new tokens up to and with the first new stop."""
    if stop_token_ids is None:
        return ops.ones_like(token_ids, dtype="bool")
    stop_token_ids = ops.convert_to_tensor(list(stop_token_ids), dtype=token_ids.dtype)
    is_stop = ops.any(token_ids[:, :, None] == stop_token_ids, axis=-1)
    is_stop = ops.logical_and(is_stop, ops.logical_not(ops.cast(padding_mask, "bool")))
    is_stop = ops.cast(is_stop, "int32")
    return ops.cumsum(is_stop, axis=-1) - is_stop == 0
