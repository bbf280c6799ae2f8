"""A small random model for tests of whole requests; quick to make and to compile."""

import numpy as np

from codegemma_keras import (
    CodeGemmaBackbone,
    CodeGemmaCausalLM,
    CodeGemmaCausalLMPreprocessor,
    CodeGemmaTokenizer,
)
from tests.small_vocabulary import small_vocabulary


def small_task():
    """Random weights, a context of 256 tokens."""
    tokenizer = CodeGemmaTokenizer(proto=small_vocabulary())
    backbone = CodeGemmaBackbone(
        vocabulary_size=tokenizer.vocabulary_size(),
        num_layers=2,
        num_query_heads=4,
        num_key_value_heads=1,
        hidden_dim=24,
        intermediate_dim=80,
        head_dim=8,
    )
    generator = np.random.default_rng(3)
    for variable in backbone.weights:
        variable.assign(generator.normal(0, 0.2, variable.shape))
    preprocessor = CodeGemmaCausalLMPreprocessor(tokenizer, sequence_length=256)
    return CodeGemmaCausalLM(backbone, preprocessor)
