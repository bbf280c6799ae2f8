"""Bytes of one device by kind, floating-point work, and time by the roofline.

Weights, gradients and optimizer state follow from shapes and layouts alone. What the
program needs beside them is read from the compiled step (`program.py`) for a TPU, whose
compiler needs no TPU; for a GPU it is found on the traced step (`liveness.py`). Of it
the gradients and the loss's chunk are told apart by arithmetic, and activations are the
rest: what is held at the worst moment, so it can be less than the sum of all of them.

The roofline is a bound from below: the slowest of arithmetic, memory and links, each at
its data sheet's peak and all the others hidden behind it. Real steps take longer.
"""

import dataclasses
import math

from codegemma_keras import losses, sharding
from codegemma_keras.plan import program, step
from codegemma_keras.training import chips


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What one device of a target needs for a job. Bytes and seconds.

    Attributes:
        job: what was asked.
        target: the TPU topology or GPU.
        devices: how many devices share the work.
        weights: bytes of the weights, frozen ones and adapters included.
        optimizer: bytes of the optimizer's state.
        gradients: bytes of the gradients of all weights that train.
        logits: bytes of the loss's chunk: float32 logits and their gradient, and the
            float32 gradients of the embedding and of the hidden states.
        activations: bytes of everything else that the program holds at its worst moment.
        total: bytes of the whole program; at most the sum of the above.
        usable: bytes that the device has for a program.
        flops: operations of a step, of all devices.
        collectives: kind -> (how many, bytes).
        seconds: what bounds a step -> its seconds.
        how: `"compiled"` for the very target, or `"traced"`: see `liveness.py`.
    """

    job: step.Job
    target: str
    devices: int
    weights: int
    optimizer: int
    gradients: int
    logits: int
    activations: int
    total: int
    usable: int
    flops: float
    collectives: dict
    seconds: dict
    how: str

    @property
    def fits(self) -> bool:
        """Whether the program fits into one device."""
        return self.total <= self.usable


def estimate(job: step.Job, target: str, config=None) -> Estimate:
    """What a job needs on a target that need not be there.

    Args:
        job: what is asked.
        target: a TPU topology (`v5e:2x4`), compiled for those very chips; or a GPU's
            name (`a100-40`), traced only.
        config: arguments of `CodeGemmaBackbone` instead of the preset's.

    Raises:
        ValueError: an unknown target, or a mesh of another size.
        ImportError: a TPU, and libtpu is not there.
    """
    chip = chips.of(target)
    if chips.is_tpu(target):
        return on_devices(job, chips.tpu_devices(target), chip, target, config)
    if job.mesh:
        raise ValueError(
            f"mesh {job.mesh!r} on {target}: a GPU is planned for alone. Leave the mesh "
            "out, or name a TPU topology."
        )
    lm, batch = step.model_of(job, config), step.batch_of(job)
    found = program.trace_step(lm, batch)
    return _estimate(lm, job, chip, target, found, how="traced")


def on_devices(job, devices, chip, target, config=None) -> Estimate:
    """`estimate`, compiled for devices of this process or of a topology."""
    lm, batch = step.model_of(job, config), step.batch_of(job)
    if not job.mesh:
        if len(devices) > 1:
            raise ValueError(
                f"{target} has {len(devices)} devices; say how they share the work, "
                f"for example --mesh fsdp={len(devices)}."
            )
        found = program.compile_step(lm, batch, None, devices[0])
        return _estimate(lm, job, chip, target, found, device=devices[0])
    layout = sharding.distribution(
        job.mesh,
        num_query_heads=lm.backbone.num_query_heads,
        num_key_value_heads=lm.backbone.num_key_value_heads,
        devices=devices,
    )
    found = program.compile_step(lm, batch, layout)
    return _estimate(lm, job, chip, target, found, layout)


def _estimate(lm, job, chip, target, found, layout=None, device=None, how="compiled"):
    count = math.prod(layout.device_mesh.shape) if layout else 1
    kinds = by_kind(lm, job, layout, device)
    rest = found.temporaries - kinds["gradients"] - kinds["logits"]
    return Estimate(
        job=job,
        target=target,
        devices=count,
        **kinds,
        activations=max(0, rest),
        total=found.total,
        usable=chip.usable,
        flops=found.flops,
        collectives=found.collectives,
        seconds=roofline(found, chip, count),
        how=how,
    )


def by_kind(lm, job, layout=None, device=None) -> dict[str, int]:
    """Bytes of one device that follow from shapes and layouts.

    Args:
        lm: the prepared model.
        job: its job.
        layout: the distribution, or None.
        device: the one device, if there is no distribution.
    """
    state, _ = program.shardings(lm, {}, layout, device)
    trainable, frozen, optimizer, _ = (program.bytes_of(group) for group in state)
    return {
        "weights": trainable + frozen,
        "optimizer": optimizer,
        "gradients": trainable,
        "logits": loss_bytes(lm, job),
    }


def loss_bytes(lm, job) -> int:
    """Bytes of the chunked loss at its worst: see `losses.linear_cross_entropy`."""
    sizes = sharding.parse_mesh(job.mesh) if job.mesh else {}
    parts = math.prod(sizes.get(axis, 1) for axis in sharding.BATCH_AXES)
    split = sizes.get("model", 1)
    vocabulary, width = lm.backbone.vocabulary_size, lm.backbone.hidden_dim
    tokens = job.batch * job.length
    devices = parts * split
    chunk = min(tokens, losses.tokens_of_a_chunk(vocabulary, devices))
    logits = 2 * 4 * chunk * vocabulary // devices
    hidden = 4 * tokens * width // parts
    trained = bool(lm.backbone.token_embedding.trainable_variables)
    return logits + hidden + (4 * vocabulary * width // split if trained else 0)


def roofline(compiled, chip, devices) -> dict[str, float]:
    """Seconds of a step that arithmetic, memory and links take, each by itself."""
    seconds = {"arithmetic": compiled.flops / devices / chip.flops}
    if compiled.traffic:
        seconds["memory"] = compiled.traffic / chip.bandwidth
    moved = sum(size for _, size in compiled.collectives.values())
    if moved and chip.link:
        seconds["links"] = moved / chip.link
    return seconds


def largest_batch(job: step.Job, target: str, limit=1024, config=None):
    """The most rows of a step that fit, and their estimate.

    Args:
        job: what is asked; its own batch is not looked at.
        target, config: as of `estimate`.
        limit: rows, where the search ends.

    Returns:
        `(rows, Estimate)`; `(0, the estimate of the smallest batch)` if none fits.
    """
    sizes = sharding.parse_mesh(job.mesh) if job.mesh else {}
    unit = math.prod(sizes.get(axis, 1) for axis in sharding.BATCH_AXES)

    def tried(units):
        return estimate(dataclasses.replace(job, batch=units * unit), target, config)

    least = found = tried(1)
    if not least.fits:
        return 0, least
    best, high = 1, limit // unit + 1  # fits; is too many
    guess = 2
    while high - best > 1:
        new = tried(guess)
        if new.fits:
            best, found = guess, new
        else:
            high = guess
        # Temporaries grow in proportion to the rows: a line through two points, and the
        # middle where it points outside of what is still open.
        slope = (new.total - least.total) / (guess - 1)
        guess = 1 + int((least.usable - least.total) / slope) if slope > 0 else high - 1
        if not best < guess < high:
            guess = best + 1 if guess == best else (best + high) // 2
    return best * unit, found
