"""The maker: exact special ids, the same bytes every time, and sensible limits."""

import subprocess
import sys

import pytest

from codegemma_keras.formats import sentencepiece_model as model_file
from codegemma_keras.tokenizer import training as tokenizer_training
from codegemma_keras.tokenizer.codec import PlainCodec
from tests.small_vocabulary import small_vocabulary, source


def test_special_pieces_have_the_real_ids():
    pieces = list(model_file.pieces(small_vocabulary()))
    assert len(pieces) == 700
    names = [name for name, _, _ in pieces]
    assert names[:4] == ["<pad>", "<eos>", "<bos>", "<unk>"]
    assert names[4:8] == ["<mask>", "<2mass>", "[@BOS@]", "<unused0>"]
    assert names[66:71] == [
        "<unused59>",
        *("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|file_separator|>"),
    ]
    assert names[71] == "<unused64>"
    assert names[105:109] == ["<unused98>", "<start_of_turn>", "<end_of_turn>", "\n"]
    kinds = [kind for _, _, kind in pieces]
    assert kinds[:4] == [model_file.CONTROL] * 3 + [model_file.UNKNOWN]
    assert set(kinds[4:109]) == {model_file.USER_DEFINED}


def test_runs_are_one_token_each():
    codec = PlainCodec(small_vocabulary())
    for character, lengths in tokenizer_training.RUNS.items():
        for length in lengths:
            assert len(codec.encode(character * length)) == 1
    assert len(codec.encode(" " * 32)) == 2


def test_digits_are_split():
    codec = PlainCodec(
        tokenizer_training.train_tokenizer(["x = 1234\n" * 99, source()], 700)
    )
    assert len(codec.encode("1234")) == 4


def test_the_same_texts_give_the_same_bytes():
    program = (
        "import sys; from codegemma_keras.tokenizer.training import train_tokenizer;"
        "from tests.small_vocabulary import source;"
        "sys.stdout.buffer.write(train_tokenizer([source()] * 3, 700, max_lines=999))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True
    )
    again = tokenizer_training.train_tokenizer(iter([source()] * 3), 700, max_lines=999)
    assert again == run.stdout
    other = tokenizer_training.train_tokenizer(
        [source()] * 3, 700, max_lines=999, seed=1
    )
    assert other != again


def test_hard_text_is_learnt_from_without_harm():
    hard = "a\0b\n\u2581\udcff\ud800 <|fim_prefix|>\r\n" + "x" * 100_000
    proto = tokenizer_training.train_tokenizer([hard, source()], 700)
    codec = PlainCodec(proto)
    assert (
        codec.decode_bytes(codec.encode("\u2581\udcff\0"))
        == "\u2581".encode() + b"\xff\0"
    )
    names = [name for name, _, _ in model_file.pieces(proto)]
    assert len(set(names)) == len(names)


def test_sizes_that_cannot_be():
    with pytest.raises(ValueError, match="vocabulary_size=300 leaves no room"):
        tokenizer_training.train_tokenizer([source()], 300)
    with pytest.raises(ValueError, match="could not train 9000 pieces on 1 lines"):
        tokenizer_training.train_tokenizer(["one line"], 9000)
    with pytest.raises(ValueError, match="could not train 700 pieces on 0 lines"):
        tokenizer_training.train_tokenizer([], 700)
