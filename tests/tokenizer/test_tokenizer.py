"""Both ways in agree, every byte comes back, and text forges no control token."""

import functools
import os
import subprocess
import sys

import keras
import keras_hub
import numpy as np
import pytest
import sentencepiece
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st

from codegemma_keras import chat, fim
from codegemma_keras.formats import sentencepiece_model
from codegemma_keras.tokenizer import training as tokenizer_training
from codegemma_keras.tokenizer.tokenizer import CodeGemmaTokenizer, IncrementalDecoder
from codegemma_keras.tokenizer.vocabularies import OLD_NAMES, SPECIAL_TOKENS
from tests.small_vocabulary import small_vocabulary, source

CONTROLS = [*map(str, SPECIAL_TOKENS.values()), "<unk>"]
# Plain text for SentencePiece: no control string, and not the character that it reads
# as a space.
PLAIN = [
    "def f(self):\n    return 1\n",
    "\tif x:\r\n\t\ty = '\u00e9\U0001f469\u200d\U0001f4bb'\r\n",
    " " * 100,
    "\n" * 50,
    "a\0b",
    "",
    source(),
]
HARD = st.lists(
    st.one_of(
        st.text(max_size=6),
        st.sampled_from(
            [*CONTROLS, *OLD_NAMES, "\u2581", " " * 40, "\r\n", "\0", "<0x0A>"]
        ),
        st.sampled_from(["\udcff", "\udce2\udc96", "\udc80"]),
    )
).map("".join)


@functools.cache
def make():
    return CodeGemmaTokenizer(proto=small_vocabulary())


@pytest.fixture
def tokenizer():
    return make()


def raw_bytes(text):
    return text.encode("utf-8", "surrogateescape")


def with_names(names, proto=None):
    return sentencepiece_model.rewrite(proto or small_vocabulary(), names=names)


# Ids


def test_special_ids(tokenizer):
    t = tokenizer
    assert (t.pad_token_id, t.end_token_id, t.start_token_id) == (0, 1, 2)
    ids = (t.fim_prefix_id, t.fim_middle_id, t.fim_suffix_id, t.file_separator_id)
    assert ids == (67, 68, 69, 70)
    assert (t.start_of_turn_id, t.end_of_turn_id) == (106, 107)
    assert sorted(t.codec.controls) == [0, 1, 2, 3, 67, 68, 69, 70, 106, 107]
    assert t.stop_token_ids == (1, 2, 67, 68, 69, 70, 107)
    assert t.token_to_id("<|fim_middle|>") == 68
    assert t.id_to_token(70) == "<|file_separator|>"
    assert t.fim_prefix == "<|fim_prefix|>"


def test_old_names_are_mapped(tokenizer):
    old = with_names(
        {67: "<unused60>", 68: "<unused61>", 69: "<unused62>", 70: "<unused63>"}
    )
    mapped = CodeGemmaTokenizer(proto=old)
    assert mapped.proto == small_vocabulary()
    assert mapped.get_vocabulary() == tokenizer.get_vocabulary()
    assert list(mapped("<|fim_prefix|>a<|fim_suffix|>")) == list(
        tokenizer("<|fim_prefix|>a<|fim_suffix|>")
    )
    assert mapped.encode([fim.FILE_SEPARATOR]) == [70]


@pytest.mark.parametrize("place", [1, 67, 70, 107])
def test_a_vocabulary_without_a_control_token_is_refused(place):
    with pytest.raises(ValueError, match="lacks the control tokens"):
        CodeGemmaTokenizer(proto=with_names({place: "<other>"}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"byte_fallback": False}, "0 of the 256 byte tokens"),
        ({"add_dummy_prefix": True}, "normalises text"),
        ({"remove_extra_whitespaces": True}, "normalises text"),
        ({"normalization_rule_name": "nmt_nfkc"}, "normalises text"),
    ],
)
def test_a_vocabulary_that_loses_text_is_refused(monkeypatch, change, message):
    train = sentencepiece.SentencePieceTrainer.train
    monkeypatch.setattr(
        sentencepiece.SentencePieceTrainer,
        "train",
        lambda **settings: train(**settings | change),
    )
    proto = tokenizer_training.train_tokenizer([source()], 700)
    with pytest.raises(ValueError, match=message):
        CodeGemmaTokenizer(proto=proto)


@pytest.mark.parametrize("kept", [0, 10, 1000, 0.5, -1])
def test_a_truncated_vocabulary_is_refused(kept):
    whole = small_vocabulary()
    kept = int(kept * len(whole)) if isinstance(kept, float) else kept
    with pytest.raises(ValueError, match="truncated"):
        CodeGemmaTokenizer(proto=whole[:kept])


