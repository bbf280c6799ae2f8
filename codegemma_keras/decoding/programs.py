"""Compiled programs over a model's variables, on JAX and on TensorFlow.

A program is a function of plain tensors. On JAX the variables go in as arguments (so
that new weights need no new compilation); on TensorFlow they are captured.
"""

import keras
from keras import tree


def compile_program(model, function, donate=()):
    """Compile `function(*args) -> tensors`, which may call the layers of `model`.

    Args:
        model: the Keras model whose variables `function` reads. It must not write any.
        function: takes positional structures of tensors.
        donate: JAX only: positions of arguments whose memory the result may reuse. They
            are invalid after the call.

    Returns:
        A callable with the arguments of `function`. Each new set of shapes compiles
        once.
    """
    backend = keras.config.backend()
    if backend == "jax":
        return _compile_jax(model, function, donate)
    if backend == "tensorflow":
        import tensorflow as tf

        # reduce_retracing off: shapes come in buckets, each deserves its own program.
        compiled = tf.function(function, jit_compile=True, autograph=False)

        def call(*args):
            return compiled(*tree.map_structure(keras.ops.convert_to_tensor, args))

        return call
    raise ValueError(
        f"Decoding runs on the JAX and TensorFlow backends; Keras is set to {backend!r}. "
        "Set KERAS_BACKEND=jax (or tensorflow) before importing keras."
    )


def _compile_jax(model, function, donate):
    import jax

    variables = model.variables

    def pure(values, *args):
        mapping = zip(variables, values, strict=True)
        with keras.StatelessScope(state_mapping=mapping):
            return function(*args)

    compiled = jax.jit(pure, donate_argnums=tuple(i + 1 for i in donate))

    def call(*args):
        return compiled([v.value for v in variables], *args)

    return call
