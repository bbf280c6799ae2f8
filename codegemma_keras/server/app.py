"""The application: routes, loading in the background, what is done at start and end."""

import contextlib
import logging
import threading
from collections.abc import Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Route

from codegemma_keras.server import llamacpp, openai
from codegemma_keras.server.ask import ApiError, BusyError
from codegemma_keras.server.http import Completions, JsonResponse, error_response
from codegemma_keras.server.scheduler import Scheduler
from codegemma_keras.server.settings import Settings

LOG = logging.getLogger(__name__)


class Server:
    """One model and its state: loading, ready or failed.

    Args:
        settings: a `Settings`.
        load: gives the `CodeGemmaCausalLM`; called in a thread of its own.

    Attributes:
        error: what loading failed with; None: nothing.
    """

    def __init__(self, settings: Settings, load: Callable):
        self.settings = settings
        self.error = None
        self._load = load
        self._scheduler = None
        self._stopped = False

    def scheduler(self) -> Scheduler:
        """The scheduler.

        Raises:
            BusyError: the model is not there yet.
        """
        if self._scheduler is None:
            raise BusyError("Loading model", 5)
        return self._scheduler

    def start(self, failed: Callable[[], None] = lambda: None) -> threading.Thread:
        """Load in the background; `failed` is called if that fails."""

        def load():
            try:
                lm = self._load()
                s = self.settings
                scheduler = Scheduler(
                    lm,
                    s.rows,
                    s.max_waiting,
                    s.max_seconds,
                    s.layout,
                    s.cache_mib * 2**20,
                )
            except Exception as error:
                self.error = error
                failed()
                return
            self._scheduler = scheduler
            if self._stopped:
                scheduler.close(0)

        thread = threading.Thread(target=load, name="loading", daemon=True)
        thread.start()
        return thread

    def stop(self, seconds: float = 5.0) -> None:
        """End everything."""
        self._stopped = True
        if self._scheduler is not None:
            self._scheduler.close(seconds)

    # Routes

    async def health(self, request: Request):
        self.scheduler()
        return JsonResponse({"status": "ok"})

    def finished(self, request, job, reply, outcome):
        """Told of each job when its answer is written."""


def create_app(
    settings: Settings, load: Callable, failed: Callable[[], None] = lambda: None
) -> Starlette:
    """The ASGI application.

    Args:
        settings: a `Settings`.
        load: gives the `CodeGemmaCausalLM`.
        failed: called if loading fails; `app.state.server.error` says with what.
    """
    server = Server(settings, load)
    texts = Completions(
        server.scheduler, settings.name, settings.max_body_kib * 1024, server.finished
    )

    async def models(request):
        model = {"id": settings.name, "object": "model", "created": 0}
        model["owned_by"] = "codegemma-keras"
        return JsonResponse({"object": "list", "data": [model]})

    def post(path, body_type):
        return Route(path, texts.endpoint(lambda value: body_type), methods=["POST"])

    @contextlib.asynccontextmanager
    async def lifespan(app):
        server.start(failed)
        yield
        server.stop()

    app = Starlette(
        routes=[
            Route("/health", server.health),
            Route("/v1/models", models),
            post("/v1/completions", openai.CompletionBody),
            post("/infill", llamacpp.InfillBody),
            post("/completion", llamacpp.PlainBody),
        ],
        lifespan=lifespan,
        exception_handlers={
            ApiError: lambda request, error: error_response(request.url.path, error),
            HTTPException: _http_error,
        },
    )
    app.state.server = server
    return app


def _http_error(request, error):
    path = request.url.path
    messages = {
        404: f"There is nothing at {path}.",
        405: f"{request.method} is not a method of {path}.",
    }
    message = messages.get(error.status_code, error.detail)
    return error_response(path, ApiError(error.status_code, message))
