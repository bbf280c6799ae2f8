"""The real training step of a job, built without the memory of its weights.

`model_of` makes the very model that a recipe trains (the same classes, adapters,
optimizer and loss), with variables that have shapes and no values. What a compiler needs
is then there: `state_of` and `batch_of` describe the arguments of the step.

Left out: dropout and accumulation, which none of the recipes has by default.
"""

import dataclasses
import functools

import jax
import keras

from codegemma_keras import CodeGemmaBackbone, CodeGemmaCausalLM, lora, losses, sharding
from codegemma_keras.formats import weights

RECIPES = ("full", "lora", "qlora")


@dataclasses.dataclass(frozen=True)
class Job:
    """What is asked: one training step.

    Attributes:
        preset: name or folder.
        recipe: `"full"`, `"lora"` or `"qlora"` (on a quantized base).
        batch: rows of a step, over all devices.
        length: tokens of a row, packed.
        mesh: as of `sharding.distribution`; None for one device.
        remat: as of `CodeGemmaBackbone.remat`.
        dtype: of the weights. Default: `mixed_bfloat16` (float32 weights and state) for
            `"full"`, as Adam's small steps vanish in bfloat16; else `bfloat16`.
        rank: of the adapter.
        quantize: `"int8"` or `"int4"`, of the base of `"qlora"`.
    """

    preset: str = "code_gemma_2b_en"
    recipe: str = "lora"
    batch: int = 1
    length: int = 1024
    mesh: str | None = None
    remat: str = "none"
    dtype: str | None = None
    rank: int = 16
    quantize: str = "int8"

    def __post_init__(self):
        if self.recipe not in RECIPES:
            raise ValueError(f"recipe={self.recipe!r}: give one of {RECIPES}.")
        if self.batch < 1 or self.length < 1:
            raise ValueError(
                f"batch={self.batch} and length={self.length} must be at least 1."
            )
        sharding.check_rows(self.batch, self.mesh)

    @property
    def policy(self) -> str:
        """The dtype policy of the float weights."""
        default = "mixed_bfloat16" if self.recipe == "full" else "bfloat16"
        return self.dtype or default


def model_of(job: Job, config=None) -> CodeGemmaCausalLM:
    """The compiled model of a job; its variables have no values.

    Args:
        job: what is asked.
        config: arguments of `CodeGemmaBackbone` instead of the preset's.
    """
    config = dict(sharding.config_of(job.preset) if config is None else config)
    config["dtype"] = job.policy
    if job.recipe == "qlora":
        config["dtype"] = quantized_policy(
            config["num_layers"], job.policy, job.quantize
        )

    def make():
        backbone = CodeGemmaBackbone(**config)
        if job.recipe == "qlora":
            lora.keep_activations_float(backbone)
        if job.recipe != "full":
            lora.add(backbone, "plan", rank=job.rank)
        return backbone

    backbone = weights.build_empty(make)
    backbone.remat = job.remat
    lm = CodeGemmaCausalLM(backbone, preprocessor=None)
    optimizer = keras.optimizers.AdamW(1e-4, weight_decay=0.1, global_clipnorm=1.0)
    lm.compile(optimizer=optimizer, loss=losses.NextTokenLoss(), weighted_metrics=[])
    return lm


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


def batch_of(job: Job):
    """Shapes of one packed batch: `(x, y, sample_weight)`."""
    shape = (job.batch, job.length)
    ids = jax.ShapeDtypeStruct(shape, "int32")
    names = ("token_ids", "padding_mask", "positions", "segment_ids")
    return dict.fromkeys(names, ids), ids, jax.ShapeDtypeStruct(shape, "float32")


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
