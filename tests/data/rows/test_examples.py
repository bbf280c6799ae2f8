"""FIM in context, packing, storage and loading."""

import collections
import json
import math
import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codegemma_keras import fim
from codegemma_keras.data.document import Document
from codegemma_keras.data.rows import examples, packing, storage
from codegemma_keras.data.rows.position import SavePosition
from codegemma_keras.tokenizer.codec import PlainCodec
from tests.small_vocabulary import small_vocabulary

CODEC = PlainCodec(small_vocabulary())
SOURCE = pathlib.Path(json.decoder.__file__).read_text()


class ByteCodec:
    """One token per byte: fast, and independent of the real tokenizer."""

    controls = (fim.PAD, fim.END, fim.START, fim.PREFIX, fim.MIDDLE, fim.SUFFIX,
                fim.FILE_SEPARATOR)  # fmt: skip

    def encode(self, parts):
        ids = []
        for part in parts:
            if isinstance(part, fim.Control):
                ids.append(self.controls.index(part))
            else:
                ids += [byte + 10 for byte in part.encode("utf-8", "surrogatepass")]
        return ids

    def decode_parts(self, ids):
        parts, data = [], bytearray()
        for i in ids:
            if i >= 10:
                data.append(i - 10)
            else:
                parts += [data.decode("utf-8", "surrogatepass")] if data else []
                parts.append(self.controls[i])
                data = bytearray()
        return parts + ([data.decode("utf-8", "surrogatepass")] if data else [])


def read_back(chunks, codec):
    texts = collections.defaultdict(str)
    for chunk in chunks:
        for path, text in examples.read_segment(codec.decode_parts(chunk.token_ids)):
            texts[path] += text
    return texts


texts = st.text(st.characters(codec="utf-8"), max_size=400) | st.text(
    "\r\n ab", max_size=400
)


@given(st.lists(texts, max_size=6), st.integers(64, 200), st.integers(0, 3))
@settings(max_examples=120, deadline=None)
def test_every_byte_comes_back_and_every_end_is_there(files, length, seed):
    documents = [
        Document(t, f"d/{i}.py", "r", language="python") for i, t in enumerate(files)
    ]
    codec = ByteCodec()
    chunks = list(
        examples.chunk_repository(
            documents, codec, examples.FimSettings(seed=seed), length
        )
    )
    for chunk in chunks:
        assert len(chunk.token_ids) <= length
        assert chunk.token_ids[0] == codec.controls.index(fim.START)
        assert chunk.token_ids[-1] == codec.controls.index(fim.END)
    found = read_back(chunks, codec)
    assert all(found[d.path] == d.text for d in documents)


def test_the_real_tokenizer_gives_every_byte_back():
    text = SOURCE + "<|fim_prefix|> \t\x00 é \u2581 \r\n" * 3
    documents = [Document(text, f"{i}.py", "r", language="python") for i in range(3)]
    chunks = list(
        examples.chunk_repository(documents, CODEC, examples.FimSettings(), 300)
    )
    assert set(read_back(chunks, CODEC).values()) == {text}


def test_rates_and_kinds():
    counts = collections.Counter()
    number = 6000
    plan = examples.FimSettings()
    for i in range(number):
        document = Document(
            f"x{i} = [1, 2]\ny = f(x{i})\n", f"{i}.py", language="python"
        )
        _, kind, split = examples.render_piece(document, document.text, plan)
        counts[kind] += 1
        counts[split] += 1
    fims = number - counts["plain"]

    def near(found, total, share):
        assert abs(found - total * share) <= 3 * math.sqrt(total * share * (1 - share))

    near(fims, number, 0.8)
    near(counts["spm"], fims, 0.5)
    near(counts["syntax"], fims, 0.5)
    assert counts["plain"] == counts[""]


def test_choices_depend_on_the_document_and_the_seed_alone():
    document = Document(SOURCE, "a.py", "r", language="python")
    one = examples.render_piece(document, SOURCE, examples.FimSettings())
    assert one == examples.render_piece(document, SOURCE, examples.FimSettings())
    others = {
        str(examples.render_piece(document, SOURCE, examples.FimSettings(seed=s)))
        for s in range(5)
    }
    assert len(others) == 5


