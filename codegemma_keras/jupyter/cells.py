"""What a page sends, and the one program that the cells of a notebook make.

Neither Keras nor a model is needed for this: where a server elsewhere completes, the
Jupyter server stays small.
"""

import re

import pydantic

from codegemma_keras.server.faults import sentence
from codegemma_keras.server.fields import Flag, Whole

# `%time x`, `%%time` and `!ls`, but not `% x`, which continues an expression.
_MAGIC = re.compile(r"^(?=[ \t]*(?:%{1,2}[A-Za-z_]|!))", re.M)
# Cells that begin with another magic of a cell hold another language, or prose.
_PYTHON_MAGICS = {"capture", "debug", "infill", "memit", "prun", "px", "time", "timeit"}


class CellBody(pydantic.BaseModel):
    """The text around the cursor, and how it is to be completed."""

    model_config = pydantic.ConfigDict(extra="forbid", use_attribute_docstrings=True)

    prefix: str
    """The text of the cell, or of the file, before the cursor."""
    suffix: str = ""
    """The same behind the cursor."""
    above: tuple[str, ...] = ()
    """The code cells above, the first one first."""
    below: tuple[str, ...] = ()
    """The code cells below."""
    path: str | None = None
    """The file's path; its ending names the language."""
    until: str = "line"
    """Where the text ends: "line", "statement" or "block"."""
    max_tokens: Whole = pydantic.Field(64, ge=1)
    """The most tokens of the answer."""
    editor: str | None = None
    """A name for the page: its newer requests end its older ones."""
    model: str | None = None
    """One of the models that the Jupyter server offers; None: the first of them."""
    stream: Flag = False
    """Whether text is sent as it comes."""

    def around(self) -> tuple[str, str] | None:
        """Prefix and suffix of the whole program; None: the cell holds no code of it."""
        if self.path is None or not self.path.endswith(".py"):
            return "\n\n".join([*self.above, self.prefix]), "\n\n".join(
                [self.suffix, *self.below]
            )
        if not _is_python(self.prefix):
            return None
        above, below = (
            [_commented(cell) for cell in cells if _is_python(cell)]
            for cells in (self.above, self.below)
        )
        # The line of the cursor stays as it is: a magic may be what is being written.
        earlier, end, line = self.prefix.rpartition("\n")
        rest, begin, later = self.suffix.partition("\n")
        prefix = _commented(earlier) + end + line
        suffix = rest + begin + _commented(later)
        return "\n\n".join([*above, prefix]), "\n\n".join([suffix, *below])


def understood(value: object) -> CellBody:
    """The body that a page sent.

    Raises:
        ValueError: it is none, and why.
    """
    if not isinstance(value, dict):
        raise ValueError("The body must be a JSON object.")
    try:
        return CellBody.model_validate(value)
    except pydantic.ValidationError as error:
        raise ValueError(sentence(error, value)) from None


def _is_python(cell):
    magic = re.match(r"\s*%%(\S*)", cell)
    return magic is None or magic[1] in _PYTHON_MAGICS


def _commented(code):
    # As Jupytext writes such lines. A quote or a bracket in one of them opens nothing.
    return _MAGIC.sub("# ", code)
