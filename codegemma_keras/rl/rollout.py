"""Rollout: groups of answers to prompts, by the decode engine, with log-probabilities.

One engine samples, trains and serves, so there is no gap between two implementations to
correct. What remains between decoding with a cache and the update's forward pass is
rounding; a run measures and logs it.

An answer depends on its prompt, its seed and the weights alone. Batches always have the
same number of rows, because another number is another program, whose sums round
differently: so a run that was killed samples what one that was not would have.

Left out: temperatures other than 1, top-k and top-p. They sample from a distribution that
is not the one whose gradient is taken.
"""

import contextlib
import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from codegemma_keras import adapters
from codegemma_keras.decoding import Engine, Sampling
from codegemma_keras.tasks.prompts import Prompt

SAMPLING = Sampling(temperature=1.0)


@dataclasses.dataclass(frozen=True)
class Answer:
    """One sampled answer.

    Attributes:
        prompt_ids: token ids of its prompt, bos first.
        tokens: token ids of the answer, the stop token included where it ended by itself.
        log_probabilities: of `tokens`, as they were sampled.
        text: the answer without its stop token.
        stopped: whether it ended by itself, not at the limit.
    """

    prompt_ids: list[int]
    tokens: list[int]
    log_probabilities: list[float]
    text: str
    stopped: bool


def seed_of(*parts) -> int:
    """A 32-bit seed from numbers and texts; other parts give an unrelated one."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")


def prompt_ids(tokenizer, prompt: Prompt) -> list[int]:
    """The token ids that the model is given."""
    return [tokenizer.start_token_id, *tokenizer.encode(prompt.parts())]


def check_lengths(tokenizer, prompts: Sequence[Prompt], max_new_tokens, context):
    """Raise ValueError for a prompt that leaves no room for an answer.

    Args:
        tokenizer: of the model.
        prompts: all of a run.
        max_new_tokens: int.
        context: int, most tokens of prompt and answer together.

    Returns:
        int, the tokens of the longest prompt.
    """
    longest = 0
    for prompt in prompts:
        length = len(prompt_ids(tokenizer, prompt))
        if length + max_new_tokens > context:
            raise ValueError(
                f"A prompt of {prompt.family} has {length} tokens, and with "
                f"max_new_tokens={max_new_tokens} that is more than the {context} of the "
                f"context: {prompt.text[:60]!r}... Leave it out, or allow shorter answers."
            )
        longest = max(longest, length)
    return longest


def sample(
    lm,
    prompts: Sequence[Prompt],
    group: int,
    max_new_tokens: int,
    seed,
    rows: int = 64,
    sampling: Sampling = SAMPLING,
) -> list[list[Answer]]:
    """`group` answers to each prompt.

    Args:
        lm: a `CodeGemmaCausalLM`.
        prompts: what is asked.
        group: int, answers to each prompt.
        max_new_tokens: int, of an answer; its stop token counts.
        seed: of the whole call; any value that `repr` tells apart from others.
        rows: answers at once; memory of the cache grows with it.
        sampling: how tokens are chosen.
    """
    ids = [prompt_ids(lm.tokenizer, prompt) for prompt in prompts]
    wanted = [(place, number) for place in range(len(ids)) for number in range(group)]
    found = []
    for start in range(0, len(wanted), rows):
        part = wanted[start : start + rows]
        filled = part + part[:1] * (rows - len(part))
        limits = [max_new_tokens] * len(part) + [1] * (rows - len(part))
        generation, answers = lm.engine.start(
            [ids[place] for place, _ in filled],
            limits,
            lm.tokenizer.stop_token_ids,
            sampling,
            [seed_of(seed, prompts[place].key(), number) for place, number in filled],
        )
        while generation.running:
            generation.advance()
        found += [_answer(lm, row) for row in answers[: len(part)]]
    return [found[i : i + group] for i in range(0, len(found), group)]


def _answer(lm, row):
    stopped = row.stop_reason == "stop_token"
    text = lm.tokenizer.decode(row.tokens[:-1] if stopped else row.tokens)
    return Answer(row.prompt, row.tokens, row.log_probabilities, text, stopped)


class Reference:
    """The first model: the base without its adapter, or a second model.

    Args:
        lm: the model that trains.
        first: None, or a model of its own, for runs that change the base itself.
        rows: answers at once.
    """

    def __init__(self, lm, first=None, rows=16):
        self._lm = lm
        self._first = first
        self._rows = rows
        self._engine = Engine(first or lm)

    def log_probabilities(self, answers: Sequence[Answer]) -> list[np.ndarray]:
        """Of each answer's tokens."""
        texts = [answer.prompt_ids + answer.tokens for answer in answers]
        with contextlib.nullcontext() if self._first else without_adapter(self._lm):
            scores = self._engine.log_probabilities(texts, self._rows)
        return [
            values[len(answer.prompt_ids) :]
            for values, answer in zip(scores, answers, strict=True)
        ]


@contextlib.contextmanager
def without_adapter(lm):
    """Inside, programs are traced without the active adapter.

    `lora.select` would tell all compiled programs that they are out of date. An engine
    that is used only in here has programs of the base alone.
    """
    layers = adapters.layers(lm.backbone)
    active = [layer.active_adapter for layer in layers]
    for layer in layers:
        layer.active_adapter = None
    try:
        yield
    finally:
        for layer, name in zip(layers, active, strict=True):
            layer.active_adapter = name
