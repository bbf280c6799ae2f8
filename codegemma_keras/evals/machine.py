"""Where and with what a run was made: the line that each start leaves in its timings."""

import datetime
import importlib.metadata
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
        "device": model.device,
        "dtype": model.dtype,
        "versions": versions,
    }
