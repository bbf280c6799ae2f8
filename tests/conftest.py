"""What every test run states and needs; picks nothing silently.

The backend is the caller's choice. `make test` runs the tests of the rooms that never
import Keras once, with the backend `none`, which Keras refuses, and all others on both.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile

import pytest

# The peers' PyTorch brings Triton where it is built for CUDA. Loaded after TensorFlow, it
# ends the process; loaded before, both work.
with contextlib.suppress(ImportError):
    import triton  # noqa: F401

BACKENDS = ("jax", "tensorflow", "none")


# IPython's files are not written to the home of the person who runs the tests.
_home = tempfile.TemporaryDirectory(prefix="ipython-")
os.environ["IPYTHONDIR"] = _home.name


def pytest_configure(config):
    # A shell's background job ignores SIGINT, and so would the programs that tests start
    # and interrupt: they would never end.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    backend = os.environ.get("KERAS_BACKEND")
    if backend not in BACKENDS:
        raise pytest.UsageError(
            f"KERAS_BACKEND={backend!r}: say which backend to test on, for example "
            "`KERAS_BACKEND=jax pytest`; `make test` runs both."
        )


def pytest_report_header(config):
    if os.environ["KERAS_BACKEND"] == "none":
        return "without Keras"
    import keras

    return f"keras {keras.version()} on {keras.config.backend()}"


@pytest.fixture(scope="session")
def keras_hub_without_tensorflow():
    """Skip a test where KerasHub itself needs TensorFlow, as its oldest releases do."""
    program = 'import sys; sys.modules["tensorflow"] = None; import keras_hub'
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
    )
    if "import of tensorflow halted" in done.stderr:
        pytest.skip("This release of KerasHub imports TensorFlow itself.")
    assert done.returncode == 0, done.stderr
