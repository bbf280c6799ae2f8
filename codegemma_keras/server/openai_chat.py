"""OpenAI's `/v1/chat/completions`, and Mistral's `/v1/fim/completions`.

Mistral's body is that of a completion with `suffix`; its answer has the shape of a chat.
Continue asks it of every provider that it calls OpenAI-like.
"""

import pydantic

from codegemma_keras.decoding import Conversation, Request
from codegemma_keras.server.ask import Ask, Body
from codegemma_keras.server.fields import Flag, Number, Whole
from codegemma_keras.server.openai import StreamOptions
from codegemma_keras.server.options import CursorOptions, SamplingOptions
from codegemma_keras.server.replies import Reply, finish_reason, sse, usage

# Mistral's default is no limit; an editor that names none waits for a line or two.
FIM_TOKENS = 128


class TextPart(pydantic.BaseModel):
    """A part of a message's content."""

    type: str
    text: str = ""


class Message(pydantic.BaseModel):
    """A turn of a conversation."""

    role: str
    content: str | list[TextPart] | None = ""

    def plain(self) -> dict:
        """As `chat.render` takes it.

        Raises:
            ValueError: a part that is no text.
        """
        if not isinstance(self.content, list):
            return {"role": self.role, "content": self.content or ""}
        for part in self.content:
            if part.type != "text":
                raise ValueError(
                    f"A message holds a part of type {part.type!r}; this model reads "
                    "text only."
                )
        return {"role": self.role, "content": "".join(p.text for p in self.content)}


def conversation(messages: list[Message]) -> Conversation:
    """The conversation of messages, the last one the user's."""
    return Conversation([message.plain() for message in messages])


class ChatBody(Body, SamplingOptions):
    """An answer in a conversation."""

    messages: list[Message]
    max_tokens: Whole | None = pydantic.Field(None, ge=1)
    """Default: as many as there is room for."""
    max_completion_tokens: Whole | None = pydantic.Field(None, ge=1)
    n: Whole | None = pydantic.Field(1, ge=1)
    stop: str | list[str] | None = None
    stream: Flag | None = False
    stream_options: StreamOptions | None = None
    logprobs: Flag | None = False
    top_logprobs: Whole | None = None
    frequency_penalty: Number | None = None
    presence_penalty: Number | None = None
    logit_bias: dict[str, Number] | None = None
    response_format: dict | None = None
    tools: list | None = None
    user: str | None = None

    def ask(self) -> Ask:
        self.refuse(frequency_penalty=0, presence_penalty=0, logit_bias={}, tools=[])
        self.refuse(logprobs=False, top_logprobs=0, response_format={"type": "text"})
        limit = self.max_completion_tokens
        request = Request(
            prompt=conversation(self.messages),
            max_new_tokens=self.max_tokens if limit is None else limit,
            stop_strings=() if self.stop is None else self.stop,
            sampling=self.sampling(),
            seed=self.seed,
        )
        return Ask([request], self.n or 1, bool(self.stream))

    def reply(self, model):
        return ChatReply(model, self.stream_options)


class FimBody(Body, CursorOptions, SamplingOptions):
    """Mistral's fill-in-the-middle."""

    prompt: str
    suffix: str | None = ""
    max_tokens: Whole | None = pydantic.Field(None, ge=0)
    max_completion_tokens: Whole | None = pydantic.Field(None, ge=0)
    """Continue's name for it."""
    min_tokens: Whole | None = None
    frequency_penalty: Number | None = None
    presence_penalty: Number | None = None
    stop: str | list[str] | None = None
    stream: Flag | None = False
    random_seed: Whole | None = None

    def ask(self) -> Ask:
        self.refuse(min_tokens=0, frequency_penalty=0, presence_penalty=0)
        limits = (self.max_tokens, self.max_completion_tokens, FIM_TOKENS)
        request = Request(
            prompt=self.cursor(self.prompt, self.suffix or ""),
            max_new_tokens=next(limit for limit in limits if limit is not None),
            stop_strings=() if self.stop is None else self.stop,
            until=self.until,
            tidy=self.tidy,
            sampling=self.sampling(),
            seed=self.seed if self.random_seed is None else self.random_seed,
        )
        return Ask([request], stream=bool(self.stream))

    def reply(self, model):
        return ChatReply(model, StreamOptions(include_usage=True))


class ChatReply(Reply):
    """OpenAI's `chat.completion` and its chunks."""

    kind = "chatcmpl"

    def __init__(self, model, options: StreamOptions | None):
        super().__init__(model)
        self._usage = options is not None and options.include_usage

    def _object(self, choices, kind="chat.completion.chunk", **more):
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
            **more,
        }

    def _chunk(self, index, delta, reason=None):
        choice = {"index": index, "delta": delta, "finish_reason": reason}
        return sse(self._object([choice]))

    def begin(self, job):
        first = {"role": "assistant", "content": ""}
        return b"".join(self._chunk(i, first) for i in range(len(job.completions)))

    def text(self, job, index, text):
        return self._chunk(index, {"content": text})

    def done(self, job, index):
        return self._chunk(index, {}, finish_reason(job.completions[index]))

    def end(self, job):
        last = b"data: [DONE]\n\n"
        return sse(self._object([], usage=usage(job))) + last if self._usage else last

    def whole(self, job):
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": completion.text},
                "logprobs": None,
                "finish_reason": finish_reason(completion),
            }
            for index, completion in enumerate(job.completions)
        ]
        return self._object(choices, "chat.completion", usage=usage(job))
