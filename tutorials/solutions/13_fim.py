# ruff: noqa: F821 - names that the chapter defines


# %% tags=["exercise"]
def spm(prefix, middle, suffix):
    """Parts: the suffix, the prefix, the middle, each after its sign."""
    return [fim.SUFFIX, suffix, fim.PREFIX, prefix, fim.MIDDLE, middle]


found = spm("a", "b", "c")
assert found is not None, "Hint: a list such as [fim.SUFFIX, suffix, ...]."
assert fim.SUFFIX in found, "Hint: use the Controls of fim, not their names as text."
assert found == fim.render("a", "c", "b", mode="spm"), "Hint: suffix, prefix, middle."


# %% tags=["exercise"]
def cut_twice(text, rng):
    """`(prefix, middle, suffix)`; rng is a random.Random."""
    places = sorted(rng.randint(0, len(text)) for _ in range(2))
    places = [at - (text[at - 1 : at + 1] == "\r\n" and at > 0) for at in places]
    return text[: places[0]], text[places[0] : places[1]], text[places[1] :]


tries = [cut_twice("ab\r\ncd", random.Random(seed)) for seed in range(400)]
assert tries[0] is not None, "Hint: sort two of rng.randint(0, len(text)), then slice."
assert all("".join(t) == "ab\r\ncd" for t in tries), "Hint: the parts make the text."
assert any(not t[0] for t in tries), "Hint: the first place is before everything."
assert any(not t[2] for t in tries), "Hint: the last place is after everything."
assert any(not t[1] for t in tries), "Hint: a middle may be empty."
assert not any(part.endswith("\r") for t in tries for part in t), (
    "Hint: if the cut has \\r before it and \\n after it, move it."
)


# %% tags=["exercise"]
def answer_of(parts):
    """The text before the first Control."""
    text = ""
    for part in parts:
        if isinstance(part, fim.Control):
            break
        text += part
    return text


runaway = ["width", " * height", fim.FILE_SEPARATOR, "b.py\n", fim.PREFIX, "x"]
assert answer_of(runaway) is not None, "Hint: go through the parts and collect text."
assert answer_of(runaway) == "width * height", "Hint: leave at the first fim.Control."
assert answer_of([fim.END]) == "", "Hint: an answer may be empty."
assert answer_of(["say '<|fim_prefix|>'"]) == "say '<|fim_prefix|>'", (
    "Hint: ask for the type, isinstance(part, fim.Control), not for what it reads."
)
