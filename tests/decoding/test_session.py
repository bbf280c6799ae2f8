"""A session: what it gives is what a cold call gives, and how much it computes."""

import pytest

from codegemma_keras import fim
from codegemma_keras.decoding import Sampling
from codegemma_keras.decoding.request import Cursor
from tests.tiny_models import our_task

PREFIX = "def total(values):\n    result = 0\n    for value in values:\n        "
SUFFIX = "\n    return result\n\n\nprint(total([1, 2]))\n"
SAMPLED = Sampling(temperature=1.0)
# A prompt that is found in the cache computes its last token, in the narrowest chunk.
CHUNK = 8


@pytest.fixture(scope="module")
def lm():
    model = our_task()
    model.preprocessor.sequence_length = 256
    return model


def edits():
    """An editing session: `(prefix, suffix)` after each keystroke."""
    prefix, suffix = PREFIX, SUFFIX
    for key in "result += val":
        prefix += key
        yield prefix, suffix
    prefix = prefix[:-4]  # deleting
    yield prefix, suffix
    prefix += "\n        "
    yield prefix, suffix
    text = prefix + suffix
    cursor = text.index("result = 0") + len("result = 0")  # some lines up
    yield text[:cursor], text[cursor:]
    yield text[:cursor] + ".", text[cursor:]


OPTIONS = {"max_new_tokens": 5, "sampling": SAMPLED, "seed": 3}


def cold(lm, layout, prefix, suffix, **options):
    return lm.session(layout).complete(prefix, suffix, **OPTIONS, **options)


@pytest.mark.parametrize("layout", ["psm", "line", "spm"])
def test_a_session_gives_what_a_cold_call_gives(lm, layout):
    session = lm.session(layout)
    computed = []
    for prefix, suffix in edits():
        warm = session.complete(prefix, suffix, **OPTIONS)
        reference = cold(lm, layout, prefix, suffix)
        assert warm.token_ids == reference.token_ids
        assert reference.computed_tokens == reference.prompt_tokens
        computed.append(warm.computed_tokens)
    typing = computed[1:13]
    if layout == "psm":  # the suffix again each time
        assert min(typing) > len(lm.tokenizer.encode(SUFFIX))
    else:
        assert max(typing) <= CHUNK


def test_the_layouts_of_a_session_are_those_of_fim(lm):
    for layout in ("psm", "spm", "left_to_right"):
        ours = cold(lm, layout, PREFIX, SUFFIX, path="a.py")
        plain = lm.complete(PREFIX, SUFFIX, path="a.py", mode=layout, **OPTIONS)
        assert ours.token_ids == plain.token_ids
    ids, _, _ = lm.session("line").prompt(Cursor("a\n  b", "c"), 200)
    parts = [fim.PREFIX, "a\n", fim.SUFFIX, "c", fim.MIDDLE, "  b"]
    assert ids[1:] == lm.tokenizer.encode(parts)
    with pytest.raises(ValueError, match="layout='lines'"):
        lm.session("lines")


def test_warming_leaves_one_token_to_compute(lm):
    session = lm.session()
    first = session.warm(PREFIX, SUFFIX)
    result = session.complete(PREFIX, SUFFIX, **OPTIONS)
    assert first == result.prompt_tokens
    assert result.computed_tokens <= CHUNK


def test_a_left_stream_is_held(lm):
    session = lm.session()
    stream = session.stream(PREFIX, SUFFIX, **OPTIONS)
    next(stream)
    stream.close()
    result = session.complete(PREFIX, SUFFIX, **OPTIONS)
    assert result.computed_tokens <= CHUNK
    assert result.token_ids == cold(lm, "line", PREFIX, SUFFIX).token_ids


def test_text_that_does_not_fit_is_cut_at_the_same_place_while_typing(lm):
    above = "".join(f"x{i} = {i}\n" for i in range(200))
    below = "\n" + "".join(f"y{i} = {i}\n" for i in range(200))
    session = lm.session()
    kept = set()
    for i, key in enumerate("total = x1 + x2"):
        above += key
        result = session.complete(above, below, max_new_tokens=4)
        assert above.endswith(result.prefix)
        assert below.startswith(result.suffix)
        kept.add((result.prefix[:8], result.suffix[-8:]))
        if i and len(kept) == 1:
            assert result.computed_tokens <= CHUNK
    assert len(kept) == 1


def test_a_prompt_half_computed_is_held(lm):
    session = lm.session()
    asked = []

    def second_time():
        asked.append(1)
        return len(asked) > 1

    long = "x = 1\n" * 15 + PREFIX  # more than one chunk
    partly = session.complete(long, SUFFIX, cancelled=second_time, **OPTIONS)
    assert partly.stop_reason == "cancelled"
    assert partly.token_ids == []
    session.complete(long, SUFFIX, cancelled=lambda: True, **OPTIONS)  # keeps it
    assert 0 < partly.computed_tokens < partly.prompt_tokens
    whole = session.complete(long, SUFFIX, **OPTIONS)
    new = whole.prompt_tokens - partly.computed_tokens
    assert new <= whole.computed_tokens < new + CHUNK
    assert whole.token_ids == cold(lm, "line", long, SUFFIX).token_ids


def test_a_session_can_forget(lm):
    session = lm.session()
    whole = session.complete(PREFIX, SUFFIX, **OPTIONS)
    session.forget()
    again = session.complete(PREFIX, SUFFIX, **OPTIONS)
    assert again.computed_tokens == again.prompt_tokens
    assert again.token_ids == whole.token_ids
