"""Where the text of a completion ends."""

import random

import pytest

from codegemma_keras.decoding.stops import (
    Stops,
    block_end,
    repeated_line,
    statement_end,
    what_is_missing,
)

SUFFIX = "\n    return result\n\n\nprint(total([1, 2]))\n"


def test_block_ends_where_it_is_indented_less():
    prefix = "def f():\n    x = 1\n    "
    text = "y = 2\n    z = 3\n\nprint(1)"
    # Known at the p of print.
    assert block_end(prefix, text) == (text.index("p") + 1, len("y = 2\n    z = 3"))
    assert block_end(prefix, "y = 2\n    z = 3\n\n") is None
    assert block_end(prefix, "if y:\n        z = 3\n") is None
    text = "if y:\n        z = 3\n    else:\n        z = 4\nprint(1)"
    assert text[: block_end(prefix, text)[1]] == text.removesuffix("\nprint(1)")


def test_a_line_that_opens_a_block_stands_for_the_block():
    text = "\n    x\n  # c\ny = 1"
    assert block_end("def f():", text) == (text.index("y") + 1, len("\n    x\n  # c"))
    text = "> b {\n  c();\n}\nd();"
    assert block_end("if a ", text) == (text.index("d"), len("> b {\n  c();\n}"))
    assert block_end("if a ", "> b {\n  c();\n}") is None  # the line may go on


@pytest.mark.parametrize(
    ("prefix", "text", "want"),
    [
        ("total = ", "0\n    for x in y:\n", "0"),
        # Brackets, strings of several lines and backslashes go on.
        ("x = ", "f(\n    1,\n)\ny = 2\n", "f(\n    1,\n)"),
        ("x = f(", "\n    1,\n)\ny", "\n    1,\n)"),
        ("x = f(\n    1,\n    ", "2,\n    3,\n", "2,"),  # opened further up
        ("text = ", '"""a\nb"""\ny', '"""a\nb"""'),
        ("x = ", "1 + \\\n    2\ny", "1 + \\\n    2"),
        # A line that opens a block is not alone.
        ("def f():\n    ", "if a:\n        b()\n\n    c()\n", "if a:\n        b()"),
        ("    ", "if a:  # so\n        b()\n    c()\n", "if a:  # so\n        b()"),
        ("if a", ":\n    b()\nc", ":\n    b()"),
        ("", "if a:\n    b\nelse:\n    c\nelsewhere\n", "if a:\n    b\nelse:\n    c"),
        ("  ", "try:\n    a\n  except E:\n    b\nc", "try:\n    a\n  except E:\n    b"),
        (
            "",
            "def f(\n    a,\n):\n    return a\n\n\ndef",
            "def f(\n    a,\n):\n    return a",
        ),
        ("", 'def f():\n    """a\nb"""\n    c\nd', 'def f():\n    """a\nb"""\n    c'),
        ("  ", "if (a) {\n    b();\n  } else {\n    c();\n  }\n", None),
        # Comments and decorators belong to what follows, unless the block ends first.
        ("    ", "# so\n    x = 1\n    y = 2\n", "# so\n    x = 1"),
        ("    ", "# so\n\ny = 2\n", "# so"),
        ("", "#include <a.h>\n#include <b.h>\n", "#include <a.h>"),
        ("", "@a\ndef f():\n    b\nc\n", "@a\ndef f():\n    b"),
        # What stands in the line is whole, and the next one counts.
        ('    """Doc."""', "\n    return 1\n    x\n", "\n    return 1"),
        ("x = 1", "\n\n\ny = 2\nz = 3\n", "\n\n\ny = 2"),
        # Deeper than the cursor: in the block above.
        ("def f():\n    a\n", "    b\n    c\n", "    b"),
    ],
)
def test_a_statement_is_whole(prefix, text, want):
    end = statement_end(prefix, text)
    assert text[: end[1]] == (text.rstrip("\n") if want is None else want)
    needed = end[0]
    assert all(statement_end(prefix, text[:n]) is None for n in range(needed))
    assert statement_end(prefix, text[:needed]) == end


def test_a_statement_may_go_on():
    for prefix, text in (
        ("x = ", "1"),
        ("x = f(", "1,\n"),
        ("", "if a:\n    b\n"),
        ("", "if a:\n    b\nel"),
        ("", "if a:\n    b\nelse"),
        ("x = 1", "\n\n"),
        ("", "# so\n"),
        ("", ""),
    ):
        assert statement_end(prefix, text) is None, (prefix, text)


