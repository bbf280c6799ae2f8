"""Loading the model of a server, and compiling its programs while nobody asks."""

import logging
import threading
import time

from codegemma_keras import CodeGemmaCausalLM, lora, platforms
from codegemma_keras.decoding import Sampling, compilation
from codegemma_keras.server.scheduler import Scheduler
from codegemma_keras.server.settings import AUTO, Settings
from codegemma_keras.training import memory

LOG = logging.getLogger(__name__)
# Kinds that clients send: drawn; drawn among the likeliest.
OTHER_SAMPLINGS = (Sampling(0.8), Sampling(0.8, top_k=40, top_p=0.9))
# A program is compiled ahead when nobody has asked for so long, but it waits no longer than
# the other: it takes up to ten seconds of both cores of a small machine.
QUIET, PATIENCE = 1.0, 60.0  # seconds
SHARE = 4  # a model in float32 may take this part of the memory
# Most prompts of editors, with their answers, are shorter. Programs for longer ones are
# compiled when they are first needed: all of them would take a small machine many minutes.
LENGTH = 1024


def load(settings: Settings) -> CodeGemmaCausalLM:
    """The model.

    Raises:
        ValueError, OSError: there is no such preset, or it cannot be read.
    """
    if settings.compiled_folder == AUTO:
        compilation.keep_compiled_in_cache()
    elif settings.compiled_folder is not None:
        compilation.keep_compiled(settings.compiled_folder)
    lm = CodeGemmaCausalLM.from_preset(settings.preset, dtype=settings.dtype or "auto")
    if settings.dtype is None and _faster_in_float32(lm):
        lm = CodeGemmaCausalLM.from_preset(settings.preset, dtype="float32")
    if settings.adapter is not None:
        lora.use(lm, settings.adapter)
    if settings.context is not None:
        lm.preprocessor.sequence_length = settings.context
    return lm


def _faster_in_float32(lm) -> bool:
    """Whether a model is stored at 16 bits, on a CPU, and small enough for 32.

    There, programs in bfloat16 compile and run more slowly than in float32. A model that
    is loaded a second time for this is small, so it takes a few seconds.
    """
    policy = lm.backbone.dtype_policy
    half = policy.variable_dtype in ("bfloat16", "float16")
    limit = (memory.free_bytes() or 0) / SHARE
    return (
        half
        and platforms.platform() == "cpu"
        and 4 * lm.backbone.count_params() <= limit
    )


def warm(scheduler: Scheduler, settings: Settings) -> None:
    """Compile programs while the first requests are served.

    First those for one editor, then those for batches and for other samplings. A request
    compiles what it needs itself.
    """
    if settings.warm_up:
        _compile(scheduler, 1, (Sampling(),), "one editor")
        _compile(scheduler, settings.rows, (Sampling(),), f"{settings.rows} at once")
        _compile(scheduler, 1, OTHER_SAMPLINGS, "drawn text")


def for_one_editor(settings: Settings) -> Scheduler:
    """A scheduler that answers as soon as the model is loaded.

    When it is closed, no further program is compiled, so that the model can be freed.
    """
    # An older request ends while a newer one begins.
    scheduler = Scheduler(load(settings), rows=2)
    if settings.warm_up:
        threading.Thread(
            target=_compile,
            args=(scheduler, 1, (Sampling(),), "one editor"),
            daemon=True,
        ).start()
    return scheduler


class _ClosedError(Exception):
    """Nobody will ask this scheduler any more."""


def _compile(scheduler, rows, samplings, purpose):
    begin = time.monotonic()
    lm = scheduler.lm

    def pause():
        if not scheduler.closing:
            scheduler.wait_until_quiet(QUIET, PATIENCE)
        if scheduler.closing:
            raise _ClosedError

    try:
        count = lm.engine.warm_up(
            min(LENGTH, lm.preprocessor.sequence_length),
            batch_sizes=(rows,),
            samplings=samplings,
            joining=True,
            prompts=1,
            pause=pause,
            least=scheduler.least,
        )
    except _ClosedError:
        return
    seconds = time.monotonic() - begin
    LOG.info("compiled %d programs for %s in %.0f s", count, purpose, seconds)
