"""Small functions made by rule, as instruction tasks with doctests.

Real documented functions (`instruct.functions`) are few and hard; a model of a few
million parameters answers none of them. These are easy and as many as wanted: a family
is a sentence, an expression and arguments; names, numbers and wording vary. The examples'
results are computed here, from the family's own expression and constants, so no unknown
code runs.

Left out: bodies of more than one line.
"""

import numpy as np

from codegemma_keras.tasks import instruct

WORDS = (
    "apply blend build carry check choose clean clip copy count draw fetch find fold form"
    " gather grow guess help join keep lift list load make mark match measure mix move"
    " pack pass pick place plan pull push read reduce report scan score select send shape"
    " share show shrink sort split step store take test tidy trace trim turn update use"
    " visit weigh wrap"
).split()
NUMBERS = ("x", "n", "number", "value", "amount")
LISTS = ("items", "numbers", "values", "data", "scores")
TEXTS = ("text", "word", "line", "name", "title")

# family: (kind of argument, sentences, expression, least and most of k)
FAMILIES = {
    "plus": ("number", ("Add {k} to {a}.", "Return {a} plus {k}."), "{a} + {k}", 2, 99),
    "minus": (
        "number",
        ("Subtract {k} from {a}.", "Return {a} minus {k}."),
        "{a} - {k}",
        2,
        99,
    ),
    "times": (
        "number",
        ("Multiply {a} by {k}.", "Return {a} times {k}."),
        "{a} * {k}",
        2,
        99,
    ),
    "divisible": (
        "number",
        ("Return whether {a} is divisible by {k}.", "Say if {k} divides {a}."),
        "{a} % {k} == 0",
        2,
        20,
    ),
    "above": (
        "number",
        ("Return whether {a} is greater than {k}.", "Say if {a} is above {k}."),
        "{a} > {k}",
        2,
        99,
    ),
    "total": ("list", ("Return the sum of {a}.", "Add up {a}."), "sum({a})", 0, 0),
    "largest": (
        "list",
        ("Return the largest of {a}.", "Find the maximum of {a}."),
        "max({a})",
        0,
        0,
    ),
    "length": (
        "list",
        ("Return how many {a} there are.", "Count {a}."),
        "len({a})",
        0,
        0,
    ),
    "reverse": (
        "list",
        ("Return {a} in reverse order.", "Reverse {a}."),
        "{a}[::-1]",
        0,
        0,
    ),
    "first": (
        "list",
        ("Return the first {k} of {a}.", "Keep only the first {k} of {a}."),
        "{a}[:{k}]",
        2,
        9,
    ),
    "filter": (
        "list",
        ("Return those of {a} greater than {k}.", "Keep what is above {k} in {a}."),
        "[item for item in {a} if item > {k}]",
        2,
        99,
    ),
    "scale": (
        "list",
        ("Multiply each of {a} by {k}.", "Return {a}, each times {k}."),
        "[item * {k} for item in {a}]",
        2,
        99,
    ),
    "upper": (
        "text",
        ("Return {a} in capital letters.", "Write {a} in upper case."),
        "{a}.upper()",
        0,
        0,
    ),
    "backwards": (
        "text",
        ("Return {a} backwards.", "Spell {a} from its end."),
        "{a}[::-1]",
        0,
        0,
    ),
    "repeat": (
        "text",
        ("Return {a} repeated {k} times.", "Repeat {a} {k} times."),
        "{a} * {k}",
        2,
        9,
    ),
}
_ARGUMENTS = {"number": NUMBERS, "list": LISTS, "text": TEXTS}


def generate(family: str, rng: np.random.Generator) -> instruct.Task:
    """A task of a family.

    Raises:
        ValueError: there is no such family.
    """
    if family not in FAMILIES:
        raise ValueError(f"family={family!r} must be one of {sorted(FAMILIES)}.")
    kind, sentences, expression, least, most = FAMILIES[family]
    argument = str(rng.choice(_ARGUMENTS[kind]))
    k = int(rng.integers(least, most + 1))
    name = "_".join(map(str, rng.choice(WORDS, 2, replace=False)))
    body = expression.format(a=argument, k=k)
    examples = []
    for _ in range(2):
        given = _given(kind, k, rng)
        # From this module's own table and numbers: nothing of a user's.
        result = eval(body, {argument: given})
        examples += [f">>> {name}({given!r})", repr(result)]
    sentence = str(rng.choice(sentences)).format(a=argument, k=k)
    examples = "\n".join(examples)
    return instruct.Task(
        name,
        instruct.ask(name, [argument], sentence, examples),
        f"def {name}({argument}):\n    return {body}",
        examples,
        family,
    )


def _given(kind, k, rng):
    """An argument for an example; around k, so that comparisons go either way."""
    if kind == "number":
        return int(rng.integers(0, 2 * k + 2)) if rng.random() < 0.7 else 6 * k
    if kind == "list":
        return [int(n) for n in rng.integers(0, 100, rng.integers(3, 6))]
    return str(rng.choice(WORDS))


def tasks(count: int, seed: int = 0, families=tuple(FAMILIES)) -> list[instruct.Task]:
    """Tasks with distinct function names, the families in turn.

    Args:
        count: how many; at most 3,906, the names there are.
        seed: decides which.
        families: keys of `FAMILIES`.

    Raises:
        ValueError: more than there are names, or no family.
    """
    most = len(WORDS) * (len(WORDS) - 1)
    if count > most:
        raise ValueError(
            f"count={count}: there are not so many names of functions. Ask for at most "
            f"{most}."
        )
    if not families:
        raise ValueError(f"families={families!r}: name some of {sorted(FAMILIES)}.")
    rng = np.random.default_rng(seed)
    found = {}
    while len(found) < count:
        task = generate(families[len(found) % len(families)], rng)
        found.setdefault(task.name, task)
    return list(found.values())
