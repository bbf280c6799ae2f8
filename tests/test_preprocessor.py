"""Text to training rows: what is a target, what is cut, and what never is."""

import keras
import numpy as np
import pytest

from codegemma_keras import (
    CodeGemmaCausalLMPreprocessor,
    CodeGemmaChatPreprocessor,
    CodeGemmaFIMPreprocessor,
    CodeGemmaTokenizer,
    fim,
)
from tests.small_vocabulary import small_vocabulary


@pytest.fixture(scope="module")
def tokenizer():
    return CodeGemmaTokenizer(proto=small_vocabulary())


TEXT = "import os\n\n\ndef size(path):\n    return os.stat(path).st_size\n"


def numpy_of(x, y, weight):
    to_numpy = keras.ops.convert_to_numpy
    return {k: to_numpy(v) for k, v in x.items()}, to_numpy(y), to_numpy(weight)


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


@pytest.mark.parametrize("name", ["fim_rate", "spm_rate"])
def test_rates_out_of_range(tokenizer, name):
    with pytest.raises(ValueError, match=f"{name}=1.5 must be between 0 and 1"):
        CodeGemmaFIMPreprocessor(tokenizer, **{name: 1.5})


def test_config_round_trip(tokenizer):
    preprocessor = CodeGemmaFIMPreprocessor(tokenizer, 77, fim_rate=0.5, seed=3)
    config = preprocessor.get_config()
    assert (config["sequence_length"], config["fim_rate"], config["seed"]) == (
        77,
        0.5,
        3,
    )
