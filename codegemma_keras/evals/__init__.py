"""Evaluation: how well a model predicts, fills in and writes what it never saw.

    evals.evaluate(["humaneval-infilling-single"], "code_gemma_tiny_py", "out")

`task` says what a benchmark is, and there is one module for each: `humaneval`,
`humaneval_infilling`, and so on; `catalog` lists them. `model` asks, `run` keeps the
samples, `scores` is the mathematics, `report` the pages. `lm_eval` and `inspect_ai` plug
models of this package into those harnesses. `infilling` and `likelihood` measure on any
files, without running anything.
"""

import importlib

_NAMES = {"Judging": "evaluation", "evaluate": "evaluation"}
__all__ = sorted(_NAMES)


def __getattr__(name):
    if name in _NAMES:
        module = importlib.import_module(f"{__name__}.{_NAMES[name]}")
        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
