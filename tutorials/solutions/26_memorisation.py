# ruff: noqa: F821 - names that the chapter defines


# %% tags=["exercise"]
def exposure_of(scores):
    rank = 1 + sum(score > scores[0] for score in scores[1:])
    return math.log2(len(scores)) - math.log2(rank)


found = exposure_of([-3.0, -1.0, -4.0, -5.0])
assert found is not None, "Hint: the rank is 1 plus the number of larger scores."
assert abs(found - 1.0) < 1e-9, "Hint: four secrets, rank 2: log2(4) - log2(2)."
assert exposure_of([0.0, -1.0]) == 1.0, "Hint: the best of two has one bit."


# %% tags=["exercise"]
def all_allowed(found, allowed):
    return bool(found) and all(licence in allowed for licence in found)


answer = all_allowed(["MIT", "ISC"], {"MIT", "ISC", "0BSD"})
assert answer is not None, "Hint: all(...) over the licences found."
assert answer is True, "Hint: both are in the set."
assert all_allowed(["MIT", "MPL-2.0"], {"MIT"}) is False, "Hint: one is missing."
assert all_allowed([], {"MIT"}) is False, (
    "Hint: all([]) is True, so ask for some first."
)
