"""Types of Python values, as languages with types have them.

A type is found from values: those of all tests at one place are brought together. As in
BabelCode, a tuple is a list. What no common type fits (a list of numbers and texts, a
value that is sometimes None) cannot be translated, and the error says why.
"""

import dataclasses

INTEGERS = ("integer", "long")


class UntranslatableError(ValueError):
    """A problem that has no counterpart in a language with types; the message says why."""


@dataclasses.dataclass(frozen=True)
class Type:
    """A type: `kind` is `boolean`, `integer` (32 bits), `long` (64 bits), `float`,
    `string`, `list`, `set`, `map` or `unknown` (of an empty container's items)."""

    kind: str
    of: tuple["Type", ...] = ()


def type_of(value) -> Type:
    """The type of one value.

    Example:
    ```python
    from codegemma_keras.evals.babelcode.types import type_of

    type_of([(1, 2.5)])  # list of list of float
    ```
    """
    if isinstance(value, bool):
        return Type("boolean")
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise UntranslatableError(f"{value} does not fit into 64 bits")
        return Type("integer" if -(2**31) <= value < 2**31 else "long")
    if isinstance(value, float):
        if value != value or abs(value) == float("inf"):
            raise UntranslatableError(f"{value} has no literal")
        return Type("float")
    if isinstance(value, str):
        return Type("string")
    if isinstance(value, (list, tuple)):
        return Type("list", (together(value),))
    if isinstance(value, (set, frozenset)):
        return Type("set", (together(value),))
    if isinstance(value, dict):
        return Type("map", (together(value), together(value.values())))
    raise UntranslatableError(f"{value!r} has a type that others lack")


def together(values) -> Type:
    """The one type that all values have."""
    found = Type("unknown")
    for value in values:
        found = joined(found, type_of(value))
    return found


def joined(a: Type, b: Type) -> Type:
    """The smallest type that holds the values of both."""
    if a == b or b.kind == "unknown":
        return a
    if a.kind == "unknown":
        return b
    kinds = {a.kind, b.kind}
    if kinds <= {"integer", "long"}:
        return Type("long")
    if "float" in kinds and kinds <= {"float", *INTEGERS}:
        return Type("float")
    if a.kind == b.kind and a.of:
        return Type(a.kind, tuple(map(joined, a.of, b.of)))
    raise UntranslatableError(f"{a.kind} and {b.kind} at one place")


def settled(type_: Type) -> Type:
    """Without `unknown`: containers that are empty in all tests hold integers."""
    if type_.kind == "unknown":
        return Type("integer")
    return Type(type_.kind, tuple(map(settled, type_.of)))


def same(type_: Type, expected, given, precision=1e-6) -> bool:
    """Whether an answer, as `json.loads` gives it, is the expected value.

    A set is a list in any order, a map a list of pairs. Nothing of Python's own
    comparison is asked of the answer but that of plain values.
    """
    kind = type_.kind
    if kind == "boolean":
        return given is expected
    if kind in INTEGERS:
        return type(given) in (int, float) and given == expected
    if kind == "float":
        if type(given) not in (int, float):
            return False
        return abs(given - expected) <= precision * max(1.0, abs(expected))
    if kind == "string":
        return isinstance(given, str) and given == expected
    if not isinstance(given, list) or len(given) != len(expected):
        return False
    if kind == "list":
        return all(map(lambda e, g: same(type_.of[0], e, g), expected, given))
    if kind == "set":
        return _same_in_any_order(type_.of[0], list(expected), list(given))
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in given):
        return False
    pairs = Type("list", (Type("pair", type_.of),))
    return _same_in_any_order(pairs.of[0], list(expected.items()), list(given))


def _same_in_any_order(type_, expected, given):
    for item in expected:
        for place, answer in enumerate(given):
            if type_.kind == "pair":
                found = all(map(same, type_.of, item, answer))
            else:
                found = same(type_, item, answer)
            if found:
                del given[place]
                break
        else:
            return False
    return not given
