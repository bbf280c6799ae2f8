"""`generate()` beside KerasHub's own on the same weights, and its samplers with ours."""

import keras
import keras_hub
import numpy as np
import pytest

from codegemma_keras import (
    CodeGemmaCausalLM,
    CodeGemmaCausalLMPreprocessor,
    CodeGemmaTokenizer,
)
from codegemma_keras.decoding import Sampling
from tests.small_vocabulary import small_vocabulary
from tests.tiny_models import hub_backbone, our_backbone

LENGTH = 24
TEXTS = ["def mean(values):", "import "]


@pytest.fixture(scope="module")
def pair():
    """Our model and KerasHub's, of the same weights and vocabulary."""
    proto = small_vocabulary()
    tokenizer = CodeGemmaTokenizer(proto=proto)
    size = tokenizer.vocabulary_size()
    ours = CodeGemmaCausalLM(
        our_backbone(vocabulary_size=size),
        CodeGemmaCausalLMPreprocessor(tokenizer, sequence_length=LENGTH),
    )
    hub = keras_hub.models.GemmaCausalLM(
        hub_backbone(vocabulary_size=size),
        keras_hub.models.GemmaCausalLMPreprocessor(
            keras_hub.models.GemmaTokenizer(proto=proto), sequence_length=LENGTH
        ),
    )
    hub.compile(sampler="greedy")
    return ours, hub


def batch(lm, texts):
    """Texts as the dictionary that `generate` takes without a preprocessor."""
    ids = np.zeros((len(texts), LENGTH), "int32")
    mask = np.zeros((len(texts), LENGTH), "bool")
    for row, text in enumerate(texts):
        tokens = [lm.tokenizer.start_token_id, *lm.tokenizer.encode(text)]
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = True
    return {"token_ids": ids, "padding_mask": mask}


def without_preprocessor(lm, inputs, **kwargs):
    preprocessor, lm.preprocessor = lm.preprocessor, None
    try:
        return lm.generate(inputs, **kwargs)
    finally:
        lm.preprocessor = preprocessor


def test_greedy_text_is_keras_hubs(pair):
    ours, hub = pair
    for kwargs in ({}, {"max_length": 18}, {"strip_prompt": True}):
        want = hub.generate(TEXTS, stop_token_ids=None, **kwargs)
        assert ours.generate(TEXTS, stop_token_ids=None, **kwargs) == want
    [want] = hub.generate(TEXTS[:1], stop_token_ids=None)
    assert ours.generate(TEXTS[0], stop_token_ids=None) == want


def test_stop_tokens_are_keras_hubs(pair):
    ours, hub = pair
    inputs = batch(ours, TEXTS[:1])
    free = without_preprocessor(ours, inputs, stop_token_ids=None)["token_ids"][0]
    stop = int(free[inputs["padding_mask"].sum() + 3])
    got = without_preprocessor(ours, inputs, stop_token_ids=[stop])
    want = without_preprocessor(hub, inputs, stop_token_ids=[stop])
    mask = keras.ops.convert_to_numpy(want["padding_mask"]).astype(bool)
    np.testing.assert_array_equal(got["padding_mask"], mask)
    np.testing.assert_array_equal(
        got["token_ids"][mask], keras.ops.convert_to_numpy(want["token_ids"])[mask]
    )


def test_token_ids_in_and_out_are_keras_hubs(pair):
    ours, hub = pair
    inputs = batch(ours, TEXTS)
    got = without_preprocessor(ours, inputs, stop_token_ids=None)
    want = without_preprocessor(hub, inputs, stop_token_ids=None)
    for key in ("token_ids", "padding_mask"):
        np.testing.assert_array_equal(got[key], keras.ops.convert_to_numpy(want[key]))


def test_beam_search_is_keras_hubs(pair):
    ours, hub = pair
    sampler = keras_hub.samplers.BeamSampler(num_beams=3)
    for lm in pair:
        lm.compile(sampler=sampler)
    try:
        want = hub.generate(TEXTS[:1], stop_token_ids=None)
        assert ours.generate(TEXTS[:1], stop_token_ids=None) == want
        with pytest.raises(ValueError, match="BeamSampler cannot drive infill"):
            ours.infill("a", "b", max_new_tokens=2)
    finally:
        for lm in pair:
            lm.compile(sampler="greedy")


