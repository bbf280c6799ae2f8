"""A batch that does not fit into memory: an error that says what to change.

Recipes call `check` once, before the first step, and take their steps inside
`explained`. `check` refuses only what certainly fails: weights, gradients, optimizer
state and the loss's chunk must be there at once, whatever the compiler does. Activations
come on top, so a batch that passes may still not fit; then the device says so, and
`explained` says what to turn.
"""

import contextlib
import math
import os
import re

import keras

from codegemma_keras import ops
from codegemma_keras.formats import weights
from codegemma_keras.training.hardware import GIB

_WANTED = re.compile(
    r"(?:allocat\w+|Out of memory allocating|Used) ([\d.,]+) ?([KMGT]?)i?(?:B|b|bytes)?\b"
)
_MARKS = ("RESOURCE_EXHAUSTED", "Out of memory", "OOM when allocating", "out of memory")


class DoesNotFitError(MemoryError):
    """A training step needs more memory than a device has.

    Attributes:
        needed: bytes of one device that the step needs at least; None if unknown.
        free: bytes that the device has for it; None if unknown.
    """

    def __init__(self, message, needed=None, free=None):
        super().__init__(message)
        self.needed, self.free = needed, free


def check(lm, rows, length, free=None):
    """Refuse a training step that cannot fit into the memory of the devices here.

    Args:
        lm: the compiled model, its weights in place.
        rows: int. Rows of a step, over all devices.
        length: int. Tokens of a row.
        free: bytes that one device has for weights and step together; default: what
            the device says (`free_bytes`).

    Raises:
        DoesNotFitError: weights, gradients, optimizer state and the loss's chunk alone need
            more than there is.
    """
    free = free_bytes() if free is None else free
    if free is None:
        return
    parts = least(lm, rows, length)
    needed = sum(parts.values())
    if needed > free:
        listed = ", ".join(f"{kind} {gib(size)}" for kind, size in parts.items())
        raise DoesNotFitError(
            f"A step of {rows} rows of {length} tokens needs at least {gib(needed)} on "
            f"each device ({listed}; activations come on top), and {gib(free)} are free. "
            + advice(lm, rows, length),
            needed,
            free,
        )


def least(lm, rows, length) -> dict[str, int]:
    """Bytes that one device holds in any case during a step, by kind.

    Args:
        lm: the compiled model.
        rows, length: as of `check`.
    """
    trainable = sum(_held(v) for v in lm.trainable_variables)
    frozen = sum(_held(v) for v in lm.non_trainable_variables)
    if lm.optimizer.built:
        slots = sum(_held(v) for v in lm.optimizer.variables)
    else:  # Adam's two, the default of every recipe
        slots = 2 * trainable
    vocabulary = lm.backbone.vocabulary_size
    chunk = min(rows * length, ops.tokens_of_a_chunk(vocabulary))
    distribution = keras.distribution.distribution()
    devices = math.prod(distribution.device_mesh.shape) if distribution else 1
    return {
        "weights": trainable + frozen,
        "gradients": trainable,
        "optimizer state": slots,
        "logits of a chunk": 4 * chunk * vocabulary // devices,
    }


@contextlib.contextmanager
def explained(lm, rows, length):
    """Inside, a device that runs out of memory says what to turn.

    Args:
        lm: the compiled model.
        rows, length: as of `check`.

    Raises:
        DoesNotFitError: from the backend's own error.
    """
    try:
        yield
    except Exception as error:
        text = str(error)
        if isinstance(error, DoesNotFitError) or not any(
            mark in text for mark in _MARKS
        ):
            raise
        wanted, free = _wanted(text), free_bytes()
        raise DoesNotFitError(
            f"A step of {rows} rows of {length} tokens does not fit: the device wanted "
            f"{gib(wanted) if wanted else 'more memory'}"
            f"{f' of the {gib(free)} it has' if free else ' than it has'}. "
            + advice(lm, rows, length),
            wanted,
            free,
        ) from error


def advice(lm, rows, length) -> str:
    """What to turn, in the order in which it costs least."""
    turns = []
    if rows > 1:
        turns.append(
            f"a smaller batch ({rows // 2} rows; `accumulation` keeps the update the same)"
        )
    if lm.backbone.remat != "block":
        turns.append("remat='block' (a third more work)")
    if length > 512:
        turns.append(f"shorter rows ({length // 2} tokens)")
    if len(lm.trainable_variables) == len(lm.backbone.trainable_variables) and not any(
        "adapter" in v.path for v in lm.trainable_variables
    ):
        turns.append("LoRA (`lora_rank=16`), which needs no gradients of the weights")
    elif not any(
        getattr(layer, "quantization_mode", None) for layer in lm.backbone.layers
    ):
        turns.append("a quantized base (`quantize='int8'`)")
    turns.append("more devices (`mesh='fsdp=...'`)")
    return (
        "Turn, cheapest first: "
        + "; ".join(turns)
        + ". `codegemma plan` tells beforehand what fits."
    )


def free_bytes() -> int | None:
    """Bytes that one device has for a program; None where nothing states it.

    On an accelerator what the allocator may take in all, weights that are there already
    included; on a CPU the machine's memory.
    """
    if keras.backend.backend() == "jax":
        import jax

        device = jax.local_devices()[0]
        stats = device.memory_stats() if device.platform != "cpu" else None
        if stats and "bytes_limit" in stats:
            return int(stats["bytes_limit"])
        if device.platform != "cpu":
            return None
    else:
        import tensorflow as tf

        if tf.config.list_physical_devices("GPU"):
            return None  # TensorFlow states what is used, not what there is
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # not a POSIX system
        return None


def gib(size) -> str:
    """Bytes for people: `12.3 GiB`, or MiB below one tenth of that unit."""
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / 2**20:.1f} MiB"


def _held(variable) -> int:
    """Bytes of a variable on one device."""
    shape = tuple(variable.shape)
    if keras.backend.backend() == "jax" and hasattr(variable.value, "sharding"):
        shape = variable.value.sharding.shard_shape(shape)
    return math.prod(shape) * weights.numpy_dtype(variable.dtype).itemsize


def _wanted(text) -> int | None:
    found = _WANTED.search(text)
    if not found:
        return None
    power = " KMGT".index(found[2] or " ")
    return int(float(found[1].replace(",", "").rstrip(".")) * 2 ** (10 * power))
