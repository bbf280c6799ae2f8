"""Compiling functions over a model's variables, on JAX and on TensorFlow.

A program is a function of plain tensors. On JAX the variables go in as arguments (so
that new weights need no new compilation); on TensorFlow they are captured.
"""

import hashlib
import os
import pathlib
import platform

import keras
from keras import tree

from codegemma_keras import files, platforms

# The user's cache holds programs of so many bytes; those that were used last stay.
CACHE_BYTES = 2**30


def compile_program(
    model, function, donate=(), on_compile=None, also=(), large_products=False
):
    """Compile `function(*args) -> tensors`, which may call the layers of `model`.

    Args:
        model: the Keras model whose variables `function` reads. It must not write any.
        function: takes positional structures of tensors.
        donate: JAX only: positions of arguments whose memory the result may reuse. They
            are invalid after the call.
        on_compile: called without arguments whenever a new program is compiled.
        also: further models whose variables `function` reads.
        large_products: whether products of many tokens take most of the time. On a CPU,
            TensorFlow then uses its own kernels. They need no compilation, and multiply
            bfloat16 about three times as fast as XLA's where the processor has units
            for it (benchmarks/tensorflow_kernels.py).

    Returns:
        A callable with the arguments of `function`. Each new set of shapes compiles
        once.
    """
    if on_compile is not None:
        inner = function

        def function(*args):  # runs once for each trace, that is, for each program
            on_compile()
            return inner(*args)

    backend = keras.config.backend()
    if backend == "jax":
        variables = [v for each in (model, *also) for v in each.variables]
        return _compile_jax(variables, function, donate)
    if backend == "tensorflow":
        import tensorflow as tf

        xla = not (large_products and platforms.platform() == "cpu")
        # One program for each set of shapes, which come in buckets, held by ourselves:
        # a `tf.function` that is called with many shapes warns of retracing.
        compiled = tf.function(function, jit_compile=xla, autograph=False)
        programs = {}

        def call(*args):
            args = tree.map_structure(keras.ops.convert_to_tensor, args)
            shapes = tuple((tuple(t.shape), t.dtype) for t in tree.flatten(args))
            if shapes not in programs:
                programs[shapes] = compiled.get_concrete_function(*args)
            return programs[shapes](*args)

        return call
    raise ValueError(
        f"Decoding runs on the JAX and TensorFlow backends; Keras is set to {backend!r}. "
        "Set KERAS_BACKEND=jax (or tensorflow) before importing keras."
    )


def _compile_jax(variables, function, donate):
    import jax

    def pure(values, *args):
        mapping = zip(variables, values, strict=True)
        with keras.StatelessScope(state_mapping=mapping):
            return function(*args)

    compiled = jax.jit(pure, donate_argnums=tuple(i + 1 for i in donate))

    def call(*args):
        return compiled([v.value for v in variables], *args)

    return call


def keep_compiled(folder) -> None:
    """Keep compiled programs on disk, so that the next process starts warm.

    For the whole process, every JAX program in it. A program is found again by its
    content, the versions of JAX and XLA and the device; stale entries do no harm and may
    be deleted at any time.

    Args:
        folder: where to; made if it does not exist.

    Raises:
        ValueError: the backend is TensorFlow, whose XLA keeps nothing on disk that a
            later process would find by itself.
    """
    if keras.config.backend() != "jax":
        raise ValueError(
            "Compiled programs can be kept on disk on the JAX backend only; Keras is set "
            f"to {keras.config.backend()!r}. Leave `compiled_folder` out."
        )
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    folder = pathlib.Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # Small programs too: a first token waits for all of them.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # JAX decides at its first compilation whether there is a folder, and does not ask
    # again; making the model has compiled something already.
    compilation_cache.reset_cache()


def keep_compiled_in_cache() -> pathlib.Path | None:
    """Keep compiled programs in the user's cache, if that can be done.

    XLA compiles for the very processor that it runs on, and a home folder may be shared, so
    each kind of processor has its own folder. It holds a gigabyte at most.

    Returns:
        The folder; or None if the backend is TensorFlow, if JAX has been told of another
        folder (`JAX_COMPILATION_CACHE_DIR`), or if the cache cannot be written.
    """
    if keras.config.backend() != "jax":
        return None
    import jax

    if jax.config.jax_compilation_cache_dir:
        return None
    folder = files.cache_folder() / "compiled" / _processor()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    if not os.access(folder, os.W_OK):
        return None
    jax.config.update("jax_compilation_cache_max_size", CACHE_BYTES)
    keep_compiled(folder)
    return folder


def _processor() -> str:
    """A name that is another one on a processor with other instructions."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    kinds = ("model name", "flags", "Features", "CPU part")
    found = sorted({line for line in lines if line.startswith(kinds)})
    text = "\n".join(
        [platform.system(), platform.machine(), platform.processor(), *found]
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]
