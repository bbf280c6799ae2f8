"""Decoding: from token ids to token ids, and from there to text.

In reading order: `steps` is what runs on the device; `programs` compiles it; `buckets`
are the sizes it is compiled for; `drafts` guess tokens; `engine` holds the programs;
`run` is a batch of requests under way; `stopping` says where text ends; `text` drives a
run and gives text; `request` fills in the middle, `raw` continues prompts; `session`
keeps the cache between keystrokes. `sampling` chooses tokens, `scoring` rates given
ones, `keras_hub_samplers` serves KerasHub's own.
"""

from codegemma_keras.decoding.engine import Engine
from codegemma_keras.decoding.request import Options
from codegemma_keras.decoding.run import Generation
from codegemma_keras.decoding.sampling import Sampling
from codegemma_keras.decoding.session import Session
from codegemma_keras.decoding.text import Completion

__all__ = ["Completion", "Engine", "Generation", "Options", "Sampling", "Session"]
