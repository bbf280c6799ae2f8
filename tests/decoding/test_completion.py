"""Text from tokens, as it grows: what may be streamed."""

from hypothesis import given
from hypothesis import strategies as st

from codegemma_keras.decoding.completion import Answer, GrowingText
from codegemma_keras.decoding.generation import Row
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
    + [
        "if a:",
        "else:",
        "# c",
        "\n    return x\n",
        "\n  return x\n",
        "return",
        "x = ",
        "return ",
        "x",
        "=",
        "def f(",
    ]
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


def test_a_function_may_end_early_as_it_ends():
    """What ends it after the cursor, in a deeper block, is no repetition."""
    prefix, suffix = "def f(items):\n    total = 0\n    ", "\n    return total\n"
    code = (
        "for i in items:\n        if i is None:\n            return total\n"
        "        total += i"
    )
    stops = Stops((), "statement", prefix, repeated_line(suffix))
    growing = GrowingText(Letters(), stops, Tidying(prefix, suffix))
    out = growing.push(f"{code}\n    return total\n".encode()) + growing.finish()
    assert out == code


def test_the_first_line_of_a_statement_is_streamed_before_it_ends():
    prefix, suffix = "def f():\n    ", "\n    return y\n"
    for until in ("line", "statement", "block"):
        stops = Stops((), until, prefix, repeated_line(suffix))
        growing = GrowingText(Letters(), stops, Tidying(prefix, suffix))
        assert growing.push(b"y = x +") == "y = x +"
        rest = growing.push(b" 1\n    z") + growing.finish()
        assert rest == (" 1" if until != "block" else " 1\n    z")


@given(
    st.text("ab\n", min_size=1, max_size=24),
    st.lists(st.text("ab\n", min_size=1, max_size=3), max_size=2).map(tuple),
    st.lists(st.integers(1, 9), min_size=1, max_size=24),
    st.booleans(),
)
def test_the_tokens_of_a_text_do_not_depend_on_when_the_host_looked(
    text, strings, visits, ends
):
    """What the device decodes behind a stop, until somebody looks, is not counted."""

    def answer(visits):
        ids = [*text.encode(), *([0] if ends else [])]
        row = Row([1], len(ids), (0,))
        answer = Answer(row, GrowingText(Letters(), Stops(strings, None, "", "")))
        out, place = "", 0
        for visit in [*visits, *[1] * len(ids)]:
            if row.running:
                row.add(
                    ids[place : place + visit], [0.5] * len(ids[place : place + visit])
                )
                out, place = out + answer.take_in(), place + visit
        done = answer.completion()
        assert out == done.text
        return done

    looked, at_every_token = answer(visits), answer([1])
    assert looked == at_every_token
    assert len(looked.token_ids) == len(looked.log_probabilities)
    if looked.stop_reason == "stop_string":
        whole = bytes(looked.token_ids).decode()
        assert not any(s in whole[:-1] for s in strings)
        assert any(whole.endswith(s) for s in strings)
