"""One request from bytes to bytes: read, understood, prepared, waited for, written.

A client that goes is noticed at once, while its prompt is prepared, while it reads a
stream or waits for the whole: its job ends at the next visit of the device.
"""

import asyncio
import functools
import json
import re
from collections.abc import Callable

import anyio
import pydantic
import pydantic_core
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from codegemma_keras.server.ask import ApiError, Body
from codegemma_keras.server.faults import sentence
from codegemma_keras.server.job import Job, Text, arrival
from codegemma_keras.server.replies import to_json
from codegemma_keras.server.scheduler import Scheduler
from codegemma_keras.server.waiting import begin, deliver_to, unless, until_done

# A body must have come within so many seconds.
BODY_SECONDS = 10.0
# Characters of an error; what a client sent is in it, however long that is.
LONGEST_MESSAGE = 400
# The same of the header that names ignored fields; names of other forms are quoted in it.
LONGEST_HEADER = 500
PLAIN_NAME = re.compile(r"[A-Za-z0-9_.$-]+")
# Nobody reads it: the client has gone.
CLIENT_GONE = 499


class JsonResponse(Response):
    """Compact JSON."""

    media_type = "application/json"

    def render(self, content):
        return to_json(content)


def error_body(path: str, status: int, message: str) -> dict:
    """An error as the API at `path` writes it."""
    if path.startswith("/api/"):  # Ollama
        return {"error": message}
    kind = "invalid_request_error" if status < 500 else "server_error"
    if status == 503:
        kind = "unavailable_error"
    error = {"message": message, "type": kind, "param": None, "code": status}
    return {"error": error}


def error_response(path: str, error: ApiError) -> Response:
    """An error as a response."""
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    message = str(error)
    if len(message) > LONGEST_MESSAGE:
        message = message[:LONGEST_MESSAGE] + "..."
    body = error_body(path, error.status, message)
    return JsonResponse(body, error.status, headers=headers)


async def read_json(request: Request, limit: int) -> dict:
    """The object in a request's body.

    Raises:
        ApiError: not JSON, too large, too slow.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # A web page may send other types to any address without being asked first.
        raise ApiError(
            415, "Send JSON, with the header `Content-Type: application/json`."
        )
    body = bytearray()
    try:
        with anyio.fail_after(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise ApiError(
                        413, f"The body is larger than {limit} bytes, the limit."
                    )
    except TimeoutError:
        raise ApiError(
            408, f"The body did not come within {BODY_SECONDS:g} seconds."
        ) from None
    try:
        value = pydantic_core.from_json(bytes(body), allow_inf_nan=False)
    except ValueError as error:
        raise ApiError(400, f"The body is not JSON: {error}.") from None
    if not isinstance(value, dict):
        raise ApiError(400, "The body must be a JSON object.")
    return value


def understood(body_type: type[Body], value: dict) -> Body:
    """A body of an API.

    Raises:
        ApiError: a field that is missing or of another type.
    """
    try:
        return body_type.model_validate(value)
    except pydantic.ValidationError as error:
        raise ApiError(400, sentence(error, value)) from None


class Completions:
    """Endpoints that give text: all APIs' requests go through `answer`.

    Args:
        scheduler: a function that gives the `Scheduler`, or raises `BusyError`.
        model: the name to give.
        body_limit: of a request, in bytes.
        finished: told of each job and its outcome, for logs and metrics.
    """

    def __init__(
        self,
        scheduler: Callable[[], Scheduler],
        model: str,
        body_limit: int,
        finished: Callable,
    ):
        self._scheduler = scheduler
        self._model = model
        self._body_limit = body_limit
        self._finished = finished

    def endpoint(self, choose: Callable[[dict], type[Body]]):
        """A route's function; `choose` says of which API an object is."""
        return functools.partial(self.answer, choose)

    async def answer(self, choose, request: Request) -> Response:
        """One request.

        Raises:
            ApiError: it gets no text, and why.
        """
        number = arrival()  # before the body is read: a newer one may be shorter
        value = await read_json(request, self._body_limit)
        body = understood(choose(value), value)
        self.check_model(body.model)
        if (known := body.immediate(self._model)) is not None:
            return JsonResponse(known)
        scheduler = self._scheduler()
        events = asyncio.Queue()
        editor = request.headers.get("x-editor-id") or None
        try:
            ask = body.ask()
            job = Job(ask, deliver_to(events), editor, number)
            if not await unless(gone(request), begin(scheduler, job)):
                raise ClientDisconnect
        except (ValueError, TypeError) as error:
            raise ApiError(400, str(error)) from None
        reply = body.reply(self._model)
        headers = {"X-Request-Id": reply.id, "Cache-Control": "no-store"}
        if body.ignored:
            headers["X-Ignored-Fields"] = _header(body.ignored)
        answered = self._stream if ask.stream else self._whole
        return await answered(request, job, events, reply, headers)

    def check_model(self, name: str | None) -> None:
        """Raise ApiError for a model that is not here; no name means the one there is."""
        if name and name.removesuffix(":latest") != self._model:
            raise ApiError(
                404, f"There is no model {name!r} here, only {self._model!r}."
            )

    async def _stream(self, request, job, events, reply, headers):
        path = request.url.path

        async def chunks():
            outcome = "cancelled"
            try:
                yield reply.begin(job)
                async for event in until_done(job, events):
                    if isinstance(event, Text):
                        yield reply.text(job, event.index, event.text)
                    else:
                        yield reply.done(job, event.index)
                yield reply.end(job)
                outcome = "ok"
            except ApiError as error:
                outcome = "superseded" if job.superseded else "error"
                yield reply.failed(error_body(path, error.status, str(error)))
            finally:
                job.cancel()
                self._finished(request.url.path, job, reply.id, outcome)

        return StreamingResponse(chunks(), headers=headers, media_type=reply.media_type)

    async def _whole(self, request, job, events, reply, headers):
        outcome = "cancelled"
        try:
            if not await unless(gone(request), _all(until_done(job, events))):
                return Response(status_code=CLIENT_GONE)
            outcome = "ok"
            return JsonResponse(reply.whole(job), headers=headers)
        except ApiError:
            outcome = "superseded" if job.superseded else "error"
            raise
        finally:
            job.cancel()
            self._finished(request.url.path, job, reply.id, outcome)


async def _all(events) -> bool:
    """Wait for the last of some events; True."""
    async for _ in events:
        pass
    return True


async def gone(request):
    """Wait until the client has gone; its body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _header(names) -> str:
    """Names that a client made up, safe in a header: unusual ones are JSON strings.

    A header that ended in a space would end the connection without an answer.
    """
    shown, length = [], 0
    for name in names:
        usual = PLAIN_NAME.fullmatch(name)
        shown.append(name if usual else json.dumps(name))
        length += len(shown[-1]) + 2
        if length > LONGEST_HEADER:
            return ", ".join([*shown[:-1], "..."])
    return ", ".join(shown)
