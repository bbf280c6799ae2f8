"""`codegemma lsp [PRESET]`: a language server for inline completions, over stdio."""

import dataclasses
from typing import Annotated

import tyro

from codegemma_keras.cli.process import choose_backend, quiet_libraries
from codegemma_keras.server.settings import Settings


@dataclasses.dataclass(frozen=True)
class LspOptions:
    """Complete code inline in editors that speak LSP 3.18; the editor starts this.

    Messages go over stdin and stdout; docs/editors.md says how editors are told.
    """

    # Name, kaggle://..., hf://... or folder of the model.
    preset: Annotated[str, tyro.conf.Positional] = "code_gemma_tiny_py"
    # Of the weights in memory; "auto" is as they are stored.
    dtype: str = "auto"
    # Tokens of prompt and answer together. Default: as the preset says.
    context: int | None = None
    # At most so many tokens.
    max_new_tokens: int = 64
    # Compile programs ahead, while the editor waits for nothing yet.
    warm_up: bool = True
    # Keep the compiled programs in this folder, so that the next start takes seconds
    # (JAX only).
    compiled_folder: str | None = None


def lsp(options: LspOptions) -> None:
    """Serve one editor until it closes the connection."""
    if options.max_new_tokens < 1:
        raise ValueError(
            f"--max-new-tokens {options.max_new_tokens} must be at least 1"
        )
    choose_backend()
    try:
        with quiet_libraries():
            from codegemma_keras.lsp.server import make_server
            from codegemma_keras.server.loading import for_one_editor
    except ModuleNotFoundError as error:
        if error.name.partition(".")[0] not in ("pygls", "lsprotocol", "pydantic"):
            raise
        raise ValueError(
            "codegemma lsp needs more packages: pip install 'codegemma-keras[serve]'"
        ) from None
    settings = Settings(
        preset=options.preset,
        dtype=options.dtype,
        context=options.context,
        warm_up=options.warm_up,
        compiled_folder=options.compiled_folder,
    )
    server = make_server(lambda: for_one_editor(settings), options.max_new_tokens)
    server.start_io()
