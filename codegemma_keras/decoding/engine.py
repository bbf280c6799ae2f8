"""The decode engine: prefill, then one compiled loop over a KV cache.

Rows are ragged: each prompt is left-aligned in its row of the cache and starts to
decode at its own end. Lengths are rounded up to buckets, so few programs are compiled.
Stop ids and the number of new tokens are data, not constants of a program.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from keras import ops

from codegemma_keras.decoding.programs import compile_program
from codegemma_keras.decoding.sampling import Sampling, choose

# Stop ids travel in an array of this size, padded with -1, which no token equals.
MAX_STOP_IDS = 16


@dataclasses.dataclass(frozen=True)
class Generation:
    """What one request gave.

    Attributes:
        token_ids: the new tokens, without the stop token.
        stop_reason: `"stop_token"`, `"max_new_tokens"`, or one of the caller's own.
        stop_token: the id that ended it, or None.
    """

    token_ids: list[int]
    stop_reason: str
    stop_token: int | None = None


def bucket(length: int, smallest: int = 64) -> int:
    """The least bucket that holds `length`: 64, 128, 192, 256, 384, 512, 768, ...

    Two buckets to an octave above 256: at most a third of the work is padding.
    """
    size = smallest
    while size < length:
        if size < 4 * smallest:
            size += smallest
        elif size & (size - 1) == 0:  # a power of two: next is 1.5 times it
            size += size // 2
        else:
            size = size // 3 * 4
    return size


class Engine:
    """Generates from token ids with one model.

    Args:
        model: a `CodeGemmaCausalLM`; its current variables are read at each call.
    """

    def __init__(self, model):
        self._model = model
        self._backbone = model.backbone
        self._prefill = compile_program(model, self._prefill_step, donate=(2,))
        self._decoders: dict[Sampling, Callable] = {}

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        stop_token_ids: Sequence[int] = (),
        sampling: Sampling = Sampling(),
        seeds: Sequence[int] | None = None,
    ) -> list[Generation]:
        """Continue each prompt.

        Args:
            prompts: B lists of token ids, none empty; lengths may differ.
            max_new_tokens: at most so many new tokens a prompt.
            stop_token_ids: ids that end a row; not part of the result.
            sampling: how tokens are chosen.
            seeds: one int per prompt. Default: 0, 1, 2, ...

        Returns:
            B generations, in order.
        """
        prompts = [list(p) for p in prompts]
        stop_ids = self._check(prompts, max_new_tokens, stop_token_ids)
        if not prompts or max_new_tokens == 0:
            return [Generation([], "max_new_tokens") for _ in prompts]
        seeds = list(range(len(prompts))) if seeds is None else list(seeds)

        lengths = np.array([len(p) for p in prompts], "int32")
        rows = len(prompts)
        token_ids = np.zeros((rows, bucket(lengths.max())), "int32")
        for row, prompt in zip(token_ids, prompts, strict=True):
            row[: len(prompt)] = prompt
        new = bucket(max_new_tokens, 32)
        cache = self._backbone.empty_cache(rows, bucket(token_ids.shape[1] + new))
        logits, cache = self._prefill(token_ids, lengths, cache)
        tokens, counts, stopped, _ = self._decoder(sampling)(
            logits,
            cache,
            lengths,
            np.array(seeds, "int64").astype("uint32"),
            stop_ids,
            np.int32(max_new_tokens),
            np.zeros((rows, new), "int32"),
        )
        return [
            self._generation(*row)
            for row in zip(
                np.asarray(tokens), np.asarray(counts), np.asarray(stopped), strict=True
            )
        ]

    def _check(self, prompts, max_new_tokens, stop_token_ids):
        size = self._backbone.vocabulary_size
        for i, prompt in enumerate(prompts):
            if not prompt:
                raise ValueError(
                    f"Prompt {i} is empty: a model needs at least one token, usually bos."
                )
            wrong = [t for t in prompt if not 0 <= t < size]
            if wrong:
                raise ValueError(
                    f"Prompt {i} holds token id {wrong[0]}; ids go from 0 to {size - 1}. "
                    "Was it encoded with another tokenizer?"
                )
        if max_new_tokens < 0:
            raise ValueError(f"max_new_tokens={max_new_tokens} must be >= 0.")
        stop_token_ids = list(stop_token_ids)
        if len(stop_token_ids) > MAX_STOP_IDS:
            raise ValueError(
                f"{len(stop_token_ids)} stop token ids; at most {MAX_STOP_IDS} fit. Use "
                "stop_strings for more."
            )
        padding = [-1] * (MAX_STOP_IDS - len(stop_token_ids))
        return np.array(stop_token_ids + padding, "int32")

    @staticmethod
    def _generation(tokens, count, stopped):
        ids = [int(t) for t in tokens[:count]]
        if stopped:
            return Generation(ids[:-1], "stop_token", ids[-1])
        return Generation(ids, "max_new_tokens")

    def _prefill_step(self, token_ids, lengths, cache):
        hidden, cache = self._backbone.forward(token_ids, cache=cache, cache_index=0)
        last = ops.cast(lengths - 1, "int32")[:, None, None]
        hidden = ops.take_along_axis(hidden, last, axis=1)[:, 0]  # [B, D]
        return self._backbone.logits(hidden), cache

    def _decoder(self, sampling):
        if sampling not in self._decoders:

            def decode(*args):
                return self._decode_loop(sampling, *args)

            self._decoders[sampling] = compile_program(self._model, decode, donate=(1,))
        return self._decoders[sampling]

    def _decode_loop(
        self, sampling, logits, cache, lengths, seeds, stop_ids, max_new, output
    ):
        """Decode until every row has stopped or has `max_new` tokens.

        Returns:
            tokens `[B, M]`, counts `[B]` (the stop token counted), stopped `[B]`, cache.
        """

        def choose_and_store(step, logits, output, counts, stopped):
            steps = ops.zeros_like(counts) + step
            token = choose(logits, sampling, seeds, steps)
            output = ops.slice_update(output, [0, step], token[:, None])
            counts = counts + ops.cast(ops.logical_not(stopped), "int32")
            hit = ops.any(token[:, None] == stop_ids[None, :], axis=-1)
            return token, output, counts, ops.logical_or(stopped, hit)

        def running(step, token, cache, output, counts, stopped):
            return ops.logical_and(step < max_new, ops.logical_not(ops.all(stopped)))

        def body(step, token, cache, output, counts, stopped):
            hidden, cache = self._backbone.forward(
                token[:, None], cache=cache, cache_index=lengths + step - 1
            )
            logits = self._backbone.logits(hidden[:, 0])
            token, output, counts, stopped = choose_and_store(
                step, logits, output, counts, stopped
            )
            return step + 1, token, cache, output, counts, stopped

        counts = ops.zeros_like(lengths)
        stopped = ops.zeros_like(lengths, dtype="bool")
        step = ops.cast(0, "int32")
        token, output, counts, stopped = choose_and_store(
            step, logits, output, counts, stopped
        )
        state = (step + 1, token, cache, output, counts, stopped)
        _, _, cache, output, counts, stopped = ops.while_loop(running, body, state)
        # The cache goes out as well: that is what lets the loop work in its memory.
        return output, counts, stopped, cache
