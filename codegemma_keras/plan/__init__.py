"""Will it fit: the training step of a recipe, compiled or traced for chips not there.

    codegemma plan pretrain --preset code_gemma_7b_en --on v5e-16 --mesh fsdp=16

Takes the recipes' own configurations and builds the step with their own functions, so it
plans what would run. Weights, gradients and optimizer state are counted; what else a step
needs, its collectives and its work are read from the program that XLA compiles for those
TPUs, or, for a GPU, from the traced step. No weight exists meanwhile: a laptop plans the
7B. JAX only.

What a recipe checks before and around its own first step is `training/memory.py`.

Left out: the time of a step beyond the roofline's bound, and memory of the host.
"""

from codegemma_keras.plan.estimates import Estimate, estimate, largest_batch

__all__ = ["Estimate", "estimate", "largest_batch"]
