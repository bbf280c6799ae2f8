"""The model of a run: its dtypes, its adapter, its optimizer, and the result on disk.

Recipes and `codegemma plan` call the same functions here, so what is planned is what
runs. Their order is: `with_dtype`, load or build the network, `quantize`, `add_adapter`,
`compile_model`.
"""

import dataclasses
import pathlib
import shlex

import keras

from codegemma_keras import CodeGemmaCausalLM, hosts, lora, platforms
from codegemma_keras.formats import weights
from codegemma_keras.losses import NextTokenLoss
from codegemma_keras.training import hardware, schedules
from codegemma_keras.training.progress import say


def with_dtype(config, half=hardware.half_precision):
    """The settings with a dtype: see `TrainingConfig.dtype`.

    Args:
        config: `TrainingConfig`, its `lora_rank` known.
        half: function that gives the 16-bit dtype of the device, or None for a CPU.
    """
    if config.dtype is not None:
        return config
    found = half()
    if found is None:
        dtype = "float32"
    else:  # an adapter is float32 by itself; all weights need float32 masters
        dtype = found if config.lora_rank else f"mixed_{found}"
    return dataclasses.replace(config, dtype=dtype)


def described(config, device) -> str:
    """One line for people: what trains, in which dtypes, and where."""
    compute = config.dtype.removeprefix("mixed_")
    if config.lora_rank:
        base = f"{config.quantize or compute} base"
        what = f"adapter of rank {config.lora_rank} in float32 over a {base}"
    else:
        what = "all weights in float32"
    mesh = getattr(config, "mesh", None)
    where = f"{device}, mesh {mesh}" if mesh else device
    return f"trains {what}; computes in {compute}; on {where}"


def load(config, name) -> CodeGemmaCausalLM:
    """The preset of the settings with the adapter that trains.

    Args:
        config: `TrainingConfig`, with nothing left to derive.
        name: of the adapter.
    """
    keras.utils.set_random_seed(config.seed)
    lm = CodeGemmaCausalLM.from_preset(config.preset, dtype=config.dtype)
    quantize(lm, config)
    controls = lm.tokenizer.codec.control_ids.values()
    add_adapter(lm, config, name, lora.rows_with_twins(lm, controls))
    return lm


def quantize(lm, config):
    """Make the frozen base integer, if the settings say so."""
    if config.quantize:
        lora.quantize_base(lm, config.quantize)


def add_adapter(lm, config, name, token_rows=()):
    """Add the adapter that trains, new or loaded, if the settings say so.

    Args:
        lm: the model or its backbone.
        config: `TrainingConfig`, with nothing left to derive.
        name: of the adapter.
        token_rows: token ids whose rows of the embedding a new adapter trains as well.
            `load` gives the control tokens that the base cannot tell from others:
            without rows of their own, the end of a turn would never be learned.
    """
    if config.adapter:
        lora.load(lm, pathlib.Path(config.adapter).expanduser(), name)
    elif config.lora_rank:
        lora.add(
            lm,
            name,
            rank=config.lora_rank,
            alpha=config.lora_alpha,
            dropout=config.lora_dropout,
            targets=config.lora_targets,
            token_rows=tuple(token_rows),
            seed=config.seed,
        )


def compile_model(lm, config, steps, loss=None):
    """Compile with AdamW for a run of `steps` updates.

    Args:
        lm: the model.
        config: `RunConfig`, with nothing left to derive.
        steps: int.
        loss: that of a part, of which an update is the mean; default: that of the next
            token, whose parts the loop makes the mean over the weights.
    """
    if loss is None:
        loss = NextTokenLoss(z_loss=config.z_loss, reduction="sum_over_batch_size")
    parts = config.accumulation
    rate = schedules.learning_rate(
        config.schedule,
        config.learning_rate,
        steps,
        config.warmup_steps or max(1, round(0.05 * steps)),
        config.decay,
        parts,
    )
    optimizer = keras.optimizers.AdamW(
        rate,
        beta_2=0.95,
        weight_decay=config.weight_decay,
        global_clipnorm=config.clip_norm,
        gradient_accumulation_steps=parts if parts > 1 else None,
    )
    if "float16" in (config.dtype or "").split("_"):
        # Gradients of activations are smaller than float16 can hold. Keras scales the
        # loss by itself for mixed_float16 only, not for an adapter over a float16 base.
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    lm.backbone.remat = config.remat
    on_cpu = platforms.platform() == "cpu"
    lm.compile(
        optimizer=optimizer,
        loss=loss,
        weighted_metrics=[],
        # On a CPU, TensorFlow's own kernels know bfloat16 instructions; XLA's do not.
        jit_compile=not (on_cpu and keras.backend.backend() == "tensorflow"),
        auto_scale_loss=False,
    )


def save_result(lm, config, name) -> pathlib.Path:
    """Write what was trained: `out/adapter` in PEFT's format, or `out/preset`.

    Returns:
        The folder. Of several processes, the first one writes it.
    """
    out = pathlib.Path(config.out)
    if config.lora_rank:
        lora.save(lm, out / "adapter", name)
        return out / "adapter"
    whole = _on_this_host(lm) if hosts.several() else lm
    if hosts.is_first():
        whole.save_to_preset(str(out / "preset"))
    hosts.wait("preset saved")
    return out / "preset"


def save_and_say(lm, config, name):
    """`save_result`, and the options with which the result is used."""
    folder = save_result(lm, config, name)
    use = ["--preset", str(folder)]
    if config.lora_rank:
        use = ["--preset", str(config.preset), "--adapter", str(folder)]
    say(f"the result is in {folder}; use it with {shlex.join(use)}")


def _on_this_host(lm):
    """The same model with all values in this host's memory, on the first host; together.

    Other hosts take part in gathering and get None.
    """
    import jax

    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            copy = None
            if hosts.is_first():
                backbone = weights.build_empty(
                    lambda: type(lm.backbone).from_config(lm.backbone.get_config())
                )
                copy = CodeGemmaCausalLM(backbone, lm.preprocessor)
            for number, variable in enumerate(lm.backbone.variables):
                value = hosts.to_host(variable.value)
                if copy is not None:
                    weights.set_value(copy.backbone.variables[number], value)
            return copy
    finally:
        keras.distribution.set_distribution(distribution)
