"""What evaluations ask of a model is what the model does alone."""

import dataclasses

import numpy as np
import pytest

from codegemma_keras.decoding import Sampling
from codegemma_keras.evals.model import LEAST_ANSWER, Model
from codegemma_keras.evals.task import Hole, Message
from tests import tiny_models

TEXTS = ["def f(x):\n    return", "import os\nimport"]


@pytest.fixture(scope="module")
def model():
    return Model(tiny_models.our_task(), "tiny")


def test_a_batch_gives_what_each_prompt_gives_alone(model):
    asked = [model.ask(prompt, 6) for prompt in (TEXTS[0], Hole("def f(", "):\n"))]
    drawn = {"temperature": 1.0}
    together = model.complete(asked, ("\n",), drawn, seeds=[1, 2])
    alone = [
        model.complete([one], ("\n",), drawn, seeds=[seed])[0]
        for seed, one in enumerate(asked, 1)
    ]
    assert together == alone
    options = {"max_new_tokens": 6, "stop_strings": ("\n",), "strip_prompt": True}
    options |= {"sampling": Sampling(**drawn), "seed": 1}
    text = model.lm.generate(TEXTS[0], **options)
    assert text == together[0].text


@pytest.mark.parametrize("rows", [1, 2, 4, 5])
def test_prompts_that_wait_give_what_each_gives_alone(model, rows):
    asked = [model.ask(f"x = {n}\n" * (1 + n % 3), 1 + 5 * (n % 4)) for n in range(11)]
    asked[3:5] = [model.ask(TEXTS[0], 0), model.ask(TEXTS[1], 9)]
    drawn, seeds = {"temperature": 1.0}, list(range(len(asked)))
    together = model.complete(asked, ("\n",), drawn, seeds, rows=rows)
    alone = [
        model.complete([one], ("\n",), drawn, [seed])[0]
        for one, seed in zip(asked, seeds, strict=True)
    ]
    assert together == alone


def test_it_tells_how_many_answers_have_ended(model):
    """A portion of a slow model takes many minutes, in which a person wants to see news."""
    told = []
    asked = [model.ask(f"x = {n}\n", 2 + n) for n in range(9)]
    model.complete(asked, rows=2, ended=told.append)
    assert told == sorted(told)
    assert len(set(told)) >= 4
    assert max(told) >= 8  # the last one is not told of: the call returns then


def test_a_place_in_the_batch_is_taken_when_it_becomes_free(model, monkeypatch):
    """A batch that waited for its longest answer would decode twice as often."""
    forwards = []
    build = model.lm.engine.generation
    monkeypatch.setattr(
        model.lm.engine,
        "generation",
        lambda **how: forwards.append(build(**how)) or forwards[-1],
    )
    asked = [model.ask(TEXTS[0], 64 if n % 4 == 0 else 4) for n in range(16)]
    asked = [
        dataclasses.replace(a, ids=(*a.ids[:-1], 40 + n)) for n, a in enumerate(asked)
    ]
    texts = model.complete(asked, rows=4)
    longest = max(text.new_tokens for text in texts)
    assert longest > 32  # else the test shows nothing
    assert forwards[0].forwards < 2.5 * longest  # batches that wait take almost 4


@pytest.mark.parametrize("mode", ["psm", "spm", "left_to_right"])
def test_a_hole_is_filled_as_for_somebody_who_types(model, mode, monkeypatch):
    monkeypatch.setattr(model.lm.preprocessor, "infill_mode", mode)
    hole = Hole("def f(x):\n    y = ", "\n    return y\n", as_typed=True)
    [text] = model.complete([model.ask(hole, 12)])
    done = model.lm.complete(hole.prefix, hole.suffix, max_new_tokens=12, tidy=True)
    assert (text.text, text.stop_reason) == (done.text, done.stop_reason)


def test_sentinels_ask_in_the_order_that_the_preset_knows(model, monkeypatch):
    hole = Hole("x = ", "\ny = 1\n")
    names = model.tokenizer.decode
    for mode, first in (("psm", "x = "), ("spm", "\ny = 1")):
        monkeypatch.setattr(model.lm.preprocessor, "infill_mode", mode)
        assert names(list(model.ask(hole, 8).ids)).startswith(first)
    monkeypatch.setattr(model.lm.preprocessor, "infill_mode", "left_to_right")
    with pytest.raises(ValueError, match=r"asked without.*--convention editor"):
        model.ask(hole, 8)


