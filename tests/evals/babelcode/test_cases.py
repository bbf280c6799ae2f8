"""Calls and values, read from Python's assertions."""

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegemma_keras.evals.babelcode.cases import Case, cases_of, literal


@pytest.mark.parametrize(
    ("test", "case"),
    [
        ("f(1, [2]) == 3", Case((1, [2]), 3)),
        ("3 == f(1)", Case((1,), 3)),
        ("f('a')", Case(("a",), True)),
        ("not f(())", Case(((),), False)),
        ("f(1) is True", Case((1,), True)),
        ("f({1: 'a'}) == {'a'}", Case(({1: "a"},), {"a"})),
        ("tuple(f(1)) == tuple([1, 2])", Case((1,), [1, 2])),
        ("abs(f(-1) - 2.0 / 4.0) < 1e-6", Case((-1,), 0.5)),
        ("math.isclose(f(1), 5, rel_tol=0.001)", Case((1,), 5.0)),
        ("f([0] * 3, 10 ** 3) == 'ab' * 2", Case(([0, 0, 0], 1000), "abab")),
    ],
)
def test_forms_that_are_understood(test, case):
    found, skipped = cases_of(f"assert {test}, 'why'", "f")
    assert (found, skipped) == ([case], 0)
    assert type(found[0].expected) is type(case.expected)


@pytest.mark.parametrize(
    "test",
    [
        "f(x) == 1",
        "f(1) == g(1)",
        "f(1) > 2",
        "g(1) == 2",
        "0 < f(1) < 2",
        "f(a=1) == 2",
        "f(10 ** 10 ** 10) == 1",
        "f([0] * 10 ** 9) == 1",
        "f(__import__('os').getcwd()) == 1",
    ],
)
def test_others_are_counted_and_never_executed(test):
    assert cases_of(f"assert {test}", "f") == ([], 1)


def test_the_test_functions_of_humaneval():
    tests = """
METADATA = {}
def check(candidate):
    assert True, "a remark"
    assert candidate(1) == 2
    for x in range(3):
        assert candidate(x) == x
    y = 1
"""
    assert cases_of(tests, "candidate") == ([Case((1,), 2)], 1)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda part: st.lists(part) | st.dictionaries(st.text(), part),
)


@given(PLAIN)
def test_every_literal_is_read_as_what_it_is(value):
    text = repr(value)
    if "inf" not in text:
        assert literal(ast.parse(text, mode="eval").body) == value