def test_no_vocabulary_yet():
    empty = CodeGemmaTokenizer()
    for use in (
        lambda: empty.encode("a"),
        lambda: empty.decode([5]),
        lambda: empty.tokenize("a"),
        lambda: empty.stop_token_ids,
    ):
        with pytest.raises(ValueError, match=r"[Nn]o vocabulary"):
            use()


# Text and back


@settings(deadline=None, max_examples=500)
@given(HARD)
@example("\udce2\udc96\udc81")  # the three bytes of U+2581
@example("".join(CONTROLS) * 2)
def test_bytes_come_back_and_nothing_is_forged(text):
    tokenizer = make()
    ids = tokenizer.encode(text)
    assert tokenizer.decode_bytes(ids) == raw_bytes(text)
    assert not set(ids) & set(tokenizer.codec.controls)
    assert tokenizer.decode(ids) == raw_bytes(text).decode("utf-8", "replace")
    parts = tokenizer.decode_parts(ids)
    assert raw_bytes("".join(parts)) == raw_bytes(text)
    assert not any(isinstance(part, fim.Control) for part in parts)


@pytest.mark.parametrize("text", ["\ud800", "a\udfff", "b\udc7f"])
def test_half_a_surrogate_pair_is_refused(tokenizer, text):
    place = len(text) - 1
    with pytest.raises(
        ValueError, match=f"at place {place} is half of a surrogate pair"
    ):
        tokenizer.encode(text)


def test_parts(tokenizer):
    parts = ["a ", fim.PREFIX, "<|fim_prefix|>", chat.END_OF_TURN, fim.END, "b"]
    ids = tokenizer.encode(parts)
    assert [i for i in ids if i in tokenizer.codec.controls] == [67, 107, 1]
    assert tokenizer.decode_parts(ids) == parts
    assert tokenizer.decode(ids) == "a <|fim_prefix|>b"
    assert tokenizer.encode([fim.Control("<unk>")]) == [3]
    assert tokenizer.encode([]) == tokenizer.encode("") == []
    assert tokenizer.decode([]) == ""
    assert tokenizer.decode_parts([]) == []
    with pytest.raises(ValueError, match=r"Control\('<\|fim\|>'\) is no control token"):
        tokenizer.encode([fim.Control("<|fim|>")])
    with pytest.raises(TypeError, match="must be text or a Control, not int"):
        tokenizer.encode([5])
    for wrong in (b"a", [b"a"]):
        with pytest.raises(TypeError, match="must be text or a Control, not bytes"):
            tokenizer.encode(wrong)
    with pytest.raises(TypeError, match="must be text or a Control, not NoneType"):
        tokenizer.encode(None)


@pytest.mark.parametrize(
    "convert",
    [
        tuple,
        np.array,
        lambda i: np.array(i, "uint8"),
        keras.ops.convert_to_tensor,
        tf.constant,
        iter,
    ],
)
def test_decode_takes_lists_arrays_and_tensors(tokenizer, convert):
    ids = [tokenizer.token_to_id("s"), 67, 108]
    ids[0] = min(ids[0], 255)
    assert tokenizer.decode_bytes(convert(ids)) == tokenizer.decode_bytes(ids)


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([5, -1], ValueError, "Token id -1 at place 1 .* ids 0 to 699"),
        ([700], ValueError, "Token id 700 at place 0 .* ids 0 to 699"),
        ([256_000], ValueError, "larger vocabulary"),
        ([1.0], TypeError, "1.0 at place 0 is float"),
        ([True], TypeError, "is bool"),
        ([None], TypeError, "is NoneType"),
        (["a"], TypeError, "is str"),
        ([[5]], TypeError, "one row of ids at a time"),
        (np.array([[5]]), TypeError, "one row of ids at a time"),
        (np.array(5), TypeError, r"For one id write \[id\]"),
        (5, TypeError, r"For one id write \[id\]"),
        ("5", TypeError, "must be a list of integers"),
        (None, TypeError, "must be a list of integers"),
    ],
)
def test_wrong_ids_are_refused(tokenizer, ids, error, message):
    for decode in (tokenizer.decode, tokenizer.decode_bytes, tokenizer.decode_parts):
        with pytest.raises(error, match=message):
            decode(ids)


