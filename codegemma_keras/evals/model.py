"""A model as evaluations ask it: prompts to token ids, batches to completions.

A prompt of text is encoded as plain text: no benchmark can make a control token. One that
does not fit loses its beginning, as in other harnesses, and says so.
"""

import hashlib
import os
import platform
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
from keras import ops

from codegemma_keras import fim, presets
from codegemma_keras.decoding import Sampling, answering
from codegemma_keras.decoding.cache import AS_NEEDED
from codegemma_keras.decoding.completion import least_cache, write
from codegemma_keras.decoding.request import Conversation, Cursor, Request, TokenIds
from codegemma_keras.evals.asked import Asked, Text
from codegemma_keras.evals.task import Hole, Message

# Tokens that are kept for an answer. A conversation that leaves fewer is refused.
LEAST_ANSWER = 32


class Model:
    """A `CodeGemmaCausalLM` for evaluations.

    Args:
        lm: a `CodeGemmaCausalLM` with a preprocessor.
        name: str, for reports; default: the model's own.
    """

    def __init__(self, lm, name=None):
        self.lm, self.tokenizer = lm, lm.tokenizer
        self.name = name or lm.name
        self.context = lm.preprocessor.sequence_length

    @property
    def compilations(self) -> int:
        """How many programs the engine has compiled; the first batches wait for them."""
        return self.lm.engine.compilations

    @property
    def device(self) -> str:
        """What computes, in words."""
        if self.backend == "jax":
            import jax

            kinds = [d.device_kind for d in jax.devices() if d.platform != "cpu"]
        else:
            import tensorflow

            kinds = [d.name for d in tensorflow.config.list_physical_devices("GPU")]
        if kinds:
            return f"{len(kinds)} {kinds[0]}"
        return f"{os.cpu_count()} {platform.machine()} CPU cores"

    @property
    def dtype(self) -> str:
        """In which the network computes."""
        return self.lm.backbone.compute_dtype

    @property
    def backend(self) -> str:
        """Keras's, by name."""
        return keras.config.backend()

    def check(self, sampling: Mapping, chat: bool) -> None:
        """Raise ValueError for what this model cannot be asked.

        Args:
            sampling: arguments of a `decoding.Sampling`.
            chat: whether it is to be asked in the chat format. Some models are known to
                have none.
        """
        Sampling(**sampling)
        if not chat:
            return
        entry = presets.PRESETS.get(self.name)
        if entry and not ("instruct" in self.name or "chat_format" in entry.tokenizer):
            raise ValueError(
                f"{self.name} is a base model, which was never taught to chat. Leave out "
                "--chat, or take an instruct preset."
            )
        try:
            answering.prompt_ids(self.lm, Conversation("?"))
        except (ValueError, KeyError) as error:
            raise ValueError(
                f"The vocabulary of {self.name} has no turns, so it has no chat format "
                f"({error}). Leave out --chat."
            ) from None

    def fingerprint(self) -> str:
        """A hash of every weight: another model, another fingerprint."""
        digest = hashlib.blake2b(digest_size=8)
        for variable in self.lm.backbone.variables:
            value = np.asarray(ops.convert_to_numpy(variable.value))
            digest.update(f"{variable.path} {value.shape} {value.dtype}".encode())
            digest.update(np.ascontiguousarray(value).reshape(-1).view("uint8").data)
        return digest.hexdigest()

    def ask(self, prompt, max_new_tokens: int, max_tokens: int | None = None) -> Asked:
        """A prompt as token ids that fit.

        Args:
            prompt: str, `Hole`, `Message`, or one of `decoding`'s prompts that begins
                with bos.
            max_new_tokens: most tokens of the answer. At most half of the context is
                kept free for it, so that some prompt is left in a small model.
            max_tokens: most tokens of prompt and answer together, if a convention says
                so. The answer then gets what the prompt leaves, and the prompt is cut
                only where that is less than `LEAST_ANSWER`.
        """
        context = min(self.context, max_tokens or self.context)
        free = min(max_new_tokens, context // 2)
        if max_tokens is not None and max_tokens <= self.context:
            free = min(free, LEAST_ANSWER)
        encode, bos = self.tokenizer.encode, self.tokenizer.start_token_id
        truncated, hole = False, None
        if isinstance(prompt, Hole):
            mode = self._mode(prompt)
            prefix, suffix, _ = fim.shrink(
                prompt.prefix, prompt.suffix, (), context - free - 1, encode
            )
            truncated = (prefix, suffix) != (prompt.prefix, prompt.suffix)
            ids = encode(fim.render(prefix, suffix, mode=mode))
            if prompt.as_typed:
                hole = prompt
        elif not isinstance(prompt, str):
            if isinstance(prompt, Message):
                prompt = Conversation(prompt.text)
            ids = answering.prompt_ids(self.lm, prompt)[1:]
        else:
            ids = encode(prompt)
        if isinstance(prompt, Conversation):
            free = min(free, LEAST_ANSWER)  # cut turns would make no sense
            if len(ids) > context - free - 1:
                raise ValueError(
                    f"A conversation of {len(ids) + 1} tokens leaves no room for an "
                    f"answer of {free} tokens in a context of {context}. Turns are not "
                    "cut: take a model with a longer context, or leave out --chat."
                )
        elif len(ids) > context - free - 1:
            ids, truncated = ids[len(ids) - (context - free - 1) :], True
        limit = min(max_new_tokens, context - len(ids) - 1)
        if hole is not None:
            limit = free  # The rules may add indentation to the prompt.
        return Asked((bos, *ids), limit, truncated, hole)

    def _mode(self, hole: Hole) -> str:
        """In which order the prompt of a hole shows its two texts."""
        mode = self.lm.preprocessor.infill_mode
        if mode == fim.LEFT_TO_RIGHT and not hole.as_typed:
            raise ValueError(
                f"{self.name} is asked without CodeGemma's sentinels "
                f"(infill_mode={mode!r}), so a score with them would not be that of what "
                "it completes. Ask as an editor does, with --convention editor, or "
                "without sentinels, with --convention lm-eval."
            )
        return mode

    def complete(
        self,
        asked: Sequence[Asked],
        stop_strings: Sequence[str] = (),
        sampling: Mapping | None = None,
        seeds: Sequence[int] | None = None,
        rows: int | None = None,
        ended: Callable[[int], None] | None = None,
    ) -> list[Text]:
        """The answers to prompts.

        Args:
            asked: prompts.
            stop_strings: an answer ends before the first of these.
            sampling: arguments of a `decoding.Sampling`; default: greedy.
            seeds: one for each prompt, of its noise.
            rows: prompts at once; others join as these end. None: all.
            ended: called with the number of answers that have ended, as they do.
        """
        sampling = Sampling(**(sampling or {}))
        seeds = [0] * len(asked) if seeds is None else seeds
        answers = [
            answering.answer_to(
                self.lm,
                Request(
                    prompt=(
                        TokenIds(one.ids)
                        if one.hole is None
                        else Cursor(one.hole.prefix, one.hole.suffix)
                    ),
                    max_new_tokens=one.max_new_tokens,
                    stop_strings=stop_strings,
                    tidy=one.hole is not None,
                ),
                sampling,
                seed,
            )
            for one, seed in zip(asked, seeds, strict=True)
        ]
        first, waiting = answers[:rows], answers[rows:] if rows else ()
        least = AS_NEEDED
        if waiting:
            least = least_cache([answer.row for answer in answers], len(first))
        generation = self.lm.engine.generation(least=least)
        generation.join([answer.row for answer in first])
        for _ in write(generation, first, waiting):
            if ended:
                ended(sum(not answer.row.running for answer in answers))
        done = [answer.completion() for answer in answers]
        return [Text(c.text, c.stop_reason, len(c.token_ids)) for c in done]

    def pair(self, context: str, continuation: str) -> tuple[list[int], int]:
        """`(token ids, how many of them are context)` of a text in two parts.

        Both are encoded together, as a model would read them, and then cut: white space
        at the end of the context belongs to the continuation. bos is context.
        """
        spaces = len(context) - len(context.rstrip())
        if spaces:
            context, continuation = (
                context[:-spaces],
                context[-spaces:] + continuation,
            )
        encode, bos = self.tokenizer.encode, self.tokenizer.start_token_id
        whole, before = encode(context + continuation), encode(context)
        return [bos, *whole], 1 + min(len(before), len(whole))

    def log_likelihoods(
        self, rows: Sequence[tuple[list[int], int]], batch_size: int = 8
    ) -> list[tuple[float, bool]]:
        """The log-likelihood of each row after its context, in nats.

        Args:
            rows: `(token ids, how many of them are context)`; a row that is longer than
                the model's context loses its beginning.
            batch_size: rows at once.

        Returns:
            Each with whether greedy decoding would write the row after its context.
        """
        kept = [self._last(ids, head) for ids, head in rows]
        found = self.lm.engine.score([ids for ids, _ in kept], batch_size)
        return [
            (float(values[head:].sum(dtype="float64")), bool(greedy[head:].all()))
            for (values, greedy), (_, head) in zip(found, kept, strict=True)
        ]

    def _last(self, ids, head):
        over = max(0, len(ids) - self.context)
        if not over:
            return ids, head
        # bos stays: without it Gemma's likelihoods mean nothing.
        return [ids[0], *ids[1 + over :]], max(1, head - over)
