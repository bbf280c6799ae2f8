"""How each language writes types, values, prompts and the calls of a function."""

from codegemma_keras.evals.babelcode.targets.compiled import CPP, GO, RUST
from codegemma_keras.evals.babelcode.targets.dynamic import JAVASCRIPT, PYTHON
from codegemma_keras.evals.babelcode.targets.managed import CSHARP, JAVA, KOTLIN
from codegemma_keras.evals.babelcode.targets.target import Target

TARGETS = {
    "cpp": CPP,
    "csharp": CSHARP,
    "go": GO,
    "java": JAVA,
    "javascript": JAVASCRIPT,
    "kotlin": KOTLIN,
    "python": PYTHON,
    "rust": RUST,
}

__all__ = ["TARGETS", "Target"]
