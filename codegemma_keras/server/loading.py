"""The model of a server, loaded and with its programs compiled."""

import logging
import time

from codegemma_keras import CodeGemmaCausalLM
from codegemma_keras.decoding import Sampling
from codegemma_keras.server.settings import Settings

LOG = logging.getLogger(__name__)
# One of each kind that clients send: greedy, drawn, drawn among the likeliest.
SAMPLINGS = (Sampling(), Sampling(0.8), Sampling(0.8, top_k=40, top_p=0.9))


def load(settings: Settings) -> CodeGemmaCausalLM:
    """The model, ready to answer.

    Raises:
        ValueError, OSError: there is no such preset, or it cannot be read.
    """
    dtype = None if settings.dtype == "default" else settings.dtype
    lm = CodeGemmaCausalLM.from_preset(settings.preset, dtype=dtype)
    if settings.context is not None:
        lm.preprocessor.sequence_length = settings.context
    if settings.warm_up:
        begin = time.monotonic()
        context = lm.preprocessor.sequence_length
        count = lm.engine.warm_up(context, (settings.rows,), SAMPLINGS, joining=True)
        seconds = time.monotonic() - begin
        LOG.info("compiled %d programs in %.0f s", count, seconds)
    return lm
