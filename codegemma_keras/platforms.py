"""Which kind of device a program is made for. Some forms of a product suit only one."""

import contextlib

import keras

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
