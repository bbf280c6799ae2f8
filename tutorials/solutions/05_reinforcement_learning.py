# ruff: noqa: F821 - names that the chapter defines


# %% tags=["exercise"]
def grpo_advantages(rewards):
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    return centred / (rewards.std(axis=1, ddof=1, keepdims=True) + 1e-4)


group = np.array([[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0]])
found = grpo_advantages(group)
assert found is not None, (
    "Hint: group.mean(axis=1, keepdims=True) keeps the shape [P, 1]."
)
assert np.allclose(found, losses.standardised(group), atol=1e-6), (
    "Hint: np.std divides by G unless you give ddof=1."
)


# %% tags=["exercise"]
def silent_share(rewards):
    return float((rewards.max(axis=1) == rewards.min(axis=1)).mean())


group = np.array([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0], [1.0, 0.0]])
found = silent_share(group)
assert found is not None, (
    "Hint: compare the largest and the smallest reward of each row."
)
assert found == 0.5, "Hint: two of these four groups have equal rewards."
