"""Tabby's `/v1/completions`, which is OpenAI's path: `segments` in a body tells them apart.

The text is tidied, since Tabby's plug-ins show it as it comes.
"""

import pydantic

from codegemma_keras.decoding import Cursor, Request
from codegemma_keras.server.ask import Ask, Body
from codegemma_keras.server.options import SamplingOptions
from codegemma_keras.server.replies import Reply

MAX_TOKENS = 128


class Snippet(pydantic.BaseModel):
    """A part of another file."""

    filepath: str
    body: str


class Segments(pydantic.BaseModel):
    """The place in the file, and what may be related."""

    prefix: str
    suffix: str | None = ""
    filepath: str | None = None
    declarations: list[Snippet] | None = None
    relevant_snippets_from_changed_files: list[Snippet] | None = None
    relevant_snippets_from_recently_opened_files: list[Snippet] | None = None

    def context(self) -> list[tuple[str, str]]:
        """Other files, the most related last."""
        parts = (
            self.relevant_snippets_from_recently_opened_files,
            self.relevant_snippets_from_changed_files,
            self.declarations,
        )
        # Tabby's lists begin with the most related.
        return [(s.filepath, s.body) for part in parts for s in reversed(part or [])]


class TabbyBody(Body, SamplingOptions):
    """Fill in the middle."""

    language: str | None = None
    """Not needed: the file's path says it."""
    segments: Segments

    def ask(self) -> Ask:
        s = self.segments
        cursor = Cursor(s.prefix, s.suffix or "", s.filepath or None, s.context())
        request = Request(
            prompt=cursor,
            max_new_tokens=MAX_TOKENS,
            until="block",
            tidy=True,
            sampling=self.sampling(),
            seed=self.seed,
        )
        return Ask([request])

    def reply(self, model):
        return TabbyReply(model)


class TabbyReply(Reply):
    """Tabby's answer; it knows no streams."""

    def whole(self, job):
        texts = [completion.text for completion in job.completions]
        choices = [{"index": i, "text": text} for i, text in enumerate(texts)]
        return {"id": self.id, "choices": choices}
