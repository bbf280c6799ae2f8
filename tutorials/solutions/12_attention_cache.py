# ruff: noqa: F821 - names that the chapter defines


# %% tags=["exercise"]
def rows_that_fit(free_bytes, context, layers, key_heads, head_size, bytes_per_number):
    """The number of rows whose caches fit."""
    numbers = 2 * context * layers * key_heads * head_size
    return free_bytes // (numbers * bytes_per_number)


found = rows_that_fit(8_000_000_000, 8192, 28, 16, 256, 2)
assert found is not None, "Hint: divide by the bytes of one row, without remainder."
assert found != 4, "Hint: a key and a value: twice."
assert found == 2, "Hint: layers * key_heads * head_size numbers of each kind a token."
assert rows_that_fit(8_000_000_000, 8192, 18, 1, 256, 2) == 52, "Hint: a whole number."


# %% tags=["exercise"]
def write_rows(cache, new, lengths):
    """`[B, K, S, H]` with `new` `[B, K, H]` in slot lengths[b] of row b; a new array."""
    written = cache.copy()
    written[np.arange(len(cache)), :, lengths] = new
    return written


cache_before = np.zeros((3, 2, 4, 5))
new = np.ones((3, 2, 5))
written = write_rows(cache_before, new, np.array([2, 0, 3]))
assert written is not None, "Hint: numpy takes one index array for rows, one for slots."
assert cache_before.sum() == 0, "Hint: copy first; the old cache may still be needed."
filled = [np.flatnonzero(row.sum((0, 2))).tolist() for row in written]
assert filled == [[2], [0], [3]], "Hint: written[np.arange(B), :, lengths] = new."


# %% tags=["exercise"]
def to_compute(cached_ids, prompt_ids):
    """`(first slot, ids)`: what to run, from which slot on."""
    same = min(shared(cached_ids, prompt_ids), len(prompt_ids) - 1)
    return same, prompt_ids[same:]


found = to_compute([2, 10, 11, 12], [2, 10, 11, 13, 14])
assert found is not None, "Hint: `shared` above counts the equal tokens."
assert found == (3, [13, 14]), "Hint: the slots up to the first difference can stay."
assert to_compute([2, 10, 11], [2, 10, 11]) == (2, [11]), (
    "Hint: nothing differs, but the last token has to run again."
)
assert to_compute([2, 10, 11, 12], [2, 10]) == (1, [10]), "Hint: a shorter prompt, too."
