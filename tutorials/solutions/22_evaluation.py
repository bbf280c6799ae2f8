# ruff: noqa: F821 - names that the chapter defines


# %% tags=["exercise"]
def interval(rate, tasks):
    """`(low, high)`."""
    margin = 1.96 * math.sqrt(rate * (1 - rate) / tasks)
    return rate - margin, rate + margin


found = interval(0.4, 164)
assert found is not None, "Hint: math.sqrt, and two numbers back."
low, high = found
assert low < 0.4 < high, "Hint: minus on one side, plus on the other."
assert abs(low - 0.325) < 0.001, "Hint: 1.96 times the standard error."
assert abs(high - 0.475) < 0.001, "Hint: the same on both sides."


# %% tags=["exercise"]
def median_tests():
    """Lines of Python that assert something about median()."""
    return """
values = [3, 1, 2]
assert median(values) == 2
assert values == [3, 1, 2]
assert median([1, 2, 3, 10]) == 2.5
"""


right = "def median(v):\n    v = sorted(v)\n    h = len(v) // 2\n"
right += "    return v[h] if len(v) % 2 else (v[h - 1] + v[h]) / 2\n"
mistakes = [
    right.replace("sorted(v)", "list(v)"),
    right.replace("if len(v) % 2 else (v[h - 1] + v[h]) / 2", ""),
    right.replace("v = sorted(v)", "v.sort()"),  # changes its caller's list
]
tests = median_tests()
assert tests, 'Hint: return a string such as "assert median([3, 1, 2]) == 2".'
verdicts = sandbox.run_all(
    [f"{code}\n{tests}\n" for code in [right, *mistakes]], limits, least=isolation
)
assert verdicts[0].passed, f"Hint: the right program fails: {verdicts[0].reason}"
assert not verdicts[1].passed, "Hint: try a list that is not sorted."
assert not verdicts[2].passed, "Hint: try a list with an even number of values."
assert not verdicts[3].passed, "Hint: is the list that was given still the same?"


# %% tags=["exercise"]
def handed_in(shown, hidden):
    """Share of tasks whose handed-in answer passes the hidden tests."""
    won = 0
    for examples, tests in zip(shown, hidden, strict=True):
        chosen = examples.index(True) if True in examples else 0
        won += tests[chosen]
    return won / len(shown)


shown = [[False, True, True], [False, False, False], [True, True, False]]
hidden = [[False, True, True], [False, False, True], [False, True, False]]
found = handed_in(shown, hidden)
assert found is not None, (
    "Hint: for each task, find the index of the first True in shown."
)
assert found != 2 / 3, (
    "Hint: the second task passes no example: its first answer counts."
)
assert abs(found - 1 / 3) < 1e-9, "Hint: only the first task's choice passes."
