"""How a block is run: computed again in the backward pass, or traced once for its kind."""

import keras


def remat(function, layer):
    """`function(x)`, computed again in the backward pass instead of kept.

    Dropout in it drops the same values both times: seeds are drawn here, outside. Drawn
    inside, they would be others when TensorFlow computes again (wrong gradients), and
    on JAX the generator's new state could not leave the computation.

    Args:
        function: of one tensor; calls `layer` once.
        layer: a Keras layer; the seeds are those of its dropout layers.
    """
    found = (
        getattr(inner, "seed_generator", None) for inner in layer._flatten_layers()
    )
    generators = [generator for generator in found if generator is not None]
    seeds = [generator.next() for generator in generators]

    def again(x):
        for generator, seed in zip(generators, seeds, strict=True):
            generator.next = lambda ordered=True, seed=seed: seed
        try:
            return function(x)
        finally:
            for generator in generators:
                del generator.next  # the class's own again

    return keras.remat(again)


def traced_once(layers):
    """`call(layer, *args)` of any of `layers`, traced once for all that are alike.

    Tracing a Keras layer takes milliseconds on JAX and ten times as many on TensorFlow,
    and a network has dozens of the same kind: before this, most of the time to a first
    token from kept programs was tracing, and so was most of TensorFlow's to a first
    training step. Within a trace, layers whose variables have the same shapes and dtypes,
    and whose adapters have the same settings, share one function of these; the compiler
    inlines it, and the program is the same. Outside of a trace each layer is called as it
    is. A layer that `draws` must not share: the state of its generators would be lost.
    """
    first = layers[0]

    def with_values(values, args, options):
        mapping = list(zip(first.variables, values, strict=True))
        with keras.StatelessScope(state_mapping=mapping):
            return first(*args, **options)

    if len({_kind(layer) for layer in layers}) > 1:
        return traced_apart
    on_jax = keras.config.backend() == "jax"
    return (_share_on_jax if on_jax else _share_on_tensorflow)(with_values)


def traced_apart(layer, *args, **options):
    """`layer(*args, **options)`: what `traced_once` gives where nothing is shared."""
    return layer(*args, **options)


def draws(layers) -> bool:
    """Whether any of the layers draws random numbers in training."""
    return any(
        getattr(inner, "seed_generator", None) is not None
        for layer in layers
        for inner in layer._flatten_layers()
    )


def _share_on_jax(with_values):
    import jax

    shared = jax.jit(with_values)

    def call(layer, x, *args):
        if not isinstance(x, jax.core.Tracer):  # eager: nothing is traced to be kept
            return layer(x, *args)
        return shared([v.value for v in layer.variables], (x, *args), {})

    return call


def _share_on_tensorflow(with_values):
    import tensorflow as tf

    shared = tf.function(with_values, autograph=False)

    def call(layer, *args, **options):
        if tf.executing_eagerly():
            return layer(*args, **options)
        # Values and not variables, so that gradients reach each layer's own.
        values = [tf.convert_to_tensor(v.value) for v in layer.variables]
        return shared(values, args, options)

    return call


def _kind(layer):
    """What two layers must have in common to share one trace."""
    return (
        tuple((tuple(v.shape), v.dtype) for v in layer.variables),
        tuple(getattr(each, "adapter_state", None) for each in layer._flatten_layers()),
    )
