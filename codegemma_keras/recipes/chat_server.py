"""A server with OpenAI's chat API, asked for several answers at once.

Left out: streaming, tools, and other APIs. Every server that people run (this package's,
vLLM, llama.cpp, Ollama) has this one.
"""

import concurrent.futures
import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence

SECONDS = 600  # that one answer may take
TRIES = 5
BUSY = (429, 500, 502, 503, 504)


class ChatServer:
    """Requests to `URL/chat/completions`.

    Args:
        url: str, the API's address, with `/v1` where the server has it.
        model: str, the model's name there.
        key: str, sent as a bearer token; empty: none.

    Raises:
        ValueError: `url` is no http or https address.
    """

    def __init__(self, url: str, model: str, key: str = ""):
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"url={url!r} must begin with http:// or https://.")
        self.url = url.rstrip("/") + "/chat/completions"
        self.model, self._key = model, key

    def ask(
        self,
        requests: Sequence[str],
        seeds: Sequence[int],
        temperature: float,
        max_tokens: int,
    ) -> list[str]:
        """An answer to each request, all asked at once.

        Raises:
            ConnectionError: the server cannot be reached, or stays busy.
            PermissionError: it wants another key.
            ValueError: it refuses the request, or does not answer as OpenAI's API does.
        """

        def one(request, seed):
            return self._answer(
                {
                    "model": self.model,
                    "messages": [{"role": "user", "content": request}],
                    "temperature": temperature,
                    "max_tokens": max_tokens,
                    "seed": seed % 2**31,
                }
            )

        with concurrent.futures.ThreadPoolExecutor(max(1, len(requests))) as threads:
            return list(threads.map(one, requests, seeds))

    def _answer(self, body):
        for tried in range(TRIES):
            status, data, wait = self._post(json.dumps(body).encode())
            if status not in BUSY:
                break
            if tried + 1 < TRIES:
                time.sleep(wait if wait is not None else 2**tried)
        said = data[:300].decode(errors="replace")
        if status in (401, 403):
            raise PermissionError(f"{self.url} refuses the key ({status}): {said}")
        if status in BUSY:
            raise ConnectionError(
                f"{self.url} answered {status} {TRIES} times: {said}. Lower batch_size, "
                "or go on later with the same command."
            )
        if status != 200:
            raise ValueError(f"{self.url} answered {status}: {said}")
        try:
            return json.loads(data)["choices"][0]["message"]["content"] or ""
        except (ValueError, LookupError, TypeError):
            raise ValueError(
                f"{self.url} does not answer as OpenAI's chat API does: {said}"
            ) from None

    def _post(self, data):
        """`(status, body, seconds to wait before the next try)`."""
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self.url, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as response:
                return response.status, response.read(), None
        except urllib.error.HTTPError as error:
            wait = error.headers.get("Retry-After", "")
            return error.code, error.read(), int(wait) if wait.isdigit() else None
        except OSError as error:  # no such host, refused, timed out
            reason = getattr(error, "reason", error)
            raise ConnectionError(
                f"{self.url} cannot be asked: {reason}. Is the server running?"
            ) from None
