"""Each rule that fits a completion in between prefix and suffix."""

import pytest

from codegemma_keras.decoding import brackets
from codegemma_keras.decoding import postprocessing as rules
from codegemma_keras.decoding.postprocessing import Tidying


@pytest.mark.parametrize(
    ("prefix", "text", "want"),
    [
        # The cursor after eight spaces on an empty line.
        ("def f():\n    for x in y:\n        ", "        x += 1", "x += 1"),
        ("x = 1\n    ", "    y = 2\n    z = 3", "y = 2\n    z = 3"),
        ("\t", "\treturn", "return"),
        ("def f():\n    ", "    return 1", "return 1"),
        # The line above opens a block that the cursor is not in yet.
        ("if a:\n    if b:\n    ", "    return 1", "    return 1"),
        # Fewer columns than the cursor's: nothing is repeated.
        ("        ", "    x", "    x"),
        # The cursor's indentation is enough, if the line above opens nothing.
        ("def f():\n    x = 1\n    ", "        y = 2", "y = 2"),
        ("def f():\n\tx = 1\n\t", "\t\ty = 2", "y = 2"),
        ("def f():\n    x = 1\n", "    y = 2", "    y = 2"),
        ("if x:\n    # why\n    ", "    y = 2", "y = 2"),
        ("- name: x\n", "  run: y", "  run: y"),
        ("x = f(\n    1,\n", "      2,", "      2,"),
        # The line is blank already.
        ("x = 1\n\n", "\n\ny = 2", "y = 2"),
        ("def f():\n    ", "\n    return 1", "return 1"),
        ("x = 1\n", "\ny = 2", "\ny = 2"),
        # The line begun, said again with and without its indentation.
        ("x\n    retur", "    return x", "n x"),
        ("x\n    return", "return x", " x"),
        ("import num", "import numpy", "py"),
        ("x = ", "  1", "1"),
        ("x\n    return ", "    return x", "x"),
        # The same where no line would hold it twice.
        ("x\n    return ", "return x", "x"),
        ("    return ", "  return(x)", "(x)"),
        ("import ", "import os", "os"),
        ("x = ", "x = 1", "1"),
        ("x =", "x = 1", " 1"),
        ("    self.x[0] += ", "self.x[0] += 1", "1"),
        ("x: int = ", "x: int = 1", "1"),
        ("f(\n    key=", "key=1", "1"),
        ('{\n    "a": ', '"a": 1,', "1,"),
        ("def foo(", "def foo(x):", "x):"),
        ("if a[", "if a[:3]:", ":3]:"),
        ("if ", "if", ""),
        ("# Sums ", "# Sums up", "up"),
        ("let x = ", "let x = 1;", "1;"),
        # Where one may, and where the text says something else.
        ("x = ", "x == 1", "x == 1"),
        ("x = x = ", "x = 1", "x = 1"),
        ("std:", "std::f()", "std::f()"),
        ("not ", "not x", "not x"),
        ("- ", "- x", "- x"),
        ("((", "((1))", "((1))"),
        ("Node(left=", "Node(left=1)", "Node(left=1)"),
        ("x + ", "x + y", "x + y"),
        ("a <= ", "a <= b", "a <= b"),
        ("if ", "iffy", "iffy"),
        ("return foo(", "foo(1))", "foo(1))"),
        # Between two levels: the text has the columns that lack.
        ("def f():\n    x = 1\n  ", "  y = 2", "  y = 2"),
        ("def f():\n  ", "  x = 1\n    y = 2", "  x = 1\n    y = 2"),
        ("class A:\n    def f():\n      ", "  x = 1", "  x = 1"),
        ("def f():\n    x = 1\n  ", "    y = 2", "  y = 2"),
        ("def f():\n  if a:\n    x()\n  ", "  y()", "y()"),  # this is a level
        # Calls may nest, and short code may repeat.
        ("x = foo(", "foo(1))", "foo(1))"),
        ("f(f(", "f(f(1))", "f(f(1))"),
        ("a", "aa", "aa"),
        ("", "    x", "    x"),
    ],
)
def test_the_cursors_line_is_not_repeated(prefix, text, want):
    assert rules.without_line_start(prefix, text) == want