@settings(deadline=None)
@given(
    HARD,
    st.lists(st.integers(0, 699), max_size=20),
    st.sampled_from(["replace", "surrogateescape"]),
)
def test_incremental_decoder_gives_what_decode_gives(text, more, errors):
    tokenizer = make()
    ids = tokenizer.encode(text) + more
    decoder = IncrementalDecoder(tokenizer, errors)
    pieces = [decoder.push(i) for i in ids]
    assert "".join(pieces) + decoder.finish() == tokenizer.decode(ids, errors)


def test_incremental_decoder_yields_whole_characters(tokenizer):
    decoder = IncrementalDecoder(tokenizer)
    ids = tokenizer.encode("\u4e2d!")
    assert [decoder.push(i) for i in ids] == ["", "", "\u4e2d", "!"]
    assert decoder.finish() == ""
    assert decoder.push(ids[:2]) == ""
    assert decoder.finish() == "\ufffd"


# KerasHub's meaning


def test_tokenize_keeps_keras_hubs_meaning(tokenizer):
    hub = keras_hub.models.GemmaTokenizer(proto=small_vocabulary())
    texts = [*PLAIN, "a <|fim_prefix|>b<end_of_turn>\n"]
    for text in texts:
        assert list(tokenizer(text)) == list(hub(text))
        assert tokenizer.detokenize(tokenizer(text)) == hub.detokenize(hub(text))
    assert tokenizer(texts) == hub(texts)
    assert 67 in tokenizer("a <|fim_prefix|>b")


@pytest.mark.parametrize("text", PLAIN)
def test_both_ways_agree_on_plain_text(tokenizer, text):
    assert list(tokenizer.tokenize(text)) == tokenizer.encode(text)


def test_a_raw_prompt_reads_as_its_parts(tokenizer):
    parts = fim.render("def f(", "):\n", path="a.py", context=[("b.py", "x = 1\n")])
    assert list(tokenizer("".join(parts))) == tokenizer.encode(parts)


def test_tf_data_gives_the_same_ids(tokenizer):
    dataset = tf.data.Dataset.from_tensor_slices(PLAIN)
    rows = [row.numpy().tolist() for row in dataset.map(tokenizer)]
    assert rows == [tokenizer.encode(text) for text in PLAIN]
    [batch] = dataset.batch(len(PLAIN)).map(tokenizer)
    assert batch.to_list() == rows
    forged = tf.data.Dataset.from_tensors("<|fim_middle|>").map(tokenizer)
    assert [row.numpy().tolist() for row in forged] == [[68]]


# Saving


def test_config_and_assets_round_trip(tokenizer, tmp_path):
    tokenizer.save_assets(str(tmp_path))
    assert os.listdir(tmp_path) == ["vocabulary.spm"]
    config = keras.saving.serialize_keras_object(tokenizer)
    assert config["registered_name"] == "codegemma_keras>CodeGemmaTokenizer"
    restored = keras.saving.deserialize_keras_object(config)
    assert isinstance(restored, CodeGemmaTokenizer)
    assert restored.proto is None
    restored.load_assets(str(tmp_path))
    assert restored.proto == tokenizer.proto
    assert restored.encode(source()) == tokenizer.encode(source())
    assert restored.stop_token_ids == tokenizer.stop_token_ids
    from_path = CodeGemmaTokenizer(proto=tmp_path / "vocabulary.spm")
    assert from_path.encode("a b") == tokenizer.encode("a b")


WITHOUT_TENSORFLOW = """
import sys
sys.modules["tensorflow"] = sys.modules["tensorflow_text"] = None
from codegemma_keras import fim
from codegemma_keras.tokenizer.tokenizer import CodeGemmaTokenizer
tokenizer = CodeGemmaTokenizer(proto=sys.argv[1])
parts = fim.render("def f(", "<|fim_prefix|>\\u2581\\udcff", path="a.py")
ids = tokenizer.encode(parts)
assert fim.parse(tokenizer.decode_parts(ids)) == fim.parse(parts)
assert list(tokenizer("a b")) == tokenizer.encode("a b")
assert tokenizer.detokenize(tokenizer("a b")) == "a b"
print(*ids)
"""


def test_encodes_where_tensorflow_cannot_be_imported(
    tokenizer, tmp_path, keras_hub_without_tensorflow
):
    tokenizer.save_assets(str(tmp_path))
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW, str(tmp_path / "vocabulary.spm")],
        env={**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    parts = fim.render("def f(", "<|fim_prefix|>\u2581\udcff", path="a.py")
    assert run.stdout.split() == [str(i) for i in tokenizer.encode(parts)]
