"""Fused attention against the einsum; `test_attention.py` runs it as a program on JAX.

On four simulated devices of this CPU, where Pallas interprets the TPU's kernel. Prints one
JSON object: for each case the largest errors of the result and of the three gradients, as
shares of the largest value, and what came of a training step by each way.
"""

import functools
import json
import os
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
import numpy as np
from jax import numpy as jnp

from codegemma_keras import (
    CodeGemmaBackbone,
    CodeGemmaCausalLM,
    attention,
    ops,
    platforms,
    sharding,
)

attention.splash = functools.partial(attention.splash, interpret=True)
PLATFORMS = {"splash": "tpu", "in_blocks": "gpu"}
B = 2


def documents_of(length):
    """Packed rows: three documents and padding; one document and padding."""
    slots = np.arange(length)
    first = np.where(slots < 0.9 * length, 1 + (slots > 70) + (slots > 190), 0)
    second = np.where(slots < 0.6 * length, 1, 0)
    return np.stack([first, second]).astype("int32")


def errors(way, heads, key_heads, size, length, dtype, mesh):
    """Of `attention.attend` and its gradients, traced for the platform of `way`."""
    rng = np.random.default_rng(0)

    def draw(count):
        return jnp.asarray(rng.normal(size=(B, length, count, size)), dtype)

    arrays = draw(heads), draw(key_heads), draw(key_heads)
    segments = jnp.asarray(documents_of(length))
    slots = jnp.arange(length)[None]
    mask = attention.mask_of(slots, slots, segments > 0, segments)
    read = (segments > 0)[..., None, None]  # nobody reads the rows of padding
    weight = jnp.where(read, draw(heads).astype("float32"), 0.0)

    def loss(query, key, value, attend):
        out = attend(query, key, value, mask).astype("float32")
        return (out * weight).sum(), jnp.where(read, out, 0.0)

    def run(attend, arrays):
        of = functools.partial(loss, attend=attend)
        (_, out), found = jax.jit(jax.value_and_grad(of, (0, 1, 2), has_aux=True))(
            *arrays
        )
        return [np.asarray(a, "float32") for a in (out, *found)]

    wanted = run(
        lambda q, k, v, mask: ops.attend(q, k, v, mask.allowed),
        [a.astype("float32") for a in arrays],
    )
    heads_of = {"num_query_heads": heads, "num_key_value_heads": key_heads}
    with sharding.use(mesh, heads_of), platforms.planned_for(PLATFORMS[way]):
        chosen = attention._way(*arrays[:2], mask)
        found = run(attention.attend, arrays)
    assert chosen is getattr(attention, way), chosen
    return [
        float(np.abs(a - b).max() / np.abs(b).max())
        for a, b in zip(found, wanted, strict=True)
    ]


def trained(platform, mesh=None, remat="none"):
    """Loss and weights after a step on packed rows."""
    sizes = {"num_query_heads": 4, "num_key_value_heads": 1}
    with sharding.use(mesh, sizes), platforms.planned_for(platform):
        keras.utils.set_random_seed(0)
        backbone = CodeGemmaBackbone(
            vocabulary_size=53,
            num_layers=1,
            hidden_dim=24,
            intermediate_dim=80,
            head_dim=16,
            **sizes,
        )
        backbone.remat = remat
        lm = CodeGemmaCausalLM(backbone)
        lm.compile(optimizer=keras.optimizers.SGD(0.1))
        rng = np.random.default_rng(1)
        segments = documents_of(256)
        ids = rng.integers(3, 53, (B, 257))
        x = {"token_ids": ids[:, :-1], "padding_mask": (segments > 0).astype("int32")}
        # Positions restart with each document, as `batches.pack` has it.
        starts = [np.argmax(row[:, None] == row[None, :], axis=1) for row in segments]
        x |= {"segment_ids": segments, "positions": np.arange(256) - np.stack(starts)}
        weight = (segments > 0).astype("float32")
        logs = lm.train_on_batch(x, ids[:, 1:], weight, return_dict=True)
        return float(logs["loss"]), [np.asarray(v).tolist() for v in lm.weights]


def main(cases, steps):
    steps = [(step, trained(*step)) for step in steps]
    out = {"errors": [errors(*case) for case in cases], "steps": steps}
    json.dump(out, sys.stdout)


if __name__ == "__main__":
    main(*json.loads(sys.argv[1]))
