"""Fields that several APIs share, and those that this server adds to them."""

from typing import Annotated

import pydantic
from pydantic_core import PydanticCustomError

from codegemma_keras.decoding import Cursor, Sampling


def _not(wrong, kind):
    """What refuses values of a type that Pydantic would convert in silence."""

    def check(value):
        if isinstance(value, wrong):
            raise PydanticCustomError(kind, "a value of another type")
        return value

    return pydantic.BeforeValidator(check)


# JSON's numbers and truth values. Python takes `true` for 1 as well, and `1` for `true`.
Whole = Annotated[int, _not((bool, str), "int_type")]
Number = Annotated[float, _not((bool, str), "float_type")]
Flag = pydantic.StrictBool
TokenId = pydantic.StrictInt  # a list of many is checked without a call for each


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
