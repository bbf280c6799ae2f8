"""Training of weights that are stored in bfloat16, and what cannot train at all.

bfloat16 has 8 significant bits: a step smaller than 1/512 of a weight is rounded away,
and Adam's `beta_2=0.999` rounds to 1, so that `keras.optimizers.Adam` changes no weight
of a model of `dtype="bfloat16"`. `Float32Adam` keeps state and a copy of each weight in
float32, as `dtype="mixed_bfloat16"` does in the model; adapters of `lora` are float32
and need neither.
"""

import warnings

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="codegemma_keras")
class Float32Adam(keras.optimizers.AdamW):
    """AdamW whose state and weights are float32; the model's are these, rounded.

    Memory: 12 bytes a parameter beside the model's own 2, which is what float32 weights
    and Adam's state take. A weight that something else has set since (`load_weights`) is
    taken over as it stands. Arguments: as `keras.optimizers.AdamW`.

    Example:
    ```python
    from codegemma_keras import optimizers

    optimizer = optimizers.Float32Adam(1e-4, weight_decay=0.1)
    ```
    """

    def __init__(
        self, learning_rate=2e-5, weight_decay=0.0, name="float32_adam", **kwargs
    ):
        super().__init__(learning_rate, weight_decay=weight_decay, name=name, **kwargs)

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._masters = self.add_optimizer_variables(variables, "master")
        self._index_of_master = {id(m): i for i, m in enumerate(self._masters)}

    def _get_variable_index(self, variable):
        index = self._index_of_master.get(id(variable))  # Adam asks for its state
        return super()._get_variable_index(variable) if index is None else index

    def add_variable_from_reference(self, reference_variable, *args, **kwargs):
        return super().add_variable_from_reference(
            _InFloat32(reference_variable), *args, **kwargs
        )

    def _apply_weight_decay(self, variables):
        """In `update_step`, on the float32 copies."""

    def update_step(self, gradient, variable, learning_rate):
        master = self._masters[self._get_variable_index(variable)]
        stored = ops.cast(variable, "float32")
        before = ops.convert_to_tensor(master)
        rounded = ops.cast(ops.cast(before, variable.dtype), "float32")
        value = ops.where(rounded == stored, before, stored)
        if self._use_weight_decay(variable):
            factor = ops.cast(learning_rate, "float32") * self.weight_decay
            value = value * (1.0 - factor)
        self.assign(master, value)
        super().update_step(gradient, master, learning_rate)
        self.assign(variable, ops.cast(master, variable.dtype))


class _InFloat32:
    """A variable as it is, but for its dtype: what state is made after."""

    dtype = "float32"

    def __init__(self, variable):
        self._variable = variable

    @property
    def device(self):
        return self._variable.value.device  # TensorFlow puts the state beside it

    def __getattr__(self, name):
        return getattr(self._variable, name)


def default(variables):
    """The optimizer of `compile("auto")` for these trainable variables."""
    if any(variable.dtype == "bfloat16" for variable in variables):
        return Float32Adam()
    return "auto"


def check(optimizer, variables):
    """Before the first step: say what this optimizer cannot do with these variables.

    Raises:
        ValueError: weights in float16, whose training ends in NaN.

    Warns:
        UserWarning: weights in bfloat16 and an optimizer that rounds its steps to it.
    """
    dtypes = {variable.dtype for variable in variables}
    if "float16" in dtypes:
        raise ValueError(
            "The weights that train are float16, and training them ends in NaN: load "
            "the model with dtype='mixed_float16', whose loss is scaled, or train an "
            "adapter (lora.add), which is float32."
        )
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if "bfloat16" in dtypes and not isinstance(inner, Float32Adam):
        warnings.warn(
            f"The weights that train are bfloat16, to which {type(inner).__name__} "
            "rounds its steps: most change nothing. Load the model with "
            "dtype='mixed_bfloat16', or compile with codegemma_keras.optimizers."
            "Float32Adam(), or train an adapter (lora.add), which is float32.",
            stacklevel=3,
        )
