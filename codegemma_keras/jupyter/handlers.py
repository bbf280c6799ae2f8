"""The server extension's one route, on the origin of the notebooks and behind its login.

Nothing heavy is imported when the Jupyter server starts.
"""

import asyncio
import contextlib
import json

from jupyter_server.base.handlers import APIHandler
from jupyter_server.utils import url_path_join
from tornado import web
from tornado.iostream import StreamClosedError
from traitlets import TraitError

from codegemma_keras.cli.process import choose_backend
from codegemma_keras.jupyter.config import CodeGemma
from codegemma_keras.jupyter.models import Models

# A newer request of the page came, or too much is waiting: no fault, and no text.
OVERTAKEN = (409, 503)


class CompleteHandler(APIHandler):
    """`codegemma/complete`: GET says what is offered, POST completes.

    A stream is lines of JSON: `{"state": "loading"}` where the model is not there yet,
    `{"text": ...}` for each piece, and at the end `{"done": true}` with the `model` that
    wrote it, or with a `message` that says what is wrong.
    """

    def initialize(self, models: Models | None, fault: str | None = None):
        self._models = models
        self._fault = fault
        self._work = None

    @web.authenticated
    def get(self):
        if self._refuse():
            return
        models = self._models
        self.finish({"models": list(models.offered), "loading": models.loading})

    @web.authenticated
    async def post(self):
        if self._refuse():
            return
        self._work = asyncio.ensure_future(self._complete(self.get_json_body()))
        await asyncio.wait([self._work])
        # The page may go while it is told something, before its closing is noticed.
        with contextlib.suppress(asyncio.CancelledError, StreamClosedError):
            self._work.result()

    def on_connection_close(self):
        """The page has gone, or has asked for something newer: nobody reads the text."""
        if self._work is not None:
            self._work.cancel()
        super().on_connection_close()

    def _refuse(self):
        """Say what is wrong with the configuration; whether something is."""
        if self._fault is not None:
            self.set_status(400)
            self.finish({"message": self._fault})
        return self._fault is not None

    async def _complete(self, value):
        streaming = isinstance(value, dict) and value.get("stream") is True
        if streaming:
            self.set_header("Content-Type", "application/x-ndjson")
            self.set_header("Cache-Control", "no-store")
            self.set_header("X-Accel-Buffering", "no")  # else nginx collects the pieces
        status, answer = 200, {"text": ""}
        try:
            answer = await self._answer(value, streaming)
        except StreamClosedError:
            raise
        except Exception as error:
            status = getattr(error, "status", None)
            if status is None and not isinstance(error, (ValueError, OSError)):
                if streaming:
                    await self._tell(message="It failed; the server's log says why.")
                raise
            if status in OVERTAKEN:
                status = 200
            else:
                status, answer = status or 400, {"message": str(error)}
        if streaming:
            answer.pop("text", None)
            await self._tell(done=True, **answer)
            self.finish()
        else:
            self.set_status(status)
            self.finish(answer)

    async def _answer(self, value, streaming):
        """The whole text, and the name of the model that wrote it."""
        from codegemma_keras.jupyter.cells import understood

        body = understood(value)
        name = self._models.choice(body.model)
        if streaming and not self._models.ready(name):
            await self._tell(state="loading")
        completer = await self._models.completer(name)
        texts = []
        async with contextlib.aclosing(completer.pieces(body)) as pieces:
            async for piece in pieces:
                texts.append(piece)
                if streaming:
                    await self._tell(text=piece)
        return {"text": "".join(texts), "model": completer.name}

    async def _tell(self, **line):
        self.write(json.dumps(line) + "\n")
        await self.flush()


def _make(config):
    """What gives the completer of an offered name."""
    key = config.key()

    def make(name):
        if name == config.server:
            from codegemma_keras.jupyter.remote import Remote

            return Remote(name, key)
        choose_backend()
        from codegemma_keras.jupyter.completing import Completer

        return Completer(name)

    return make


def add_routes(server_app) -> None:
    """Called when the Jupyter server starts."""
    models = fault = None
    try:
        config = CodeGemma(parent=server_app)
        models = Models(config.offered(), _make(config))
    except (TraitError, ValueError, OSError) as error:
        fault = f"codegemma's configuration: {error}"
        server_app.log.error("%s", fault)
    else:
        server_app.log.info(
            "codegemma completes code inline with the model %s, which is loaded or asked "
            "when the first completion is asked for.",
            models.offered[0],
        )
    base = server_app.web_app.settings["base_url"]
    route = url_path_join(base, "codegemma", "complete")
    handlers = [(route, CompleteHandler, {"models": models, "fault": fault})]
    server_app.web_app.add_handlers(".*$", handlers)
