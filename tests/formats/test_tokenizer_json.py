"""tokenizer.json: the same ids as the `tokenizers` library, and nothing forged."""

import json

import numpy as np
import pytest
import tensorflow as tf
import tokenizers
import transformers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from codegemma_keras import CodeGemmaTokenizer, chat, fim
from codegemma_keras.export import vocabulary
from codegemma_keras.formats import tokenizer_json
from codegemma_keras.tokenizer import vocabularies
from codegemma_keras.tokenizer.codec import PlainCodec
from tests import small_llama, tiny_models
from tests.small_vocabulary import small_vocabulary, source

NAMES = {0: "<eos>", 1: "<start_of_turn>", 2: "<end_of_turn>", 5: "<|file_separator|>"}
NAMES |= {7: "<|fim_prefix|>", 8: "<|fim_middle|>", 9: "<|fim_suffix|>"}
NAMES |= {15: "<bos>", 16: "<pad>"}


def byte_level() -> bytes:
    """A tokenizer.json of byte-level BPE, as the GGUF of a Llama gives it."""
    tokens = small_llama.tokens()
    special = range(len(small_llama.SPECIAL))
    made = tokenizer_json.make(tokens, small_llama.merges(), special, "smollm")
    return tokenizer_json.rewrite(made, NAMES)


def of_sentencepiece(proto: bytes) -> bytes:
    """The same vocabulary as Gemma's own folders have it."""
    return json.dumps(vocabulary.Vocabulary(proto).tokenizer_json()).encode()


@pytest.fixture(scope="module", params=["byte_level", "of_sentencepiece"])
def codec(request):
    if request.param == "byte_level":
        return PlainCodec(byte_level())
    return PlainCodec(of_sentencepiece(small_vocabulary()))


