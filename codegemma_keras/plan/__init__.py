"""Will it fit: the real training step, compiled ahead of time for chips not there.

    codegemma plan code_gemma_7b_en --recipe full --on v5e:4x4 --mesh fsdp=16

Weights, gradients and optimizer state are counted; what else a step needs, its
collectives and its work are read from the program that XLA compiles for those TPUs, or,
for a GPU, from the traced step. No weight exists meanwhile: a laptop plans the 7B. JAX
only.

* `Job`, `estimate`, `largest_batch`: what `codegemma plan` does;
* `check`, `explained`: what recipes do before and around their first step, on both
  backends: an error that says what is needed, what there is, and what to turn.

Left out: the time of a step beyond the roofline's bound, and memory of the host.
"""

import importlib

__all__ = [
    "DoesNotFitError",
    "Estimate",
    "Job",
    "check",
    "estimate",
    "explained",
    "largest_batch",
]


_MODULES = {"Job": "step", "check": "fit", "explained": "fit", "DoesNotFitError": "fit"}


def __getattr__(name):
    # On demand: the command line imports this package before Keras, and recipes on
    # TensorFlow need only what does not import JAX.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES.get(name, 'estimates')}")
    return getattr(module, name)
