"""What a user asks for: checked once, never dropped; streams, stops, cancelling."""

import inspect
import threading

import keras_hub
import numpy as np
import pytest

from codegemma_keras import CodeGemmaCausalLMPreprocessor, fim
from codegemma_keras.decoding import (
    Conversation,
    Cursor,
    RawText,
    Request,
    Sampling,
    TokenIds,
)
from codegemma_keras.decoding.answering import answer_to
from codegemma_keras.decoding.completion import WATCHED_VISIT
from tests.tiny_models import our_task

PREFIX = "def total(values):\n    result = 0\n    for value in values:\n        "
SUFFIX = "\n    return result\n\n\nprint(total([1, 2]))\n"
SAMPLED = Sampling(temperature=1.0)
AT = Cursor("a", "b")


@pytest.fixture(scope="module")
def lm():
    model = our_task()
    model.preprocessor.sequence_length = 256
    return model


# Requests


def test_the_preprocessor_says_how_a_model_is_asked(lm):
    """One that was never taught to fill in ends with the line or the block."""
    asked = lm.complete(PREFIX, SUFFIX, mode="left_to_right")
    lm.preprocessor.infill_mode = "left_to_right"
    try:
        found = lm.complete(PREFIX, SUFFIX)
        assert found == asked
        assert lm.session().layout == "left_to_right"
        assert lm.session().complete(PREFIX, SUFFIX).token_ids == found.token_ids
        assert (
            found.prompt_tokens
            == len(lm.tokenizer.encode([SUFFIX[1:], fim.FILE_SEPARATOR, PREFIX[:-1]]))
            + 1
        )
        # The suffix goes on at a lower depth, so a block is missing, else a line.
        tokens = lm.tokenizer.encode([" x = 1\n        y = 2\n    z = 3\nw"])
        for suffix, text in (
            (SUFFIX, "x = 1\n        y = 2"),
            ("\n        p()\n", "x = 1"),
        ):
            answer = answer_to(
                lm, Request(prompt=Cursor(PREFIX, suffix)), Sampling(), 0
            )
            answer.text.push(tokens)
            assert answer.text.text == text
    finally:
        lm.preprocessor.infill_mode = "psm"
    assert lm.session().layout == "line"
    with pytest.raises(ValueError, match="mode='sideways'"):
        CodeGemmaCausalLMPreprocessor(lm.tokenizer, infill_mode="sideways")


def test_an_empty_line_is_asked_for_with_its_indentation(lm, monkeypatch):
    """Of a model that was never taught to fill in, and the text begins with it."""
    monkeypatch.setattr(lm.preprocessor, "infill_mode", "left_to_right")
    above, suffix = "def f():\n    x = 1\n", "\n    return x\n"
    options = {"max_new_tokens": 12, "tidy": True, "sampling": SAMPLED}
    texts = []
    for seed in range(4):
        found = lm.complete(above, suffix, seed=seed, **options)
        asked = lm.complete(f"{above}    ", suffix, seed=seed, **options)
        texts.append(asked.text)
        assert found.text == (asked.text and f"    {asked.text}")
        assert found.prompt_tokens == asked.prompt_tokens
        assert found.prefix == above
        pieces = lm.stream(above, suffix, seed=seed, **options)
        assert "".join(pieces) == found.text
        session = lm.session().complete(above, suffix, seed=seed, **options)
        assert session.text == found.text
    plain = lm.complete(above, suffix, **{**options, "tidy": False}, seed=0)
    assert plain.prompt_tokens < found.prompt_tokens
    assert any(texts)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"max_new_tokens": 2.5},
            TypeError,
            "max_new_tokens=2.5 must be a whole number",
        ),
        ({"max_new_tokens": True}, TypeError, "max_new_tokens=True"),
        ({"max_new_tokens": -1}, ValueError, "max_new_tokens=-1 must be >= 0"),
        ({"stop_strings": ["a", ""]}, ValueError, "A stop string is empty"),
        ({"stop_strings": [3]}, TypeError, "stop_strings holds 3"),
        ({"stop_token_ids": "eos"}, ValueError, "stop_token_ids='eos'"),
        ({"until": "word"}, ValueError, "until='word'"),
        ({"time_limit_ms": 0}, ValueError, "time_limit_ms=0 must be"),
        ({"time_limit_ms": float("inf")}, ValueError, "time_limit_ms=inf must be"),
        ({"time_limit_ms": "soon"}, TypeError, "time_limit_ms='soon'"),
        ({"cancelled": True}, TypeError, "cancelled=True must be a function"),
        (
            {"sampling": "greedy"},
            TypeError,
            r"sampling='greedy'.*Sampling\(\) is greedy",
        ),
        ({"seed": 1.5}, TypeError, "seed=1.5 must be a whole number"),
        ({"speculate": "yes"}, TypeError, "speculate='yes' must be True"),
        ({"prompt": RawText("a"), "tidy": True}, ValueError, "tidy=True is about"),
        (
            {"prompt": TokenIds([1]), "stop_at_suffix": True},
            ValueError,
            "stop_at_suffix=True is about",
        ),
    ],
)
def test_a_request_is_checked(options, error, message):
    with pytest.raises(error, match=message):
        Request(**{"prompt": AT, **options})


