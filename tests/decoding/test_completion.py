"""Text from tokens: where it ends, and what may be streamed."""

import random

from hypothesis import given
from hypothesis import strategies as st

from codegemma_keras.decoding.completion import (
    GrowingText,
    Stops,
    block_end,
    one_line_is_missing,
    repeated_line,
)
from codegemma_keras.decoding.postprocessing import Tidying

SUFFIX = "\n    return result\n\n\nprint(total([1, 2]))\n"


def test_block_ends_where_it_is_indented_less():
    prefix = "def f():\n    x = 1\n    "
    text = "y = 2\n    z = 3\n\nprint(1)"
    # Known at the p of print.
    assert block_end(prefix, text) == (text.index("p") + 1, len("y = 2\n    z = 3"))
    assert block_end(prefix, "y = 2\n    z = 3\n\n") is None
    assert block_end(prefix, "if y:\n        z = 3\n") is None


def test_a_line_that_opens_a_block_stands_for_the_block():
    text = "\n    x\n  # c\ny = 1"
    assert block_end("def f():", text) == (text.index("y") + 1, len("\n    x\n  # c"))
    text = "> b {\n  c();\n}\nd();"
    assert block_end("if a ", text) == (text.index("d"), len("> b {\n  c();\n}"))
    assert block_end("if a ", "> b {\n  c();\n}") is None  # the line may go on


def test_one_line_or_a_block():
    """What a model that does not stop by itself is taken to be asked for."""
    for prefix, suffix, one in (
        ("total = ", "\n", True),
        ("x = f(", ")\n", True),
        ("def f():", "\n\nprint(f())\n", False),
        ("def f():\n    ", "\n\nprint(f())\n", False),
        ("def f():\n    ", "\n    return x\n", True),
        ("def f():\n    x = 1\n    ", "\n", False),  # the rest of the file
        ("import os\n", "import sys\n", True),
    ):
        assert one_line_is_missing(prefix, suffix) == one, (prefix, suffix)


def test_the_line_of_the_suffix_that_counts():
    assert repeated_line(")\n\n    }\n    return x\n") == "return x"
    assert repeated_line("abc") == ""
    stops = Stops(repeated_line=repeated_line(SUFFIX))
    assert stops.end("result += value\n    return result\n") == (15, "suffix")
    assert stops.end("return result\n    pass\n") is None  # not a line of its own


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
        stops = Stops(strings, choice.choice((None, "line", "block")), "  a", "ab")
        whole = stops.end(text)
        first = next(
            filter(None, (stops.end(text[:n]) for n in range(len(text) + 1))), None
        )
        assert whole == first


class Letters:
    """A tokenizer whose ids are bytes."""

    def decode_bytes(self, ids):
        return bytes(ids)


@given(
    st.text("ab\n\r }é:", max_size=30),
    st.lists(st.text("ab\n é", min_size=1, max_size=3), max_size=3).map(tuple),
    st.sampled_from([None, "line", "block"]),
    st.sampled_from(["", "ab"]),
    st.lists(st.integers(1, 5), max_size=30),
)
def test_what_is_streamed_is_never_taken_back(text, strings, until, line, cuts):
    """In whatever pieces the tokens come: the pieces join to the text that stops."""
    stops = Stops(strings, until, "if a:\n  b", line)
    growing, ids, out = GrowingText(Letters(), stops), list(text.encode()), ""
    for size in [*cuts, 99, 99]:
        out += growing.push(ids[:size])
        ids = ids[size:]
        assert growing.text.startswith(out)
    out += growing.finish()
    assert out == growing.text
    end = stops.end(text)
    assert out == (text if end is None else text[: end[0]])


PIECES = st.sampled_from(
    ["a", "b", " ", "\n", "\r\n", "    ", "return x", ")", "(", '"', "f(", "ab"]
)


@given(
    st.lists(PIECES, max_size=6).map("".join),
    st.lists(PIECES, max_size=8).map("".join),
    st.lists(PIECES, max_size=6).map("".join),
    st.lists(st.integers(1, 5), max_size=30),
)
def test_tidied_text_is_streamed_and_never_taken_back(prefix, text, suffix, cuts):
    tidying = Tidying(prefix, suffix)
    stops = Stops(repeated_line=repeated_line(suffix))
    growing, ids, out = GrowingText(Letters(), stops, tidying), list(text.encode()), ""
    for size in [*cuts, 99, 99]:
        out += growing.push(ids[:size])
        ids = ids[size:]
        assert growing.text.startswith(out)
    out += growing.finish()
    end = stops.end(text)
    assert out == tidying.whole(text if end is None else text[: end[0]])
