"""The learning rate by update: warm-up, then cosine or constant and linear decay.

Both rise linearly over `warmup` updates to the peak and fall towards zero. Every update of
a run has a rate above zero: the first one rises already, and zero would come after the last.

    cosine    /^^--..__        falls all the way; for a run whose length is decided
    wsd       /~~~~~~~\\        constant until the last `decay` of the updates; a run
                               that should go on starts from before the decay
"""

import keras
import numpy as np


@keras.saving.register_keras_serializable(package="codegemma_keras")
class WarmupStableDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, constant, linear decay to zero, by step."""

    def __init__(self, peak, steps, warmup_steps, decay):
        self.peak, self.steps = peak, steps
        self.warmup_steps, self.decay = warmup_steps, decay

    def __call__(self, step):
        step = keras.ops.cast(step, "float32")
        rise = (step + 1.0) / max(1.0, self.warmup_steps)
        fall = (self.steps - step) / max(1.0, self.decay * self.steps)
        share = keras.ops.minimum(1.0, keras.ops.minimum(rise, fall))
        return self.peak * keras.ops.maximum(share, 0.0)

    def get_config(self):
        return {
            "peak": self.peak,
            "steps": self.steps,
            "warmup_steps": self.warmup_steps,
            "decay": self.decay,
        }


@keras.saving.register_keras_serializable(package="codegemma_keras")
class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then a cosine to zero, by step.

    Keras's `CosineDecay` begins at zero, so that its first update changes nothing.
    """

    def __init__(self, peak, steps, warmup_steps):
        self.peak, self.steps, self.warmup_steps = peak, steps, warmup_steps

    def __call__(self, step):
        step = keras.ops.cast(step, "float32") + 1.0
        rise = step / self.warmup_steps
        after = (step - self.warmup_steps) / max(
            1.0, self.steps + 1.0 - self.warmup_steps
        )
        fall = 0.5 + 0.5 * keras.ops.cos(np.pi * keras.ops.clip(after, 0.0, 1.0))
        return self.peak * keras.ops.minimum(rise, fall)

    def get_config(self):
        return {
            "peak": self.peak,
            "steps": self.steps,
            "warmup_steps": self.warmup_steps,
        }


@keras.saving.register_keras_serializable(package="codegemma_keras")
class PerUpdate(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule by update, for an optimizer that adds up several steps' gradients.

    Keras asks a schedule by the number of steps, of which an update then has several.
    """

    def __init__(self, schedule, parts):
        self.schedule, self.parts = schedule, parts

    def __call__(self, step):
        return self.schedule(keras.ops.floor_divide(step, self.parts))

    def get_config(self):
        serialize = keras.optimizers.schedules.serialize
        return {"schedule": serialize(self.schedule), "parts": self.parts}

    @classmethod
    def from_config(cls, config):
        deserialize = keras.optimizers.schedules.deserialize
        return cls(deserialize(config["schedule"]), config["parts"])


def learning_rate(schedule, peak, updates, warmup, decay, parts=1):
    """The schedule of a run.

    Args:
        schedule: `"cosine"` or `"wsd"` (warm-up, stable, decay).
        peak: the highest rate.
        updates: int, of the whole run.
        warmup: int, updates of the rise.
        decay: share of the updates that `"wsd"` falls over.
        parts: int, steps whose gradients are added up for one update.

    Raises:
        ValueError: an unknown schedule.
    """
    warmup = max(1, warmup)
    if schedule == "wsd":
        found = WarmupStableDecay(peak, updates, warmup, decay)
    elif schedule == "cosine":
        found = WarmupCosine(peak, updates, warmup)
    else:
        raise ValueError(f"schedule={schedule!r}: give 'cosine' or 'wsd'.")
    return PerUpdate(found, parts) if parts > 1 else found
