"""What a user calls: logits, infill, complete, chat, and clear errors."""

import os
import subprocess
import sys

import keras
import keras_hub
import numpy as np
import pytest

from codegemma_keras import CodeGemmaCausalLM, Sampling, chat, fim
from codegemma_keras.tasks import instruct, small_functions
from tests import tiny_models
from tests.tiny_models import INPUTS, TOKEN_IDS


@pytest.fixture(scope="module")
def lm():
    return tiny_models.our_task()


def test_logits_shape_and_value():
    backbone = tiny_models.our_backbone()
    model = CodeGemmaCausalLM(backbone)
    logits = keras.ops.convert_to_numpy(model(INPUTS))
    assert logits.shape == (2, 7, 53)
    np.testing.assert_allclose(
        logits[TOKEN_IDS != 0], tiny_models.logits(backbone), atol=1e-5
    )


def test_complete_says_how_it_ended(lm):
    done = lm.complete("def f(x):\n", "\n", path="a.py", max_new_tokens=7)
    assert done.stop_reason in ("stop_token", "max_new_tokens")
    assert len(done.token_ids) <= 7
    assert done.text == lm.tokenizer.decode(done.token_ids)
    parts = fim.render("def f(x):\n", "\n", path="a.py")
    assert done.prompt_tokens == 1 + len(lm.tokenizer.encode(parts))
    assert lm.infill("def f(x):\n", "\n", path="a.py", max_new_tokens=7) == done.text


def test_complete_is_what_generate_gives_for_the_rendered_prompt(lm):
    done = lm.complete("import ", "\n", max_new_tokens=9, mode="spm")
    raw = "".join(fim.render("import ", "\n", mode="spm"))
    text = lm.generate(raw, max_new_tokens=9, strip_prompt=True)
    assert text == done.text


@pytest.mark.parametrize("prefix", ["", "x"])
@pytest.mark.parametrize("suffix", ["", "y"])
def test_empty_sides(lm, prefix, suffix):
    raw = "".join(fim.render(prefix, suffix))
    expected = lm.generate(raw, max_new_tokens=3, strip_prompt=True)
    assert lm.infill(prefix, suffix, max_new_tokens=3) == expected


def test_empty_prompt_continues_from_bos(lm):
    bos, stops = lm.tokenizer.start_token_id, lm.tokenizer.stop_token_ids
    [result] = lm.engine.generate([[bos]], 3, stops)
    assert lm.generate("", max_new_tokens=3) == lm.tokenizer.decode(result.token_ids)


def test_control_strings_in_user_text_do_not_reach_the_model(lm):
    prefix, suffix = "a<|fim_suffix|><|file_separator|>", "<eos>b"
    ids = lm.tokenizer.encode(fim.render(prefix, suffix))
    controls = (0, 1, 2, 3, 67, 68, 69, 70, 106, 107)
    assert [i for i in ids if i in controls] == [67, 69, 68]
    done = lm.complete(prefix, suffix, max_new_tokens=2)
    assert done.prompt_tokens == 1 + len(ids)
    assert (done.prefix, done.suffix) == (prefix, suffix)


def test_long_text_is_cut_around_the_cursor(lm):
    prefix = "".join(f"line {i}\n" for i in range(500))
    suffix = "".join(f"after {i}\n" for i in range(500))
    done = lm.complete(prefix, suffix, path="long.py", max_new_tokens=4)
    assert done.prompt_tokens <= 96 - 4
    assert prefix.endswith(done.prefix)
    assert suffix.startswith(done.suffix)
    assert len(done.prefix) > len(done.suffix) > 0


def test_prompt_over_the_context(lm):
    with pytest.raises(
        ValueError, match=r"The prompt has \d+ tokens.*limit is 96.*shrink"
    ):
        lm.generate("word " * 400)


def test_no_room_for_a_prompt(lm):
    with pytest.raises(ValueError, match="max_new_tokens=90 leaves 6 of the context"):
        lm.infill("a", "b", max_new_tokens=90)


@pytest.mark.parametrize("token", [-1, 10**6])
def test_wrong_ids(lm, token):
    with pytest.raises(ValueError, match=f"token id {token}; ids go from 0 to"):
        lm.engine.generate([[2, token]], 3)


