"""Tasks that a program solves, with tests that the question does not show.

    functions   write a small function (`small_functions`); the question shows two examples
    infilling   write the hidden line of a function
    regex       write a regular expression for a description
    sql         write a query over a table

Each task is made by rule, from this module's own tables, and its tests by running the
rule's own solution: no unknown code runs here. What decides whether a task is held out is
the rule with its numbers, not the wording or the names.

Left out: tasks that need more than one function, files, or a state.
"""

import hashlib
import re
import sqlite3

import numpy as np

from codegemma_keras.tasks import small_functions

HIDDEN = 6  # tests of a task that its question does not show


def is_held_out(*what, share=0.2) -> bool:
    """Whether a task is for evaluation, decided by what it asks."""
    digest = hashlib.blake2b(repr(what).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") < share * 2**32


def _asserts(name, function, arguments):
    return [f"assert {name}({a!r}) == {function(a)!r}" for a in arguments]


# --- functions: question, columns -----------------------------------------------------

FUNCTIONS = tuple(small_functions.FAMILIES)


def function_task(family, rng):
    """`(question, columns, what it asks)` of a family of `small_functions`."""
    task = small_functions.generate(family, rng)
    scope = {}
    exec(task.answer, scope)  # from this package's own table
    kind = small_functions.FAMILIES[family][0]
    given = [_argument(kind, rng) for _ in range(HIDDEN)]
    tests = _asserts(task.name, scope[task.name], given)
    return (
        task.question,
        {"tests": tests, "names": [task.name]},
        (family, rule_of(task)),
    )


def rule_of(task) -> str:
    """What a task of `small_functions` asks, without the names it chose."""
    body = task.answer.partition("return ")[2]
    argument = re.search(r"\((\w+)\)", task.answer)[1]
    found = re.sub(rf"\b{argument}\b", "a", body)
    if not small_functions.FAMILIES[task.origin][-1]:
        return found + task.name  # a rule without a number has one task for each name
    return found


def _argument(kind, rng):
    if kind == "number":
        return int(rng.integers(0, 200))
    if kind == "list":
        return [int(n) for n in rng.integers(0, 120, rng.integers(1, 8))]
    return str(rng.choice(small_functions.WORDS))


# --- infilling: a line of a function is hidden -------------------------------------------

BODIES = {
    "sum above": (
        "Add up the {a} above {k}.",
        "total = 0\nfor item in {a}:\n    if item > {k}:\n        total += item\n"
        "return total",
    ),
    "count below": (
        "Count the {a} below {k}.",
        "count = 0\nfor item in {a}:\n    if item < {k}:\n        count += 1\nreturn count",
    ),
    "multiples": (
        "Return the {a} that {k} divides, each divided by it.",
        "found = []\nfor item in {a}:\n    if item % {k} == 0:\n"
        "        found.append(item // {k})\nreturn found",
    ),
    "capped": (
        "Return {a} with everything above {k} replaced by {k}.",
        "found = []\nfor item in {a}:\n    item = min(item, {k})\n"
        "    found.append(item)\nreturn found",
    ),
}
INFILLING = tuple(BODIES)


def infilling_task(family, rng):
    """`(text before the cursor, text after it, columns, what it asks)`."""
    sentence, body = BODIES[family]
    argument = str(rng.choice(small_functions.LISTS))
    k = int(rng.integers(2, 60))
    name = "_".join(map(str, rng.choice(small_functions.WORDS, 2, replace=False)))
    lines = body.format(a=argument, k=k).split("\n")
    hidden = int(rng.integers(1, len(lines)))
    head = f'def {name}({argument}):\n    """{sentence.format(a=argument, k=k)}"""\n'
    indented = [f"    {line}\n" for line in lines]
    scope = {}
    exec(head + "".join(indented), scope)  # from this module's own table
    given = [_argument("list", rng) for _ in range(HIDDEN)]
    columns = {"tests": _asserts(name, scope[name], given), "names": [name]}
    indent = re.match(r" *", indented[hidden])[0]
    before = head + "".join(indented[:hidden]) + indent
    return before, "\n" + "".join(indented[hidden + 1 :]), columns, (family, k, hidden)


# --- regular expressions ----------------------------------------------------------------

PIECES = {
    "digits": ("{n} digits", r"\d{{{n}}}", "0123456789"),
    "small letters": ("{n} small letters", "[a-z]{{{n}}}", "abcxyz"),
    "capital letters": ("{n} capital letters", "[A-Z]{{{n}}}", "ABCXYZ"),
}
MARKS = ("-", ":", "/", "#", "_")
REGEX = ("two parts", "three parts")
REGEX_PROGRAM = """import re
PATTERN = ANSWER
def matches(text):
    return re.fullmatch(PATTERN, text) is not None
"""


def regex_task(family, rng):
    """`(question, columns, what it asks)`."""
    count = 2 + REGEX.index(family)
    names = [str(name) for name in rng.choice(list(PIECES), count)]
    sizes = [int(n) for n in rng.integers(2, 7, count)]
    mark = str(rng.choice(MARKS))
    words = [PIECES[n][0].format(n=k) for n, k in zip(names, sizes, strict=True)]
    patterns = [PIECES[n][1].format(n=k) for n, k in zip(names, sizes, strict=True)]
    pattern = re.escape(mark).join(patterns)
    question = (
        "Write a regular expression for the whole of a text that is "
        f"{f', then {mark!r}, then '.join(words)}. Answer with the expression alone."
    )
    texts = [_text_like(names, sizes, mark, rng, wrong) for wrong in (0, 0, 0, 1, 1, 1)]
    asserts = _asserts("matches", lambda t: bool(re.fullmatch(pattern, t)), texts)
    columns = {"tests": asserts, "names": ["matches"], "wrapper": REGEX_PROGRAM}
    return question, columns, (names, sizes, mark)


def _text_like(names, sizes, mark, rng, wrong):
    """A text that fits, or one whose mark or one of whose lengths is wrong."""
    sizes, change = list(sizes), int(rng.integers(0, 2)) if wrong else None
    if change == 0:
        sizes[int(rng.integers(0, len(sizes)))] += 1
    if change == 1:
        mark = str(rng.choice([m for m in MARKS if m != mark]))
    parts = [
        "".join(map(str, rng.choice(list(PIECES[name][2]), size)))
        for name, size in zip(names, sizes, strict=True)
    ]
    return mark.join(parts)


# --- SQL ----------------------------------------------------------------------------------

TABLES = {"orders": "customer", "sales": "shop", "visits": "page"}
QUERIES = {
    "count above": (
        "how many {table} have an amount above {k}",
        "SELECT COUNT(*) FROM {table} WHERE amount > {k}",
    ),
    "sum of one": (
        "the sum of the amounts of the {table} whose {column} is 'c{d}'",
        "SELECT SUM(amount) FROM {table} WHERE {column} = 'c{d}'",
    ),
    "sum of each": (
        "each {column} with its sum of amounts above {k}, sorted by {column}",
        "SELECT {column}, SUM(amount) FROM {table} WHERE amount > {k} "
        "GROUP BY {column} ORDER BY {column}",
    ),
}
SQL = tuple(QUERIES)
SQL_PROGRAM = """import sqlite3
def rows(table, column, values):
    database = sqlite3.connect(":memory:")
    database.execute(f"CREATE TABLE {table} ({column} TEXT, amount INTEGER)")
    database.executemany(f"INSERT INTO {table} VALUES (?, ?)", values)
    return [list(row) for row in database.execute(ANSWER).fetchall()]
"""


def sql_task(family, rng):
    """`(question, columns, what it asks)`."""
    words, query = QUERIES[family]
    table = str(rng.choice(list(TABLES)))
    numbers = {"k": int(rng.integers(5, 95)), "d": int(rng.integers(0, 4))}
    known = {"table": table, "column": TABLES[table], **numbers}
    query = query.format(**known)
    tests = []
    for _ in range(HIDDEN // 2):
        values = [
            [f"c{rng.integers(0, 4)}", int(rng.integers(0, 100))]
            for _ in range(int(rng.integers(3, 12)))
        ]
        arguments = table, TABLES[table], values
        found = _rows(query, *arguments)
        call = ", ".join(map(repr, arguments))
        tests.append(f"assert [list(row) for row in rows({call})] == {found!r}")
    question = (
        f"The table {table} has the columns {TABLES[table]} and amount. Write one SQL "
        f"query for {words.format(**known)}. Answer with the query alone."
    )
    columns = {"tests": tests, "names": ["rows"], "wrapper": SQL_PROGRAM}
    return question, columns, query


def _rows(query, table, column, values):
    """What this module's own query gives."""
    database = sqlite3.connect(":memory:")
    database.execute(f"CREATE TABLE {table} ({column} TEXT, amount INTEGER)")
    database.executemany(f"INSERT INTO {table} VALUES (?, ?)", values)
    found = [list(row) for row in database.execute(query).fetchall()]
    database.close()
    return found


def distinct(make, family, count, seed, held_out):
    """Up to `count` tasks of `make(family, rng)` on one side of the split.

    Args:
        make: one of the makers above; what a task asks is last of what it returns.
        family: of that maker.
        count: how many; fewer if the rule has no more.
        seed: decides which.
        held_out: those for evaluation instead of those for training.
    """
    rng = np.random.default_rng((seed, held_out))
    found, misses = {}, 0
    while len(found) < count and misses < 200:
        *task, asked = make(family, rng)
        misses += 1
        if is_held_out(asked) == held_out and task[0] not in found:
            found[task[0]], misses = task, 0
    return list(found.values())
