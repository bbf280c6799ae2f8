"""The one model that completes at a time. Loading and freeing block no keystroke."""

import asyncio
from collections.abc import Callable, Sequence


class Models:
    """The model that is chosen, made when it is first needed.

    Another choice frees the old one first: two seldom fit into the memory of a laptop.

    Args:
        offered: the names that may be chosen; the first is the default.
        make: gives the completer of a name; called in a thread.

    Attributes:
        offered: as given.
    """

    def __init__(self, offered: Sequence[str], make: Callable):
        self.offered = tuple(offered)
        self._make = make
        self._chosen = None
        self._loading = None

    def choice(self, name: str | None) -> str:
        """The name of a model that is offered; no name means the default.

        Raises:
            ValueError: it is not offered.
        """
        if not name:
            return self.offered[0]
        if name not in self.offered:
            raise ValueError(
                f"This Jupyter server does not offer the model {name!r}, only "
                f"{', '.join(self.offered)}. Choose one of these in Settings, Inline "
                "Completer, or ask the server's administrator (c.CodeGemma.presets)."
            )
        return name

    def ready(self, name: str) -> bool:
        """Whether this model is there, or could not be loaded, so that nobody waits."""
        return name == self._chosen and self._loading.done()

    @property
    def loading(self) -> bool:
        """Whether a model is being loaded."""
        return self._loading is not None and not self._loading.done()

    async def completer(self, name: str):
        """The completer of an offered name. All requests wait for one loading.

        A model that cannot be loaded is not tried again until another one was chosen:
        each keystroke would, and read files or ask the network in vain.
        """
        if name != self._chosen:
            self._chosen, old = name, self._loading
            self._loading = asyncio.ensure_future(self._replace(old, name))
            # A failure that no request waits for any more is no surprise to asyncio.
            self._loading.add_done_callback(
                lambda done: done.cancelled() or done.exception()
            )
        # One request that is given up must not end the loading for the others.
        return await asyncio.shield(self._loading)

    async def _replace(self, old, name):
        loop = asyncio.get_running_loop()
        if old is not None:
            await asyncio.wait([old])
            if old.exception() is None:
                await loop.run_in_executor(None, old.result().close)
        del old  # the last that holds the model
        return await loop.run_in_executor(None, self._make, name)