def test_prompts_are_checked():
    with pytest.raises(TypeError, match="suffix must be a str, not NoneType"):
        Cursor("a", None)
    with pytest.raises(TypeError, match="prefix must be a str, not bytes"):
        Cursor(b"a")
    with pytest.raises(ValueError, match="mode='middle'"):
        Cursor("a", mode="middle")
    with pytest.raises(ValueError, match="path is empty"):
        Cursor("a", path="")
    with pytest.raises(ValueError, match="pairs"):
        Cursor("a", context=["b.py"])
    with pytest.raises(ValueError, match="user"):
        Conversation([{"role": "model", "content": "x"}])
    with pytest.raises(TypeError, match="A prompt must be text, not NoneType"):
        RawText(None)


def test_what_numpy_and_people_mean():
    request = Request(
        prompt=AT,
        max_new_tokens=np.int64(3),
        seed=np.uint32(5),
        stop_strings="\n",
        speculate=None,
        time_limit_ms=np.float32(20),
    )
    assert (request.max_new_tokens, request.seed) == (3, 5)
    assert request.stop_strings == ("\n",)
    assert request.speculate is False


def test_signatures_show_every_option(lm):
    """What Shift-Tab shows in a notebook."""
    session = lm.session()
    for method in (
        lm.infill,
        lm.complete,
        lm.stream,
        lm.alternatives,
        session.complete,
    ):
        parameters = inspect.signature(method).parameters
        assert {"path", "until", "time_limit_ms", "tidy", "seed"} <= set(parameters)
        assert parameters["max_new_tokens"].default == 128
    assert inspect.signature(lm.alternatives).parameters["n"].default == 3


def test_an_unknown_option_is_refused_with_the_nearest_name(lm):
    session = lm.session()
    for ask in (lm.infill, lm.complete, lm.stream, lm.alternatives, session.warm):
        with pytest.raises(TypeError, match=r"no option 'max_tokens'.*max_new_tokens"):
            ask("a", "b", max_tokens=3)
    with pytest.raises(TypeError, match="A session has a layout"):
        session.complete("a", "b", mode="psm")


@pytest.mark.parametrize("n", [0, -1, 1.5])
def test_how_many_alternatives(lm, n):
    with pytest.raises((TypeError, ValueError), match=f"n={n}"):
        lm.alternatives("a", n=n)


def test_a_sampler_that_cannot_is_refused_by_name(lm):
    lm.compile(sampler=keras_hub.samplers.BeamSampler(num_beams=2))
    try:
        for ask in (lm.infill, lm.chat, lm.session().infill):
            with pytest.raises(ValueError, match="BeamSampler cannot drive infill"):
                ask("a", max_new_tokens=2)
        asked = lm.chat("a", max_new_tokens=2, sampling=Sampling())
    finally:
        lm.compile(sampler="greedy")
    assert asked == lm.chat("a", max_new_tokens=2)


