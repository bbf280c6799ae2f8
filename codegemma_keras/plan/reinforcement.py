"""What a step of `recipes.rl` has besides: its loss, its targets, and the answers' cache.

The functions that `supervised` has, too, are those that `step.kind_of` promises.

A part of the update is planned with a row for each answer. Short answers share rows, so
that a run may need less.

Left out: the pass of the first model over the answers, sixteen at a time, whose
log-probabilities come from chunks of logits and need less than the update.
"""

import jax

from codegemma_keras.decoding.cache import bucket, row_bucket
from codegemma_keras.decoding.engine import Engine
from codegemma_keras.rl import update
from codegemma_keras.rl.losses import ALGORITHMS, Answers, knobs_of

# A cache that grows is there twice, beside that of the prompts: from 8 to 64 rows of 1,000
# tokens a process grew by 2.2 times the cache. Of each row there are the logits, the noise
# and their sum in float32.
COPIES, ARRAYS = 2.5, 3
TRACE_ERROR = 0.50  # as `supervised.TRACE_ERROR`, of a part of an update
SEVERAL_DEVICES = False


def loss_of(config):
    """The loss that the recipe compiles the model with; `config` is an `RLConfig`."""
    return update.PolicyLoss(ALGORITHMS[config.loss], knobs_of_run(config))


def knobs_of_run(config):
    """The numbers of its loss."""
    return knobs_of(config.loss, config.beta, config.epsilon, config.epsilon_high)


def answers_of_part(config) -> int:
    """Answers in one part of an update. Of a group, dpo takes two."""
    size = 2 if config.loss == "dpo" else config.group_size
    return config.prompts_per_step * size // config.accumulation


def rows_of(config) -> int:
    """Rows of one part of an update, if no two answers share one."""
    return row_bucket(answers_of_part(config))


def targets_of(config) -> tuple:
    """Shapes of what `update.Part` has as targets, as the one element of a tuple."""
    count, limit = answers_of_part(config), config.max_new_tokens
    line = jax.ShapeDtypeStruct((count, limit), "float32")
    scalar = jax.ShapeDtypeStruct((), "float32")
    kinds = {"advantages": jax.ShapeDtypeStruct((count,), "float32"), "total": scalar}
    shape = rows_of(config), config.sequence_length
    targets = {
        **{name: kinds.get(name, line) for name in Answers._fields},
        "ids": jax.ShapeDtypeStruct(shape, "int32"),
        "places": jax.ShapeDtypeStruct((count, limit), "int32"),
        "tokens": scalar,
        "fresh": jax.ShapeDtypeStruct((), "bool"),
    }
    return (targets,)


def rollout_bytes(lm, config) -> int:
    """Bytes beside weights and optimizer while answers are sampled."""
    rows = row_bucket(config.rollout_rows)
    cache = Engine(lm).cache_bytes(rows, bucket(config.sequence_length))
    return int(COPIES * cache) + ARRAYS * 4 * rows * lm.backbone.vocabulary_size


def has_first_model(config) -> bool:
    """Whether the first model takes memory of its own, as `rl.run.Run` decides it."""
    own = not config.lora_rank or bool(config.adapter)
    return bool(knobs_of_run(config).beta) and own
