"""What all APIs' answers have in common; what differs stands in each API's module."""

import json
import time
import uuid

# Why a completion ended, in OpenAI's two words.
# A server that stops cuts what is under way.
LENGTH = ("max_new_tokens", "time", "cancelled")


def to_json(value) -> bytes:
    """Compact, in UTF-8. llama.vim finds its text by `"content":"`, without a space."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def sse(value) -> bytes:
    """One server-sent event."""
    return b"data: " + to_json(value) + b"\n\n"


def finish_reason(completion) -> str:
    """`"length"` if a limit ended the text, else `"stop"`."""
    return "length" if completion.stop_reason in LENGTH else "stop"


class Reply:
    """Writes the answer to one job, whole or as a stream.

    Args:
        model: str, the model's name.

    Attributes:
        media_type: of a stream.
        id: str, of the answer.
        created: int, seconds since 1970.
    """

    media_type = "text/event-stream"
    kind = "cmpl"

    def __init__(self, model: str):
        self.model = model
        self.id = f"{self.kind}-{uuid.uuid4().hex[:24]}"
        self.created = int(time.time())

    def begin(self, job) -> bytes:
        """What a stream begins with."""
        return b""

    def text(self, job, index: int, text: str) -> bytes:
        """Further text of answer `index`."""
        raise NotImplementedError

    def done(self, job, index: int) -> bytes:
        """The end of answer `index`."""
        return b""

    def end(self, job) -> bytes:
        """The end of the stream."""
        return b""

    def failed(self, error: dict) -> bytes:
        """An error in the middle of a stream."""
        return sse(error)

    def whole(self, job):
        """The whole answer, as what JSON can say."""
        raise NotImplementedError


def usage(job) -> dict:
    """Tokens of a job, as OpenAI counts them."""
    prompt, new = job.prompt_tokens, job.new_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": new,
        "total_tokens": prompt + new,
        "prompt_tokens_details": {"cached_tokens": job.cached_tokens},
    }
