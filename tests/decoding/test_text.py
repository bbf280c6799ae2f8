"""Text from the engine: stops, streams, cancelling, threads, sessions."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegemma_keras import fim
from codegemma_keras.decoding import Sampling
from codegemma_keras.decoding.buckets import WATCHED_VISIT
from codegemma_keras.decoding.lock import FairLock
from codegemma_keras.decoding.stopping import Stops, block_end, repeated_line
from codegemma_keras.decoding.text import GrowingText
from tests.tiny_models import our_task

PREFIX = "def total(values):\n    result = 0\n    for value in values:\n        "
SUFFIX = "\n    return result\n\n\nprint(total([1, 2]))\n"
SAMPLED = Sampling(temperature=1.0)


@pytest.fixture(scope="module")
def lm():
    model = our_task()
    model.preprocessor.sequence_length = 256
    return model


# Where text ends


def test_block_ends_where_it_is_indented_less():
    prefix = "def f():\n    x = 1\n    "
    assert block_end(prefix, "y = 2\n    z = 3\n\nprint(1)") == len("y = 2\n    z = 3")
    assert block_end(prefix, "y = 2\n    z = 3\n\n") is None
    assert block_end(prefix, "if y:\n        z = 3\n") is None


def test_a_line_that_opens_a_block_stands_for_the_block():
    assert block_end("def f():", "\n    x\n  # c\ny = 1") == len("\n    x\n  # c")
    assert block_end("if a ", "> b {\n  c();\n}\nd();") == len("> b {\n  c();\n}")
    assert block_end("if a ", "> b {\n  c();\n}") is None  # the line may go on


def test_the_line_of_the_suffix_that_counts():
    assert repeated_line(")\n\n    }\n    return x\n") == "return x"
    assert repeated_line("abc") == ""
    stops = Stops(repeated_line=repeated_line(SUFFIX))
    assert stops.end("result += value\n    return result\n") == (15, "suffix")
    assert stops.end("return result\n    pass\n") is None  # not a line of its own


def test_the_earliest_stop_counts():
    stops = Stops(("; ", "\n\n"), until="line")
    assert stops.end("a = 1\n\n") == (5, "line")
    assert stops.end("a; b\n") == (1, "stop_string")
    assert not Stops()


def test_bad_stops():
    with pytest.raises(ValueError, match="A stop string is empty"):
        Stops(("a", ""))
    with pytest.raises(ValueError, match="until='word'"):
        Stops(until="word")


class Letters:
    """A tokenizer whose ids are bytes."""

    def decode_bytes(self, ids):
        return bytes(ids)


@given(
    st.text("ab\n }é:", max_size=30),
    st.lists(st.text("ab\n é", min_size=1, max_size=3), max_size=2),
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


# Streams


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sampling": SAMPLED, "seed": 3},
        {"sampling": SAMPLED, "seed": 4, "until": "line"},
        {"sampling": SAMPLED, "seed": 5, "speculate": True},
    ],
    ids=["greedy", "sampled", "line", "speculated"],
)
def test_stream_gives_what_complete_gives(lm, options):
    options = {"max_new_tokens": 24, **options}
    pieces = list(lm.stream(PREFIX, SUFFIX, **options))
    assert "".join(pieces) == lm.complete(PREFIX, SUFFIX, **options).text
    assert all(pieces)


def test_a_stop_string_is_found_across_token_borders(lm):
    free = lm.complete(PREFIX, SUFFIX, max_new_tokens=24, sampling=SAMPLED, seed=7)
    middle = len(free.text) // 2
    stop = free.text[middle - 2 : middle + 3]
    cut = lm.complete(
        PREFIX, SUFFIX, max_new_tokens=24, sampling=SAMPLED, seed=7, stop_strings=[stop]
    )
    assert cut.text == free.text[: free.text.index(stop)]
    assert cut.stop_reason == "stop_string"
    # Decoding ended soon after, not at the limit.
    assert len(cut.token_ids) <= 24
    assert len(cut.token_ids) == len(cut.log_probabilities)


def test_leaving_a_stream_ends_the_work(lm, monkeypatch):
    visits = []
    decode = lm.engine.decode
    monkeypatch.setattr(
        lm.engine, "decode", lambda *a: visits.append(int(a[3])) or decode(*a)
    )
    for _ in lm.stream(PREFIX, SUFFIX, max_new_tokens=100, sampling=SAMPLED, seed=3):
        break
    assert sum(visits) <= WATCHED_VISIT
    assert lm.infill(PREFIX, SUFFIX, max_new_tokens=4) is not None


def test_cancelling(lm):
    before = lm.complete(PREFIX, SUFFIX, max_new_tokens=99, cancelled=lambda: True)
    assert (before.text, before.stop_reason) == ("", "cancelled")
    assert before.computed_tokens == 0
    options = {"max_new_tokens": 60, "sampling": SAMPLED}
    every = (lm.complete(PREFIX, SUFFIX, seed=seed, **options) for seed in range(99))
    # A text that does not stop by itself soon.
    seed, free = next((s, c) for s, c in enumerate(every) if len(c.token_ids) > 30)
    asked = []

    def third_time():
        asked.append(1)
        return len(asked) > 3

    during = lm.complete(PREFIX, SUFFIX, seed=seed, cancelled=third_time, **options)
    assert during.stop_reason == "cancelled"
    assert 1 <= len(during.token_ids) <= 1 + 2 * WATCHED_VISIT
    assert free.token_ids[: len(during.token_ids)] == during.token_ids


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
    assert whole.computed_tokens == whole.prompt_tokens - partly.computed_tokens
    assert whole.token_ids == cold(lm, "line", long, SUFFIX).token_ids


def test_an_exception_in_a_callback_leaves_the_model_usable(lm):
    want = lm.infill(PREFIX, SUFFIX, max_new_tokens=6)

    def fail():
        raise RuntimeError("from the callback")

    session = lm.session()
    for ask in (lm.complete, session.complete):
        with pytest.raises(RuntimeError, match="from the callback"):
            ask(PREFIX, SUFFIX, max_new_tokens=6, cancelled=fail)
    assert lm.infill(PREFIX, SUFFIX, max_new_tokens=6) == want


def test_a_deadline_that_is_past_gives_what_there_is(lm):
    result = lm.complete(PREFIX, SUFFIX, max_new_tokens=100, time_limit_ms=1e-6)
    assert (result.text, result.stop_reason) == ("", "time")
    with pytest.raises(ValueError, match="time_limit_ms=0"):
        lm.complete(PREFIX, SUFFIX, time_limit_ms=0)


def test_arguments_are_checked_at_the_call_not_at_the_first_piece(lm):
    with pytest.raises(ValueError, match="A stop string is empty"):
        lm.stream(PREFIX, SUFFIX, stop_strings=[""])


def test_alternatives_share_a_prefill_and_repeat(lm):
    options = {"max_new_tokens": 8, "sampling": SAMPLED, "seed": 9}
    three = lm.alternatives(PREFIX, SUFFIX, n=3, **options)
    assert three[0].token_ids == lm.complete(PREFIX, SUFFIX, **options).token_ids
    assert len({tuple(c.token_ids) for c in three}) == 3
    assert three[0].computed_tokens == three[0].prompt_tokens


def test_score_agrees_with_the_log_probabilities_of_a_completion(lm):
    completion = lm.complete(PREFIX, SUFFIX, max_new_tokens=8, sampling=SAMPLED, seed=3)
    parts = fim.render(PREFIX, SUFFIX)
    prompt = [lm.tokenizer.start_token_id, *lm.tokenizer.encode(parts)]
    [scores] = lm.score([prompt + completion.token_ids])
    n = len(completion.token_ids)
    assert n > 0
    assert scores[-n:] == pytest.approx(completion.log_probabilities, abs=1e-3)
    with pytest.raises(TypeError, match="a list of texts"):
        lm.score("text")


# Threads


def test_32_threads_share_a_model(lm):
    options = {"max_new_tokens": 6, "sampling": SAMPLED}
    want = [lm.infill(PREFIX, SUFFIX, seed=i, **options) for i in range(32)]
    got = [None] * 32

    def ask(i):
        how = lm.infill if i % 2 else lambda *a, **k: "".join(lm.stream(*a, **k))
        got[i] = how(PREFIX, SUFFIX, seed=i, **options)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == want


def test_the_lock_serves_in_order():
    lock, order, arrived = FairLock(), [], threading.Semaphore(0)

    def work(name):
        arrived.release()
        with lock:
            order.append(name)

    threads = []
    with lock:
        for name in range(5):
            thread = threading.Thread(target=work, args=(name,))
            thread.start()
            threads.append(thread)
            arrived.acquire()
            while len(lock._waiting) <= name:  # until it stands in the queue
                pass
    for thread in threads:
        thread.join()
    assert order == list(range(5))


# Sessions


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
        assert max(typing) < 8


def test_the_layouts_of_a_session_are_those_of_fim(lm):
    for layout in ("psm", "spm"):
        ours = cold(lm, layout, PREFIX, SUFFIX, path="a.py")
        plain = lm.complete(PREFIX, SUFFIX, path="a.py", mode=layout, **OPTIONS)
        assert ours.token_ids == plain.token_ids
    ids, _, _ = lm.session("line").prompt("a\n  b", "c", None, (), 8)
    parts = [fim.PREFIX, "a\n", fim.SUFFIX, "c", fim.MIDDLE, "  b"]
    assert ids[1:] == lm.tokenizer.encode(parts)
    with pytest.raises(ValueError, match="layout='lines'"):
        lm.session("lines")


def test_warming_leaves_one_token_to_compute(lm):
    session = lm.session()
    first = session.warm(PREFIX, SUFFIX)
    result = session.complete(PREFIX, SUFFIX, **OPTIONS)
    assert first == result.prompt_tokens
    assert result.computed_tokens == 1


def test_a_left_stream_is_held(lm):
    session = lm.session()
    stream = session.stream(PREFIX, SUFFIX, **OPTIONS)
    next(stream)
    stream.close()
    result = session.complete(PREFIX, SUFFIX, **OPTIONS)
    assert result.computed_tokens == 1
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
            assert result.computed_tokens < 8
    assert len(kept) == 1
