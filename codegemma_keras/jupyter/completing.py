"""From a cell to text, by a model of this process. Imports Keras: when first needed."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator

from codegemma_keras.decoding import Cursor, Request
from codegemma_keras.jupyter.cells import CellBody
from codegemma_keras.server.ask import Ask
from codegemma_keras.server.job import Job, Text
from codegemma_keras.server.loading import for_one_editor
from codegemma_keras.server.settings import Settings
from codegemma_keras.server.waiting import begin, deliver_to, until_done


class Completer:
    """A model behind a scheduler.

    Args:
        preset: as `codegemma serve` takes it.

    Attributes:
        name: of the model, as people are to read it.
    """

    def __init__(self, preset: str):
        settings = Settings(preset=preset)
        self.name = settings.name
        self._scheduler = for_one_editor(settings)

    async def pieces(self, body: CellBody) -> AsyncIterator[str]:
        """The text for a cell, as it comes; it ends when the iterator is closed.

        Raises:
            ApiError: too much is waiting; a newer request came.
            ValueError, TypeError: what is asked for cannot be done.
        """
        around = body.around()
        if around is None:
            return
        request = Request(
            prompt=Cursor(*around, body.path),
            max_new_tokens=body.max_tokens,
            until=body.until,
            tidy=True,
        )
        events = asyncio.Queue()
        job = Job(Ask([request]), deliver_to(events), body.editor)
        try:
            await begin(self._scheduler, job)
            async with contextlib.aclosing(until_done(job, events)) as told:
                async for event in told:
                    if isinstance(event, Text):
                        yield event.text
        finally:
            job.cancel()

    def close(self) -> None:
        """End what is under way, and free the model."""
        self._scheduler.close(0)
        self._scheduler = None
        gc.collect()  # layers know one another in circles
