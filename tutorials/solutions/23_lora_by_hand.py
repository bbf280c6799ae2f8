# ruff: noqa: F821 - names that the chapter defines


# %% tags=["exercise"]
def lora_numbers(rank, layers, width, out_sizes):
    """Numbers in all A and B; out_sizes of the adapted layers of one block."""
    return layers * sum(rank * (width + out) for out in out_sizes)


found = lora_numbers(8, 18, 2048, [8 * 256, 1 * 256])
assert found is not None, "Hint: for each adapted layer, A and B."
assert found % 18 == 0, "Hint: the same in every one of the layers."
assert found == 921_600, "Hint: A has width * rank numbers, B rank * out."


# %% tags=["exercise"]
def fold(kernel, a, b, scale):
    """The kernel `[N, D, H]` with the addition."""
    n, d, h = kernel.shape
    return kernel + scale * (a @ b).reshape(d, n, h).transpose(1, 0, 2)


generator = np.random.default_rng(0)
kernel = generator.normal(size=(2, 5, 3))
a, b = generator.normal(size=(5, 1)), generator.normal(size=(1, 6))
x = generator.normal(size=(4, 5))
expected = np.einsum("td,ndh->tnh", x, kernel) + 0.5 * (x @ a @ b).reshape(4, 2, 3)
folded = fold(kernel, a, b, 0.5)
assert folded is not None, (
    "Hint: a @ b is [D, N * H]; its columns are heads, one by one."
)
assert folded.shape == (2, 5, 3), "Hint: reshape to [D, N, H], then transpose."
assert np.allclose(np.einsum("td,ndh->tnh", x, folded), expected), (
    "Hint: reshaping [D, N * H] straight to [N, D, H] mixes the heads up."
)


# %% tags=["exercise"]
def together(a1, b1, a2, b2):
    """`(a, b)` with `x a b == x a1 b1 + x a2 b2`."""
    return np.concatenate([a1, a2], axis=1), np.concatenate([b1, b2], axis=0)


generator = np.random.default_rng(0)
a1, b1 = generator.normal(size=(5, 2)), generator.normal(size=(2, 6))
a2, b2 = generator.normal(size=(5, 3)), generator.normal(size=(3, 6))
both = together(a1, b1, a2, b2)
assert both is not None, "Hint: the rank of the sum is the sum of the ranks."
assert both[0].shape == (5, 5), "Hint: put a1 and a2 side by side."
assert both[1].shape == (5, 6), "Hint: put b1 above b2."
assert np.allclose(both[0] @ both[1], a1 @ b1 + a2 @ b2), "Hint: in the same order."
