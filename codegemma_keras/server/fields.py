"""Types of fields that take only what JSON writes for them. Keras isn't needed for this."""

from typing import Annotated

import pydantic
from pydantic_core import PydanticCustomError


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