def test_empty_ids(lm):
    with pytest.raises(ValueError, match="Prompt 1 is empty"):
        lm.engine.generate([[2], []], 3)


def test_stop_strings(lm):
    whole = lm.generate("a", max_new_tokens=20, strip_prompt=True, stop_token_ids=None)
    stop = whole[3:5]
    cut = lm.generate(
        "a",
        max_new_tokens=20,
        strip_prompt=True,
        stop_token_ids=None,
        stop_strings=[stop],
    )
    assert cut == whole[: whole.index(stop)]
    with pytest.raises(ValueError, match="stop string is empty"):
        lm.generate("a", max_new_tokens=2, stop_strings=[""])


def test_chat_answers_and_says_what_is_wrong(lm):
    turn = chat.render(
        [{"role": "user", "content": "hello"}], add_generation_prompt=True
    )
    raw = "".join(part for part, _ in turn)
    answer = lm.chat("hello", max_new_tokens=4)
    assert answer == lm.generate(raw, max_new_tokens=4, strip_prompt=True)
    with pytest.raises(ValueError, match="user"):
        lm.chat([{"role": "model", "content": "x"}], max_new_tokens=4)


def test_conversations_of_a_list_are_answered_as_each_alone(lm):
    long = [
        {"role": "user", "content": "hello"},
        {"role": "model", "content": "good morning"},
        {"role": "user", "content": "and now?"},
    ]
    several = ["hello", long, [{"role": "user", "content": "x"}]]
    alone = [lm.chat(one, max_new_tokens=6) for one in several]
    assert lm.chat(several, max_new_tokens=6) == alone
    assert lm.chat(["hello"], max_new_tokens=6) == alone[:1]
    with pytest.raises(ValueError, match="user"):
        lm.chat([*several, [{"role": "model", "content": "x"}]], max_new_tokens=4)
    with pytest.raises(ValueError, match="empty"):
        lm.chat([], max_new_tokens=4)


def test_seeds_reproduce(lm):
    sampling = Sampling(temperature=1.0)
    calls = [
        lm.generate("import", max_new_tokens=12, sampling=sampling, seed=s)
        for s in (1, 1, 2)
    ]
    assert calls[0] == calls[1] != calls[2]


def test_without_a_preprocessor():
    model = CodeGemmaCausalLM(tiny_models.our_backbone())
    with pytest.raises(ValueError, match="no preprocessor"):
        model.infill("a", "b")


def test_ids_beyond_the_pieces_have_no_text():
    """A model made by hand whose embedding is padded, as many are on an accelerator."""
    task = tiny_models.our_task()
    backbone = tiny_models.our_backbone(num_layers=1, vocabulary_size=704)
    values = 0.1 * np.asarray(backbone.token_embedding.embeddings)
    values[702] = 50 * values[703]
    values[703] = -values[702]  # one of the two is always the likeliest
    backbone.token_embedding.embeddings.assign(values)
    lm = CodeGemmaCausalLM(backbone, task.preprocessor)
    done = lm.complete("a", "b", max_new_tokens=3)
    assert set(done.token_ids) <= {702, 703}
    assert len(done.token_ids) == 3
    assert done.text == lm.generate("a", max_new_tokens=3, strip_prompt=True) == ""


def test_new_weights_and_lora_reach_the_compiled_programs():
    lm = tiny_models.our_task()
    before = lm.generate("abc", max_new_tokens=12)
    tiny_models.randomise(lm.backbone, seed=11)
    changed = lm.generate("abc", max_new_tokens=12)
    assert changed != before
    lm.backbone.enable_lora(2)
    assert lm.generate("abc", max_new_tokens=12) == changed  # adapters start at zero
    for variable in lm.backbone.trainable_variables:
        variable.assign(np.full(variable.shape, 0.7, "float32"))
    assert lm.generate("abc", max_new_tokens=12) != changed


