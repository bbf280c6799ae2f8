"""Where and with what a run was made: the line that each start leaves in its timings."""

import datetime
import importlib.metadata
import os
import platform

LIBRARIES = ("keras", "keras-hub", "jax", "tensorflow", "numpy")


def start(model) -> dict:
    """Date, machine and versions, as JSON's types."""
    from codegemma_keras import __version__

    versions = {"codegemma-keras": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "started": datetime.datetime.now().astimezone().isoformat(" ", "seconds"),
        "device": device(),
        "dtype": model.dtype,
        "versions": versions,
    }


def device() -> str:
    """What computes, in words."""
    import keras

    if keras.config.backend() == "jax":
        import jax

        kinds = [d.device_kind for d in jax.devices() if d.platform != "cpu"]
    else:
        import tensorflow

        kinds = [d.name for d in tensorflow.config.list_physical_devices("GPU")]
    if kinds:
        return f"{len(kinds)} {kinds[0]}"
    return f"{os.cpu_count()} {platform.machine()} CPU cores"
