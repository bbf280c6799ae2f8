# ruff: noqa: F821 - names that the chapter defines


# %% tags=["exercise"]
def count_parameters(V, L, D, F, N, K, H):
    """Parameters of a CodeGemma of these sizes."""
    block = 2 * D + 2 * N * D * H + 2 * K * D * H + 3 * D * F
    return V * D + L * block + D


tiny = count_parameters(10, 1, 4, 6, 2, 1, 2)
assert tiny is not None, (
    "Hint: V * D for the table, and L times the sum of nine arrays."
)
assert tiny % 4 == 0, (
    "Hint: the last norm has D parameters, each block's two norms 2 D."
)
assert tiny == 40 + 8 + 32 + 16 + 72 + 4, (
    "Hint: query and output count N, the others K."
)
found = count_parameters(256_000, 18, 2048, 16_384, 8, 1, 256)
assert found == 2_506_172_416, "Hint: the feed-forward part has three arrays of D * F."


# %% tags=["exercise"]
def packed_mask(segments):
    """bool `[T, T]`: whether the token of a row may look at that of a column."""
    place = np.arange(len(segments))
    same = segments[:, None] == segments[None, :]
    return same & (place[None, :] <= place[:, None])


mask = packed_mask(np.array([1, 1, 2, 2, 2]))
assert mask is not None, "Hint: compare segments[:, None] with segments[None, :]."
assert mask.shape == (5, 5), "Hint: one row for each token that looks."
assert not mask[0, 1], "Hint: no token sees a later one."
assert not mask[2, 1], "Hint: the first token of document 2 does not see document 1."
assert mask.sum() == 3 + 6, (
    "Hint: every token sees itself and all before it in its own."
)


# %% tags=["exercise"]
def repeat_heads(key, n):
    """`[B, S, K, H]` -> `[B, S, n, H]`: for each query head its key head."""
    return np.repeat(key, n // key.shape[2], axis=2)


query = rng.normal(size=(1, 1, 4, 8))
key = rng.normal(size=(1, 3, 2, 8))
grouped = np.einsum("btkgh,bskh->bkgts", query.reshape(1, 1, 2, 2, 8), key)
repeated = repeat_heads(key, 4)
assert repeated is not None, "Hint: numpy has repeat and tile; one of them is right."
assert repeated.shape == (1, 3, 4, 8), "Hint: repeat along axis 2, n / K times."
plain = np.einsum("btnh,bsnh->bnts", query, repeated)
assert np.allclose(plain.reshape(grouped.shape), grouped), (
    "Hint: query heads 0 and 1 share key head 0: each key head's copies are neighbours."
)
