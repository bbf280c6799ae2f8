"""Ollama's `/api/generate` (with `suffix`) and `/api/chat`, and what describes a model.

A prompt without `suffix` is a user's turn, as Ollama's template for this model makes it,
unless `raw` is true. Streams are lines of JSON, and the default.
"""

import datetime
import time

import pydantic

from codegemma_keras import chat, fim
from codegemma_keras.decoding import Conversation, Cursor, RawText, Request, Sampling
from codegemma_keras.server.ask import Ask, Body
from codegemma_keras.server.fields import Flag, Number, TokenId, Whole
from codegemma_keras.server.openai_chat import Message, conversation
from codegemma_keras.server.options import PlaceOptions
from codegemma_keras.server.replies import Reply, finish_reason, to_json

# An editor that names no limit waits for a line or two.
DEFAULT_TOKENS = 128


def template(lm) -> str:
    """How this server makes the prompts of a model, as Ollama writes it.

    Clients send a prompt and its suffix only if there is `.Suffix` in it.
    """
    middle = (
        f"{fim.PREFIX}{{{{ .Prompt }}}}{fim.SUFFIX}{{{{ .Suffix }}}}{fim.MIDDLE}"
        if lm.preprocessor.infill_mode != fim.LEFT_TO_RIGHT
        else f"{{{{ .Suffix }}}}{fim.FILE_SEPARATOR}{{{{ .Prompt }}}}"
    )
    form = chat.FORMATS[lm.tokenizer.chat_format]

    def turn(role, text):
        return f"{chat.START_OF_TURN}{role}\n{text}{chat.END_OF_TURN}\n"

    if form.has_system:
        system = f"{{{{ if .System }}}}{turn('system', '{{ .System }}')}"
        if form.system is not None:
            system += f"{{{{ else }}}}{turn('system', form.system)}"
        asked = system + "{{ end }}" + turn("user", "{{ .Prompt }}")
    else:
        system = "{{ if .System }}{{ .System }}\n\n{{ end }}"
        asked = turn("user", system + "{{ .Prompt }}")
    answer = turn(form.model, "{{ .Response }}").removesuffix("\n")
    return f"{{{{- if .Suffix }}}}{middle}{{{{- else }}}}{asked}{answer}{{{{- end }}}}"


class OllamaOptions(pydantic.BaseModel):
    """Ollama's options, of those that this server has."""

    model_config = pydantic.ConfigDict(extra="allow", allow_inf_nan=False)

    temperature: Number | None = None
    top_p: Number | None = None
    top_k: Whole | None = None
    min_p: Number | None = None
    seed: Whole | None = None
    num_predict: Whole | None = None
    """Most new tokens; -1 and -2: as many as there is room for."""
    stop: list[str] | str | None = None

    def sampling(self) -> Sampling:
        names = ("temperature", "top_p", "top_k", "min_p")
        given = {name: getattr(self, name) for name in names}
        return Sampling(**{name: v for name, v in given.items() if v is not None})

    def request(self, prompt, **more) -> Request:
        limit = self.num_predict
        if limit is None or limit < 0:
            limit = DEFAULT_TOKENS if isinstance(prompt, Cursor) else None
        return Request(
            prompt=prompt,
            max_new_tokens=limit,
            stop_strings=() if self.stop is None else self.stop,
            sampling=self.sampling(),
            seed=self.seed,
            **more,
        )


class OllamaBody(Body):
    """What both have."""

    stream: Flag | None = True
    options: OllamaOptions | None = None
    format: str | dict | None = None
    think: Flag | str | None = None

    @property
    def ignored(self) -> list[str]:
        more = self.options.model_extra if self.options else {}
        return [*super().ignored, *(f"options.{name}" for name in more)]

    def _ask(self, prompt, **more):
        self.refuse(format="", think=False)
        request = (self.options or OllamaOptions()).request(prompt, **more)
        return Ask([request], stream=self.stream is not False)


class GenerateBody(OllamaBody, PlaceOptions):
    """A completion; with `suffix`, fill-in-the-middle."""

    prompt: str | None = ""
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    """Refused: no template of a request is ever evaluated."""
    raw: Flag | None = False
    """The prompt is whole: control strings in it are control tokens."""
    images: list[str] | None = None
    context: list[TokenId] | None = None
    """Refused: the token ids of an earlier answer; use /api/chat."""

    def immediate(self, model):
        if self.prompt or self.suffix:
            return None
        return self.reply(model).loaded()

    def ask(self) -> Ask:
        self.refuse(template="", images=[], context=[])
        if self.suffix:
            self.refuse(system="", raw=False)
            cursor = Cursor(self.prompt or "", self.suffix, self.path)
            return self._ask(cursor, until=self.until, tidy=self.tidy)
        if self.raw:
            self.refuse(system="")
            return self._ask(RawText(self.prompt or ""))
        system = [{"role": "system", "content": self.system}] if self.system else []
        user = {"role": "user", "content": self.prompt}
        return self._ask(Conversation([*system, user]))

    def reply(self, model):
        return OllamaReply(model, lambda text: {"response": text})


class OllamaChatBody(OllamaBody):
    """An answer in a conversation."""

    messages: list[Message] = pydantic.Field(default_factory=list)
    tools: list | None = None

    def immediate(self, model):
        return None if self.messages else self.reply(model).loaded()

    def ask(self) -> Ask:
        self.refuse(tools=[])
        return self._ask(conversation(self.messages))

    def reply(self, model):
        def message(text):
            return {"message": {"role": "assistant", "content": text}}

        return OllamaReply(model, message)


class OllamaReply(Reply):
    """Lines of JSON; `shape` puts text where the API has it."""

    media_type = "application/x-ndjson"

    def __init__(self, model, shape):
        super().__init__(model)
        self._shape = shape

    def _object(self, text, **more):
        now = datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z")
        return {"model": self.model, "created_at": now, **self._shape(text), **more}

    def text(self, job, index, text):
        return to_json(self._object(text, done=False)) + b"\n"

    def end(self, job):
        return to_json(self._last(job, "")) + b"\n"

    def failed(self, error):
        return to_json(error) + b"\n"

    def whole(self, job):
        return self._last(job, job.completions[0].text)

    def loaded(self) -> dict:
        """The answer to a request that only wants the model in memory, where it is."""
        return self._object("", done=True, done_reason="load")

    def _last(self, job, text):
        ended = job.ended or time.monotonic()
        first = job.first_token or ended
        return self._object(
            text,
            done=True,
            done_reason=finish_reason(job.completions[0]),
            total_duration=_nanoseconds(ended - job.arrived),
            load_duration=0,
            prompt_eval_count=job.prompt_tokens,
            prompt_eval_duration=_nanoseconds(first - job.arrived),
            eval_count=job.new_tokens,
            eval_duration=_nanoseconds(ended - first),
        )


def _nanoseconds(seconds):
    return int(seconds * 1e9)
