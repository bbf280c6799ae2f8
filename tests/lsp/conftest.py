"""The model behind the language server."""

import pytest

from tests.small_task import small_task


@pytest.fixture(scope="session")
def lm():
    return small_task()
