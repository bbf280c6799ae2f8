"""From a cell to text, by a `codegemma serve` elsewhere.

The address is the administrator's; nothing that a page sends becomes a part of it, and
redirections are not followed.
"""

import contextlib
import json
from collections.abc import AsyncIterator

import httpx

from codegemma_keras.jupyter.cells import CellBody

# To connect, and between two pieces: prompts may wait for their place on a busy server.
TIMEOUT = httpx.Timeout(60.0, connect=5.0)


class ServerError(Exception):
    """The server gave no text.

    Args:
        status: of HTTP.
        message: for the person who types.
    """

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class Remote:
    """The same calls as `Completer`'s.

    Args:
        address: of the server, without the route.
        key: that its requests must carry, or None.
        transport: how requests travel; None: by the network.

    Attributes:
        name: the address; from the first answer on, the name of the server's model.
    """

    def __init__(self, address: str, key: str | None = None, transport=None):
        self.name = address
        self._address = address.rstrip("/")
        self._key = key
        self._transport = transport
        self._certificates = httpx.create_ssl_context()  # once: it reads many files

    async def pieces(self, body: CellBody) -> AsyncIterator[str]:
        """As `Completer.pieces`.

        Raises:
            ServerError: the server cannot be reached, or gives no text.
        """
        around = body.around()
        if around is None:
            return
        prefix, suffix = around
        ask = {"prompt": prefix, "suffix": suffix, "path": body.path, "stream": True}
        ask |= {"until": body.until, "tidy": True, "max_tokens": body.max_tokens}
        headers = {"X-Editor-Id": body.editor} if body.editor else {}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        url = f"{self._address}/v1/completions"
        asking = httpx.AsyncClient(
            timeout=TIMEOUT, transport=self._transport, verify=self._certificates
        )
        try:
            async with (
                asking as client,
                client.stream("POST", url, json=ask, headers=headers) as answer,
            ):
                if answer.status_code != 200:
                    await answer.aread()
                    raise self._refused(answer)
                async with contextlib.aclosing(answer.aiter_lines()) as lines:
                    async for line in lines:
                        if text := self._text(line):
                            yield text
        except httpx.HTTPError as error:
            raise ServerError(
                502,
                f"The server {self._address} cannot be asked: "
                f"{error or type(error).__name__}. Is `codegemma serve` running there?",
            ) from None

    def _text(self, line):
        """The text in a line of a stream of events."""
        kind, _, data = line.partition(":")
        if kind != "data" or data.strip() == "[DONE]":
            return ""
        try:
            event = json.loads(data)
            if "error" in event:
                status, message = event["error"]["code"], event["error"]["message"]
                raise ServerError(status, f"The server {self._address} says: {message}")
            self.name = event["model"]
            return "".join(choice["text"] for choice in event["choices"])
        except (ValueError, LookupError, TypeError):
            raise self._stranger("its stream is of another kind") from None

    def _refused(self, answer):
        """What to say of an answer that is no stream."""
        try:
            message = answer.json()["error"]["message"]
        except (ValueError, LookupError, TypeError):
            return self._stranger(f"it answered with status {answer.status_code}")
        return ServerError(
            answer.status_code, f"The server {self._address} says: {message}"
        )

    def _stranger(self, reason):
        return ServerError(
            502,
            f"The server {self._address} does not answer as `codegemma serve` does: "
            f"{reason}. Is the address right (c.CodeGemma.server)?",
        )

    def close(self) -> None:
        """Nothing is kept between two requests."""
