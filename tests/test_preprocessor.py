"""Text to training rows: what is a target, what is cut, and what never is."""

import os
import subprocess
import sys

import grain
import keras
import numpy as np
import pytest
import tensorflow as tf

from codegemma_keras import (
    CodeGemmaCausalLMPreprocessor,
    CodeGemmaChatPreprocessor,
    CodeGemmaFIMPreprocessor,
    CodeGemmaTokenizer,
    fim,
)
from codegemma_keras.batches import PackedBatch
from codegemma_keras.data.document import Document
from codegemma_keras.data.rows.examples import chunk_repository
from tests import tiny_models
from tests.small_vocabulary import small_vocabulary


@pytest.fixture(scope="module")
def tokenizer():
    return CodeGemmaTokenizer(proto=small_vocabulary())


TEXT = "import os\n\n\ndef size(path):\n    return os.stat(path).st_size\n"


def test_plain_is_shifted_by_one(tokenizer):
    preprocessor = CodeGemmaCausalLMPreprocessor(tokenizer, sequence_length=64)
    x, y, weight = numpy_of(*preprocessor([TEXT]))
    ids = [2, *tokenizer.encode(TEXT), 1]
    assert x["token_ids"][0, : len(ids)].tolist() == ids
    assert y[0, : len(ids) - 1].tolist() == ids[1:]
    assert weight[0].sum() == len(ids) - 1
    assert x["padding_mask"][0].sum() == len(ids)


def test_fim_row_parses_back_and_ends(tokenizer):
    preprocessor = CodeGemmaFIMPreprocessor(tokenizer, 256, fim_rate=1.0)
    for seed in range(20):
        preprocessor.seed = seed
        ids, weight = preprocessor.row(TEXT, "a/size.py")
        assert ids[0] == 2
        assert ids[-1] == 1
        infill = fim.parse(tokenizer.decode_parts(ids))
        assert infill.path == "a/size.py"
        assert infill.prefix + infill.middle + infill.suffix == TEXT
        assert sum(weight) == len(ids) - 1  # loss on all three parts


def test_fim_rates(tokenizer):
    preprocessor = CodeGemmaFIMPreprocessor(tokenizer, 64, fim_rate=0.9)
    count = 1500
    split = spm = 0
    for i in range(count):
        ids, _ = preprocessor.row(f"x = {i}\n")
        split += tokenizer.fim_middle_id in ids
        spm += ids[1] == tokenizer.fim_suffix_id
    assert abs(split - 0.9 * count) < 3 * (count * 0.9 * 0.1) ** 0.5
    assert abs(spm - split / 2) < 3 * (split * 0.25) ** 0.5


def test_fim_does_not_depend_on_order(tokenizer):
    preprocessor = CodeGemmaFIMPreprocessor(tokenizer, 64)
    texts = [f"y = {i} + 1\n" for i in range(9)]
    forward = numpy_of(*preprocessor(texts))[1]
    backward = numpy_of(*preprocessor(texts[::-1]))[1]
    np.testing.assert_array_equal(forward, backward[::-1])


def test_fim_never_loses_the_end_of_a_long_file(tokenizer):
    preprocessor = CodeGemmaFIMPreprocessor(tokenizer, 48, fim_rate=1.0)
    for seed in range(10):
        preprocessor.seed = seed
        ids, _ = preprocessor.row(TEXT * 50, "long.py")
        assert len(ids) <= 49
        assert ids[-1] == 1
        infill = fim.parse(tokenizer.decode_parts(ids))
        kept = infill.prefix + infill.middle + infill.suffix
        assert kept
        assert (TEXT * 50).startswith(kept)


def test_middle_only_weighs_the_middle_and_its_end(tokenizer):
    preprocessor = CodeGemmaFIMPreprocessor(
        tokenizer, 256, fim_rate=1.0, middle_only=True
    )
    ids, weight = preprocessor.row(TEXT, "size.py")
    start = ids.index(tokenizer.fim_middle_id) + 1
    assert weight == [0.0] * start + [1.0] * (len(ids) - start)


