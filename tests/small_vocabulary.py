"""A small vocabulary with the real special ids, for tests that need a tokenizer."""

import argparse
import functools
import pathlib

from codegemma_keras.tokenizer import training as tokenizer_training


@functools.cache
def small_vocabulary(size: int = 700) -> bytes:
    """A SentencePiece model of `size` pieces, trained on some Python."""
    return tokenizer_training.train_tokenizer([source()], size)


def source() -> str:
    """Some Python, without control strings in it."""
    return pathlib.Path(argparse.__file__).read_text(encoding="utf-8")
