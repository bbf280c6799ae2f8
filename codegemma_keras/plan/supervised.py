"""What a step of `recipes.sft` and `recipes.pretrain` has besides: `reinforcement`'s sibling.

The two modules have the same functions, and `step.kind_of` says which one plans a
configuration.
"""

import jax

from codegemma_keras.training import order

# Of the temporaries of a traced step. The compiled step needs at most so much more, in
# all cases of benchmarks/results/plan_accuracy.json (a test compares).
TRACE_ERROR = 0.40
SEVERAL_DEVICES = True


def loss_of(config):
    """The loss that the model is compiled with; None is that of the next token."""
    return None


def rows_of(config) -> int:
    """Rows of one part of a step."""
    return order.rows_of_part(config)


def targets_of(config) -> tuple:
    """Shapes of `(y, sample_weight)` of one part."""
    shape = rows_of(config), config.sequence_length
    ids = jax.ShapeDtypeStruct(shape, "int32")
    return ids, jax.ShapeDtypeStruct(shape, "float32")


def rollout_bytes(lm, config) -> int:
    """Nothing is sampled."""
    return 0


def has_first_model(config) -> bool:
    """There is one model."""
    return False
