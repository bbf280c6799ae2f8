"""The `codegemma` command."""

from codegemma_keras.cli.commands import main

__all__ = ["main"]
