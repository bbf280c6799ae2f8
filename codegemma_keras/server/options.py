"""Fields that several APIs share, and those that this server adds to them."""

import pydantic

from codegemma_keras.decoding import Cursor, Sampling
from codegemma_keras.server.fields import Flag, Number, Whole


class File(pydantic.BaseModel):
    """Another file to show to the model."""

    path: str
    text: str


class PlaceOptions(pydantic.BaseModel):
    """What this server adds to some APIs that fill in the middle."""

    path: str | None = None
    """The file's path in its repository; recommended."""
    until: str | None = None
    """"line", "statement" or "block": end with the line, or with the cursor's statement or
    block."""
    tidy: Flag = False
    """Write nothing twice that stands around the cursor."""


class CursorOptions(PlaceOptions):
    """The same, with other files."""

    context: tuple[File, ...] = ()
    """Other files, the most related last."""

    def cursor(self, prefix: str, suffix: str) -> Cursor:
        context = [(file.path, file.text) for file in self.context]
        return Cursor(prefix, suffix, self.path, context)


class SamplingOptions(pydantic.BaseModel):
    """How tokens are chosen."""

    temperature: Number | None = None
    """0, the default here, takes the most probable token each time."""
    top_p: Number | None = None
    top_k: Whole | None = None
    """0 or -1: all tokens."""
    min_p: Number | None = None
    seed: Whole | None = None

    def sampling(self) -> Sampling:
        given = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": None if self.top_k is None else max(self.top_k, 0),
            "min_p": self.min_p,
        }
        return Sampling(**{name: v for name, v in given.items() if v is not None})