@pytest.mark.parametrize("language", ["python", "java", "go"])
def test_syntax_splits_end_where_a_node_ends(language):
    text = {
        "python": SOURCE,
        "java": "class A {\n  int f(int x) { return g(x + 1); }\n}\n",
        "go": "package a\n\nfunc f(x int) int { return g(x + 1) }\n",
    }[language]
    from codegemma_keras.data.languages import parser

    ends, stack = set(), [parser(language).parse(text.encode()).root_node]
    while stack:
        node = stack.pop()
        ends.add(node.end_byte)
        stack += node.children
    document = Document(text, "a", language=language)
    for piece in range(200):
        rng = examples.document_rng(document, examples.FimSettings(), piece)
        prefix, middle, suffix = examples.syntax_split(text, language, rng)
        assert prefix + middle + suffix == text
        assert len((prefix + middle).encode()) in ends
        assert middle


def test_no_grammar_no_syntax_split():
    assert examples.syntax_split("select 1", "sql", None) is None
    document = Document("select 1;\n" * 9, "a.sql", language="sql")
    plan = examples.FimSettings(rate=1, syntax_share=1)
    assert examples.render_piece(document, document.text, plan)[2] == "character"


def test_line_share():
    plan = examples.FimSettings(rate=1, syntax_share=0.3, line_share=0.7)
    text = "".join(f"def f{i}(x):\n    return x + {i}\n\n" for i in range(40))
    counts, lines = collections.Counter(), []
    for number in range(400):
        document = Document(text, f"m{number}.py", language="python")
        parts, _, split = examples.render_piece(document, text, plan)
        counts[split] += 1
        if split == "line":
            lines.append(fim.parse([*parts, fim.END]).middle.rstrip("\n").count("\n"))
    assert set(counts) == {"syntax", "line"}
    assert abs(counts["line"] - 280) < 4 * (400 * 0.7 * 0.3) ** 0.5
    # Three quarters are line spans, three quarters of these of one line.
    assert sum(n == 0 for n in lines) / len(lines) > 0.5


def test_without_lines_nothing_changes():
    """The share of lines is carved out of the characters', with the same draws."""
    text = "".join(f"x{i} = f({i})\n" for i in range(60))
    document = Document(text, "m.py", language="python")
    for piece in range(100):
        plain = examples.render_piece(document, text, examples.FimSettings(), piece)
        lines = examples.render_piece(
            document, text, examples.FimSettings(line_share=0.5), piece
        )
        assert lines[1] == plain[1]
        assert lines == plain or (plain[2], lines[2]) == ("character", "line")


def test_settings_are_checked():
    with pytest.raises(ValueError, match="they may add up to 1"):
        examples.FimSettings(syntax_share=0.6, line_share=0.5)
    with pytest.raises(ValueError, match=r"rate=1\.5 must be between"):
        examples.FimSettings(rate=1.5)
    with pytest.raises(ValueError, match="must be one of"):
        examples.FimSettings(spm_order="x")
    document = Document("x", "p" * 200, "r")
    with pytest.raises(ValueError, match="Make rows longer"):
        list(
            examples.chunk_repository(
                [document], ByteCodec(), examples.FimSettings(), 100
            )
        )


# Packing


@settings(deadline=None)
@given(st.lists(st.integers(1, 64), max_size=80))
def test_packing_places_every_segment_once(lengths):
    rows = packing.pack_lengths(lengths, 64)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= 64 for row in rows)
    if lengths:
        # First and best fit decreasing: at most 11/9 of the best, plus one.
        assert len(rows) <= 11 / 9 * -(-sum(lengths) // 64) * 1.5 + 1


def test_packing_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="Segment 1 has 65 tokens; rows hold 1 to 64"):
        packing.pack_lengths([1, 65], 64)


def test_model_inputs():
    row = packing.fill_row([[2, 5, 6, 1], [2, 7, 1]], 9)
    x, y, weight = packing.model_inputs(**row)
    assert x["token_ids"].tolist() == [2, 5, 6, 1, 2, 7, 1, 0, 0]
    assert x["segment_ids"].tolist() == [1, 1, 1, 1, 2, 2, 2, 0, 0]
    assert x["positions"].tolist() == [0, 1, 2, 3, 0, 1, 2, 0, 0]
    assert x["padding_mask"].tolist() == [1, 1, 1, 1, 1, 1, 1, 0, 0]
    assert y.tolist() == [5, 6, 1, 0, 7, 1, 0, 0, 0]
    assert weight.tolist() == [1, 1, 1, 0, 1, 1, 0, 0, 0]


# Storage


