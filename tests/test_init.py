"""The public names."""

import pytest

import codegemma_keras


@pytest.mark.parametrize("name", codegemma_keras.__all__)
def test_public_name(name):
    found = getattr(codegemma_keras, name)
    assert getattr(found, "__name__", name).endswith(name)
    assert name in dir(codegemma_keras)


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'CodeGemma'"):
        codegemma_keras.CodeGemma  # noqa: B018
