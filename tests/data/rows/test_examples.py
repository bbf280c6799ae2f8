"""From files to segments: nothing lost, nothing cut off, FIM in context."""

import collections
import json
import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codegemma_keras import fim
from codegemma_keras.data.document import Document
from codegemma_keras.data.rows import examples
from codegemma_keras.data.rows.fim_split import FimSettings
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
@settings(max_examples=60, deadline=None)
def test_every_byte_comes_back_and_every_end_is_there(files, length, seed):
    documents = [
        Document(t, f"d/{i}.py", "r", language="python") for i, t in enumerate(files)
    ]
    codec = ByteCodec()
    chunks = list(
        examples.chunk_repository(documents, codec, FimSettings(seed=seed), length)
    )
    for chunk in chunks:
        assert len(chunk.token_ids) <= length + 1
        assert chunk.token_ids[0] == codec.controls.index(fim.START)
        assert chunk.token_ids[-1] == codec.controls.index(fim.END)
    found = read_back(chunks, codec)
    assert all(found[d.path] == d.text for d in documents)


def test_the_real_tokenizer_gives_every_byte_back():
    text = SOURCE + "<|fim_prefix|> \t\x00 é \u2581 \r\n" * 3
    documents = [Document(text, f"{i}.py", "r", language="python") for i in range(3)]
    chunks = list(examples.chunk_repository(documents, CODEC, FimSettings(), 300))
    assert set(read_back(chunks, CODEC).values()) == {text}


def test_pieces_of_random_length():
    """`shortest_piece` gives short and long pieces; together they are the file."""
    document = Document(SOURCE * 4, "d.py", language="python")
    sizes = {}
    for shortest in (0.25, 1.0):
        settings = FimSettings(shortest_piece=shortest)
        chunks = list(
            examples.chunk_repository([document], CODEC, settings, 200, join=False)
        )
        assert read_back(chunks, CODEC) == {"d.py": SOURCE * 4}
        # Without the last one, which is what was left.
        sizes[shortest] = [len(c.token_ids) - 1 for c in chunks[:-1]]
        assert max(sizes[shortest]) <= 200
    # Cut at a line end in the second half of the room.
    assert min(sizes[1.0]) > 90
    assert min(sizes[0.25]) < 70
    assert max(sizes[0.25]) > 150
    assert len(sizes[0.25]) > 1.3 * len(sizes[1.0])


def test_packed_files_are_rows_of_whole_pieces():
    documents = [Document(SOURCE, f"{i}.py", language="python") for i in range(9)]
    settings = FimSettings(rate=0.9, line_share=0.5, shortest_piece=0.25, seed=3)
    batch = examples.packed_files(documents, CODEC, settings, 128, 4000)
    assert 31 <= batch.rows <= 80  # 4,000 places, and the rest of the last file
    inside = batch.inputs["segment_ids"] > 0
    assert inside.mean() > 0.95
    last = np.diff(batch.inputs["segment_ids"], axis=1, append=0) != 0
    assert (batch.targets[last & inside] == 1).all()  # every segment ends with eos
    again = examples.packed_files(documents, CODEC, settings, 128, 4000)
    np.testing.assert_array_equal(batch.targets, again.targets)


def test_a_path_that_fills_a_row_is_refused():
    document = Document("x", "p" * 200, "r")
    with pytest.raises(ValueError, match="Make rows longer"):
        list(examples.chunk_repository([document], ByteCodec(), FimSettings(), 100))