def test_seeds_of_keras_and_of_samplers_take_effect(lm):
    import keras

    def drawn(**options):
        return lm.infill(PREFIX, SUFFIX, max_new_tokens=12, **options)

    keras.utils.set_random_seed(7)
    first, second = (drawn(sampling=SAMPLED) for _ in range(2))
    keras.utils.set_random_seed(7)
    assert [drawn(sampling=SAMPLED) for _ in range(2)] == [first, second]
    assert first != second
    assert drawn(sampling=SAMPLED, seed=np.uint32(5)) == drawn(sampling=SAMPLED, seed=5)
    texts = []
    for _ in range(2):
        lm.compile(sampler=keras_hub.samplers.RandomSampler(seed=11))
        texts.append([drawn(), drawn()])
    lm.compile(sampler="greedy")
    assert texts[0] == texts[1]
    assert texts[0][0] != texts[0][1]


def test_tidy_text_repeats_nothing(lm, monkeypatch):
    """The whole way, with the text of a model that repeats what stands there."""
    said = b"        total += value\n    return result\n"

    def ask(how, **options):
        texts = iter([said])
        monkeypatch.setattr(lm.tokenizer, "decode_bytes", lambda ids: next(texts, b""))
        drawn = {"sampling": SAMPLED, "seed": 3, "max_new_tokens": 9}
        return "".join(how(PREFIX, SUFFIX, **drawn, **options))

    for how in (lm.infill, lm.stream, lm.session().infill):
        assert ask(how, tidy=True) == "total += value"
        assert ask(how, stop_at_suffix=True) == "        total += value"
        assert ask(how) == said.decode()


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
        lm.engine, "decode", lambda *a: visits.append(int(a[2])) or decode(*a)
    )
    for _ in lm.stream(PREFIX, SUFFIX, max_new_tokens=100, sampling=SAMPLED, seed=3):
        break
    assert sum(visits) <= WATCHED_VISIT
    again = lm.complete(PREFIX, SUFFIX, max_new_tokens=4, sampling=SAMPLED, seed=3)
    assert again.token_ids


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


def test_alternatives_that_cannot_differ_are_said_so(lm):
    with pytest.warns(UserWarning, match="All 2 completions are the same") as told:
        first, second = lm.alternatives(PREFIX, SUFFIX, n=2, max_new_tokens=3)
    assert told[0].filename == __file__
    assert first.token_ids == second.token_ids
    # Warnings are errors: none where greedy is asked for, or another sampler is compiled.
    lm.alternatives(PREFIX, SUFFIX, n=2, max_new_tokens=3, sampling=Sampling())
    lm.compile(sampler=keras_hub.samplers.TopKSampler(5, seed=1))
    try:
        lm.alternatives(PREFIX, SUFFIX, n=2, max_new_tokens=3)
    finally:
        lm.compile(sampler="greedy")


def test_options_of_sampling_are_led_to_it(lm):
    with pytest.raises(TypeError, match=r"Give sampling=Sampling\(temperature=0.8\)"):
        lm.alternatives(PREFIX, n=2, temperature=0.8)


def test_log_probabilities_agree_with_those_of_a_completion(lm):
    completion = lm.complete(PREFIX, SUFFIX, max_new_tokens=8, sampling=SAMPLED, seed=3)
    parts = fim.render(PREFIX, SUFFIX)
    prompt = [lm.tokenizer.start_token_id, *lm.tokenizer.encode(parts)]
    [scores] = lm.log_probabilities([prompt + completion.token_ids])
    n = len(completion.token_ids)
    assert n > 0
    assert scores[-n:] == pytest.approx(completion.log_probabilities, abs=1e-3)
    with pytest.raises(TypeError, match="a list of texts"):
        lm.log_probabilities("text")


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
