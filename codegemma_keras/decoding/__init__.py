"""Decoding: from token ids to token ids.

`engine` prefills a KV cache with the real prompts and runs the decode loop as one
compiled program; `sampling` chooses tokens; `stopping` cuts text; `programs` compiles.
"""

from codegemma_keras.decoding.engine import Engine, Generation
from codegemma_keras.decoding.sampling import Sampling

__all__ = ["Engine", "Generation", "Sampling"]
