"""llama.cpp's `/infill` and `/completion`: what llama.vim and llama.vscode speak.

The model's text at a cursor is tidied, since these plug-ins show it as it comes.
"""

import time
from typing import Any

import pydantic

from codegemma_keras.decoding import Cursor, RawText, Request, TokenIds
from codegemma_keras.server.ask import Ask, Body
from codegemma_keras.server.fields import Flag, Number, TokenId, Whole
from codegemma_keras.server.options import SamplingOptions
from codegemma_keras.server.replies import Reply, sse

# llama.cpp's default is no limit; an editor that names none waits for a line or two.
DEFAULT_TOKENS = 128


class ExtraFile(pydantic.BaseModel):
    """Another file to show to the model."""

    filename: str | None = None
    text: str


class LlamaOptions(Body, SamplingOptions):
    """What `/infill` and `/completion` share."""

    n_predict: Whole | None = None
    """Most new tokens; -1: as many as there is room for. 0 reads the prompt only, so
    that the next request finds it."""
    stop: list[str] | None = None
    stream: Flag | None = False
    response_fields: list[str] | None = None
    """Which fields of the answer to give; `a/b` is `b` in `a`."""
    t_max_predict_ms: Number | None = None
    """End after so many milliseconds, though not before the first line end."""

    @property
    def reads_only(self) -> bool:
        return self.n_predict == 0

    def _ask(self, prompt, tidy=False):
        # One token, which is not given, so that the prompt is read to its end.
        limit = 1 if self.reads_only else self.n_predict
        if limit is not None and limit < 0:
            limit = None
        if limit is None and isinstance(prompt, Cursor):
            limit = DEFAULT_TOKENS
        late = self.t_max_predict_ms
        request = Request(
            prompt=prompt,
            max_new_tokens=limit,
            stop_strings=() if self.stop is None else self.stop,
            tidy=tidy,
            sampling=self.sampling(),
            seed=None if self.seed == -1 else self.seed,
        )
        return Ask(
            [request],
            stream=bool(self.stream),
            line_limit_ms=late if late is not None and late > 0 else None,
        )

    def reply(self, model):
        return LlamaReply(model, self)


class InfillBody(LlamaOptions):
    """Fill in the middle."""

    input_prefix: str
    input_suffix: str
    input_extra: tuple[ExtraFile, ...] = ()
    """Other files, the most related last."""
    prompt: str | None = ""
    """The beginning of the cursor's line; it follows `input_prefix`."""
    path: str | None = None
    """The file's path in its repository; an addition of this server."""

    def ask(self):
        context = [(file.filename or "", file.text) for file in self.input_extra]
        context = [(path or "snippet", text) for path, text in context]
        prefix = self.input_prefix + (self.prompt or "")
        cursor = Cursor(prefix, self.input_suffix, self.path, context)
        return self._ask(cursor, tidy=True)


class PlainBody(LlamaOptions):
    """Continue a raw prompt, in which control strings are control tokens."""

    prompt: str | list[TokenId]

    def ask(self):
        raw = isinstance(self.prompt, str)
        return self._ask(RawText(self.prompt) if raw else TokenIds(self.prompt))


class LlamaReply(Reply):
    """llama.cpp's answer, with its timings."""

    def __init__(self, model, body):
        super().__init__(model)
        self.body = body

    def text(self, job, index, text):
        if self.body.reads_only:
            return b""
        return sse({"index": index, "content": text, "tokens": [], "stop": False})

    def done(self, job, index):
        return sse(self._chosen({**self._object(job), "content": ""}))

    def whole(self, job):
        return self._chosen(self._object(job))

    def _object(self, job) -> dict[str, Any]:
        [completion] = job.completions
        text = "" if self.body.reads_only else completion.text
        kinds = {
            "stop_token": "eos",
            "max_new_tokens": "limit",
            "time": "limit",
            "cancelled": "limit",
        }
        return {
            "index": 0,
            "content": text,
            "tokens": [],
            "id_slot": -1,
            "stop": True,
            "model": self.model,
            "tokens_predicted": job.new_tokens,
            "tokens_evaluated": job.prompt_tokens,
            "has_new_line": "\n" in text,
            "truncated": self._truncated(completion),
            "stop_type": kinds.get(completion.stop_reason, "word"),
            "stopping_word": "",
            "tokens_cached": job.cached_tokens,
            "timings": timings(job),
        }

    def _truncated(self, completion):
        if not isinstance(self.body, InfillBody):
            return False
        asked = self.body.input_prefix + (self.body.prompt or "")
        kept = len(completion.prefix) + len(completion.suffix)
        return kept < len(asked) + len(self.body.input_suffix)

    def _chosen(self, answer):
        if self.body.response_fields is None:
            return answer
        chosen = {}
        for field in self.body.response_fields:
            value = answer
            for name in field.split("/"):
                value = value.get(name) if isinstance(value, dict) else None
            if value is not None:
                chosen[field] = value
        return chosen


def timings(job) -> dict:
    """How long prompt and answer took, as llama.cpp says it."""
    now = time.monotonic()
    first = job.first_token or now
    prompt_ms = (first - job.arrived) * 1000
    new_ms = ((job.ended or now) - first) * 1000
    computed, new = job.computed_tokens, job.new_tokens
    return {
        "prompt_n": computed,
        "prompt_ms": prompt_ms,
        "prompt_per_token_ms": prompt_ms / max(computed, 1),
        "prompt_per_second": computed * 1000 / max(prompt_ms, 1e-3),
        "predicted_n": new,
        "predicted_ms": new_ms,
        "predicted_per_token_ms": new_ms / max(new, 1),
        "predicted_per_second": new * 1000 / max(new_ms, 1e-3),
    }
