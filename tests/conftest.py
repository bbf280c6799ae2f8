"""What every test run states and needs; picks nothing silently.

The backend is the caller's choice: `make test` runs everything on each.
"""

import os

import pytest

BACKENDS = ("jax", "tensorflow")


def pytest_configure(config):
    backend = os.environ.get("KERAS_BACKEND")
    if backend not in BACKENDS:
        raise pytest.UsageError(
            f"KERAS_BACKEND={backend!r}: say which backend to test on, for example "
            "`KERAS_BACKEND=jax pytest`; `make test` runs both."
        )


def pytest_report_header(config):
    import keras

    return f"keras {keras.version()} on {keras.config.backend()}"
