"""The training step of a recipe, built without the memory of its weights.

`model_of` makes the model that the recipe trains, by the recipe's own functions: the same
dtypes, adapter, optimizer, accumulation and loss, with variables that have shapes and no
values. What a compiler needs is then there: `state_of` and `batch_of` describe the
arguments of the step.
"""

import dataclasses
import functools

import jax
import keras

from codegemma_keras import CodeGemmaBackbone, CodeGemmaCausalLM, lora, sharding
from codegemma_keras.formats import weights
from codegemma_keras.plan import reinforcement, supervised
from codegemma_keras.recipes import pretrain, rl, sft
from codegemma_keras.training import hardware, model

ANY = 1000  # steps of the run: the schedule's numbers change no bytes
# Of each configuration, the recipe and what plans its step.
KINDS = {
    pretrain.PretrainConfig: (pretrain, supervised),
    sft.SFTConfig: (sft, supervised),
    rl.RLConfig: (rl, reinforcement),
}


def kind_of(config):
    """`supervised` or `reinforcement`: what the step of a configuration has besides."""
    return _of(config)[1]


def _of(config):
    return next(KINDS[kind] for kind in KINDS if isinstance(config, kind))


def resolved(config, target):
    """The configuration as the recipe would resolve it on a target.

    Args:
        config: `SFTConfig`, `PretrainConfig` or `RLConfig`.
        target: as of `hardware.target`.
    """
    if keras.backend.backend() != "jax":
        raise RuntimeError(
            "Planning traces the step with JAX, and Keras runs on "
            f"{keras.backend.backend()}. Set KERAS_BACKEND=jax; a run on TensorFlow is not "
            "planned."
        )
    recipe, _ = _of(config)
    config = recipe.resolved(config, half=lambda: hardware.chip_of(target).half)
    if config.sequence_length is None:  # rl measures the prompts, with the tokenizer
        raise ValueError(
            "Give sequence_length, the most tokens of a prompt and its answer: a plan reads "
            "no prompts."
        )
    return dataclasses.replace(config, warmup_steps=config.warmup_steps or 1)


def sizes_of(config) -> dict:
    """Arguments of `CodeGemmaBackbone`: the preset's, or those of a new network."""
    if config.preset:
        return dict(sharding.config_of(config.preset))
    return pretrain.sizes_of(config, config.vocabulary_size)


def model_of(config, sizes=None) -> CodeGemmaCausalLM:
    """The compiled model of a run; its variables have no values.

    Args:
        config: as from `resolved`.
        sizes: arguments of `CodeGemmaBackbone` instead of the preset's.
    """
    sizes = dict(sizes_of(config) if sizes is None else sizes)
    sizes["dtype"] = config.dtype
    if config.quantize:
        sizes["dtype"] = quantized_policy(
            sizes["num_layers"], config.dtype, config.quantize
        )
    # The values of an adapter to start from are of no interest, its shapes are known.
    config = dataclasses.replace(config, adapter=None)

    def make():
        backbone = CodeGemmaBackbone(**sizes)
        if config.quantize:
            lora.keep_activations_float(backbone)
        model.add_adapter(backbone, config, "plan")
        return backbone

    lm = CodeGemmaCausalLM(weights.build_empty(make), preprocessor=None)
    model.compile_model(lm, config, ANY, kind_of(config).loss_of(config))
    return lm


def rows_of(config) -> int:
    """Rows of one part of a step."""
    return kind_of(config).rows_of(config)


@functools.cache
def quantized_policy(num_layers, dtype, mode):
    """The map of dtypes that a backbone has after `lora.quantize_base(mode)`.

    Quantizing needs values; so a narrow backbone of one block is quantized, and its map,
    which names layers and no sizes, is written out for every block.
    """
    narrow = CodeGemmaBackbone(
        vocabulary_size=128,
        num_layers=1,
        num_query_heads=1,
        num_key_value_heads=1,
        hidden_dim=128,  # not narrower than the groups that int4 scales are of
        intermediate_dim=256,
        head_dim=128,
        dtype=dtype,
    )
    lora.quantize_base(narrow, mode)
    saved = narrow.get_config()["dtype"]
    saved["config"]["default_policy"] = dtype  # of what stays float
    policies = saved["config"]["policy_map"]
    for policy in policies.values():
        policy["config"]["source_name"] = dtype
    saved["config"]["policy_map"] = {
        path.replace("decoder_block_0", f"decoder_block_{i}"): policy
        for i in range(num_layers)
        for path, policy in policies.items()
    }
    return keras.dtype_policies.get(saved)


def prepare(lm, batch, distribution=None):
    """Make every variable of the step: metrics, optimizer state, all with layouts.

    Args:
        lm: as from `model_of`.
        batch: as from `batch_of`.
        distribution: as from `sharding.distribution`, or None.
    """
    for variable in lm.variables:
        if distribution is not None:
            # What Keras does when it gives a variable its first value.
            variable._layout = distribution.get_variable_layout(variable)

    def make():
        lm.optimizer.build(lm.trainable_variables)
        return lm.optimizer

    weights.build_empty(make)
    symbols = jax.tree.map(lambda a: keras.KerasTensor(a.shape, str(a.dtype)), batch)
    lm._symbolic_build(data_batch=symbols)


def batch_of(config):
    """Shapes of one part of a packed batch: `(x, y)`, or `(x, y, sample_weight)`."""
    shape = (rows_of(config), config.sequence_length)
    ids = jax.ShapeDtypeStruct(shape, "int32")
    names = ("token_ids", "padding_mask", "positions", "segment_ids")
    x = dict.fromkeys(names, ids)
    return x, *kind_of(config).targets_of(config)


def groups_of(lm) -> dict:
    """The variables of a training step, by what they are, in the step's order."""
    return {
        "trainable": lm.trainable_variables,
        "frozen": lm.non_trainable_variables,
        "optimizer": lm.optimizer.variables,
        "metrics": lm.metrics_variables,
    }


def state_of(lm, place):
    """Shapes of the state of Keras's training step on JAX.

    Args:
        lm: the prepared model.
        place: function of a variable, its `jax.sharding.Sharding`.
    """
    return tuple(
        [
            jax.ShapeDtypeStruct(tuple(v.shape), v.dtype, sharding=place(v))
            for v in group
        ]
        for group in groups_of(lm).values()
    )
