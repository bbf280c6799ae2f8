# ruff: noqa: F821 - names that the chapter defines


# %% tags=["exercise"]
def rate_at(step, peak, steps, warmup, decay):
    """The learning rate of a step; step 0 has rate 0, and so has the last, `steps`."""
    if step < warmup:
        return peak * step / warmup
    return peak * min(1.0, (steps - step) / (decay * steps))


assert rate_at(0, 1.0, 100, 10, 0.2) is not None, "Hint: three cases, by the step."
assert rate_at(0, 1.0, 100, 10, 0.2) == 0, "Hint: it begins at 0."
assert abs(rate_at(5, 1.0, 100, 10, 0.2) - 0.5) < 1e-9, "Hint: half way up at half."
assert rate_at(50, 1.0, 100, 10, 0.2) == 1.0, "Hint: the peak in between."
assert abs(rate_at(90, 1.0, 100, 10, 0.2) - 0.5) < 1e-9, "Hint: half way down at 90."


# %% tags=["exercise"]
def bits_per_byte(nats_per_token, tokens, size):
    """Bits for each of `size` bytes, if their text has so many tokens."""
    return nats_per_token * tokens / math.log(2) / size


found = bits_per_byte(math.log(256), 1000, 1000)
assert found is not None, "Hint: a nat is 1 / ln 2 bits."
assert abs(found - 8) < 1e-9, "Hint: 256 equally likely tokens of a byte each: 8 bits."
assert abs(bits_per_byte(2.0, 100, 400) - 0.7213) < 1e-3, (
    "Hint: all nats are nats_per_token times tokens; share them among the bytes."
)


# %% tags=["exercise"]
def best_size(operations):
    """`(parameters, tokens)` with tokens = 20 * parameters."""
    parameters = math.sqrt(operations / (6 * 20))
    return parameters, 20 * parameters


found = best_size(6 * 1e6 * 20e6)
assert found is not None, "Hint: operations = 6 * parameters * tokens."
assert abs(found[0] - 1e6) < 1, "Hint: that is 120 times the square of the parameters."
assert abs(found[1] - 20e6) < 20, "Hint: tokens are 20 times as many."