HARD = st.text(
    st.one_of(
        st.sampled_from("abc 019(){}:=.\n\r\t\0\u2581\u00e9\u4e2d"),
        st.characters(exclude_categories=["Cs"]),
        st.integers(0xDC80, 0xDCFF).map(chr),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=200)
@given(HARD)
@example("<bos><|fim_prefix|><pad><unk><start_of_turn><0x0A><|im_start|>")
@example("   " * 30 + "\n" * 20)
@example(bytes(range(256)).decode("utf-8", "surrogateescape"))
def test_bytes_come_back_and_nothing_is_forged(codec, text):
    ids = codec.encode(text)
    assert codec.decode_bytes(ids) == text.encode("utf-8", "surrogateescape")
    assert not set(ids) & set(codec.controls)


def test_ids_are_those_of_the_library():
    codec, peer = PlainCodec(byte_level()), small_llama.tokenizer()
    for text in (source(), "x = 112 \n\n\n  def=0", "don't  I'll"):
        assert codec.encode(text) == peer.encode(text).ids
    # Where a byte has no token, the library drops it; ours has one for each.
    assert len(codec.encode("\x04")) > len(peer.encode("\x04").ids)


def test_ids_are_those_of_sentencepiece():
    """One vocabulary in two files."""
    ours = PlainCodec(of_sentencepiece(small_vocabulary()))
    theirs = PlainCodec(small_vocabulary())
    for line in source().splitlines(keepends=True)[:800]:
        assert ours.encode(line) == theirs.encode(line), line
    parts = fim.render("def f(", "):\n", path="a.py")
    assert ours.encode(parts) == theirs.encode(parts)
    raw = "a<|fim_prefix|>b"
    assert ours.encode_raw(raw) == theirs.encode_raw(raw)


def test_keras_hubs_ways_in():
    tokenizer = CodeGemmaTokenizer(proto=byte_level(), sequence_length=6)
    assert np.asarray(tokenizer(["a<bos>b", "c"]))[0][1] == 15
    raw = CodeGemmaTokenizer(proto=byte_level())
    assert raw.detokenize(raw.tokenize("héé<bos> x")) == "héé x"
    assert raw.id_to_token(15) == "<bos>"
    texts = tf.data.Dataset.from_tensor_slices(["a<bos>b", "def f(x):\n"]).batch(2)
    [ids] = list(texts.map(raw))
    assert ids.to_list() == [
        np.asarray(raw.tokenize(t)).tolist() for t in ("a<bos>b", "def f(x):\n")
    ]
    [dense] = list(texts.map(tokenizer))
    assert dense.shape == (2, 6)


def test_in_tf_data_texts_come_back_and_one_is_a_batch_too():
    """What KerasHub 0.26 calls everywhere, and later releases inside `tf.data`."""
    tokenizer = CodeGemmaTokenizer(proto=byte_level())
    there = vocabularies.InGraph(vocabularies.RawProcessor(tokenizer.codec), "int32")
    for texts in (["héé x"], ["a", "def f(x):\n"]):
        rows = tf.data.Dataset.from_tensors(texts).map(there.tokenize)
        [back] = rows.map(there.detokenize)
        assert [text.decode() for text in back.numpy()] == texts
        [dense] = rows.map(lambda ids: ids[-1]).map(there.detokenize)
        assert dense.numpy().decode() == texts[-1]
    assert there.vocab_size() == tokenizer.vocabulary_size()
    for place in (15, 40):
        assert there.string_to_id(there.id_to_string(place).numpy().decode()) == place
    assert there.string_to_id("no such piece") == there._processor.unk_id()


def test_saved_presets_keep_it(tmp_path):
    task = tiny_models.our_task()
    tokenizer = CodeGemmaTokenizer(proto=byte_level(), chat_format="smollm2")
    options = {"sequence_length": 64, "infill_mode": "left_to_right"}
    cls = type(task.preprocessor)
    cls(tokenizer, **options).save_to_preset(tmp_path / "preset")
    loaded = cls.from_preset(tmp_path / "preset")
    assert loaded.tokenizer.proto == tokenizer.proto
    assert loaded.tokenizer.chat_format == "smollm2"
    assert loaded.infill_mode == "left_to_right"
    # Over it, one of the other kind: the old vocabulary goes.
    task.preprocessor.save_to_preset(tmp_path / "preset")
    assert cls.from_preset(tmp_path / "preset").tokenizer.proto == small_vocabulary()


def folder(tmp_path):
    """A model in Transformers' format, with both tokenizers."""
    tiny_models.our_task().export_to_transformers(tmp_path)
    return tmp_path


def test_a_folder_with_tokenizer_json_alone(tmp_path):
    where = folder(tmp_path)
    (where / "tokenizer.model").unlink()
    tokenizer = CodeGemmaTokenizer.from_preset(where)
    expected = PlainCodec(small_vocabulary()).encode(source()[:500])
    assert tokenizer.encode(source()[:500]) == expected
    (where / "added_tokens.json").write_text('{"<|fim_prefix|>": 69}')
    with pytest.raises(ValueError, match="calls id 69"):
        CodeGemmaTokenizer.from_preset(where)
    (where / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"Nor has it a tokenizer\.json"):
        CodeGemmaTokenizer.from_preset(where)


def test_a_folder_with_two_tokenizers(tmp_path):
    where = folder(tmp_path)
    assert CodeGemmaTokenizer.from_preset(where).proto == small_vocabulary()
    other = tokenizer_json.rewrite(of_sentencepiece(small_vocabulary()), {400: "other"})
    (where / "tokenizer.json").write_bytes(other)
    with pytest.raises(ValueError, match="two tokenizers that disagree: id 400"):
        CodeGemmaTokenizer.from_preset(where)


@pytest.mark.parametrize("spelling", [list, " ".join])
@pytest.mark.parametrize("change", ["swapped", "dropped"])
def test_two_tokenizers_with_other_merges(tmp_path, change, spelling):
    """The same pieces, and other tokens."""
    where = folder(tmp_path)
    settings = json.loads((where / "tokenizer.json").read_text("utf-8"))
    merges = settings["model"]["merges"] = [
        spelling(pair) for pair in tokenizer_json.pairs(settings)
    ]
    (where / "tokenizer.json").write_text(json.dumps(settings))
    assert CodeGemmaTokenizer.from_preset(where).proto == small_vocabulary()
    if change == "swapped":
        merges[30], merges[200] = merges[200], merges[30]
    else:
        whole = "".join(merges[200]).replace(" ", "")
        merges[:] = [m for m in merges if "".join(m).replace(" ", "") != whole]
    (where / "tokenizer.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"disagree: tokenizer\.json merges"):
        CodeGemmaTokenizer.from_preset(where)


def test_export(tmp_path):
    """To Transformers as it is. To GGUF: `tests/export/test_gguf.py`."""
    task = tiny_models.our_task()
    tokenizer = CodeGemmaTokenizer(proto=byte_level(), chat_format="smollm2")
    backbone = tiny_models.our_backbone(vocabulary_size=tokenizer.vocabulary_size())
    preprocessor = type(task.preprocessor)(tokenizer, sequence_length=64)
    lm = type(task)(backbone, preprocessor)
    lm.export_to_transformers(tmp_path / "folder")
    assert CodeGemmaTokenizer.from_preset(tmp_path / "folder").proto == byte_level()
    peer = transformers.AutoTokenizer.from_pretrained(tmp_path / "folder")
    messages = [{"role": "user", "content": " Hi"}]
    ids = peer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    parts = [part for part, _ in chat.render(messages, True, "smollm2")]
    assert ids == [15, *tokenizer.encode(parts)]


def gemma_style() -> dict:
    return json.loads(of_sentencepiece(small_vocabulary()))


def byte_style() -> dict:
    return json.loads(byte_level())


def whole_words(settings):
    """A word that is a piece is taken as it is, and a text is one word."""
    settings["model"]["ignore_merges"] = True
    settings["pre_tokenizer"] = None
    if settings["normalizer"] is None:
        level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
        settings["pre_tokenizer"] = {**level, "use_regex": False}


def led_to(settings):
    """Merges make the name of a control token out of its characters."""
    model = settings["model"]
    i = 1 + max(
        [*model["vocab"].values(), *(t["id"] for t in settings["added_tokens"])]
    )
    for end in range(2, len("<bos>")):
        part = "<bos>"[:end]
        if part not in model["vocab"]:
            model["vocab"][part], i = i, i + 1
        model["merges"].insert(0, [part[:-1], part[-1]])
    model["merges"].insert(0, ["<bos", ">"])


@pytest.mark.parametrize("change", [whole_words, led_to])
@pytest.mark.parametrize("style", [gemma_style, byte_style])
def test_no_control_token_is_found_in_text(style, change):
    settings = style()
    change(settings)
    codec = PlainCodec(json.dumps(settings).encode())
    for name in (*map(str, codec.control_ids), "<unk>", "<0x0A>", "a<0x0A>b\n"):
        ids = codec.encode(name)
        assert not set(ids) & set(codec.controls), name
        assert codec.decode_bytes(ids) == name.encode()
    assert codec.encode_raw("<bos>") == [codec.control_ids[fim.START]]


def added(settings, name, **options):
    """Another token, which the library numbers as the file does."""
    i = 1 + max(
        [t["id"] for t in settings["added_tokens"]]
        + list(settings["model"]["vocab"].values())
    )
    token = settings["added_tokens"][0] | {"special": False, "content": name, "id": i}
    settings["added_tokens"].append(token | options)


@pytest.mark.parametrize("style", [gemma_style, byte_style])
def test_spaces_around_added_tokens_stay(style):
    settings = style()
    added(settings, "foo", lstrip=True, rstrip=True)
    codec = PlainCodec(json.dumps(settings).encode())
    ids = codec.encode("a   foo   b")
    assert settings["added_tokens"][-1]["id"] in ids
    assert codec.decode_bytes(ids) == b"a   foo   b"


def test_ids_are_not_drawn():
    settings = byte_style()
    expected = PlainCodec(json.dumps(settings).encode()).encode(source()[:2000])
    settings["model"]["dropout"] = 0.5
    codec = PlainCodec(json.dumps(settings).encode())
    assert codec.encode(source()[:2000]) == expected


def renumbered(settings):
    """An added token behind a gap, which the library closes."""
    added(settings, "foo")
    settings["added_tokens"][-1]["id"] += 3


def swapped(settings):
    first, second = settings["added_tokens"][:2]
    first["content"], second["content"] = second["content"], first["content"]


def step(kind, **options):
    return {"type": kind, **options}


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": step("Lowercase")},
        {"normalizer": step("NFC")},
        {"normalizer": step("Sequence", normalizers=[step("NFD")])},
        {"normalizer": step("StripAccents")},
        {"normalizer": step("Replace", pattern={"String": "q"}, content="")},
        {"normalizer": step("Prepend", prepend="_")},
        {
            "pre_tokenizer": step(
                "Split", pattern={"String": "q"}, behavior="Removed", invert=False
            )
        },
        {"pre_tokenizer": step("Sequence", pretokenizers=[step("Whitespace")])},
        {"pre_tokenizer": step("Sequence", pretokenizers=3)},
        {"pre_tokenizer": 3},
    ],
)
@pytest.mark.parametrize("style", [gemma_style, byte_style])
def test_steps_that_change_text_are_refused(style, change):
    settings = style() | change
    with pytest.raises(
        ValueError, match=r"tokenizer\.json (normalises|splits|has the)"
    ):
        PlainCodec(json.dumps(settings).encode())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["model"].pop("vocab"), "no valid tokenizer.json"),
        (lambda s: s["model"].update(type="Unigram"), "type 'Unigram'"),
        (lambda s: s["model"].update(type="Unigram", vocab=[["a", 0.5]]), "'Unigram'"),
        (lambda s: s["model"].update(vocab=[["a", 0.5]]), "vocabulary a list"),
        (lambda s: s["model"].update(unk_token=["a"]), r"unknown piece \['a'\]"),
        (lambda s: s["model"].update(continuing_subword_prefix="##"), "prefix='##'"),
        (lambda s: s["model"].update(end_of_word_suffix="##"), "suffix='##'"),
        (lambda s: s["model"]["merges"].append(["a"]), "must be two pieces"),
        (lambda s: s["model"]["vocab"].update({"a": 400}), "gives the id 400 to"),
        (renumbered, "ids before it are missing"),
        (swapped, "They are of two vocabularies"),
        (lambda s: added(s, "\u0120foo", id=s["model"]["vocab"]["\u0120def"]), "two"),
        (lambda s: s["model"]["vocab"].update(x=-1), "has the id -1"),
        (lambda s: s["model"]["vocab"].update(x=2**23), "ids up to 8388608"),
        (lambda s: s["model"]["merges"].append(["a", "☃"]), "cannot be read"),
        (lambda s: s["added_tokens"][0].update(content=3), "type"),
        (lambda s: s.update(normalizer={"type": "NFKC"}), "normalises text"),
        (lambda s: s["model"]["vocab"].pop("Ā"), "255 of the 256"),
        (lambda s: s["added_tokens"].pop(7), None),  # still in the vocabulary
    ],
)
def test_damaged_files(change, message):
    settings = json.loads(byte_level())
    change(settings)
    if message is None:
        text = "<|fim_prefix|>"
        assert len(PlainCodec(json.dumps(settings).encode()).encode(text)) > 1
        return
    with pytest.raises(ValueError, match=message):
        PlainCodec(json.dumps(settings).encode())


def test_the_library_reads_what_is_made():
    made = tokenizers.Tokenizer.from_str(byte_level().decode())
    assert made.decode(made.encode("x = 1\n").ids) == "x = 1\n"
