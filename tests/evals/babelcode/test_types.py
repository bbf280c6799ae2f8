"""Types of values, and answers compared by them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegemma_keras.evals.babelcode.types import (
    Type,
    UntranslatableError,
    joined,
    same,
    settled,
    together,
    type_of,
)

INTEGER, LONG, FLOAT, TEXT = map(Type, ("integer", "long", "float", "string"))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, -(2**31)], INTEGER),
        ([1, 2**31], LONG),
        ([1, 2.5], FLOAT),
        ([True, False], Type("boolean")),
        ([[], [1]], Type("list", (INTEGER,))),
        ([[], ()], Type("list", (INTEGER,))),
        ([(1, 2.0), (3,)], Type("list", (FLOAT,))),
        ([{"a": 1}, {"b": 2**40}], Type("map", (TEXT, LONG))),
        ([{1, 2}, {3}], Type("set", (INTEGER,))),
        ([[[1]], [[]], []], Type("list", (Type("list", (INTEGER,)),))),
    ],
)
def test_types_of_all_values_at_a_place(values, expected):
    assert settled(together(values)) == expected


@pytest.mark.parametrize(
    "values",
    [[1, "a"], [1, None], [True, 1], [(1, "a")], [2**64], [1j], [float("inf")]],
)
def test_what_has_no_counterpart_is_refused(values):
    with pytest.raises(UntranslatableError):
        together(values)


KINDS = st.sampled_from(
    [Type("unknown"), INTEGER, LONG, FLOAT, Type("list", (FLOAT,)),
     Type("list", (Type("unknown"),))]
)  # fmt: skip


@given(KINDS, KINDS)
def test_joining_does_not_depend_on_the_order(a, b):
    try:
        first = joined(a, b)
    except UntranslatableError:
        with pytest.raises(UntranslatableError):
            joined(b, a)
    else:
        assert joined(b, a) == first


VALUES = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1)),
    st.lists(st.lists(st.text())),
    st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False)),
    st.sets(st.integers(0, 99)),
)


def as_answer(value):
    """As a program writes it."""
    if isinstance(value, dict):
        value = [[k, v] for k, v in value.items()]
    return json.loads(json.dumps(list(value)))


@given(VALUES, st.randoms())
def test_an_answer_that_is_right_is_the_same_in_any_order_that_does_not_count(
    value, random
):
    type_, answer = settled(type_of(value)), as_answer(value)
    if type_.kind != "list":
        random.shuffle(answer)
    assert same(type_, value, answer)
    assert not same(type_, value, [*answer, answer])
    assert not answer or not same(type_, value, answer[1:])


@pytest.mark.parametrize(
    ("expected", "answer"),
    [
        (1, 2),
        (1, True),
        (True, 1),
        (1, "1"),
        (0.5, "0.5"),
        (0.5, 0.51),
        ([1, 2], [2, 1]),
        ({1, 2}, [1, 1]),
        ({"a": 1}, {"a": 1}),
        ({"a": 1}, [["a", 2]]),
        ("a", None),
    ],
)
def test_wrong_answers_are_wrong(expected, answer):
    assert not same(settled(type_of(expected)), expected, answer)


def test_floats_may_differ_a_little():
    assert same(FLOAT, 0.3, 0.1 + 0.2)
    assert same(FLOAT, 2.0, 2)
    assert same(FLOAT, 1e12, 1e12 + 1)
