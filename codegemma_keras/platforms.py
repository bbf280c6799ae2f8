"""Which kind of device a program is made for. Some forms of a product suit only one."""

import contextlib

import keras

# From so many MiB on, XLA for TPUs splits a product into a loop.
WHOLE_WEIGHTS = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": 1_000_000}

_planned = None


@contextlib.contextmanager
def planned_for(platform):
    """Scope in which programs are traced for a device that is not here.

    Args:
        platform: `"tpu"`, `"gpu"` or `"cpu"`.
    """
    global _planned
    before, _planned = _planned, platform
    try:
        yield
    finally:
        _planned = before


def is_planned() -> bool:
    """Whether programs are traced for a device that is not here, so cannot be asked."""
    return _planned is not None


def platform() -> str:
    """The kind of device that is traced for: `"cpu"`, `"gpu"` or `"tpu"`."""
    if _planned is not None:
        return _planned
    if keras.config.backend() == "jax":
        import jax

        chosen = jax.config.jax_default_device
        if chosen is None:
            return jax.default_backend()
        return chosen if isinstance(chosen, str) else chosen.platform
    import tensorflow as tf

    return "gpu" if tf.config.list_physical_devices("GPU") else "cpu"


def compiler_options(distribution) -> dict:
    """Options of XLA for a training step on a mesh; none for most.

    With weights split over TPUs (`fsdp`), XLA would turn many products into loops that
    receive a part of the weights in each turn. The results of those in the backward pass
    have their memory from the forward pass on, which is 0.4 GiB for each layer of the 7B
    with rows of 8,192 tokens. Collected whole, the weights still travel while the layer
    before computes. `benchmarks/tpu_compile.py` compiles both (`plain`).

    Args:
        distribution: a `keras.distribution.Distribution`, or None.
    """
    mesh = getattr(distribution, "device_mesh", None)
    if keras.config.backend() != "jax" or mesh is None or "fsdp" not in mesh.axis_names:
        return {}
    if mesh.backend_mesh.devices.flat[0].platform != "tpu":
        return {}
    return dict(WHOLE_WEIGHTS)