@pytest.mark.parametrize(
    ("prefix", "text", "suffix", "want"),
    [
        ("return ", "sum(v) / len(v)", " / len(v)\n", "sum(v)"),
        ("return ", "sum(v) / len(v)\n", " / len(v)\n", "sum(v)"),
        ("    ", "x = 1\n    return x", "\n    return x\n", "x = 1"),
        ("    ", "x = 1\n    return x\n", "\n\n    return x\n", "x = 1"),
        ("    ", "return x", "\n    return x\n", ""),
        ("    retur", "n x", "\n    return x\n", "n x"),
        ("", "y = 1\nreturn x", "return x\n", "y = 1\n"),
        ("    ", "x\r\n    return x\r\n", "\r\n    return x\r\n", "x"),
        # The same words in another block are another statement.
        ("    ", "if a:\n        return x", "\n    return x\n", None),
        ("    ", "a()\nreturn x", "\n    return x\n", None),
        ("    ", "if a:\n        return x", "return x\n", None),
        ("    ", "a()\n    return x", "return x\n", "a()\n    "),
        ("\t", "a()\n        return x", "\n\treturn x\n", "a()"),  # one column
        ("    x = 1\n", "    return x", "\n    return x\n", ""),
        ("    x = 1\n  ", "return x", "\n    return x\n", None),
        ("f(", "a)", ")\n", "a)"),  # too short to say anything
        ("", "return x + 1", "\nreturn x\n", "return x + 1"),
        ("", "x", "", "x"),
    ],
)
def test_the_suffixs_first_line_is_not_doubled(prefix, text, suffix, want):
    kept = rules.without_suffix_line(prefix, text, suffix)
    assert kept == (text if want is None else want)


@pytest.mark.parametrize(
    ("prefix", "text", "suffix", "want"),
    [
        ("f(", "x, y)", ")\n", "x, y"),
        ("f(", "g(x)", ")\n", "g(x)"),
        ("f(g(", "x))", ")\n", "x)"),
        ("f(g(", "x))", "))\n", "x"),
        ('print("', 'hi")', '")\n', "hi"),
        ("d = {", '"a": [1]}', "}\n", '"a": [1]'),
        ("d = {\n    ", '"a": 1,\n}', "\n}\n", '"a": 1,'),
        ('"""Doc', 's."""', '"""\n', "s."),
        ("# don't\nf(", "x)", ")\n", "x"),
        ("x = ')'\nf(", "x)", ")", "x"),
        ("f(", "x)", "\n", "x)"),  # the suffix closes nothing
        ("", "f(x)", ")", "f(x"),
        ("f(", "x", ")", "x"),
    ],
)
def test_brackets_that_the_suffix_closes_are_closed_once(prefix, text, suffix, want):
    assert rules.without_closed_brackets(prefix, text, suffix) == want


@pytest.mark.parametrize(
    ("prefix", "text", "want"),
    [
        ("f(", "x))", "x)"),
        ("x = ", "(a * 9) + 32) * 5\ny = 1", "(a * 9) + 32"),
        ("x = ", "(1)", "(1)"),
        ("x = (", "')'", "')'"),
        ("x) or (", "y))]", "y)"),  # one that stood there already
        # Not what a shell or Rust may mean.
        ("case $1 in\n  ", "start) run (1);;", "start) run (1);;"),
        ("fn f<'a>(x: &", "'a str) -> (&'a str) {", "'a str) -> (&'a str) {"),
        ("fn f<'a>(\n  ", "x: &str) -> g() {", "x: &str) -> g() {"),
    ],
)
def test_brackets_that_close_nothing_are_dropped(prefix, text, want):
    assert rules.without_needless_brackets(prefix, text) == want


@pytest.mark.parametrize(
    ("text", "suffix", "want"),
    [
        ("return x\n", "\ndef f():", "return x"),
        ("return x\n\n    ", "\n\n", "return x"),
        ("return x\r\n", "\r\nx", "return x"),
        ("return x\n", "def f():", "return x\n"),
        ("return x  ", "\n", "return x  "),
        ("return x\n", "", "return x\n"),
        ("\n", "\n", ""),
    ],
)
def test_a_line_end_before_one_is_dropped(text, suffix, want):
    assert rules.without_line_end(text, suffix) == want


