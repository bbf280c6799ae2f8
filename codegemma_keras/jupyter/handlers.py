"""The server extension's one route, on the origin of the notebooks and behind its login.

Nothing heavy is imported when the Jupyter server starts.
"""

import asyncio
import threading

from jupyter_server.base.handlers import APIHandler
from jupyter_server.utils import url_path_join
from tornado import web

from codegemma_keras.cli.process import choose_backend
from codegemma_keras.server.settings import DEFAULT_PRESET

# A newer request of the page came, or too much is waiting: no fault, and no text.
OVERTAKEN = (409, 503)


class Model:
    """The `Completer` of a preset, made when it is first needed.

    Args:
        preset: as `codegemma serve` takes it.
    """

    def __init__(self, preset: str):
        self.preset = preset
        self._making = threading.Lock()
        self._completer = None

    def completer(self):
        """For a thread: the first call takes as long as loading does."""
        with self._making:
            if self._completer is None:
                choose_backend()
                from codegemma_keras.jupyter.completing import Completer

                self._completer = Completer(self.preset)
            return self._completer


class CompleteHandler(APIHandler):
    """`codegemma/complete`: GET says with which preset, POST completes."""

    def initialize(self, model: Model):
        self._model = model

    @web.authenticated
    def get(self):
        self.finish({"preset": self._model.preset})

    @web.authenticated
    async def post(self):
        loop = asyncio.get_running_loop()
        try:
            completer = await loop.run_in_executor(None, self._model.completer)
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
    server_app.log.info("codegemma: inline completion with %s", preset)
