"""Bytes of one device by kind, floating-point work, and time by the roofline.

Weights, gradients and optimizer state follow from shapes and layouts alone. What the
program needs beside them is read from the compiled step (`program.py`) for a TPU, whose
compiler needs no TPU; for a GPU it is found on the traced step (`liveness.py`). Of it
the gradients and the loss's chunk are told apart by arithmetic, and activations are the
rest: what is held at the worst moment, so it can be less than the sum of all of them.

A traced step is not the compiled one, so a margin is added to it before it is said to
fit: benchmarks/plan_accuracy.py compares the two on steps that can be compiled here.

The roofline is a bound from below: the slowest of arithmetic, memory and links, each at
its data sheet's peak and all the others hidden behind it. Real steps take longer.
"""

import dataclasses
import math

from codegemma_keras import ops, sharding
from codegemma_keras.plan import program, step
from codegemma_keras.training import hardware


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What one device of a target needs for a run. Bytes and seconds.

    Attributes:
        config: the configuration, resolved for the target.
        target: the TPU topology or GPU.
        devices: how many devices share the work.
        rows: of one part of a step, over all devices.
        weights: bytes of the weights, frozen ones and adapters included; in reinforcement
            learning also those of the first model, where it has its own.
        optimizer: bytes of the optimizer's state, sums of gradients included.
        gradients: bytes of the gradients of all weights that train.
        logits: bytes of the loss's chunk: float32 logits and their gradient, and the
            float32 gradients of the embedding and of the hidden states.
        activations: bytes of everything else that the program holds at its worst moment.
        margin: bytes by which a traced figure may be too low.
        total: bytes of the whole program, without the margin.
        loading: bytes that are held before the first step, where that is more than
            `weights`: a base that is made integer is loaded as floats first.
        rollout: bytes beside weights and optimizer while answers are sampled; 0 if none are.
        usable: bytes that the device has for a program.
        flops: operations of a step, of all devices.
        collectives: kind -> (how many, bytes).
        seconds: what bounds a step -> its seconds.
        how: `"compiled"` for the very target, or `"traced"`: see `liveness.py`.
    """

    config: object
    target: str
    devices: int
    rows: int
    weights: int
    optimizer: int
    gradients: int
    logits: int
    activations: int
    margin: int
    total: int
    loading: int
    rollout: int
    usable: int
    flops: float
    collectives: dict
    seconds: dict
    how: str

    @property
    def fits(self) -> bool:
        """Whether the program fits into one device, margin and loading included."""
        sampling = self.weights + self.optimizer + self.rollout
        return max(self.total + self.margin, self.loading, sampling) <= self.usable


def estimate(config, target: str, sizes=None) -> Estimate:
    """What a run needs on a target that need not be there.

    Args:
        config: `SFTConfig`, `PretrainConfig` or `RLConfig`, as for the recipe.
        target: a TPU (`v5e-8`, `v5e:2x4`), compiled for those very chips; or a GPU's name
            (`a100-40`), traced only.
        sizes: arguments of `CodeGemmaBackbone` instead of the preset's.

    Raises:
        ValueError: an unknown target, or a mesh of another size.
        ImportError: a TPU, and libtpu is not there.
        RuntimeError: the backend is not JAX.
    """
    target = hardware.target(target)
    config = step.resolved(config, target)
    if hardware.is_tpu(target):
        devices = hardware.tpu_devices(target)
        return on_devices(config, devices, hardware.chip_of(target), target, sizes)
    copies = _copies(config, target)
    if copies > 1:
        return _of_copies(config, target, copies, sizes)
    lm, batch = step.model_of(config, sizes), step.batch_of(config)
    found = program.trace_step(lm, batch)
    return _estimate(lm, config, hardware.chip_of(target), target, found, how="traced")


def _of_copies(config, target, copies, sizes):
    """GPUs that each compute their own rows with all weights; their links are unknown."""
    sharding.check_rows(step.rows_of(config), config.mesh)
    own = dataclasses.replace(
        config, mesh=None, batch_tokens=config.batch_tokens // copies
    )
    found = estimate(own, target, sizes)
    return dataclasses.replace(
        found,
        config=config,
        devices=copies,
        rows=step.rows_of(config),
        flops=copies * found.flops,
    )


def _copies(config, target):
    """How many GPUs each hold the whole model; what splits it is not traced."""
    sizes = sharding.parse_mesh(config.mesh) if getattr(config, "mesh", None) else {}
    if set(sizes) - {"data"}:
        raise ValueError(
            f"mesh {config.mesh!r} on {target}: on GPUs only data=N is planned, where each "
            "GPU holds the whole model. Leave the mesh out, or name a TPU topology."
        )
    return sizes.get("data", 1)


def on_devices(config, devices, chip, target, sizes=None) -> Estimate:
    """`estimate`, compiled for devices of this process or of a topology.

    Args:
        config: as from `step.resolved`.
        devices: JAX devices or their descriptions.
        chip: `hardware.Chip`.
        target: what to call them.
        sizes: as of `estimate`.
    """
    lm, batch = step.model_of(config, sizes), step.batch_of(config)
    if not config.mesh:
        if len(devices) > 1 and not step.kind_of(config).SEVERAL_DEVICES:
            raise ValueError(
                f"{target} has {len(devices)} devices, and rl runs on one. Name one chip, "
                "for example v5e-1."
            )
        if len(devices) > 1:
            raise ValueError(
                f"{target} has {len(devices)} devices; say how they share the work, "
                f"for example --mesh fsdp={len(devices)}."
            )
        found = program.compile_step(lm, batch, None, devices[0])
        return _estimate(lm, config, chip, target, found, device=devices[0])
    layout = sharding.distribution(
        config.mesh,
        num_query_heads=lm.backbone.num_query_heads,
        num_key_value_heads=lm.backbone.num_key_value_heads,
        devices=devices,
    )
    found = program.compile_step(lm, batch, layout)
    return _estimate(lm, config, chip, target, found, layout)


def _estimate(
    lm, config, chip, target, found, layout=None, device=None, how="compiled"
):
    count = math.prod(layout.device_mesh.shape) if layout else 1
    kinds = by_kind(lm, config, layout, device)
    loading = loading_bytes(lm, config, count, kinds["weights"])
    kind, first = step.kind_of(config), 0
    if kind.has_first_model(config):
        first = kinds["weights"]
        kinds["weights"] += first
        loading += first  # one is loaded beside the other
    temporaries, margin = found.temporaries, 0
    if how == "traced":
        # The trace lets a cast gradient be read as it is made; all of them are there
        # before the first is applied, since the norm of all is needed.
        temporaries = max(temporaries, kinds["gradients"] + kinds["logits"])
        margin = int(kind.TRACE_ERROR * temporaries)
    rest = temporaries - kinds["gradients"] - kinds["logits"]
    return Estimate(
        config=config,
        target=target,
        devices=count,
        rows=step.rows_of(config),
        **kinds,
        activations=max(0, rest),
        margin=margin,
        total=found.arguments + first + temporaries,
        loading=loading,
        rollout=kind.rollout_bytes(lm, config),
        usable=chip.usable,
        flops=found.flops,
        collectives=found.collectives,
        seconds=roofline(found, chip, count),
        how=how,
    )


def by_kind(lm, config, layout=None, device=None) -> dict[str, int]:
    """Bytes of one device that follow from shapes and layouts.

    Args:
        lm: the prepared model.
        config: its configuration, resolved.
        layout: the distribution, or None.
        device: the one device, if there is no distribution.
    """
    state, _ = program.shardings(lm, {}, layout, device)
    trainable, frozen, optimizer, _ = (program.bytes_of(group) for group in state)
    return {
        "weights": trainable + frozen,
        "optimizer": optimizer,
        "gradients": trainable,
        "logits": loss_bytes(lm, config),
    }


def loading_bytes(lm, config, devices, held) -> int:
    """Bytes of one device while the model is loaded."""
    if not config.quantize:
        return held
    size = 4 if "32" in config.dtype or "mixed" in config.dtype else 2
    floats = size * hardware.matrix_weights(lm.backbone.get_config())
    split = config.mesh and ("fsdp" in config.mesh or "model" in config.mesh)
    return max(held, floats // (devices if split else 1))


def loss_bytes(lm, config) -> int:
    """Bytes of the chunked loss at its worst: see `losses.linear_cross_entropy`."""
    sizes = sharding.parse_mesh(config.mesh) if config.mesh else {}
    parts = math.prod(sizes.get(axis, 1) for axis in sharding.BATCH_AXES)
    split = sizes.get("model", 1)
    vocabulary, width = lm.backbone.vocabulary_size, lm.backbone.hidden_dim
    tokens = step.rows_of(config) * config.sequence_length
    devices = parts * split
    chunk = min(tokens, ops.tokens_of_a_chunk(vocabulary, devices))
    logits = 2 * 4 * chunk * vocabulary // devices
    hidden = 4 * tokens * width // parts
    trained = bool(lm.backbone.token_embedding.trainable_variables)
    return logits + hidden + (4 * vocabulary * width // split if trained else 0)


def roofline(compiled, chip, devices) -> dict[str, float]:
    """Seconds of a step that arithmetic, memory and links take, each by itself."""
    chips = devices / chip.cores
    seconds = {"arithmetic": compiled.flops / chips / chip.flops}
    if compiled.traffic:
        seconds["memory"] = compiled.traffic * chip.cores / chip.bandwidth
    moved = sum(size for _, size in compiled.collectives.values())
    if moved and chip.link:
        seconds["links"] = moved * chip.cores / chip.link
    return seconds


def largest_batch(config, target: str, limit=1024, sizes=None):
    """The most rows of one part of a step that fit, and their estimate.

    Args:
        config: as of `estimate`; its `batch_tokens` is not looked at.
        target, sizes: as of `estimate`.
        limit: rows, where the search ends.

    Returns:
        `(rows, Estimate)`; `(0, the estimate of the smallest batch)` if none fits.
    """
    length = step.resolved(config, target).sequence_length
    mesh = sharding.parse_mesh(config.mesh) if config.mesh else {}
    unit = math.prod(mesh.get(axis, 1) for axis in sharding.BATCH_AXES)

    def tried(units):
        tokens = units * unit * length * config.accumulation
        return estimate(dataclasses.replace(config, batch_tokens=tokens), target, sizes)

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
        needed = least.total + least.margin
        slope = (new.total + new.margin - needed) / (guess - 1)
        guess = 1 + int((least.usable - needed) / slope) if slope > 0 else high - 1
        if not best < guess < high:
            guess = best + 1 if guess == best else (best + high) // 2
    return best * unit, found
