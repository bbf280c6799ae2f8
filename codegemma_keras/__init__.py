"""CodeGemma in Keras 3, on JAX or TensorFlow.

Names are imported when first used, so that `import codegemma_keras` is instant, the
pure text modules (`fim`, `chat`) load no Keras, and the backend may be chosen until the
first name that needs one.
"""

import importlib
from typing import TYPE_CHECKING

from codegemma_keras import quiet

__version__ = "0.1.0.dev0"

# Public name -> the module that holds it.
_CLASSES = {
    "CodeGemmaBackbone": "backbone",
    "CodeGemmaCausalLM": "causal_lm",
    "CodeGemmaCausalLMPreprocessor": "preprocessor",
    "CodeGemmaChatPreprocessor": "preprocessor",
    "CodeGemmaFIMPreprocessor": "preprocessor",
    "CodeGemmaTokenizer": "tokenizer",
    "Sampling": "decoding",
}
_MODULES = ("chat", "data", "decoding", "fim", "lora", "presets")

if TYPE_CHECKING:  # What editors and type checkers see.
    from codegemma_keras import chat, data, decoding, fim, lora, presets
    from codegemma_keras.backbone import CodeGemmaBackbone
    from codegemma_keras.causal_lm import CodeGemmaCausalLM
    from codegemma_keras.decoding import Sampling
    from codegemma_keras.preprocessor import (
        CodeGemmaCausalLMPreprocessor,
        CodeGemmaChatPreprocessor,
        CodeGemmaFIMPreprocessor,
    )
    from codegemma_keras.tokenizer.tokenizer import CodeGemmaTokenizer

__all__ = [
    "CodeGemmaBackbone",
    "CodeGemmaCausalLM",
    "CodeGemmaCausalLMPreprocessor",
    "CodeGemmaChatPreprocessor",
    "CodeGemmaFIMPreprocessor",
    "CodeGemmaTokenizer",
    "Sampling",
    "__version__",
    "chat",
    "data",
    "decoding",
    "fim",
    "lora",
    "presets",
]


def __getattr__(name):
    if name in _CLASSES:
        with quiet.in_notebook():
            module = importlib.import_module(f"{__name__}.{_CLASSES[name]}")
            value = globals()[name] = getattr(module, name)
        return value
    if name in _MODULES:
        with quiet.in_notebook():
            return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__})