def test_control_strings_in_a_file_stay_text(tokenizer):
    preprocessor = CodeGemmaFIMPreprocessor(tokenizer, 256, fim_rate=0.0)
    ids, _ = preprocessor.row("a <|fim_middle|> <eos> b")
    assert tokenizer.fim_middle_id not in ids
    assert ids.count(1) == 1


def test_the_example_is_that_of_the_data_build(tokenizer):
    """Equal seeds, equal text, equal tokens; for a long file, those of its first piece."""
    preprocessor = CodeGemmaFIMPreprocessor(
        tokenizer, 96, span_lengths={"line_share": 0.3, "syntax_share": 0.4}, seed=5
    )
    for number in range(30):
        path, text = f"src/m{number}.py", TEXT * (1 + number % 9)
        document = Document(text, path, language="python")
        chunks = chunk_repository(
            [document], tokenizer, preprocessor.settings, 96, join=False
        )
        assert preprocessor.row(text, path)[0] == next(chunks).token_ids


def test_other_epochs_are_cut_otherwise(tokenizer):
    preprocessor = CodeGemmaFIMPreprocessor(tokenizer, 64, fim_rate=1.0)
    text = "".join(f"y{i} = {i}\n" for i in range(9))
    rows = [preprocessor.row(text, epoch=epoch)[0] for epoch in (0, 1, 2, 1)]
    assert rows[1] == rows[3]
    assert len({tuple(row) for row in rows}) == 3
    columns = {"text": [text] * 3, "epoch": [0, 1, 2]}
    y = preprocessor(columns).targets
    for row, expected in zip(y.tolist(), rows, strict=False):
        assert row[: len(expected) - 1] == expected[1:]


def test_a_long_path_never_costs_the_end(tokenizer):
    preprocessor = CodeGemmaFIMPreprocessor(tokenizer, 32, fim_rate=1.0)
    for length in range(1, 200, 3):
        path = "p" * length + ".py"
        ids, _ = preprocessor.row(TEXT, path)
        assert len(ids) <= 33
        assert ids[-1] == 1
        infill = fim.parse(tokenizer.decode_parts(ids))
        assert infill.path in (path, None)
        kept = infill.prefix + infill.middle + infill.suffix
        assert kept
        assert TEXT.startswith(kept)
    with pytest.raises(ValueError, match="Make rows longer"):
        preprocessor.row(TEXT, length=8)


def test_middles_weigh_more(tokenizer):
    heavy = CodeGemmaFIMPreprocessor(tokenizer, 256, fim_rate=1.0, middle_weight=5.0)
    ids, weight = heavy.row(TEXT, "size.py")
    start = ids.index(tokenizer.fim_middle_id) + 1
    assert weight == [0.0] + [1.0] * (start - 1) + [5.0] * (len(ids) - start)
    assert heavy([TEXT]).weights.max() == 5.0
    with pytest.raises(ValueError, match="middle_weight=-1"):
        CodeGemmaFIMPreprocessor(tokenizer, middle_weight=-1)


def test_span_lengths_are_checked(tokenizer):
    with pytest.raises(ValueError, match="span_lengths='words' must be one of"):
        CodeGemmaFIMPreprocessor(tokenizer, span_lengths="words")
    shares = {"line_share": 0.6, "block_share": 0.6}
    with pytest.raises(ValueError, match="add up to 1"):
        CodeGemmaFIMPreprocessor(tokenizer, span_lengths=shares)


def test_chat_weighs_answers_only(tokenizer):
    preprocessor = CodeGemmaChatPreprocessor(tokenizer, 128)
    messages = [
        {"role": "user", "content": "one?"},
        {"role": "model", "content": "ONE"},
        {"role": "user", "content": "two?"},
        {"role": "model", "content": "TWO"},
    ]
    x, y, weight = numpy_of(*preprocessor([messages]))
    answered = y[0][weight[0] > 0]
    assert tokenizer.decode(answered.tolist()).replace("\n", "") == "ONETWO"
    assert (answered == 107).sum() == 2  # each answer's end is learnt
    assert x["token_ids"][0, 0] == 2


SYSTEM = {"role": "system", "content": "Be brief."}


