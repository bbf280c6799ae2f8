# ruff: noqa: F821 - names that the chapter defines


# %% tags=["exercise"]
def similarity(a, b):
    return len(a & b) / (len(a | b) or 1)


found = similarity({"x", "y"}, {"y", "z"})
assert found is not None, "Hint: & is the intersection and | is the union."
assert abs(found - 1 / 3) < 1e-9, "Hint: one common name of three."
assert similarity(set(), set()) == 0, "Hint: avoid a division by zero."


# %% tags=["exercise"]
def rarity(n, total):
    return math.log(1 + (total - n + 0.5) / (n + 0.5))


found = rarity(1, 1000)
assert found is not None, "Hint: math.log(1 + (total - n + 0.5) / (n + 0.5))."
assert abs(found - math.log(1 + 999.5 / 1.5)) < 1e-9, "Hint: mind the two halves."
assert rarity(1000, 1000) < 0.001, "Hint: a name that is everywhere tells nothing."
