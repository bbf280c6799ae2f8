"""From what is asked for to prompts of token ids, within bounds.

Text is measured before it is encoded, because encoding megabytes takes many seconds and
cannot be interrupted. Text around a cursor needs no measure: only what may fit is read.
"""

import dataclasses
import functools

from codegemma_keras.decoding import Conversation, RawText, Sampling, Session
from codegemma_keras.decoding.answering import answer_to, room
from codegemma_keras.decoding.completion import Cancellation
from codegemma_keras.decoding.request import Cursor, TokenIds
from codegemma_keras.decoding.sampling import seeds
from codegemma_keras.server.ask import SupersededError
from codegemma_keras.server.job import Job, unread


class Preparer:
    """Makes the prompts of jobs. Threads may share it.

    Args:
        lm: a `CodeGemmaCausalLM`.
        rows: most answers to one prompt.
        max_prompts: most prompts of one job.
        max_seconds: the time that a job may take, from its arrival on.
        layout: of prompts at a cursor, as `Session`'s; None: what suits the model.
    """

    def __init__(self, lm, rows, max_prompts, max_seconds, layout):
        self._lm = lm
        self._rows = rows
        self._max_prompts = max_prompts
        self._max_seconds = max_seconds
        self._layout = Session(lm, layout)

    def prepare(self, job: Job) -> Job:
        """Make the prompts of a job.

        Raises:
            ValueError, TypeError: what is asked for cannot be done, and why.
            ApiError: the job ended before all of its prompts were made.
        """
        ask = job.ask
        if not 1 <= ask.n <= self._rows:
            raise ValueError(
                f"n={ask.n} answers to one prompt; this server gives 1 to {self._rows}."
            )
        if not 1 <= len(ask.requests) <= self._max_prompts:
            raise ValueError(
                f"{len(ask.requests)} prompts in one request; this server takes 1 to "
                f"{self._max_prompts}."
            )
        job.tokenizer = self._lm.tokenizer
        deadline = job.arrived + self._max_seconds
        # Not the job itself, which holds its answers: they would be a cycle.
        outside = Cancellation(deadline, job.cancellation.is_set)
        for request in ask.requests:
            if reason := outside.reason():
                raise SupersededError() if job.superseded else unread(reason)
            job.groups.append(self._answers(request, ask.n, outside))
        job.completions = [None] * (ask.n * len(ask.requests))
        return job

    def _answers(self, request, n, outside):
        """n answers to one prompt, which fits into the context with what is new."""
        context = self._lm.preprocessor.sequence_length
        if request.max_new_tokens is not None and request.max_new_tokens > context:
            raise ValueError(
                f"{request.max_new_tokens} new tokens are asked for, but the context is "
                f"{context} tokens, prompt and new ones together."
            )
        if isinstance(request.prompt, TokenIds):
            left = room(self._lm, len(request.prompt.ids), None, request.max_new_tokens)
            request = dataclasses.replace(request, max_new_tokens=left)
        for text in _whole_texts(request.prompt):
            self.check_length(text)
        at_cursor = isinstance(request.prompt, Cursor)
        layout = self._layout if at_cursor and request.prompt.mode is None else None
        # A compiled sampler has no say here: the same request gives the same text.
        sampling = request.sampling or Sampling()
        answers = [
            answer_to(self._lm, request, sampling, seed, outside, layout)
            for seed in seeds(request.seed, n)
        ]
        for answer in answers:
            answer.watched = True
            self._lm.engine.check_row(answer.row)
        return answers

    def check_length(self, text: str) -> None:
        """Raise ValueError for text that cannot fit into the context, however it is encoded."""
        context = self._lm.preprocessor.sequence_length
        limit = context * self._longest_token
        size = len(text.encode("utf-8", "surrogatepass"))
        if size > limit:
            raise ValueError(
                f"The text has {size} bytes, but at most {limit} can fit into the context "
                f"of {context} tokens, since no token has more than "
                f"{self._longest_token} bytes. Shorten it."
            )

    @functools.cached_property
    def _longest_token(self):
        codec = self._lm.tokenizer.codec
        names = [len(str(name).encode()) for name in codec.control_ids]
        return max(*names, *map(len, codec.bytes_of))


def _whole_texts(prompt):
    """Texts of a prompt that are encoded as a whole."""
    if isinstance(prompt, RawText):
        return [prompt.text]
    if isinstance(prompt, Conversation):
        return ["".join(message["content"] for message in prompt.messages)]
    if isinstance(prompt, Cursor) and prompt.path:
        return [prompt.path]
    return []
