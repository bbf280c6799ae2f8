"""Text from tokens, as it grows: what may be streamed."""

from hypothesis import given
from hypothesis import strategies as st

from codegemma_keras.decoding.completion import GrowingText
from codegemma_keras.decoding.postprocessing import Tidying
from codegemma_keras.decoding.stops import Stops, repeated_line


class Letters:
    """A tokenizer whose ids are bytes."""

    def decode_bytes(self, ids):
        return bytes(ids)


@given(
    st.text("ab\n\r }é:", max_size=30),
    st.lists(st.text("ab\n é", min_size=1, max_size=3), max_size=3).map(tuple),
    st.sampled_from([None, "line", "statement", "block"]),
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
    + ["if a:", "else:", "# c"]
)


@given(
    st.lists(PIECES, max_size=6).map("".join),
    st.lists(PIECES, max_size=8).map("".join),
    st.lists(PIECES, max_size=6).map("".join),
    st.sampled_from([None, "line", "statement", "block"]),
    st.booleans(),
    st.lists(st.integers(1, 5), max_size=30),
)
def test_tidied_text_is_streamed_and_never_taken_back(
    prefix, text, suffix, until, early, cuts
):
    tidying = Tidying(prefix, suffix)
    stops = Stops((), until, prefix, repeated_line(suffix))
    growing, ids, out = GrowingText(Letters(), stops, tidying), list(text.encode()), ""
    for size in [*cuts, 99, 99]:
        out += growing.push(ids[:size])
        ids = ids[size:]
        assert growing.text.startswith(out)
    out += growing.finish(early)
    end = stops.end(text)
    kept = (early and stops.whole(text)) or len(text) if end is None else end[0]
    assert out == tidying.whole(text[:kept])


def test_the_first_line_of_a_statement_is_streamed_before_it_ends():
    prefix, suffix = "def f():\n    ", "\n    return y\n"
    for until in ("line", "statement", "block"):
        stops = Stops((), until, prefix, repeated_line(suffix))
        growing = GrowingText(Letters(), stops, Tidying(prefix, suffix))
        assert growing.push(b"y = x +") == "y = x +"
        rest = growing.push(b" 1\n    z") + growing.finish()
        assert rest == (" 1" if until != "block" else " 1\n    z")
