"""Connections that say nothing, or read nothing, end; what is under way ends well.

uvicorn waits for ever for a request that does not come, and for a client that reads none
of its answer. Above its limit of connections it refuses everybody in plain text. This is
its protocol with deadlines, with a refusal in the words of the API, and its server with
time for streams to end when it is stopped.
"""

import functools
import threading
from collections.abc import Callable

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from codegemma_keras.server.ask import BusyError
from codegemma_keras.server.http import error_response

# The header of a request must have come so many seconds after the connection, or after
# its first byte where there was a request before.
HEADER_SECONDS = 10.0
# A client must take something of its answer within so many seconds.
WRITE_SECONDS = 30.0
# Streams have so many seconds to end with what there is before they would be cut. They end at
# the next visit of the device, and one that compiles a program takes more than a second.
LAST_SECONDS = 2.0


class Protocol(AutoHTTPProtocol):
    """One connection, with deadlines.

    Args:
        limit: most connections that are served at once; further ones get 503. None: any
            number. `protocol` gives this class with a limit.
    """

    limit: int | None = None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.app = functools.partial(self._served, self.app)
        self._deadlines = {}  # name -> timer

    def connection_made(self, transport):
        super().connection_made(transport)
        self._start("header", HEADER_SECONDS, self.transport.abort)

    def connection_lost(self, exc):
        for name in list(self._deadlines):
            self._stop(name)
        super().connection_lost(exc)

    def data_received(self, data):
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._stop("header")  # a whole header has come
        elif before is not None and before.response_complete:
            self._start("header", HEADER_SECONDS, self.transport.abort)

    def pause_writing(self):
        super().pause_writing()
        self._expect_progress()

    def on_response_complete(self):
        super().on_response_complete()
        self._expect_progress()  # closing waits for the rest to be read

    def _expect_progress(self):
        """Look later whether the client has read something of what is left."""
        left = self.transport.get_write_buffer_size()
        if left:
            self._start("write", WRITE_SECONDS, self._check_progress, left)

    def _check_progress(self, before):
        if self.transport.get_write_buffer_size() >= before:
            self.transport.abort()
        else:
            self._expect_progress()

    async def _served(self, app, scope, receive, send):
        if self.limit is not None and len(self.connections) > self.limit:
            error = BusyError(
                f"{len(self.connections)} connections are open, and this server serves "
                f"{self.limit} (--max-connections). Try again later.",
                int(HEADER_SECONDS),
            )
            response = error_response(scope["path"], error)
            response.headers["Connection"] = "close"
            await response(scope, receive, send)
            return
        await app(scope, receive, send)

    def _start(self, name, seconds, function, *args):
        if name in self._deadlines:
            return

        def over():
            del self._deadlines[name]
            function(*args)

        self._deadlines[name] = self.loop.call_later(seconds, over)

    def _stop(self, name):
        if timer := self._deadlines.pop(name, None):
            timer.cancel()


def protocol(limit: int | None) -> type[Protocol]:
    """`Protocol` with a limit of connections, for `uvicorn.Config(http=...)`."""
    return type("Protocol", (Protocol,), {"limit": limit})


class UvicornServer(uvicorn.Server):
    """uvicorn's server, whose streams end with what there is when it is stopped.

    Args:
        config: uvicorn's; its `timeout_graceful_shutdown` is when streams are cut.
        stop: takes the seconds that requests still have; called in a thread.
    """

    def __init__(self, config: uvicorn.Config, stop: Callable[[float], None]):
        super().__init__(config)
        self._stop = stop

    async def shutdown(self, sockets=None):
        """Called once by uvicorn, after a signal."""
        seconds = max(self.config.timeout_graceful_shutdown - LAST_SECONDS, 0.0)
        stopping = threading.Thread(target=self._stop, args=(seconds,), daemon=True)
        stopping.start()
        await super().shutdown(sockets)