DOCSTRING = '    """' + "It's (said).\n" * 2_500 + '    """\n'


@pytest.mark.parametrize("quotes", [1, 2, 3])
def test_a_long_file_is_read_from_its_beginning(quotes):
    """A reading that begins inside of a docstring takes code for text, and text for code."""
    prefix = f"def f(x):\n{DOCSTRING}" * quotes
    assert rules.missing_indentation(f"{prefix}    return 1\n", "\n") == ""
    tidy = Tidying(f"{prefix}    foo(", ")\n")
    assert tidy.whole("x)") == "x"
    assert Tidying(f"{prefix}    y = g(", "\n").whole("x))") == "x)"
    assert Tidying(f"{prefix}    y = g(\n", "\n").whole("    x") == "    x"


def test_a_long_file_is_read_once(monkeypatch):
    """Not again for every token: what is read then is the cursor's line and the text."""
    read, real = [0], brackets._MARKS

    class Counted:
        def search(self, code, at):
            read[0] += 1
            return real.search(code, at)

    monkeypatch.setattr(brackets, "_MARKS", Counted())
    tidy = Tidying("f(1)\n" * 10_000 + "x = g(", ")\n")
    assert 20_000 < read[0] < 31_000
    read[0] = 0
    for size in range(10):
        tidy.certain("h(x), y))"[:size])
    assert tidy.whole("h(x), y))") == "h(x), y"
    assert read[0] < 200


def test_line_ends_are_those_of_the_file():
    assert rules.with_line_ends("a\r\nb\r\n", "x\ny\r\n") == "x\r\ny\r\n"
    assert rules.with_line_ends("a\nb\n", "x\r\ny\n") == "x\ny\n"
    assert rules.with_line_ends("a", "x\r\ny\n") == "x\r\ny\n"


def test_all_rules_together():
    tidy = Tidying("def f(v):\r\n    return g(", ")\r\n\r\nprint(f(1))\r\n")
    assert tidy.whole("    return g(v,\n        1)\nprint(f(1))") == "v,\r\n        1"
    whole = Tidying("def f():\n        ", "\n    return x\n")
    assert whole.whole("        x = 1\n    return x\n") == "x = 1"


def test_text_that_repeats_nothing_stays():
    code = "    total += value\n        if total > 9:\n            break"
    tidy = Tidying("def f():\n    for v in x:\n    ", "\n    return total\n")
    assert tidy.whole(code) == code


@pytest.mark.parametrize(
    ("prefix", "suffix", "want"),
    [
        ("def f():\n", "", "    "),
        ("def f():\n", "\n        y = 1\n", "    "),  # a line that opens a block lacks
        ("    y = 0\n", "\n    return y\n", "    "),
        ("    y = 0\n\n", "\n    return y\n", "    "),
        ("    y = 0\n", "\n\n\ndef g():\n", "    "),
        ("        return 0\n", "\n        return 1\n", "    "),
        ("    return y\n", "\n\n\ndef g():\n", ""),
        ("    y = 0\n\n\n", "\ndef g():\n", ""),  # between two functions
        ("def f():\n\ty = 0\n", "\n\treturn y\n", "\t"),
        ("\tif y:\n", "\n\treturn y\n", "\t\t"),
        ("if a:\n  if b:\n", "\n  c()\n", "    "),
        ("  if b:\n", "\n    c()\n  d()\n", "    "),
        ("x = f(\n    1,\n", "\n)\n", "    "),
        ("for (;;) {\r\n", "\r\n}\r\n", "    "),
        # The line holds something already, or its rest does.
        ("def f():\n    ", "\n", ""),
        ("def f():", "\n", ""),
        ("    y = 0\n", "    return y\n", ""),
        ("", "\n    y\n", ""),
        ("\n\n", "", ""),
    ],
)
def test_an_empty_line_is_indented_as_by_an_editor(prefix, suffix, want):
    assert rules.missing_indentation(prefix, suffix) == want