def make_dataset(folder, rows=10, length=8, first=100):
    made = [packing.fill_row([[2, first + i, 1], [2, 1]], length) for i in range(rows)]
    for shard in range(2):
        part = made[shard * rows // 2 : (shard + 1) * rows // 2]
        storage.write_shard(folder / storage.shard_name(shard, 2), part, length)
    storage.write_metadata(folder, [rows // 2] * 2, 1000, length)
    (folder / "data.json").write_text(json.dumps({"length": length}))
    return folder


def ids_of(batches):
    return [row[1] for x, _, _ in batches for row in x["token_ids"].tolist()]


def take(dataset, number):
    iterator = iter(dataset)
    return [next(iterator) for _ in range(number)]


def test_same_rows_same_bytes_and_tfds_reads_them(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        make_dataset(tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    rows = storage.Rows(tmp_path / "a")
    assert len(rows) == 10
    assert rows[7]["tokens"].tolist() == [2, 107, 1, 2, 1, 0, 0, 0]
    assert rows[7]["segment_lengths"].tolist() == [3, 2]


def test_load_passes_shuffled_and_resumes(tmp_path):
    make_dataset(tmp_path)
    one_pass = list(storage.load(tmp_path, 2, repeat=False))
    assert sorted(ids_of(one_pass)) == list(range(100, 110))
    assert ids_of(one_pass) != list(range(100, 110))
    batches = take(storage.load(tmp_path, 2), 12)
    assert ids_of(batches[:5]) == ids_of(one_pass)
    assert ids_of(batches[5:10]) != ids_of(one_pass)
    resumed = take(storage.load(tmp_path, 2, start=7), 5)
    assert ids_of(resumed) == ids_of(batches[7:])
    iterator = iter(storage.load(tmp_path, 2))
    for _ in range(3):
        next(iterator)
    state = iterator.get_state()
    again = iter(storage.load(tmp_path, 2))
    again.set_state(state)
    assert ids_of([next(again) for _ in range(4)]) == ids_of(batches[3:7])
    shards = [
        ids_of(storage.load(tmp_path, 1, repeat=False, shard=(i, 2))) for i in (0, 1)
    ]
    assert sorted(shards[0] + shards[1]) == list(range(100, 110))


def test_mixtures_keep_their_weights(tmp_path):
    for name, first in (("code", 100), ("prose", 500)):
        (tmp_path / name).mkdir()
        make_dataset(tmp_path / name, first=first)
    mix = {tmp_path / "code": 0.8, tmp_path / "prose": 0.2}
    found = ids_of(take(storage.load(mix, 5), 40))
    assert sum(i < 500 for i in found) == 160


def test_load_says_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match="no finished output"):
        storage.load(tmp_path, 2)
    make_dataset(tmp_path)
    with pytest.raises(ValueError, match="fewer than batch_size=11"):
        storage.load(tmp_path, 11, repeat=False)


def test_fit_takes_it_and_its_position_is_kept(tmp_path):
    import keras

    (tmp_path / "d").mkdir()
    make_dataset(tmp_path / "d")

    def model():
        inputs = {
            name: keras.Input((8,), dtype="int32", name=name)
            for name in ("token_ids", "padding_mask", "positions", "segment_ids")
        }
        hidden = keras.layers.Embedding(200, 4)(inputs["token_ids"])
        made = keras.Model(inputs, keras.layers.Dense(200)(hidden))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        made.compile("adam", loss)
        return made

    position = SavePosition(tmp_path / "p.json", every=1)
    dataset = storage.load(tmp_path / "d", 2, start=position.batches)
    plan = {"steps_per_epoch": 3, "verbose": 0, "shuffle": False}
    model().fit(dataset, callbacks=[position], **plan)
    again = SavePosition(tmp_path / "p.json")
    assert again.batches == 3
    rest = storage.load(tmp_path / "d", 2, start=again.batches)
    assert ids_of(take(rest, 1)) == ids_of(take(storage.load(tmp_path / "d", 2), 4)[3:])


def test_tf_data_gives_the_same_batches(tmp_path):
    make_dataset(tmp_path)
    ours = list(storage.load(tmp_path, 2, repeat=False))
    theirs = list(storage.load_tf(tmp_path, 2, repeat=False))
    assert len(ours) == len(theirs) == 5
    for (x, y, weight), (tx, ty, tweight) in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(x["segment_ids"], tx["segment_ids"])
        np.testing.assert_array_equal(y, ty)
        np.testing.assert_array_equal(weight, tweight)
