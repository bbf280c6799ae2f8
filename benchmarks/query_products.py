"""The product that makes queries of a few tokens, in three forms.

    KERAS_BACKEND=jax python benchmarks/query_products.py

A hidden state `[1, T, D]` is multiplied with the kernel `[N, D, H]`, which lies in memory in
this order: T is 1 while a row decodes, and 8 at least while a prompt is read. `plain` is
the einsum as one writes it, `heads first` has N as a batch, and `apart` is the same for each
token alone. Which of them `Linear` takes on a CPU is decided by `layers.TOKENS_APART` and
`layers.HEADS_FIRST`. As many kernels as layers are used in turn, so that none is found in a
cache. Reported: milliseconds for all of them, the best of ten calls, for a model of 135M,
and for kernels of the 2B.
"""

import time
import types

import keras
import numpy as np
from _data import record
from keras import ops

from codegemma_keras.decoding.compilation import compile_program

# name: heads, width, head size, kernels
SHAPES = {"135M": (9, 576, 64, 30), "2B": (8, 2048, 256, 6)}
TOKENS = (1, 2, 4, 8, 16, 32)


def plain(x, kernel):
    return ops.einsum("btd,ndh->btnh", x, kernel)


def heads_first(x, kernel):
    heads, width, _ = kernel.shape
    x = ops.broadcast_to(x[:, :, None], (*x.shape[:2], heads, width))
    return ops.einsum("btnd,ndh->btnh", x, kernel)


def apart(x, kernel):
    tokens = ops.split(x, x.shape[1], axis=1)
    return ops.concatenate([heads_first(token, kernel) for token in tokens], axis=1)


FORMS = {"plain": plain, "heads first": heads_first, "apart": apart}


def main():
    figures = {"backend": f"keras {keras.version()} on {keras.config.backend()}"}
    random = np.random.default_rng(0)
    for size, (heads, width, head, count) in SHAPES.items():
        shape = (heads, width, head)
        kernels = [random.standard_normal(shape, "float32") for _ in range(count)]
        figures[size] = {
            name: {T: milliseconds(form, T, width, kernels) for T in TOKENS}
            for name, form in FORMS.items()
        }
    record(f"query_products_{keras.config.backend()}", figures)


def milliseconds(form, length, width, kernels):
    variables = [keras.Variable(kernel, trainable=False) for kernel in kernels]

    def layers(x):
        for variable in variables:
            y = form(x, ops.convert_to_tensor(variable))
            x = x * 0.5 + ops.reshape(y, (1, length, -1))[:, :, :width] * 0.01
        return x

    program = compile_program(types.SimpleNamespace(variables=variables), layers)
    x = np.ones((1, length, width), "float32")
    best = float("inf")
    for _ in range(11):  # the first compiles
        begin = time.perf_counter()
        ops.convert_to_numpy(program(x))
        best = min(best, time.perf_counter() - begin)
    return round(best * 1e3, 1)


if __name__ == "__main__":
    main()
