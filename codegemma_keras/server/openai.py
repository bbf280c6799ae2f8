"""OpenAI's `/v1/completions`, with `suffix` for fill-in-the-middle, and `/v1/models`.

A prompt without `suffix` is raw, as in `generate()`: a client that renders the prompt
itself, as Continue does, may write the control tokens into it. With `suffix`, even an
empty one, the server renders, and control strings stay text.

`temperature` is 0 where a request names none: a completion should be the same twice.
"""

import pydantic

from codegemma_keras.decoding import RawText, Request, TokenIds
from codegemma_keras.server.ask import Ask, Body
from codegemma_keras.server.fields import Flag, Number, TokenId, Whole
from codegemma_keras.server.options import CursorOptions, SamplingOptions
from codegemma_keras.server.replies import Reply, finish_reason, sse, usage
from codegemma_keras.tokenizer.tokenizer import IncrementalDecoder


class StreamOptions(pydantic.BaseModel):
    """What else a stream says."""

    include_usage: Flag = False


class CompletionBody(Body, CursorOptions, SamplingOptions):
    """A completion; with `suffix`, fill-in-the-middle."""

    prompt: str | list[str] | list[TokenId] | list[list[TokenId]]
    """Text, several, or token ids."""
    suffix: str | None = None
    """The text behind the cursor."""
    max_tokens: Whole | None = pydantic.Field(16, ge=0)
    n: Whole | None = pydantic.Field(1, ge=1)
    stop: str | list[str] | None = None
    stream: Flag | None = False
    stream_options: StreamOptions | None = None
    echo: Flag | None = False
    """Give the prompt back before the completion."""
    logprobs: Whole | None = pydantic.Field(None, ge=0)
    """0 or 1: give the log-probabilities of the tokens."""
    best_of: Whole | None = None
    frequency_penalty: Number | None = None
    presence_penalty: Number | None = None
    logit_bias: dict[str, Number] | None = None
    user: str | None = None

    def prompts(self) -> list:
        """Strings and lists of ids."""
        if isinstance(self.prompt, str) or (
            self.prompt and isinstance(self.prompt[0], int)
        ):
            return [self.prompt]
        return self.prompt

    def ask(self) -> Ask:
        self.refuse(frequency_penalty=0, presence_penalty=0, logit_bias={})
        self.refuse(best_of=self.n)
        if self.logprobs is not None and self.logprobs > 1:
            raise ValueError(
                f"logprobs={self.logprobs}: this server knows the log-probabilities of "
                "the chosen tokens only; ask for 0 or 1."
            )
        if self.echo and self.logprobs is not None and self.suffix is not None:
            raise ValueError(
                "echo=True with logprobs and suffix: the prompt that the model reads has "
                "the suffix and control tokens in it, so its tokens are not those of the "
                "text that is given back. Leave one of the three out."
            )
        return Ask(
            [self._request(prompt) for prompt in self.prompts()],
            self.n or 1,
            bool(self.stream),
            score_prompts=bool(self.echo and self.logprobs is not None),
        )

    def _request(self, prompt):
        if not isinstance(prompt, str):
            if self.suffix is not None:
                raise ValueError("suffix goes with a prompt of text, not of token ids.")
            prompt = TokenIds(prompt)
        elif self.suffix is not None:
            prompt = self.cursor(prompt, self.suffix)
        else:
            self.refuse(path=None, context=())
            prompt = RawText(prompt)
        return Request(
            prompt=prompt,
            max_new_tokens=16 if self.max_tokens is None else self.max_tokens,
            stop_strings=() if self.stop is None else self.stop,
            until=self.until,
            tidy=self.tidy,
            sampling=self.sampling(),
            seed=self.seed,
        )

    def reply(self, model):
        return CompletionReply(model, self)


class CompletionReply(Reply):
    """OpenAI's `text_completion`."""

    def __init__(self, model, body):
        super().__init__(model)
        self.body = body

    def _object(self, choices, **more):
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": choices,
            **more,
        }

    @staticmethod
    def _choice(index, text, finish_reason=None, logprobs=None):
        return {
            "index": index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }

    def begin(self, job):
        if not self.body.echo:
            return b""
        choices = [
            self._choice(index, self._prompt_text(job, index))
            for index in range(len(job.completions))
        ]
        return b"".join(sse(self._object([choice])) for choice in choices)

    def text(self, job, index, text):
        return sse(self._object([self._choice(index, text)]))

    def done(self, job, index):
        """The last chunk has the log-probabilities of all of them."""
        completion = job.completions[index]
        choice = self._choice(
            index, "", finish_reason(completion), self._logprobs(job, index)
        )
        return sse(self._object([choice]))

    def end(self, job):
        options = self.body.stream_options
        last = b"data: [DONE]\n\n"
        if options is None or not options.include_usage:
            return last
        return sse(self._object([], usage=usage(job))) + last

    def whole(self, job):
        choices = []
        for index, completion in enumerate(job.completions):
            text = completion.text
            if self.body.echo:
                text = self._prompt_text(job, index) + text
            choices.append(
                self._choice(
                    index, text, finish_reason(completion), self._logprobs(job, index)
                )
            )
        return self._object(choices, usage=usage(job))

    def _prompt_text(self, job, index):
        prompt = self.body.prompts()[index // job.ask.n]
        return prompt if isinstance(prompt, str) else job.tokenizer.decode(prompt)

    def _logprobs(self, job, index):
        """Of the prompt, too, if it is echoed: its first token has none."""
        if self.body.logprobs is None:
            return None
        completion = job.completions[index]
        ids, scores = completion.token_ids, completion.log_probabilities
        if self.body.echo:
            number = index // job.ask.n
            prompt = job.groups[number][0].row.prompt
            ids = [*prompt, *ids]
            known = [float(score) for score in job.prompt_scores[number][1:]]
            scores = [None, *known, *scores]
        length = len(completion.text)
        if self.body.echo:
            length += len(self._prompt_text(job, index))
        decoder, tokens, offsets, at = IncrementalDecoder(job.tokenizer), [], [], 0
        for token in ids:
            if at >= length and completion.text != "":
                break  # behind a stop in the text
            offsets.append(at)
            tokens.append(decoder.push([token]))
            at += len(tokens[-1])
        scores = scores[: len(tokens)]
        top = [
            None if score is None else {token: score}
            for token, score in zip(tokens, scores, strict=True)
        ]
        return {
            "tokens": tokens,
            "token_logprobs": scores,
            # The chosen one is the likeliest where nothing was drawn.
            "top_logprobs": top
            if self.body.logprobs and not self.body.temperature
            else None,
            "text_offset": offsets,
        }