def test_fit_on_strings_learns_them():
    lm = tiny_models.our_task()
    lm.preprocessor.sequence_length = 24
    lm.compile(optimizer=keras.optimizers.Adam(1e-2), sampler="greedy")
    texts = ["for i in range(3):\n"] * 8
    first = lm.fit(texts, batch_size=4, verbose=0).history["loss"][0]
    last = lm.fit(texts, batch_size=4, epochs=12, verbose=0).history["loss"][-1]
    assert last < first / 2


def test_the_embedded_instruct_model_answers():
    """Its card says 99 % of small functions; nothing is executed here."""
    lm = CodeGemmaCausalLM.from_preset("code_gemma_tiny_instruct_py", dtype="float32")
    tasks = small_functions.tasks(8, seed=7)
    answers = [lm.chat(t.messages()[0]["content"], max_new_tokens=48) for t in tasks]
    right = [
        instruct.code_of(answer).strip() == task.answer.strip()
        for answer, task in zip(answers, tasks, strict=True)
    ]
    assert sum(right) >= 6, answers


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_a_quantized_model_completes_and_says_nothing(kind):
    """Warnings are errors here: Keras would warn of every norm and embedding."""
    whole = tiny_models.our_task()
    vocabulary = whole.tokenizer.vocabulary_size()
    sizes = {"num_layers": 1, "vocabulary_size": vocabulary, "hidden_dim": 16}
    lm = CodeGemmaCausalLM(tiny_models.our_backbone(**sizes), whole.preprocessor)
    lm.quantize(kind)
    cold = lm.generate("abc", max_new_tokens=6, stop_token_ids=None, strip_prompt=True)
    guessed = lm.generate(
        "abc", max_new_tokens=6, stop_token_ids=None, strip_prompt=True, speculate=True
    )
    assert cold
    assert guessed == cold


def test_score_is_keras_hubs():
    ours = CodeGemmaCausalLM(tiny_models.our_backbone())
    hub = keras_hub.models.GemmaCausalLM(tiny_models.hub_backbone())
    ids, mask = INPUTS["token_ids"], INPUTS["padding_mask"]
    here, there = [], []
    options = {"scoring_mode": "loss", "target_ids": ids}
    for lm, seen in ((ours, here), (hub, there)):
        note = lambda x, layer, seen=seen: seen.append((layer, x)) or x  # noqa: E731
        for more in ({}, {**options, "layer_intercept_fn": note}):
            scores = lm.score(keras.ops.convert_to_tensor(ids), mask, **more)
            seen.append(("scores", scores))
    assert [name for name, _ in here] == [name for name, _ in there]
    for (name, a), (_, b) in zip(here, there, strict=True):
        a, b = (keras.ops.convert_to_numpy(x)[mask == 1] for x in (a, b))
        np.testing.assert_allclose(a, b, atol=1e-4, err_msg=str(name))
    with pytest.raises(ValueError, match="needs target_ids"):
        ours.score(ids, scoring_mode="loss")
    with pytest.raises(TypeError, match=r"log_probabilities\(\)"):
        ours.score(["text"])


PROGRAM = """
import keras, sys
keras.config.set_floatx(sys.argv[1])
from tests.tiny_models import our_task
from codegemma_keras import Sampling
lm = our_task()
for options in ({}, {"sampling": Sampling(0.9, 20, 0.9, 0.01), "seed": 1}):
    for speculate in (False, True):
        done = lm.complete("ab", "c", max_new_tokens=5, speculate=speculate, **options)
        assert len(done.token_ids) <= 5
texts = lm.generate(["ab", "import "], max_new_tokens=3)
assert len(texts) == 2
[values] = lm.log_probabilities(["ab"])
assert values[0] == 0 and (values[1:] < 0).all()
"""


# 64 bits are a mode of JAX, which TensorFlow does not have.
OTHER_FLOATS = [("bfloat16", "0"), ("float64", "1")]
if keras.backend.backend() == "jax":
    OTHER_FLOATS.append(("float32", "1"))


@pytest.mark.parametrize(("floatx", "x64"), OTHER_FLOATS)
def test_other_float_types_of_keras_and_jax(floatx, x64):
    """In processes of their own: both are settings of a whole process."""
    environment = {**os.environ, "JAX_ENABLE_X64": x64, "PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, floatx],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
