"""Tiny random models of ours and of the peers, for tests of loading.

Sizes are pairwise different, so that no swapped axis passes: V=53 L=3 N=4 K=1, 2 or 4
D=24 F=40 H=8.
"""

import keras
import keras_hub
import numpy as np
import torch
import transformers

from codegemma_keras import (
    CodeGemmaBackbone,
    CodeGemmaCausalLM,
    CodeGemmaCausalLMPreprocessor,
    CodeGemmaTokenizer,
)
from tests.small_vocabulary import small_vocabulary

SIZES = {
    "vocabulary_size": 53,
    "num_layers": 3,
    "num_query_heads": 4,
    "num_key_value_heads": 2,
    "hidden_dim": 24,
    "intermediate_dim": 80,
    "head_dim": 8,
}
rng = np.random.default_rng(7)
TOKEN_IDS = rng.integers(3, 53, (2, 7))
TOKEN_IDS[1, 5:] = 0
INPUTS = {"token_ids": TOKEN_IDS, "padding_mask": (TOKEN_IDS != 0).astype("int32")}


def randomise(backbone, seed=3):
    """Every variable at random: norms start at zero, and zeros would hide a mix-up."""
    generator = np.random.default_rng(seed)
    for variable in backbone.weights:
        variable.assign(generator.normal(0, 0.2, variable.shape))
    return backbone


def our_backbone(dtype=None, **sizes):
    """A `CodeGemmaBackbone`."""
    return randomise(CodeGemmaBackbone(**{**SIZES, **sizes}, dtype=dtype))


def hub_backbone(dtype=None, **sizes):
    """A `keras_hub.models.GemmaBackbone`."""
    sizes = {**SIZES, **sizes}
    return randomise(keras_hub.models.GemmaBackbone(**sizes, dtype=dtype))


def our_task(seed=3):
    """A `CodeGemmaCausalLM` with a tokenizer."""
    tokenizer = CodeGemmaTokenizer(proto=small_vocabulary())
    size = tokenizer.vocabulary_size()
    return CodeGemmaCausalLM(
        our_backbone(vocabulary_size=size),
        CodeGemmaCausalLMPreprocessor(tokenizer, sequence_length=96),
    )


def transformers_model(num_key_value_heads=2, dtype=torch.float32):
    """A `transformers.GemmaForCausalLM`."""
    torch.manual_seed(5)
    config = transformers.GemmaConfig(
        vocab_size=53,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=num_key_value_heads,
        hidden_size=24,
        intermediate_size=40,
        head_dim=8,
    )
    model = transformers.GemmaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    return model.to(dtype)


def hidden(backbone):
    """Hidden states of `INPUTS` where there is a token, float32 numpy."""
    states = keras.ops.cast(backbone(INPUTS), "float32")
    return keras.ops.convert_to_numpy(states)[TOKEN_IDS != 0]


def logits(backbone):
    """Logits of `INPUTS` where there is a token, float32 numpy."""
    scores = backbone.token_embedding(backbone(INPUTS), reverse=True)
    scores = keras.ops.cast(scores, "float32")
    return keras.ops.convert_to_numpy(scores)[TOKEN_IDS != 0]


def transformers_logits(model):
    """The same of Transformers' model."""
    with torch.no_grad():
        scores = model(
            torch.tensor(TOKEN_IDS),
            attention_mask=torch.tensor(INPUTS["padding_mask"]),
        ).logits
    return scores.float().numpy()[TOKEN_IDS != 0]


def relative_difference(a, b):
    """Largest difference, over the largest magnitude."""
    return np.abs(a - b).max() / np.abs(b).max()


def values(backbone):
    """Path -> numpy value of every weight."""
    return {
        v.path: keras.ops.convert_to_numpy(keras.ops.cast(v.value, "float32"))
        for v in backbone.weights
    }


def assert_same_weights(backbone, other):
    """Every weight equal, bit for bit."""
    ours, theirs = values(backbone), values(other)
    assert ours.keys() == theirs.keys()
    for path, value in ours.items():
        np.testing.assert_array_equal(value, theirs[path], err_msg=path)
