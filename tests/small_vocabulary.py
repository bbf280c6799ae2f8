"""A small vocabulary with the real special ids, for tests that need a tokenizer."""

import functools
import pathlib

from codegemma_keras import fim, tokenizer_training


@functools.cache
def small_vocabulary(size: int = 700) -> bytes:
    """A SentencePiece model of `size` pieces, trained on this package's own source."""
    return tokenizer_training.train_tokenizer([source()], size)


def source() -> str:
    """Some Python."""
    return pathlib.Path(fim.__file__).read_text(encoding="utf-8")
