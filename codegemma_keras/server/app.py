"""The application: routes, loading in the background, what is done at start and end."""

import asyncio
import contextlib
import dataclasses
import threading
from collections.abc import Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from codegemma_keras.server import info, llamacpp, ollama, openai, openai_chat, openapi
from codegemma_keras.server.ask import ApiError, BusyError
from codegemma_keras.server.guard import Guard
from codegemma_keras.server.http import (
    CLIENT_GONE,
    Completions,
    JsonResponse,
    error_response,
)
from codegemma_keras.server.metrics import Metrics
from codegemma_keras.server.scheduler import Scheduler
from codegemma_keras.server.settings import Settings
from codegemma_keras.server.tabby import TabbyBody


class Server:
    """One model and its state: loading, ready or failed.

    Args:
        settings: a `Settings`.
        load: gives the `CodeGemmaCausalLM`; called in a thread of its own.
        warm: called there with the scheduler when the first requests can be served.

    Attributes:
        scheduler: the `Scheduler`; None until the model is loaded.
        error: what loading failed with; None: nothing.
    """

    def __init__(self, settings: Settings, load: Callable, warm: Callable):
        self.settings = settings
        self.scheduler: Scheduler | None = None
        self.error: Exception | None = None
        self._load = load
        self._warm = warm
        self._stopped = False

    def ready(self) -> Scheduler:
        """The scheduler.

        Raises:
            BusyError: the model is not there yet.
        """
        if self.scheduler is None:
            raise BusyError("Loading model", 5)
        return self.scheduler

    def start(self, failed: Callable[[], None]) -> None:
        """Load in the background; `failed` is called if that fails."""

        def load():
            s = self.settings
            try:
                scheduler = Scheduler(
                    self._load(),
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
            self.scheduler = scheduler
            if self._stopped:
                scheduler.close(0)
            else:
                self._warm(scheduler)

        threading.Thread(target=load, name="loading", daemon=True).start()

    def stop(self, seconds: float = 5.0) -> None:
        """End everything; jobs that are not done after `seconds` end with what is."""
        self._stopped = True
        if self.scheduler is not None:
            self.scheduler.close(seconds)


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """A route, and how the OpenAPI page shows it.

    Attributes:
        method, path: of HTTP.
        function: of Starlette.
        bodies: types of the body; none for GET.
        summary: one line.
    """

    method: str
    path: str
    function: Callable
    bodies: tuple = ()
    summary: str = ""

    def route(self) -> Route:
        return Route(self.path, self.function, methods=[self.method])


def create_app(
    settings: Settings,
    load: Callable,
    warm: Callable = lambda scheduler: None,
    failed: Callable[[], None] = lambda: None,
) -> Starlette:
    """The ASGI application.

    Args:
        settings: a `Settings`.
        load: gives the `CodeGemmaCausalLM`.
        warm: called with the `Scheduler` in the background, once it serves.
        failed: called if loading fails; `app.state.server.error` says with what.
    """
    settings.check()
    server = Server(settings, load, warm)
    metrics = Metrics(lambda: server.scheduler, settings.log_prompts)
    endpoints = _endpoints(settings, server, metrics)
    page = openapi.document(
        [(e.method, e.path, e.summary, e.bodies) for e in endpoints]
    )

    async def openapi_page(request):
        return JsonResponse(page)

    @contextlib.asynccontextmanager
    async def lifespan(app):
        server.start(failed)
        yield
        # In a thread, because streams still have their ends to send.
        await asyncio.to_thread(server.stop)

    paths = {endpoint.path for endpoint in endpoints}

    def refused(path, status):
        metrics.refused(path if path in paths else "other", status)

    app = Starlette(
        routes=[e.route() for e in endpoints] + [Route("/openapi.json", openapi_page)],
        lifespan=lifespan,
        middleware=[Middleware(Guard, settings=settings, refused=refused)],
        exception_handlers=_error_handlers(refused),
    )
    app.state.server = server
    return app


def _endpoints(settings, server, metrics):
    limit = settings.max_body_kib * 1024
    texts = Completions(server.ready, settings.name, limit, metrics.finished)
    about = info.Info(server.ready, settings.name, texts.check_model, limit)

    def text(path, *bodies):
        def choose(value):
            return (
                TabbyBody if TabbyBody in bodies and "segments" in value else bodies[0]
            )

        summary = " Or: ".join(openapi.summary(body) for body in bodies)
        return Endpoint("POST", path, texts.endpoint(choose), bodies, summary)

    def get(path, function):
        return Endpoint("GET", path, function, (), openapi.summary(function))

    def post(path, function, body):
        return Endpoint("POST", path, function, (body,), openapi.summary(function))

    async def exposition(request):
        """Counters for Prometheus."""
        return Response(metrics.exposition(), media_type="text/plain; version=0.0.4")

    return [
        text("/v1/completions", openai.CompletionBody, TabbyBody),
        text("/v1/chat/completions", openai_chat.ChatBody),
        text("/v1/fim/completions", openai_chat.FimBody),
        get("/v1/models", about.models),
        text("/infill", llamacpp.InfillBody),
        text("/completion", llamacpp.PlainBody),
        text("/completions", llamacpp.PlainBody),
        get("/health", about.health),
        get("/props", about.props),
        post("/tokenize", about.tokenize, info.TokenizeBody),
        post("/detokenize", about.detokenize, info.DetokenizeBody),
        get("/metrics", exposition),
        text("/api/generate", ollama.GenerateBody),
        text("/api/chat", ollama.OllamaChatBody),
        get("/api/tags", about.ollama_tags),
        get("/api/ps", about.ollama_ps),
        get("/api/version", about.ollama_version),
        post("/api/show", about.ollama_show, info.ShowBody),
        get("/v1/health", about.tabby_health),
        Endpoint("POST", "/v1/health", about.tabby_health, (), "Tabby's, too."),
    ]


def _error_handlers(refused):
    def answer(request: Request, error: ApiError):
        path = request.url.path
        refused(path, error.status)
        return error_response(path, error)

    def http_error(request, error):
        path = request.url.path
        messages = {
            404: f"There is nothing at {path}.",
            405: f"{request.method} is not a method of {path}.",
        }
        message = messages.get(error.status_code, error.detail)
        response = answer(request, ApiError(error.status_code, message))
        response.headers.update(error.headers or {})  # `Allow` of a status 405
        return response

    def gone(request, error):
        refused(request.url.path, CLIENT_GONE)
        return Response(status_code=CLIENT_GONE)

    def fault(request, error):
        # Starlette raises it once more, and the log has the traceback.
        return answer(request, ApiError(500, "The server failed; its log says why."))

    return {
        ApiError: answer,
        HTTPException: http_error,
        ClientDisconnect: gone,
        Exception: fault,
    }
