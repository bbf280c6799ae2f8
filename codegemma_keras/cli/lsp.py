"""`codegemma lsp [PRESET]`: a language server for inline completions, over stdio."""

import dataclasses
from typing import Annotated

import tyro

from codegemma_keras.cli.process import choose_backend
from codegemma_keras.quiet import quiet_libraries
from codegemma_keras.server.settings import AUTO, DEFAULT_PRESET, Settings


@dataclasses.dataclass(frozen=True)
class LspOptions:
    """Complete code inline in editors that support LSP 3.18. The editor starts this command.

    Messages go over stdin and stdout. docs/editors.md says how to set up each editor.
    """

    # The model: a name, kaggle://..., hf://... or a folder.
    preset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[PRESET]")] = (
        DEFAULT_PRESET
    )
    # The folder of an adapter in PEFT's format, such as `codegemma sft` writes. The model
    # is used with it.
    adapter: str | None = None
    # The dtype of the weights in memory. "auto" is the one in which they are stored. The
    # default is "auto", but float32 on a CPU, which computes faster in it, if the model then
    # takes at most a quarter of the memory.
    dtype: str | None = None
    # The most tokens of prompt and answer together. The default is that of the preset.
    context: int | None = None
    # The most tokens that a completion may have.
    max_new_tokens: int = 64
    # Compile programs while no request is running, or after a minute at most. The model is
    # loaded when the editor asks for the first completion.
    warm_up: bool = True
    # Keep the compiled programs in this folder, so that the next start has them (JAX
    # only). "auto" is a folder in the user's cache, which holds one gigabyte at most; None
    # keeps nothing.
    compiled_folder: str | None = AUTO


def lsp(options: LspOptions) -> None:
    """Serve one editor until it closes the connection."""
    if options.max_new_tokens < 1:
        raise ValueError(
            f"--max-new-tokens {options.max_new_tokens} must be at least 1"
        )
    choose_backend()
    try:
        with quiet_libraries():
            from codegemma_keras import presets
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
        adapter=options.adapter,
        dtype=options.dtype,
        context=options.context,
        warm_up=options.warm_up,
        compiled_folder=options.compiled_folder,
    )
    # An editor shows why a server ended, but hardly why its requests fail.
    presets.Preset(options.preset)
    server = make_server(lambda: for_one_editor(settings), options.max_new_tokens)
    server.start_io()