@pytest.mark.parametrize(
    ("prefix", "suffix", "want"),
    [
        ("x = f(", ")\n", "line"),
        ("def f(x):\n    if ", "\n        y = 1\n", "line"),  # its block is there
        ("def f(x):", "\n    return x\n", "line"),
        ("total = ", "\n", "statement"),
        ("def f():\n    ", "\n    return x\n", "statement"),
        ("def f():\n    ", "\n        y = 1\n", "line"),  # the line of that block
        ("import os\n", "import sys\n", "line"),
        ("import os\n", "\nimport sys\n", "statement"),
        ("def f():\n    return 1\n\n\n", "", "statement"),
        ("def f():", "\n\nprint(f())\n", "block"),
        ("def f():\n    ", "\n\nprint(f())\n", "block"),
        ('def f():\n    """Doc."""\n', "", "block"),
        ("def f():\n    x = 1\n    ", "\n", "statement"),  # perhaps not the last one
        ("def f():\n    x = 1\n", "", "statement"),
    ],
)
def test_what_a_model_that_does_not_stop_is_asked_for(prefix, suffix, want):
    assert what_is_missing(prefix, suffix) == want


def test_the_line_of_the_suffix_that_counts():
    assert repeated_line(")\n\n    }\n    return x \r\n") == "    return x"
    assert repeated_line("abc") == ""
    stops = Stops(repeated_line=repeated_line(SUFFIX))
    assert stops.end("result += value\n    return result\n") == (15, "suffix")
    assert stops.end("return result\n    pass\n") is None  # not a line of its own


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("for i in y:\n        if i:\n            return x\n        i()\n", None),
        ("i()\n\treturn x\n", None),  # a tab is eight columns
        ("i()\nreturn x\n", None),
        ("i()\n    return x  \r\n", "i()"),
        ("if i:\n        return x\n    return x\n", "if i:\n        return x"),
    ],
)
def test_the_suffixs_line_in_another_block_is_another_statement(text, kept):
    stops = Stops(repeated_line=repeated_line("\n    return x\n"))
    assert stops.end(text) == (kept and (len(kept), "suffix"))


def test_the_stop_that_is_complete_first_wins():
    # " =" is complete at the third character, "n = 0" at the fifth.
    assert Stops(("n = 0", " =")).end("n = 0") == (1, "stop_string")
    assert Stops(("= 0", "n = 0")).end("n = 0") == (
        0,
        "stop_string",
    )  # both: the longer
    stops = Stops(("; ", "\n\n"), until="line")
    assert stops.end("a = 1\n\n") == (5, "line")
    assert stops.end("a; b\n") == (1, "stop_string")
    assert not Stops()


def test_line_ends_of_windows_leave_nothing_behind():
    assert Stops(until="line").end("a = 1\r\nb") == (5, "line")
    assert Stops(until="line").safe("a = 1\r") == 5
    assert Stops(until="block", prefix="def f():\r\n  ").end("x\r\n\r\ny = 1") == (
        1,
        "block",
    )
    repeated = Stops(repeated_line=repeated_line(SUFFIX.replace("\n", "\r\n")))
    assert repeated.end("x\r\n    return result\r\n") == (1, "suffix")


def test_several_stops_end_a_text_alike_however_it_comes():
    """20,000 random texts and stops: all at once, or character by character."""
    choice = random.Random(1)
    for _ in range(20_000):
        text = "".join(choice.choices("ab \n", k=choice.randint(0, 12)))
        strings = tuple(
            "".join(choice.choices("ab \n", k=choice.randint(1, 4)))
            for _ in range(choice.randint(1, 3))
        )
        stops = Stops(
            strings, choice.choice((None, "line", "statement", "block")), "  a", "ab"
        )
        whole = stops.end(text)
        first = next(
            filter(None, (stops.end(text[:n]) for n in range(len(text) + 1))), None
        )
        assert whole == first


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("x = 1\n    y = f(2,\n", "x = 1"),
        ("x = 1\n    if x:\n        ret", "x = 1"),
        ("x = 1\n    # then\n    y = ", "x = 1"),
        ("x = f(\n        1)\n    y", "x = f(\n        1)"),
        ("if x:\n        y", ""),
        ("x = 1", ""),
    ],
)
def test_text_that_ended_early_is_cut_to_whole_statements(text, want):
    for until in ("statement", "block"):
        stops = Stops(until=until, prefix="def f():\n    ")
        assert text[: stops.whole(text)] == want
    assert Stops(until="line").whole(text) == len(text)
