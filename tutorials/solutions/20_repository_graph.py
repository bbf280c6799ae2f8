# %% tags=["exercise"]
def absolute(importer, level, module):
    """`("a/b/c.py", 1, "d")` -> `"a.b.d"`."""
    folders = importer.split("/")[:-level]
    return ".".join([*folders, module])


assert absolute("a/b/c.py", 1, "d") is not None, (
    "Hint: split the importer at the slashes."
)
assert absolute("a/b/c.py", 1, "d") == "a.b.d", (
    "Hint: one dot drops the file's own name."
)
assert absolute("a/b/c.py", 2, "d.e") == "a.d.e", (
    "Hint: each further dot drops a folder."
)
assert absolute("a/b/__init__.py", 1, "d") == "a.b.d", (
    "Hint: a package's file likewise."
)


# %% tags=["exercise"]
def broken(order, edges):
    """How many `(importer, imported)` have the importer first."""
    place = {path: i for i, path in enumerate(order)}
    return sum(place[importer] < place[imported] for importer, imported in edges)


assert broken(["a", "b"], [("b", "a")]) is not None, (
    "Hint: note the place of each file."
)
assert broken(["a", "b"], [("b", "a")]) == 0, (
    "Hint: b needs a, and a comes first: good."
)
assert broken(["b", "a", "c"], [("b", "a"), ("c", "b"), ("a", "c")]) == 2, (
    "Hint: compare the two places of each edge."
)


# %% tags=["exercise"]
def tests_beside(order):
    """The order, with tests behind their subjects."""
    names = {path.split("/")[-1]: path for path in order}
    behind = {}
    for path in order:
        name = path.split("/")[-1]
        subject = names.get(name.removeprefix("test_"))
        if name.startswith("test_") and subject:
            behind[subject] = [*behind.get(subject, []), path]
    tests = {test for found in behind.values() for test in found}
    rest = [path for path in order if path not in tests]
    return [each for path in rest for each in (path, *behind.get(path, []))]


moved = tests_beside(["m/a.py", "m/b.py", "tests/test_a.py", "tests/test_z.py"])
assert moved is not None, "Hint: take the tests with a subject out, then insert them."
assert len(moved) == 4, "Hint: no file gets lost."
assert moved == ["m/a.py", "tests/test_a.py", "m/b.py", "tests/test_z.py"], (
    "Hint: test_z has no subject and stays where it was."
)
