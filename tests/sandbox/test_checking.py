"""Verdicts that are taken outside the program: what passes, and why something does not."""

import pytest

from codegemma_keras.sandbox import Limits, check, check_all

PATIENT = Limits(seconds=60)


def reason(program, tests, names=("f",), **options):
    result = check(program, tests, names, PATIENT, **options)
    assert result.passed == (result.reason == "passed")
    return result.reason


VALUES = [
    "None",
    "True",
    "-7",
    "10 ** 40",
    "2.5",
    "float('inf')",
    "1 + 2j",
    "'ä\\ud800'",
    "b'\\x00\\xff'",
    "[1, [2, (3, 'x')]]",
    "{1, 2}",
    "frozenset([1])",
    "{(1, 2): [3], None: {}}",
    "{'dict': 1, 'int': 'x'}",
    "()",
]


def test_plain_values_cross_unchanged_in_both_directions():
    tests = "".join(
        f"assert f({value}) == {value} and type(f({value})) is type({value})\n"
        for value in VALUES
    )
    assert reason("def f(x): return x", tests) == "passed"


def test_subclasses_arrive_as_what_they_extend():
    program = """
import collections, enum
Point = collections.namedtuple('Point', 'x y')
def f(): return [Point(1, 2), collections.Counter('aab'), collections.OrderedDict(k=1)]
"""
    tests = "assert f() == [(1, 2), {'a': 2, 'b': 1}, {'k': 1}]"
    assert reason(program, tests) == "passed"


@pytest.mark.parametrize(
    "test", ["f() == 1", "f() != 1", "not f()", "f() in {1}", "f()"]
)
def test_other_objects_decide_nothing(test):
    told = "wrong answer: <object object> is no plain value"
    assert reason("def f(): return object()", f"assert {test}") == told


def test_they_may_be_there_where_nobody_looks():
    assert reason("def f(): return object()", "f()") == "passed"


def test_arguments_changed_in_place_are_changed_for_the_tests():
    program = "def f(a, b, c):\n    a.sort(); b['k'] = 1; c.add(2)"
    tests = """
a, b, c = [3, 1, 2], {}, {1}
assert f(a, b, c) is None
assert (a, b, c) == ([1, 2, 3], {'k': 1}, {1, 2})
"""
    assert reason(program, tests) == "passed"


def test_several_functions_keywords_state_and_helpers():
    program = "n = 0\ndef f(*, step=1):\n    global n\n    n += step\ndef g(): return n"
    tests = "f(); f(step=2)\nassert near(g(), 3)"
    helpers = "def near(a, b): return abs(a - b) < 1e-9"
    assert reason(program, tests, ("f", "g"), helpers=helpers) == "passed"


def test_expected_exceptions_are_seen_as_what_they_are():
    program = """
class Own(Exception): pass
def f(x): raise (KeyError('k') if x else Own('o'))
"""
    tests = """
try: f(1)
except KeyError: pass
else: assert False
f(0)
"""
    assert reason(program, tests) == "Own: o"


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("def f(x): return x + 1", "wrong answer: not 4"),
        ("def f(x): return 1 / 0", "ZeroDivisionError: division by zero"),
        ("def f(x): assert False, 'mine'", "AssertionError: mine"),
        ("def f(x: return x", "SyntaxError"),
        ("def g(x): return x", "KeyError"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("def f(x):\n    import os; os._exit(0)", "exited early"),
        ("def f(x):\n    bytearray(1 << 40)", "MemoryError"),
        ("def f(x): return 'x' * (1 << 24)", "too much output"),
        ("def f(x): return f(x)", "RecursionError"),
    ],
)
def test_reasons_are_told_apart(program, expected):
    assert reason(program, "assert f(4) == 4, 'not 4'").startswith(expected)


def test_what_it_printed_is_kept():
    """Also when the verdict comes while the program's interpreter is still ending."""
    slow_end = "import atexit, time\natexit.register(time.sleep, 60)\n"
    program = "print('hello')\ndef f(): print('again')"
    for start in ("", slow_end):
        result = check(start + program, "f()", ["f"], PATIENT)
        assert result.output == "hello\nagain\n"


def test_many_keep_their_order():
    cases = [
        (f"def f(): return {n}", f"assert f() == {n % 2}", ["f"]) for n in range(4)
    ]
    results = check_all(cases, PATIENT)
    assert [r.passed for r in results] == [True, True, False, False]


def test_hash_seed_is_fixed():
    program = "def f(): return hash('a')"
    seen = check(program, "raise ValueError(f())", ["f"], PATIENT).reason
    assert reason(program, "raise ValueError(f())") == seen