def talk(*contents):
    roles = ("user", "model") * len(contents)
    return [
        {"role": role, "content": content}
        for role, content in zip(roles, contents, strict=False)
    ]


def answers(tokenizer, row):
    """The texts of the answers that count, with the end of each."""
    ids, weights = row
    kept = [i for i, weight in zip(ids, weights, strict=True) if weight]
    return tokenizer.decode_parts(kept)


def test_a_conversation_too_long_keeps_its_first_rounds(tokenizer):
    preprocessor = CodeGemmaChatPreprocessor(tokenizer, 4096)
    messages = talk("one?", "ONE", "two?", "TWO", "three?", "THREE", "and?")
    whole = preprocessor.row(messages)
    kept = [preprocessor.row(messages, length) for length in range(len(whole[0]) + 9)]
    counts = [row[0].count(107) for row in kept]
    assert sorted(set(counts)) == [0, 2, 4, 6]
    assert counts == sorted(counts)
    for length, (ids, weights) in enumerate(kept):
        assert len(ids) <= length + 1
        assert ids == whole[0][: len(ids)]
        # No answer without its end, nothing after the last.
        assert not ids or (ids[-1], weights[-1]) == (107, 1.0)
    assert answers(tokenizer, kept[-1]) == [
        part for text in ("ONE", "TWO", "THREE") for part in (text, fim.STOP[-1])
    ]
    # The one that ended the run: nothing but a system message would be left.
    assert preprocessor.row([SYSTEM, *talk("long " * 99, "a")], 64) == ([], [])


def test_what_teaches_nothing_is_counted(tokenizer):
    preprocessor = CodeGemmaChatPreprocessor(tokenizer, 32)
    x, _, weights = preprocessor(
        [
            talk("a?", "A"),
            talk("long " * 99, "never"),
            talk("empty?", "  \n"),
            talk("no answer?"),
            talk("b?", "B", "more " * 99, "C"),
        ]
    )
    assert (weights.sum(1) > 0).tolist() == [True, False, False, False, True]
    assert (x["padding_mask"].sum(1) > 0).tolist() == (weights.sum(1) > 0).tolist()
    assert (preprocessor.dropped, preprocessor.shortened) == (3, 1)


def test_an_empty_answer_is_context_only(tokenizer):
    row = CodeGemmaChatPreprocessor(tokenizer, 99).row(talk("a?", "", "b?", "B"))
    assert answers(tokenizer, row) == ["B", fim.STOP[-1]]
    assert row[0].count(107) == 4


def test_an_error_names_the_conversation(tokenizer):
    preprocessor = CodeGemmaChatPreprocessor(tokenizer, 99)
    with pytest.raises(
        ValueError, match="Conversation 1 of the batch: Messages 0 and 1"
    ):
        preprocessor([talk("a", "A"), [*talk("a"), *talk("b")]])


@pytest.mark.parametrize("name", ["fim_rate", "spm_rate"])
def test_rates_out_of_range(tokenizer, name):
    with pytest.raises(ValueError, match=f"{name}=1.5 must be between 0 and 1"):
        CodeGemmaFIMPreprocessor(tokenizer, **{name: 1.5})


def test_config_round_trip(tokenizer):
    changed = {
        "sequence_length": 77,
        "fim_rate": 0.5,
        "spm_rate": 0.25,
        "span_lengths": {"line_share": 0.5, "short_share": 0.25},
        "middle_only": True,
        "middle_weight": 2.0,
        "seed": 3,
    }
    config = CodeGemmaFIMPreprocessor(tokenizer, **changed).get_config()
    assert {name: config[name] for name in changed} == changed
    again = CodeGemmaFIMPreprocessor.from_config(config)
    again.tokenizer = tokenizer  # a preset holds its vocabulary beside the config
    assert again.row(TEXT, "a.py") == (
        CodeGemmaFIMPreprocessor(tokenizer, **changed).row(TEXT, "a.py")
    )


# Ways in: Python, numpy, TensorFlow, tf.data, grain

TEXTS = [TEXT, "x = 1\n", "", "caf\u00e9 \U0001f40d <|fim_middle|>\n" * 40]
PATHS = ["a/size.py", "", "b.py", "c.txt"]
CHATS = [
    talk("one?", "ONE"),
    talk("two?", "TWO", "three?", "THREE"),
    talk("long " * 99, "never"),
]


