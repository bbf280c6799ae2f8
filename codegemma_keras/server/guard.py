"""Who may ask: checked before any route, by the headers alone.

* Host: a page that has its own name resolve to 127.0.0.1 (DNS rebinding) still sends its
  own name. On a loopback address only this machine's names pass, and those of
  `--allow-host`. On other addresses the key does this work, and names are checked if
  `--allow-host` gives any.
* Origin: a page of another site is refused, whether or not it could read the answer;
  `--allow-origin` names those that may, and only they get CORS headers.
* Key: compared in constant time. `/health` needs none.
"""

import hmac
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware

from codegemma_keras.server.ask import ApiError
from codegemma_keras.server.http import error_response
from codegemma_keras.server.settings import Settings

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")
# Routes that say nothing but whether the server is up.
WITHOUT_KEY = ("/health", "/v1/health")


def _nobody(path, status):
    pass


class Guard:
    """ASGI middleware.

    Args:
        app: the application.
        settings: a `Settings`.
        refused: told of each refusal, with its path and status.
    """

    def __init__(
        self, app, settings: Settings, refused: Callable[[str, int], None] = _nobody
    ):
        self._origins = settings.allow_origin
        self._app = self._readable(app)
        self._refused = refused
        self._hosts = set(settings.allow_host)
        if settings.loopback:
            self._hosts.update(LOOPBACK_HOSTS)
        self._key = settings.key()

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # a web socket, of which there are none
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = Headers(scope=scope)
        try:
            self._check_host(headers)
            self._check_origin(scope, headers)
            preflight = scope["method"] == "OPTIONS" and "origin" in headers
            if scope["path"] not in WITHOUT_KEY and not preflight:
                self._check_key(headers)
        except ApiError as error:
            response = error_response(scope["path"], error)
            if error.status == 401:
                response.headers["WWW-Authenticate"] = "Bearer"
            self._refused(scope["path"], error.status)
            if scope["method"] != "OPTIONS":  # which CORS would answer by itself
                response = self._readable(response)
            await response(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _readable(self, app):
        """With CORS headers for the pages that may ask, or they could read no answer."""
        if not self._origins:
            return app
        return CORSMiddleware(
            app,
            allow_origins=self._origins,
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "x-api-key", "x-editor-id"],
        )

    def _check_host(self, headers):
        names = headers.getlist("host")
        if len(names) != 1:
            raise ApiError(400, "A request needs exactly one Host header.")
        host = _host(names[0])
        if self._hosts and host not in self._hosts:
            raise ApiError(
                403,
                f"The host {host!r} is not one of this server; --allow-host adds it.",
            )

    def _check_origin(self, scope, headers):
        origin = headers.get("origin")
        if origin is None:
            # Requests of pages without an Origin (images, scripts, links) say so here.
            if headers.get("sec-fetch-site") in ("cross-site", "same-site"):
                raise ApiError(403, "A page of another site may not ask this server.")
            return
        own = f"{scope['scheme']}://{headers['host']}"
        if origin != own and origin not in self._origins:
            raise ApiError(
                403,
                f"The page {origin!r} may not ask this server; --allow-origin adds it.",
            )

    def _check_key(self, headers):
        if self._key is None:
            return  # llama.vim sends an empty one
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = [headers.get("x-api-key", "")]
        if scheme.lower() == "bearer":
            given.append(bearer.strip())
        # Each is compared, and compared to the end, whatever the others are.
        right = [hmac.compare_digest(k.encode("latin-1"), self._key) for k in given]
        if not any(right):
            raise ApiError(
                401, "The key is missing or wrong: send `Authorization: Bearer KEY`."
            )


def _host(header: str) -> str:
    """The name in a Host header, in lower case, without port and brackets."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""
