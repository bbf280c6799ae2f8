"""One small model, its engine and the slow way, compiled once for all files here."""

import keras
import numpy as np
import pytest

from codegemma_keras import CodeGemmaCausalLM
from codegemma_keras.decoding.compilation import compile_program
from tests.tiny_models import our_backbone


@pytest.fixture(scope="session")
def model():
    return CodeGemmaCausalLM(our_backbone())


@pytest.fixture(scope="session")
def engine(model):
    return model.engine


@pytest.fixture(scope="session")
def uncached(model):
    """`row of ids -> logits [V]` of the next token: the whole row, no cache."""
    forward = compile_program(
        model, lambda ids: model.backbone.logits(model.backbone.forward(ids))
    )

    def logits(row):
        ids = np.zeros((1, 192), "int32")
        ids[0, : len(row)] = row
        return keras.ops.convert_to_numpy(forward(ids))[0, len(row) - 1]

    return logits
