"""The product of decoding that makes queries, in four forms, by number of rows.

    KERAS_BACKEND=jax python benchmarks/query_products.py

A row of a batch decodes one token, so its hidden state `[1, D]` is multiplied with the
kernel `[N, D, H]`, which lies in memory in this order. `plain` is the einsum as one
writes it; `heads first` has N as a batch; `apart` is the same for each row alone, and
`heads apart` a product for each head. Which of the second and the third `Linear` takes is
decided by `layers.ROWS_APART`. As many kernels as layers are used in turn, so that none is
found in a cache. Reported: milliseconds for all of them, the best of ten calls, for a model
of 135M, and for kernels of the 2B and of the 7B.
"""

import time
import types

import keras
import numpy as np
from _data import record
from keras import ops

from codegemma_keras.decoding.compilation import compile_program

# name: heads, width, head size, kernels
SHAPES = {"135M": (9, 576, 64, 30), "2B": (8, 2048, 256, 6), "7B": (16, 3072, 256, 3)}
ROWS = (1, 2, 4, 8, 16)


def plain(x, kernel):
    return ops.einsum("btd,ndh->btnh", x, kernel)


def heads_first(x, kernel):
    heads, width, _ = kernel.shape
    x = ops.broadcast_to(x[:, :, None, :], (x.shape[0], 1, heads, width))
    return ops.einsum("btnd,ndh->btnh", x, kernel)


def apart(x, kernel):
    rows = ops.split(x, x.shape[0], axis=0)
    return ops.concatenate([heads_first(row, kernel) for row in rows], axis=0)


def heads_apart(x, kernel):
    each = [ops.matmul(x[:, 0], kernel[n]) for n in range(kernel.shape[0])]
    return ops.stack(each, axis=1)[:, None]


FORMS = {
    "plain": plain,
    "heads first": heads_first,
    "apart": apart,
    "heads apart": heads_apart,
}


def main():
    figures = {"backend": f"keras {keras.version()} on {keras.config.backend()}"}
    random = np.random.default_rng(0)
    for size, (heads, width, head, count) in SHAPES.items():
        shape = (heads, width, head)
        kernels = [random.standard_normal(shape, "float32") for _ in range(count)]
        figures[size] = {
            name: {rows: milliseconds(form, rows, width, kernels) for rows in ROWS}
            for name, form in FORMS.items()
        }
    record(f"query_products_{keras.config.backend()}", figures)


def milliseconds(form, rows, width, kernels):
    variables = [keras.Variable(kernel, trainable=False) for kernel in kernels]

    def layers(x):
        for variable in variables:
            y = form(x, ops.convert_to_tensor(variable))
            x = x * 0.5 + ops.reshape(y, (rows, 1, -1))[:, :, :width] * 0.01
        return x

    program = compile_program(types.SimpleNamespace(variables=variables), layers)
    x = np.ones((rows, 1, width), "float32")
    best = float("inf")
    for _ in range(11):  # the first compiles
        begin = time.perf_counter()
        ops.convert_to_numpy(program(x))
        best = min(best, time.perf_counter() - begin)
    return round(best * 1e3, 1)


if __name__ == "__main__":
    main()