@pytest.fixture
def beam(pair):
    ours, _ = pair
    ours.compile(sampler=keras_hub.samplers.BeamSampler(num_beams=2))
    yield ours
    ours.compile(sampler="greedy")


def test_a_sampler_of_its_own_honours_or_refuses_every_option(beam):
    free = beam.generate(TEXTS[1], stop_token_ids=None, strip_prompt=True)
    cut = beam.generate(
        TEXTS[1], stop_token_ids=None, strip_prompt=True, stop_strings=[free[2:4]]
    )
    assert cut == free.split(free[2:4])[0]
    few = beam.generate(
        TEXTS[1], stop_token_ids=None, strip_prompt=True, max_new_tokens=2
    )
    assert free.startswith(few)
    assert len(few) < len(free)
    for option in ({"seed": 3}, {"speculate": True}):
        with pytest.raises(ValueError, match=r"BeamSampler draws.*have no effect"):
            beam.generate(TEXTS[1], **option)
    with pytest.raises(ValueError, match=r"has \d+ tokens, but the limit is 24"):
        beam.generate("x = 1\n" * 20)
    assert beam.generate(TEXTS[1], sampling=Sampling(), seed=3)


# What may be given


def test_text_of_every_kind(pair):
    ours, _ = pair
    want = ours.generate(TEXTS, max_new_tokens=3)
    given = [
        [text.encode() for text in TEXTS],
        tuple(TEXTS),
        np.array(TEXTS),
        np.array(TEXTS, dtype=object),
        np.array([text.encode() for text in TEXTS], dtype=object),
    ]
    for inputs in given:
        assert ours.generate(inputs, max_new_tokens=3) == want
    for one in (TEXTS[0], TEXTS[0].encode(), np.array(TEXTS[0])):
        assert ours.generate(one, max_new_tokens=3) == want[0]
    assert ours.generate([], max_new_tokens=3) == []


def test_tensors_and_datasets_of_tensorflow(pair):
    import tensorflow as tf

    ours, _ = pair
    want = ours.generate(TEXTS, max_new_tokens=3)
    dataset = tf.data.Dataset.from_tensor_slices(TEXTS)
    for inputs in (tf.constant(TEXTS), dataset, dataset.batch(1), dataset.batch(2)):
        assert ours.generate(inputs, max_new_tokens=3) == want
    assert ours.generate(tf.constant(TEXTS[0]), max_new_tokens=3) == want[0]
    ids = batch(ours, TEXTS)
    want = ours.generate(ids, max_new_tokens=3)
    dataset = tf.data.Dataset.from_tensor_slices(ids).batch(1)
    got = ours.generate(dataset, max_new_tokens=3)
    for key in want:
        np.testing.assert_array_equal(got[key], want[key])


@pytest.mark.parametrize("inputs", [None, 3, [None], [["a"]], ["a", 3.5]])
def test_what_is_no_text_is_refused(pair, inputs):
    with pytest.raises(TypeError, match="text"):
        pair[0].generate(inputs)


def test_bytes_that_are_no_text_are_refused(pair):
    with pytest.raises(ValueError, match="not UTF-8"):
        pair[0].generate(b"\xff")


