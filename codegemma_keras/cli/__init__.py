"""The `codegemma` command."""

from codegemma_keras.cli.complete import main

__all__ = ["main"]
