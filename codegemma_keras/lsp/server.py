"""The language server: documents in, inline completions out."""

import asyncio
import pathlib
from collections.abc import Callable
from urllib.parse import unquote, urlsplit

from lsprotocol import types
from pygls.exceptions import JsonRpcInvalidParams
from pygls.lsp.server import LanguageServer

import codegemma_keras
from codegemma_keras.decoding import Cursor, Request
from codegemma_keras.server.ask import ApiError, Ask
from codegemma_keras.server.scheduler import Scheduler
from codegemma_keras.server.waiting import text_of

# Characters of each other document; `fim.shrink` cuts all of them to the context.
CONTEXT_CHARACTERS = 20_000


class InlineServer(LanguageServer):
    """Inline completions from one model.

    Args:
        load: gives the model's `Scheduler`; called in a thread when the first request
            comes, so that the editor need not wait for the answer to `initialize`.
        max_new_tokens: of a completion.
    """

    def __init__(self, load: Callable[[], Scheduler], max_new_tokens: int = 64):
        super().__init__("codegemma", f"v{codegemma_keras.__version__}")
        self._load = load
        self._loading = None
        self._max_new_tokens = max_new_tokens

    async def scheduler(self) -> Scheduler:
        """The scheduler, once the model is loaded."""
        if self._loading is None:
            loop = asyncio.get_running_loop()
            self._loading = loop.run_in_executor(None, self._load)
        return await asyncio.shield(self._loading)

    def request(self, params: types.InlineCompletionParams) -> Request:
        """What the editor asks for at a position."""
        document = self.workspace.get_text_document(params.text_document.uri)
        cursor = document.offset_at_position(params.position)
        others = [
            (self.path(uri), other.source[:CONTEXT_CHARACTERS])
            for uri, other in self.workspace.text_documents.items()
            if uri != document.uri
        ]
        invoked = types.InlineCompletionTriggerKind.Invoked
        return Request(
            prompt=Cursor(
                document.source[:cursor],
                document.source[cursor:],
                self.path(document.uri),
                others,
            ),
            max_new_tokens=self._max_new_tokens,
            # While one types, a line is enough; who asks gets the whole block.
            until="block" if params.context.trigger_kind == invoked else "line",
            tidy=True,
        )

    def path(self, uri: str) -> str:
        """The path shown to the model: below the workspace, or the name alone."""
        path = pathlib.PurePosixPath(unquote(urlsplit(uri).path))
        root = self.workspace.root_path
        if root and path.is_relative_to(root):
            path = path.relative_to(root)
            return path.as_posix()
        return path.name or "untitled"

    async def complete(self, request: Request) -> str:
        """The text at a cursor; ended if the editor takes the request back."""
        return await text_of(await self.scheduler(), Ask([request]), editor="lsp")


def make_server(load: Callable[[], Scheduler], max_new_tokens: int = 64):
    """An `InlineServer` with its features."""
    server = InlineServer(load, max_new_tokens)

    # Without options pygls does not announce it.
    @server.feature(
        types.TEXT_DOCUMENT_INLINE_COMPLETION, types.InlineCompletionOptions()
    )
    async def inline_completion(params: types.InlineCompletionParams):
        try:
            text = await server.complete(server.request(params))
        except (ValueError, TypeError) as error:
            raise JsonRpcInvalidParams(str(error)) from None
        except ApiError:  # a newer request came, or too much is waiting
            text = ""
        position = types.Range(params.position, params.position)
        items = [types.InlineCompletionItem(text, range=position)] if text else []
        return types.InlineCompletionList(items)

    return server
