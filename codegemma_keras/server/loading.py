"""The model of a server, loaded, with its programs compiled."""

import dataclasses
import logging
import threading
import time

from codegemma_keras import CodeGemmaCausalLM
from codegemma_keras.decoding import Sampling, compilation
from codegemma_keras.server.scheduler import Scheduler
from codegemma_keras.server.settings import Settings

LOG = logging.getLogger(__name__)
# Kinds that clients send: drawn; drawn among the likeliest.
OTHER_SAMPLINGS = (Sampling(0.8), Sampling(0.8, top_k=40, top_p=0.9))


def load(settings: Settings) -> CodeGemmaCausalLM:
    """The model, with the programs for one editor.

    Raises:
        ValueError, OSError: there is no such preset, or it cannot be read.
    """
    if settings.compiled_folder is not None:
        compilation.keep_compiled(settings.compiled_folder)
    lm = CodeGemmaCausalLM.from_preset(settings.preset, dtype=settings.dtype)
    if settings.context is not None:
        lm.preprocessor.sequence_length = settings.context
    if settings.warm_up:
        _compile(lm, 1, (Sampling(),), "one editor")
    return lm


def warm(lm, settings: Settings) -> None:
    """The programs for batches and for other samplings, while the first are served.

    A request waits for a program of these at most.
    """
    if settings.warm_up:
        _compile(lm, settings.rows, (Sampling(),), f"{settings.rows} at once")
        _compile(lm, settings.rows, OTHER_SAMPLINGS, "drawn text")


def for_one_editor(settings: Settings) -> Scheduler:
    """A scheduler that answers as soon as the model is loaded.

    Programs are compiled meanwhile: one editor rather waits for one than for all.
    """
    lm = load(dataclasses.replace(settings, warm_up=False))
    if settings.warm_up:
        greedy = (Sampling(),)
        threading.Thread(
            target=_compile, args=(lm, 1, greedy, "one editor"), daemon=True
        ).start()
    return Scheduler(lm, rows=2)  # an older request ends while a newer one begins


def _compile(lm, rows, samplings, purpose):
    begin = time.monotonic()
    count = lm.warm_up(batch_sizes=(rows,), sampling=samplings, joining=True, prompts=1)
    seconds = time.monotonic() - begin
    LOG.info("compiled %d programs for %s in %.0f s", count, purpose, seconds)