def check_same(found, expected):
    """Two batches or two single rows are equal."""
    x, y, weight = numpy_of(*found)
    for name, values in expected.inputs.items():
        np.testing.assert_array_equal(x[name], values, err_msg=name)
    np.testing.assert_array_equal(y, expected.targets)
    np.testing.assert_array_equal(weight, expected.weights)


def to_numpy(value):
    return value.numpy() if hasattr(value, "numpy") else np.asarray(value)


def numpy_of(x, y, weight):
    return {k: to_numpy(v) for k, v in x.items()}, to_numpy(y), to_numpy(weight)


def test_fim_takes_texts_in_every_form(tokenizer):
    preprocessor = CodeGemmaFIMPreprocessor(tokenizer, 48)
    expected = preprocessor(TEXTS)
    assert isinstance(expected, PackedBatch)
    array = np.array(TEXTS, object)
    as_bytes = np.array([text.encode() for text in TEXTS], object)
    tensor = tf.constant(TEXTS)
    for form in (array, np.array(TEXTS), as_bytes, tensor):
        check_same(preprocessor(form), expected)
    batched = tf.data.Dataset.from_tensor_slices(TEXTS).batch(3).map(preprocessor)
    assert batched.element_spec.targets.shape.as_list() == [None, 48]
    for start, found in zip((0, 3), batched, strict=True):
        check_same(found, expected.take(slice(start, start + 3)))
    for row, text in enumerate(TEXTS):
        check_same(preprocessor(text), expected.take(row))
    single = tf.data.Dataset.from_tensor_slices(TEXTS).map(preprocessor)
    assert single.element_spec.weights.shape.as_list() == [48]
    for row, found in enumerate(single):
        check_same(found, expected.take(row))
    rows = grain.MapDataset.source(TEXTS).map(preprocessor)
    for row in range(len(TEXTS)):
        check_same(rows[row], expected.take(row))


def test_fim_takes_paths_and_epochs_in_every_form(tokenizer):
    preprocessor = CodeGemmaFIMPreprocessor(tokenizer, 48)
    columns = {"text": TEXTS, "path": PATHS, "epoch": [0, 1, 2, 3]}
    expected = preprocessor(columns)
    without = preprocessor(list(zip(PATHS, TEXTS, strict=True)))
    check_same(without.take([0]), expected.take([0]))
    assert not np.array_equal(without.targets, expected.targets)
    dataset = tf.data.Dataset.from_tensor_slices(columns).batch(4).map(preprocessor)
    for found in dataset:
        check_same(found, expected)
    with pytest.raises(ValueError, match=r"columns \['label'\]"):
        preprocessor({"text": TEXTS, "label": TEXTS})


def columns_of(chats):
    """Conversations as ragged tensors."""
    return {
        name: tf.ragged.constant([[m[name] for m in chat] for chat in chats])
        for name in ("role", "content")
    }


def test_chat_takes_conversations_in_every_form(tokenizer):
    preprocessor = CodeGemmaChatPreprocessor(tokenizer, 48)
    expected = preprocessor(CHATS)
    check_same(preprocessor(columns_of(CHATS)), expected)
    dataset = tf.data.Dataset.from_tensor_slices(columns_of(CHATS))
    for start, found in zip((0, 2), dataset.batch(2).map(preprocessor), strict=True):
        check_same(found, expected.take(slice(start, start + 2)))
    for row, found in enumerate(dataset.map(preprocessor)):
        check_same(found, expected.take(row))
        check_same(preprocessor(CHATS[row]), expected.take(row))
    pairs = {"prompts": ["one?", "two?"], "responses": ["ONE", "TWO"]}
    expected = preprocessor([talk("one?", "ONE"), talk("two?", "TWO")])
    check_same(preprocessor(pairs), expected)
    dataset = tf.data.Dataset.from_tensor_slices(pairs)
    for found in dataset.batch(2).map(preprocessor):
        check_same(found, expected)
    for row, found in enumerate(dataset.map(preprocessor)):
        check_same(found, expected.take(row))
    before = preprocessor.dropped
    list(
        tf.data.Dataset.from_tensor_slices(columns_of(CHATS)).batch(3).map(preprocessor)
    )
    assert preprocessor.dropped == before + 1
    with pytest.raises(ValueError, match="conversations are columns"):
        tf.data.Dataset.from_tensor_slices(["a"]).map(preprocessor)
    with pytest.raises(ValueError, match=r"columns \['prompts'\]"):
        preprocessor({"prompts": ["a"]})


