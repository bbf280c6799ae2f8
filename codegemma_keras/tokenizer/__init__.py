"""Text to token ids and back.

`tokenizer` holds `CodeGemmaTokenizer`; `codec` is its part in plain Python, which loads
no Keras; `training` makes small vocabularies. `formats.sentencepiece_model` reads and
rewrites their files.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # What editors and type checkers see.
    from codegemma_keras.tokenizer.codec import PlainCodec
    from codegemma_keras.tokenizer.tokenizer import (
        CodeGemmaTokenizer,
        IncrementalDecoder,
    )

__all__ = ["CodeGemmaTokenizer", "IncrementalDecoder", "PlainCodec"]


def __getattr__(name):
    # On demand: the data pipeline uses the codec in processes without Keras.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "codec" if name == "PlainCodec" else "tokenizer"
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
