"""A model of one layer and settings of runs of a few steps, for tests of training."""

import keras

from codegemma_keras import CodeGemmaBackbone, CodeGemmaCausalLM
from codegemma_keras.training import config as settings

V, T = 53, 16
SIZES = {
    "vocabulary_size": V,
    "num_layers": 1,
    "num_query_heads": 4,
    "num_key_value_heads": 2,
    "hidden_dim": 24,
    "intermediate_dim": 80,
    "head_dim": 8,
}


def settings_of(out, **changes):
    """Small settings with nothing left to derive; 4 rows a step."""
    options = {
        "sequence_length": T,
        "batch_tokens": 4 * T,
        "schedule": "wsd",
        "learning_rate": 1e-2,
        "warmup_steps": 2,
        "lora_rank": 0,
        "dtype": "float32",
        "evaluate_every": 0,
        "save_every": 3,
        **changes,
    }
    return settings.TrainingConfig(out=str(out), **options)


def new_model():
    keras.utils.set_random_seed(0)
    return CodeGemmaCausalLM(CodeGemmaBackbone(**SIZES))
