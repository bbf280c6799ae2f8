"""Decoding: from a request to token ids, and from there to text.

In reading order: `request` is what a caller asks for, checked; `answering` makes its
prompt's tokens and its answer; `completion` turns tokens into text that stops;
`generation` is a batch of rows under way, which others may join; `engine` holds the
compiled programs; `loop` is what runs on the device. These six and `causal_lm` are the
way of `infill` from arguments to text.

Beside them: `cache` (keys and values, their sizes and their truth), `sampling` (choosing
a token), `speculation` (several tokens a forward), `session` (the cache stays between
keystrokes), `postprocessing` (fitting text in between prefix and suffix), `generate`
(KerasHub's kinds of input), `compilation`, `ahead` and `lock` (programs; which there are;
whose turn it is).
"""

from codegemma_keras.decoding.completion import Completion
from codegemma_keras.decoding.engine import Engine
from codegemma_keras.decoding.generation import Generated, Generation, Row
from codegemma_keras.decoding.request import (
    Conversation,
    Cursor,
    RawText,
    Request,
    TokenIds,
)
from codegemma_keras.decoding.sampling import Sampling
from codegemma_keras.decoding.session import Session

__all__ = [
    "Completion",
    "Conversation",
    "Cursor",
    "Engine",
    "Generated",
    "Generation",
    "RawText",
    "Request",
    "Row",
    "Sampling",
    "Session",
    "TokenIds",
]