def test_options_of_token_ids_are_honoured(pair):
    ours, _ = pair
    ids = batch(ours, TEXTS)
    free = ours.generate(ids, stop_token_ids=None)
    lengths = ids["padding_mask"].sum(axis=1)
    some = ours.generate(ids, stop_token_ids=None, max_new_tokens=3)
    np.testing.assert_array_equal(some["padding_mask"].sum(axis=1), lengths + 3)
    some = ours.generate(ids, stop_token_ids=None, max_length=18)
    np.testing.assert_array_equal(some["padding_mask"].sum(axis=1), [18, 18])
    np.testing.assert_array_equal(some["token_ids"][:, :18], free["token_ids"][:, :18])
    new = [row[n:] for row, n in zip(free["token_ids"], lengths, strict=True)]
    stop = ours.tokenizer.decode(new[0].tolist())[2:4]
    cut = ours.generate(
        ids, stop_token_ids=None, stop_strings=[stop], strip_prompt=True
    )
    written = cut["token_ids"][0][cut["padding_mask"][0]].tolist()
    assert stop in ours.tokenizer.decode(written)
    assert stop not in ours.tokenizer.decode(
        written[:-1]
    )  # the last token completes it
    one = {key: value[0] for key, value in ids.items()}
    np.testing.assert_array_equal(
        ours.generate(one, stop_token_ids=None)["token_ids"], free["token_ids"][0]
    )
    with pytest.raises(
        ValueError, match="max_length=30, but token_ids have room for 24"
    ):
        ours.generate(ids, max_length=30)
    with pytest.raises(ValueError, match="stop_strings need a tokenizer"):
        without_preprocessor(ours, ids, stop_token_ids=None, stop_strings=["a"])
    with pytest.raises(ValueError, match="padding_mask"):
        ours.generate({"token_ids": ids["token_ids"]})


def test_prompts_padded_on_the_left_are_read(pair):
    ours, _ = pair
    right = batch(ours, TEXTS)
    left = {key: np.zeros_like(value) for key, value in right.items()}
    for row, n in enumerate(right["padding_mask"].sum(axis=1)):
        for key in left:
            left[key][row, LENGTH - n :] = right[key][row, :n]
    want = ours.generate(right, stop_token_ids=None)
    got = ours.generate(left, stop_token_ids=None)
    np.testing.assert_array_equal(got["token_ids"], want["token_ids"])
    left["padding_mask"][0, -2] = False
    with pytest.raises(ValueError, match="padding_mask has a hole"):
        ours.generate(left)


def test_settings_of_keras_hubs_samplers_are_read():
    samplers = keras_hub.samplers
    read = Sampling.from_keras_hub
    assert read(samplers.GreedySampler()) == Sampling()
    assert read(samplers.RandomSampler(temperature=0.5)) == Sampling(0.5)
    assert read(samplers.TopKSampler(k=4)) == Sampling(1.0, top_k=4)
    assert read(samplers.TopPSampler(p=0.8, k=9)) == Sampling(1.0, 9, 0.8)
    assert read(samplers.BeamSampler()) is None

    class Mine(samplers.GreedySampler):
        pass

    assert read(Mine()) is None


@pytest.mark.parametrize(
    "sampler",
    [keras_hub.samplers.TopKSampler(k=5), keras_hub.samplers.TopPSampler(p=0.9)],
    ids=["top_k", "top_p"],
)
def test_compiled_samplers_drive_generate(pair, sampler):
    ours, _ = pair
    ours.compile(sampler=sampler)
    try:
        one = ours.generate(TEXTS, seed=1, stop_token_ids=None)
        assert one == ours.generate(TEXTS, seed=1, stop_token_ids=None)
        assert one != ours.generate(TEXTS, seed=2, stop_token_ids=None)
        # The first row of a batch is as if asked alone.
        assert one[0] == ours.generate(TEXTS[0], seed=1, stop_token_ids=None)
    finally:
        ours.compile(sampler="greedy")


def test_a_prompt_that_does_not_fit_says_so(pair):
    ours, _ = pair
    with pytest.raises(ValueError, match=r"has \d+ tokens, but the limit is 24"):
        ours.generate("x = 1\n" * 20)
    with pytest.raises(ValueError, match="leaves 8 of the context of 24 tokens"):
        ours.infill("a", max_new_tokens=16)
    with pytest.raises(
        ValueError, match="max_new_tokens=300 is as much as the context"
    ):
        ours.infill("a", max_new_tokens=300)


def test_stop_strings_of_a_batch(pair):
    ours, _ = pair
    free = ours.generate(TEXTS, stop_token_ids=None, strip_prompt=True)
    stop = free[0][2:4]
    cut = ours.generate(
        TEXTS, stop_token_ids=None, strip_prompt=True, stop_strings=[stop]
    )
    assert cut == [text.split(stop)[0] for text in free]
