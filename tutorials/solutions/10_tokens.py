# ruff: noqa: F821 - names that the chapter defines

# %% tags=["exercise"]
def prompt_ids(tokenizer, prefix, suffix):
    """Ids of a prompt for the middle."""
    parts = [fim.START, fim.PREFIX, prefix, fim.SUFFIX, suffix, fim.MIDDLE]
    return tokenizer.encode(parts)


found = prompt_ids(tokenizer, "a = ", "\n<|fim_suffix|>")
assert found is not None, "Hint: tokenizer.encode takes a list of Controls and strings."
assert found[0] == tokenizer.start_token_id, "Hint: the first id is start_token_id."
assert found.count(tokenizer.start_token_id) == 1, "Hint: bos comes once."
assert found.count(tokenizer.fim_suffix_id) == 1, "Hint: a suffix is text, a str."
expected = tokenizer.encode(fim.render("a = ", "\n<|fim_suffix|>"))
assert found[1:] == expected, "Hint: the order is prefix, suffix, middle."


# %% tags=["exercise"]
def incomplete_bytes(data):
    """The number of bytes to hold back."""
    for back, byte in enumerate(reversed(data[-4:]), start=1):
        if byte < 0b10000000:
            return 0
        if byte >= 0b11000000:
            size = 2 + (byte >= 0b11100000) + (byte >= 0b11110000)
            return back if back < size else 0
    return 0


smile = "🙂".encode()
assert incomplete_bytes(b"ab") is not None, "Hint: return a number, 0 for plain text."
assert incomplete_bytes(b"ab") == 0, "Hint: bytes below 128 are whole characters."
assert incomplete_bytes(b"ab" + smile) == 0, "Hint: a whole character may be shown."
for have in (1, 2, 3):
    held = incomplete_bytes(b"ab" + smile[:have])
    assert held == have, (
        "Hint: go back from the end to the byte that begins a character."
    )
assert incomplete_bytes("é".encode()[:1]) == 1, "Hint: two-byte characters, too."


# %% tags=["exercise"]
def merge_once(pieces, scores):
    """The pieces after the best merge; as they were if there is none."""
    best = max(
        range(len(pieces) - 1),
        key=lambda i: scores.get(pieces[i] + pieces[i + 1], float("-inf")),
    )
    joined = pieces[best] + pieces[best + 1]
    if joined not in scores:
        return pieces
    return [*pieces[:best], joined, *pieces[best + 2 :]]


found = merge_once(["d", "e", "f", "e"], {"de": -3.0, "ef": -1.0, "fe": -2.0})
assert found is not None, "Hint: look at each pair of neighbours, and return a list."
assert found == ["d", "ef", "e"], "Hint: -1 is the highest score, so `ef` is first."
assert merge_once(["a", "b", "a", "b"], {"ab": -1.0}) == ["ab", "a", "b"], (
    "Hint: one merge at a time, the leftmost of equals."
)
assert merge_once(["x", "y"], {}) == ["x", "y"], (
    "Hint: without a merge nothing changes."
)
