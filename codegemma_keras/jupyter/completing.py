"""From what a page sends to a text. Imports Keras, so it is imported when first needed."""

import pydantic

from codegemma_keras.decoding import Request
from codegemma_keras.server.ask import Ask, Body
from codegemma_keras.server.http import understood
from codegemma_keras.server.loading import for_one_editor
from codegemma_keras.server.options import CursorOptions, Whole
from codegemma_keras.server.settings import Settings
from codegemma_keras.server.waiting import text_of


class CellBody(Body, CursorOptions):
    """The text around the cursor, all cells together."""

    prefix: str
    suffix: str = ""
    max_tokens: Whole = pydantic.Field(64, ge=1)
    editor: str | None = None
    """A name for the page: its newer requests end its older ones."""

    def ask(self) -> Ask:
        request = Request(
            prompt=self.cursor(self.prefix, self.suffix),
            max_new_tokens=self.max_tokens,
            until=self.until or "line",
            tidy=True,
        )
        return Ask([request])


class Completer:
    """A model behind a scheduler.

    Args:
        preset: as `codegemma serve` takes it.
    """

    def __init__(self, preset: str):
        self._scheduler = for_one_editor(Settings(preset=preset))

    async def complete(self, value: dict) -> str:
        """The text for a `CellBody`.

        Raises:
            ApiError: a body that is none; too much is waiting; a newer request came.
            ValueError, TypeError: what is asked for cannot be done.
        """
        body = understood(CellBody, value)
        return await text_of(self._scheduler, body.ask(), body.editor)

    def close(self) -> None:
        """End what is under way."""
        self._scheduler.close(0)
