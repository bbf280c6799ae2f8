"""The server extension's one route, on the origin of the notebooks and behind its login.

Nothing heavy is imported when the Jupyter server starts.
"""

import asyncio

from jupyter_server.base.handlers import APIHandler
from jupyter_server.utils import url_path_join
from tornado import web

from codegemma_keras.cli.process import choose_backend
from codegemma_keras.server.settings import DEFAULT_PRESET

# A newer request of the page came, or too much is waiting: no fault, and no text.
OVERTAKEN = (409, 503)


class Model:
    """The `Completer` of a preset, made once, when it is first needed.

    Args:
        preset: as `codegemma serve` takes it.
    """

    def __init__(self, preset: str):
        self.preset = preset
        self._loading = None

    async def completer(self):
        """The completer. All requests wait for one loading, and share what it ends with.

        A preset that cannot be loaded is not tried again: each keystroke would, and read
        files or ask the network in vain.
        """
        if self._loading is None:
            loop = asyncio.get_running_loop()
            self._loading = loop.run_in_executor(None, self._load)
        # One request that is given up must not end the loading for the others.
        return await asyncio.shield(self._loading)

    def _load(self):
        choose_backend()
        from codegemma_keras.jupyter.completing import Completer

        return Completer(self.preset)


class CompleteHandler(APIHandler):
    """`codegemma/complete`: GET says with which preset, POST completes."""

    def initialize(self, model: Model):
        self._model = model

    @web.authenticated
    def get(self):
        self.finish({"preset": self._model.preset})

    @web.authenticated
    async def post(self):
        try:
            completer = await self._model.completer()
            text = await completer.complete(self.get_json_body() or {})
        except Exception as error:
            status = getattr(error, "status", None)
            if status is None and not isinstance(error, (ValueError, OSError)):
                raise
            if status in OVERTAKEN:
                self.finish({"text": ""})
                return
            self.set_status(status or 400)
            self.finish({"message": str(error)})
            return
        self.finish({"text": text})


def add_routes(server_app) -> None:
    """Called when the Jupyter server starts."""
    preset = server_app.config.get("CodeGemma", {}).get("preset", DEFAULT_PRESET)
    base = server_app.web_app.settings["base_url"]
    route = url_path_join(base, "codegemma", "complete")
    handlers = [(route, CompleteHandler, {"model": Model(preset)})]
    server_app.web_app.add_handlers(".*$", handlers)
    server_app.log.info(
        "codegemma completes code inline with the model %s, which is loaded when the first "
        "completion is asked for.",
        preset,
    )
