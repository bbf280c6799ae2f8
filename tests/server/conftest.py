"""One tiny model behind the application, in this process."""

import time

import pytest
from starlette.testclient import TestClient

from codegemma_keras.server.app import create_app
from codegemma_keras.server.settings import Settings
from tests.small_task import small_task


@pytest.fixture(scope="session")
def lm():
    return small_task()


@pytest.fixture(scope="session")
def client(lm):
    app = create_app(Settings("tests/tiny", rows=4), lambda: lm)
    with TestClient(app, base_url="http://127.0.0.1:8012") as client:
        while client.get("/health").status_code != 200:
            pass
        yield client


@pytest.fixture
def app(lm):
    """The application, its model loaded, and its scheduler."""
    app = create_app(Settings("tests/tiny", rows=2), lambda: lm)
    server = app.state.server
    server.start(lambda: None)
    while server.scheduler is None:
        time.sleep(0.01)
    yield app
    server.stop(0)