KINDS = {
    "plain": (CodeGemmaCausalLMPreprocessor, TEXTS[:2]),
    "fim": (CodeGemmaFIMPreprocessor, TEXTS[:2]),
    "chat": (CodeGemmaChatPreprocessor, CHATS[:2]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_sample_weight_counts_and_targets_are_refused(tokenizer, kind):
    make, x = KINDS[kind]
    preprocessor = make(tokenizer, sequence_length=48)
    _, _, plain = numpy_of(*preprocessor(x))
    _, _, weighted = numpy_of(*preprocessor(x, sample_weight=np.array([0.5, 2.0])))
    assert plain.sum() > 4
    np.testing.assert_array_equal(weighted, plain * [[0.5], [2.0]])
    with pytest.raises(ValueError, match="The targets are made of the text"):
        preprocessor(x, y=[0, 1])
    with pytest.raises(ValueError, match=r"sample_weight of shape \(3,\)"):
        preprocessor(x, sample_weight=[1.0, 2.0, 3.0])
    columns = columns_of(x) if kind == "chat" else x
    dataset = tf.data.Dataset.from_tensor_slices((columns, [0, 0], [0.5, 2.0])).batch(2)
    with pytest.raises(ValueError, match="The targets are made of the text"):
        dataset.map(preprocessor)
    mapped = dataset.map(lambda x, _, w: preprocessor(x, sample_weight=w))
    for found in mapped:
        np.testing.assert_array_equal(numpy_of(*found)[2], weighted)


@pytest.mark.parametrize("kind", ["fim", "chat"])
def test_fit_takes_a_tf_data_pipeline(kind):
    lm = tiny_models.our_task()
    make, x = KINDS[kind]
    lm.preprocessor = make(lm.tokenizer, sequence_length=48)
    lm.compile(optimizer=keras.optimizers.Adam(0.01))
    columns = columns_of(x) if kind == "chat" else x
    dataset = tf.data.Dataset.from_tensor_slices(columns).batch(2)
    history = lm.fit(dataset, epochs=6, validation_data=dataset, verbose=0).history
    assert history["loss"][-1] < 0.8 * history["loss"][0]
    in_memory = lm.evaluate(x, batch_size=2, verbose=0, return_dict=True)
    assert in_memory["loss"] == pytest.approx(history["val_loss"][-1], rel=1e-4)


def test_without_tensorflow(keras_hub_without_tensorflow):
    """On JAX, from text to a training step, with no TensorFlow to be had."""
    program = """
import sys
sys.modules["tensorflow"] = None
import numpy as np
import keras
from codegemma_keras import *
from tests.small_vocabulary import small_vocabulary
keras.utils.set_random_seed(0)
tokenizer = CodeGemmaTokenizer(proto=small_vocabulary())
chat = [{"role": "user", "content": "q"}, {"role": "model", "content": "a"}]
backbone = CodeGemmaBackbone(tokenizer.vocabulary_size(), 1, 2, 1, 16, 32, 8)
for make, x in (
    (CodeGemmaCausalLMPreprocessor, ["a = 1", "b"]),
    (CodeGemmaFIMPreprocessor, ["a = 1", "b"]),
    (CodeGemmaChatPreprocessor, [chat, chat]),
):
    lm = CodeGemmaCausalLM(backbone, make(tokenizer, sequence_length=32))
    lm.compile(optimizer=keras.optimizers.SGD(0.1))
    history = lm.fit(x, validation_data=x, epochs=8, verbose=0).history["loss"]
    assert history[-1] < history[0] - 0.1, history
print("done")
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": "jax"},
    )
    assert done.stdout == "done\n", done.stderr
