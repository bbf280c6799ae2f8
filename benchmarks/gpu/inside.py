"""Where the time of a step goes, and products with integer weights by themselves.

Parts for `run.sh`: `attention` times each way by itself, which the rule in `attention.py`
should follow; `weights` times one matrix of the 2B's with few rows, in every way that
the package could multiply it; `profile` lists the kernels of a decoded token and of a
training step.
"""

import collections
import functools
import pathlib
import tempfile

from measure import seconds_in_a_row

MATRICES = 12  # in turn, so that none of them stays in the chip's cache


def attention(run):
    """Forward and backward of each way, by itself: which one the rule should take."""
    import jax
    from jax import numpy as jnp

    from codegemma_keras import attention as ways
    from codegemma_keras import ops

    def einsum(query, key, value, documents):
        slots = jnp.arange(query.shape[1])[None]
        mask = ops.attention_mask(slots, slots, None, documents)
        return ops.attend(query, key, value, mask)

    def causal_alone(query, key, value, documents):
        """What cuDNN would take if rows held one document each."""
        return jax.nn.dot_product_attention(
            query, key, value, is_causal=True, implementation="cudnn"
        )

    def triton(query, key, value, documents):
        from jax.experimental.pallas.ops.gpu import attention as pallas

        key, value = (
            jnp.repeat(x, query.shape[2] // x.shape[2], 2) for x in (key, value)
        )
        blocks = pallas.BlockSizes(**{name: 32 for name in _block_names(pallas)})
        scale = query.shape[3] ** -0.5
        return pallas.mha(
            query, key, value, documents, scale, causal=True, block_sizes=blocks
        )

    for heads, key_heads in ((8, 1), (16, 16)):
        for length in (run.scaled(2048), run.scaled(8192)):
            shape = (2, length, heads, run.sizes["head_dim"])
            draw = functools.partial(jax.random.normal, dtype="bfloat16")
            keys = jax.random.split(jax.random.key(0), 3)
            query = draw(keys[0], shape)
            key, value = (draw(k, (*shape[:2], key_heads, shape[3])) for k in keys[1:])
            documents = jnp.broadcast_to(jnp.arange(length) * 5 // length, (2, length))
            for way in (ways.cudnn, causal_alone, ways.in_blocks, triton, einsum):

                def loss(q, k, v, way=way, documents=documents):
                    return way(q, k, v, documents).astype("float32").sum()

                def measure(loss=loss, arrays=(query, key, value)):
                    step = jax.jit(jax.grad(loss, (0, 1, 2))).lower(*arrays).compile()
                    taken = seconds_in_a_row(lambda: step(*arrays), 5)
                    size = step.memory_analysis().temp_size_in_bytes
                    return {"milliseconds": 1000 * taken, "temporaries": size}

                line = f"{way.__name__} {heads}/{key_heads} heads, {length} tokens"
                run.tried("attention", line, measure)


def _block_names(pallas):
    import dataclasses

    return [field.name for field in dataclasses.fields(pallas.BlockSizes)]


def weights(run):
    """Microseconds of `[rows, in] @ [in, out]`, and the share of what reading reaches."""
    import jax
    from jax import numpy as jnp

    def floats(x, w, scale):
        return x @ w.astype(x.dtype)

    def converted(x, w, scale):
        return (x @ w.astype(x.dtype)) * scale

    def dynamic(x, w, scale):
        """As Keras does: inputs become int8, too."""
        top = 127 / jnp.maximum(jnp.abs(x).max(-1, keepdims=True), 1e-7)
        numbers = jnp.round(x * top).astype("int8")
        y = jax.lax.dot(numbers, w, preferred_element_type="int32")
        return (y.astype(x.dtype) / top.astype(x.dtype)) * scale

    def halves(x, w, scale):
        """Two nibbles a byte, as Keras packs them, without putting them in order first."""
        low, high = (w << 4) >> 4, w >> 4
        y = jnp.stack([x @ low.astype(x.dtype), x @ high.astype(x.dtype)], -1)
        return y.reshape(x.shape[0], -1) * scale

    def unpacked(x, w, scale):
        low, high = (w << 4) >> 4, w >> 4
        w = jnp.stack([low, high], -1).reshape(w.shape[0], -1)
        return (x @ w.astype(x.dtype)) * scale

    ways = {
        "bfloat16": ("bfloat16", floats),
        "int8, converted": ("int8", converted),
        "int8, inputs too": ("int8", dynamic),
        "int4, type of JAX": ("int4", converted),
        "int4, in two halves": ("packed", halves),
        "int4, put in order": ("packed", unpacked),
    }
    ffn = run.sizes["intermediate_dim"] // 2
    width = run.sizes["hidden_dim"]
    for inner, outer in ((width, ffn), (ffn, width)):
        for rows in (1, 16):
            x = jax.random.normal(jax.random.key(0), (rows, inner), "bfloat16")
            for name, (kind, way) in ways.items():
                line = f"{name}, {rows} x {inner} @ {outer}"
                call = functools.partial(_product, run, way, kind, x, outer)
                run.tried("weights", line, call)


def _product(run, way, kind, x, outer):
    import jax
    import numpy as np
    from jax import numpy as jnp

    inner = x.shape[1]
    keys = jax.random.split(jax.random.key(1), MATRICES)

    def draw(key):
        if kind == "bfloat16":
            return jax.random.normal(key, (inner, outer), kind)
        limit = 8 if kind == "int4" else 128
        columns = outer // 2 if kind == "packed" else outer
        w = jax.random.randint(key, (inner, columns), -limit, limit, "int8")
        return w.astype("int4") if kind == "int4" else w

    many = [jax.jit(draw)(key) for key in keys]
    scale = jnp.full(outer, 0.01, "bfloat16")

    @jax.jit
    def all_of_them(x, many):
        return [way(x, w, scale) for w in many]

    taken = seconds_in_a_row(lambda: all_of_them(x, many))
    each = taken / MATRICES
    moved = inner * outer * {"bfloat16": 2, "int8": 1}.get(kind, 0.5)
    # The result of the first matrix, against float32.
    first = np.asarray(all_of_them(x, many)[0], "float32")
    w = many[0]
    if kind == "packed":
        w = jnp.stack([(w << 4) >> 4, w >> 4], -1).reshape(inner, outer)
    right = jnp.dot(x.astype("float32"), w.astype("float32"), precision="highest")
    right = np.asarray(right) * (1 if kind == "bfloat16" else 0.01)
    return {
        "microseconds": each * 1e6,
        "share_of_bandwidth": moved / each / run.ceiling("read", 1e12),
        "error": float(np.linalg.norm(first - right) / np.linalg.norm(right)),
    }


def profile(run):
    """The kernels of a decoded token (one row) and of a LoRA step of 4 x 2,048 tokens."""
    import jax
    import numpy as np
    from measure import engine_of, trained

    engine = engine_of(run, "bfloat16")
    rng = np.random.default_rng(0)
    prompts = rng.integers(3, run.sizes["vocabulary_size"], (1, 130)).tolist()
    decode = functools.partial(engine.generate, prompts, 57)
    _kernels(run, "decode, 57 tokens and the prompt", decode)
    del engine
    jax.clear_caches()
    for recipe in ("lora", "full"):
        step, _, _ = trained(run, recipe, run.scaled(2048), 4, "none")
        _kernels(run, f"{recipe}, 4 x 2048 tokens", step)
        del step


def _kernels(run, title, call, most=14):
    import jax

    call()
    call()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            call()
        (file,) = pathlib.Path(folder).rglob("*.xplane.pb")
        found = jax.profiler.ProfileData.from_file(str(file))
    spent, counts, first, last = collections.Counter(), collections.Counter(), [], []
    for plane in found.planes:
        if "GPU" not in plane.name and not run.tiny:
            continue
        for row in plane.lines:
            if not row.name.startswith("Stream") and not run.tiny:
                continue
            for event in row.events:
                spent[event.name] += event.duration_ns
                counts[event.name] += 1
                first.append(event.start_ns)
                last.append(event.start_ns + event.duration_ns)
    if not spent:
        raise RuntimeError(f"planes without kernels: {[p.name for p in found.planes]}")
    whole, busy = max(last) - min(first), sum(spent.values())
    run.put(
        "profile",
        title,
        milliseconds=whole / 1e6,
        busy=busy / whole,
        kernels=len(first),
    )
    for name, nanoseconds in spent.most_common(most):
        share = round(nanoseconds / busy, 4)
        run.put(
            "profile",
            f"{title}: {name[:90]}",
            milliseconds=nanoseconds / 1e6,
            share=share,
            times=counts[name],
        )
