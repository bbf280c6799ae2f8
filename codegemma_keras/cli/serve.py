"""`codegemma serve [PRESET]`: completion for editors, over HTTP."""

import logging
import socket
import sys

from codegemma_keras.cli.process import choose_backend
from codegemma_keras.quiet import quiet_libraries
from codegemma_keras.server.settings import Settings

# Requests under way are given so many seconds to end when the server is stopped.
GRACE_SECONDS = 5


def serve(settings: Settings) -> None:
    """Serve until ^C or SIGTERM; whatever can be wrong is checked before loading."""
    try:
        import uvicorn
    except ImportError:
        raise ValueError(
            "codegemma serve needs more packages: pip install 'codegemma-keras[serve]'"
        ) from None
    settings.check()
    settings.key()
    listening = _listen(settings.host, settings.port)
    choose_backend()
    with quiet_libraries():
        from codegemma_keras.server.app import create_app
        from codegemma_keras.server.connections import UvicornServer, protocol
        from codegemma_keras.server.loading import load, warm
    log = logging.getLogger("codegemma_keras")
    log.setLevel(logging.INFO)
    log.addHandler(logging.StreamHandler(sys.stderr))

    def failed():
        server.should_exit = True

    app = create_app(
        settings, lambda: load(settings), lambda s: warm(s, settings), failed
    )
    config = uvicorn.Config(
        app,
        access_log=False,
        log_level="warning",
        http=protocol(settings.max_connections),
        timeout_graceful_shutdown=GRACE_SECONDS,
        server_header=False,
    )
    server = UvicornServer(config, app.state.server.stop)
    host, port = listening.getsockname()[:2]
    address = f"[{host}]" if ":" in host else host
    print(f"{settings.name} at http://{address}:{port} (^C stops)", flush=True)
    server.run(sockets=[listening])
    if app.state.server.error is not None:
        raise app.state.server.error


def _listen(host, port):
    """A socket that clients can connect to.

    Raises:
        ValueError: the address is in use, or not one of this machine.
    """
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        raise ValueError(
            f"cannot listen at {host} port {port}: {error.strerror or error}; choose "
            "another with --host and --port"
        ) from None
    listening.set_inheritable(True)
    return listening