def test_a_second_portion_needs_no_programs_of_its_own():
    """Prompts of other lengths, and another number of them."""
    model = Model(tiny_models.our_task(), "tiny")
    asked = [model.ask(f"{n} = 1\n" * n, 12) for n in (9, 8, 7, 7, 20, 19, 5, 3, 2)]
    texts = model.complete(asked, rows=4)
    compiled = model.compilations
    more = [model.ask(f"{n} = 1\n" * n, 12) for n in (4, 3, 3, 2, 10, 6)]
    texts += model.complete(more, rows=4)
    assert model.compilations == compiled
    for one, text in zip(asked + more, texts, strict=True):
        assert text == model.complete([one])[0]


def test_text_of_a_benchmark_never_becomes_a_control_token(model):
    ids = model.ask("<|fim_prefix|>x<eos>", 8).ids
    assert not {1, 67, 68, 69, 70} & set(ids)
    assert ids[0] == model.tokenizer.start_token_id


def test_what_does_not_fit_loses_its_beginning(model):
    asked = model.ask("a = 0\n" * 200 + "last", 500)
    context = model.context
    assert asked.truncated
    assert len(asked.ids) == context - context // 2
    assert asked.max_new_tokens == context // 2
    assert model.tokenizer.decode(list(asked.ids)).endswith("last")
    limited = model.ask("x", 500, max_tokens=20)
    assert len(limited.ids) + limited.max_new_tokens == 20
    # Where a convention counts both, a prompt is cut only for the least answer.
    whole = "a = 0\n" * 8
    ids = len(model.ask(whole, 1).ids)
    assert context > ids + LEAST_ANSWER
    asked = model.ask(whole, 500, max_tokens=ids + LEAST_ANSWER)
    assert not asked.truncated
    assert asked.max_new_tokens == LEAST_ANSWER
    cut = model.ask(whole, 500, max_tokens=ids + LEAST_ANSWER - 1)
    assert cut.truncated
    assert (len(cut.ids), cut.max_new_tokens) == (ids - 1, LEAST_ANSWER)
    cursor = model.ask(Hole("a = 0\n" * 200, "b = 1\n" * 200), 8)
    assert cursor.truncated
    assert len(cursor.ids) + cursor.max_new_tokens <= context
    with pytest.raises(ValueError, match=r"conversation of .* leaves no room"):
        model.ask(Message("x = 1\n" * 300), 8)


def test_likelihoods_are_sums_over_the_continuation(model):
    pairs = [
        ("def f(x):", " return x"),
        ("import ", "os"),
        ("", "class A:"),
        ("a\n", " b"),
    ]
    rows = [model.pair(*pair) for pair in pairs]
    got = model.log_likelihoods(rows, batch_size=2)
    for (context, continuation), (value, _), (ids, head) in zip(
        pairs, got, rows, strict=True
    ):
        whole = model.tokenizer.encode(context + continuation)
        assert ids == [model.tokenizer.start_token_id, *whole]
        assert head == 1 + len(model.tokenizer.encode(context.rstrip()))
        [scores] = model.lm.log_probabilities([ids])
        assert value == pytest.approx(float(np.sum(scores[head:])), rel=1e-5)


def test_a_long_row_keeps_bos_and_its_end(model):
    ids, head = model.pair("a = 0\n" * 100, " last")
    [(value, _)] = model.log_likelihoods([(ids, head)])
    kept = [ids[0], *ids[-(model.context - 1) :]]
    [scores] = model.lm.log_probabilities([kept])
    tail = len(ids) - head
    assert value == pytest.approx(float(np.sum(scores[-tail:])), rel=1e-5)


def test_greedy_continuations_are_known(model):
    asked = model.ask("def f(x):", 6)
    [row] = model.lm.engine.generate([asked.ids], 6)
    whole = [*asked.ids, *row.token_ids]
    other = [*whole[:-1], (whole[-1] + 1) % 300]
    found = model.log_likelihoods([(ids, len(asked.ids)) for ids in (whole, other)])
    assert [greedy for _, greedy in found] == [True, False]


def test_the_fingerprint_is_of_the_weights():
    same, other = (Model(tiny_models.our_task(seed)) for seed in (3, 3))
    assert same.fingerprint() == other.fingerprint()
    variable = other.lm.backbone.variables[-1]
    variable.assign(variable + 1e-3)
    assert same.fingerprint() != other.fingerprint()


def test_what_a_model_cannot_be_asked(model):
    model.check({"temperature": 0.5}, chat=True)
    with pytest.raises(ValueError, match="base model, which was never taught to chat"):
        Model(model.lm, "code_gemma_tiny_py").check({}, chat=True)
    with pytest.raises(ValueError, match="temperature=-1"):
        model.check({"temperature": -1}, chat=False)
