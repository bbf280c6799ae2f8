# %% tags=["exercise"]
def expected_tokens(p, width):
    """Tokens won by one run of the network, on average."""
    return sum(p**k for k in range(width + 1))


assert expected_tokens(0.0, 6) is not None, "Hint: at least one token is always won."
assert expected_tokens(0.0, 6) == 1, "Hint: with no good guess it is exactly one."
assert expected_tokens(1.0, 6) == 7, "Hint: all good: the guesses, and one more."
assert abs(expected_tokens(0.5, 2) - 1.75) < 1e-9, (
    "Hint: add p to the power of 0..width."
)


# %% tags=["exercise"]
def keep_until_stop(won, stop_ids):
    """`(tokens to keep, whether to stop)`."""
    for place, token in enumerate(won):
        if token in stop_ids:
            return won[: place + 1], True
    return won, False


assert keep_until_stop([5, 6], {1}) is not None, "Hint: look for the first stop token."
assert keep_until_stop([5, 6], {1}) == ([5, 6], False), "Hint: none: keep all."
assert keep_until_stop([5, 1, 6, 70], {1, 70}) == ([5, 1], True), (
    "Hint: the first stop token is kept, what follows it is not."
)


# %% tags=["exercise"]
def bucket(length):
    """The smallest of 64, 128, 256, ... that is at least `length`."""
    size = 64
    while size < length:
        size *= 2
    return size


assert bucket(1) is not None, "Hint: begin at 64 and double."
assert bucket(1) == 64, "Hint: the smallest is 64."
assert [bucket(n) for n in (64, 65, 128, 1000)] == [64, 128, 128, 1024], (
    "Hint: a length that is a bucket's own size fits into it."
)
