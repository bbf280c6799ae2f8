"""Where files are cut: every kind of span, the shares, the draws, the weights."""

import collections
import json
import math
import pathlib
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codegemma_keras import fim
from codegemma_keras.data.document import Document
from codegemma_keras.data.rows import fim_split
from codegemma_keras.data.rows.fim_split import FimSettings, random_split
from codegemma_keras.tokenizer.codec import PlainCodec
from tests.small_vocabulary import small_vocabulary
from tests.test_fim import text as texts

SOURCE = pathlib.Path(json.decoder.__file__).read_text()
SPANS = ("character", "short", "line", "block")


def example(document, plan, piece=0, epoch=0):
    return fim_split.example(
        document.text,
        plan,
        fim_split.document_rng(document, plan, piece, epoch),
        path=document.path,
        language=document.language,
    )


def test_rates_and_kinds():
    counts = collections.Counter()
    number = 6000
    plan = FimSettings()
    for i in range(number):
        document = Document(
            f"x{i} = [1, 2]\ny = f(x{i})\n", f"{i}.py", language="python"
        )
        made = example(document, plan)
        counts[made.kind] += 1
        counts[made.span] += 1
    fims = number - counts["plain"]

    def near(found, total, share):
        assert abs(found - total * share) <= 3 * math.sqrt(total * share * (1 - share))

    near(fims, number, 0.8)
    near(counts["spm"], fims, 0.5)
    near(counts["syntax"], fims, 0.5)
    assert counts["plain"] == counts[""]


def test_choices_depend_on_the_document_and_the_seed_alone():
    document = Document(SOURCE, "a.py", "r", language="python")
    one = example(document, FimSettings())
    assert one == example(document, FimSettings())
    changes = [
        (document, FimSettings(seed=1)),
        (document.replace(path="b.py"), FimSettings()),
        (document.replace(repo="s"), FimSettings()),
        (document, FimSettings(), 1),
        (document, FimSettings(), 0, 1),
        (document, FimSettings(), 0, 2),
    ]
    assert len({str(example(*change)) for change in changes} | {str(one)}) == 7


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
        rng = fim_split.document_rng(document, FimSettings(), piece)
        prefix, middle, suffix = fim_split.syntax_split(text, language, rng)
        assert prefix + middle + suffix == text
        assert len((prefix + middle).encode()) in ends
        assert middle


def test_no_grammar_no_syntax_split():
    assert fim_split.syntax_split("select 1", "sql", None) is None
    document = Document("select 1;\n" * 9, "a.sql", language="sql")
    plan = FimSettings(rate=1, syntax_share=1)
    assert example(document, plan).span == "character"


def test_line_share():
    plan = FimSettings(rate=1, syntax_share=0.3, line_share=0.7)
    text = "".join(f"def f{i}(x):\n    return x + {i}\n\n" for i in range(40))
    counts, lines = collections.Counter(), []
    for number in range(400):
        document = Document(text, f"m{number}.py", language="python")
        made = example(document, plan)
        counts[made.span] += 1
        if made.span == "line":
            middle = fim.parse([*made.parts, fim.END]).middle
            lines.append(middle.rstrip("\n").count("\n"))
    assert set(counts) == {"syntax", "line"}
    assert abs(counts["line"] - 280) < 4 * (400 * 0.7 * 0.3) ** 0.5
    share = sum(n == 0 for n in lines) / len(lines)
    assert abs(share - 0.75) < 4 * (0.75 * 0.25 / len(lines)) ** 0.5 + 0.03


def test_a_quarter_of_the_lines_begins_behind_the_indentation():
    """There the cursor of an editor stands after the enter key."""
    text = "".join(f"def f{i}(x):\n        return x + {i}\n\n" for i in range(40))
    rng, starts = random.Random(0), collections.Counter()
    for _ in range(800):
        prefix, middle, suffix = fim_split.random_split(text, rng, "line")
        assert prefix + middle + suffix == text
        line = prefix.rpartition("\n")[2]
        whole = not line and middle.endswith("\n")
        starts["whole" if whole else "behind" if line == " " * 8 else "other"] += 1
        if not whole:
            assert not middle.endswith("\n")
    # Half of the lines are indented. A few cuts within a line stand there by chance.
    assert abs(starts["whole"] - 400) < 4 * (800 / 4) ** 0.5
    assert abs(starts["behind"] - 100) < 4 * (100 * 7 / 8) ** 0.5 + 10


def test_path_share():
    plan = FimSettings(rate=1, path_share=0.25)
    paths = collections.Counter()
    for number in range(400):
        document = Document("x = 1\ny = 2\n", f"{number}.py")
        found = fim.parse([*example(document, plan).parts, fim.END])
        assert found.path in (document.path, None)
        paths[found.path is None] += 1
    assert abs(paths[False] - 100) < 4 * (400 * 0.25 * 0.75) ** 0.5


def test_without_lines_nothing_changes():
    """The share of lines is carved out of the characters', with the same draws."""
    text = "".join(f"x{i} = f({i})\n" for i in range(60))
    document = Document(text, "m.py", language="python")
    for piece in range(100):
        plain = example(document, FimSettings(), piece)
        lines = example(document, FimSettings(line_share=0.5), piece)
        assert lines.kind == plain.kind
        assert lines == plain or (plain.span, lines.span) == ("character", "line")


def test_settings_are_checked():
    with pytest.raises(ValueError, match="they may add up to 1"):
        FimSettings(syntax_share=0.6, line_share=0.5)
    with pytest.raises(ValueError, match=r"rate=1\.5 must be between"):
        FimSettings(rate=1.5)
    with pytest.raises(ValueError, match="must be one of"):
        FimSettings(spm_order="x")
    with pytest.raises(ValueError, match="span='words' must be one of"):
        random_split("a", random.Random(0), "words")


# Spans


@settings(deadline=None)
@given(
    texts,
    st.integers(0, 2**32),
    st.sampled_from([random.Random, np.random.default_rng]),
    st.sampled_from(SPANS),
)
def test_random_split_joins_to_the_text(document, seed, generator, span):
    prefix, middle, suffix = random_split(document, generator(seed), span)
    assert prefix + middle + suffix == document
    for left, right in ((prefix, middle + suffix), (prefix + middle, suffix)):
        assert not (left.endswith("\r") and right.startswith("\n"))


def test_random_split_reaches_every_span_alike():
    rng = random.Random(0)
    counts = collections.Counter(random_split("abc", rng) for _ in range(16_000))
    # Two ends out of 4 places: an empty middle in 1 of 16 each, other spans in 2 of 16.
    assert len(counts) == 10
    for (_, middle, _), count in counts.items():
        assert count == pytest.approx(2000 if middle else 1000, rel=0.15)


def test_line_spans():
    """Whole lines or the rest of one, as a cursor asks for."""
    text = "a = 1\n\n  b = 2\r\nc = 3"
    rng = np.random.default_rng(0)
    splits = [random_split(text, rng, "line") for _ in range(4000)]
    middles = collections.Counter(middle for _, middle, _ in splits)
    # 1/3 this line x 3/4 no further line x 1/2 whole.
    for line in ("a = 1\n", "  b = 2\r\n"):
        assert abs(middles[line] - 4000 / 8) < 4 * (4000 * 7 / 64) ** 0.5
    for prefix, middle, suffix in splits:
        assert suffix.startswith(("\n", "\r\n")) or not suffix or middle.endswith("\n")
        assert (prefix + middle + suffix) == text
    # The rest of a line leaves its end to the suffix.
    rests = [s for _, m, s in splits if m in ("= 1", " = 1", "a = 1")]
    assert len(rests) > 4000 / 8 / 5
    assert all(s.startswith("\n") for s in rests)
    for blank in ("", " ", "\n\n"):
        for span in ("line", "block"):
            assert "".join(random_split(blank, rng, span)) == blank


BLOCKS = """\
import os

def f(x):
    if x:
        y = 1

        return y
    return 2

    # after a blank line
x = [
    1,
]
"""


def test_block_spans():
    rng = random.Random(0)
    found = {random_split(BLOCKS, rng, "block")[1] for _ in range(3000)}
    whole = {m for m in found if m.endswith("\n")}
    assert whole == {
        "import os\n",
        # At the margin: a statement with its body, to the blank line before less depth.
        BLOCKS[BLOCKS.index("def f") : BLOCKS.index("x = [")],
        BLOCKS[BLOCKS.index("    if x") : BLOCKS.index("\n    # after")],
        "        y = 1\n",
        "        return y\n",
        "    return 2\n",
        "    # after a blank line\n",
        "x = [\n    1,\n",
        "    1,\n",
        "]\n",
    }
    rests = found - whole
    # The rest of a first line, then the same block without its last line end.
    assert all(any(m + "\n" == w[-len(m) - 1 :] for w in whole) for m in rests)
    assert "return y" in rests


# Weights


def test_weights_of_a_segment():
    codec = PlainCodec(small_vocabulary())
    parts = [
        *(fim.START, "a.py\nplain", fim.FILE_SEPARATOR),
        *(*fim.render("p", "s", "m", path="b.py"), fim.FILE_SEPARATOR),
        *(*fim.render("p", "s", "", mode="spm"), fim.END),
    ]
    ids = codec.encode(parts)
    kept = fim_split.target_weights(ids, codec.control_ids)
    assert kept.tolist() == [1.0] * len(ids)
    weights = fim_split.target_weights(ids, codec.control_ids, 3.0, 0.5)
    first = ids.index(codec.control_ids[fim.FILE_SEPARATOR]) + 1
    middles = [i for i, t in enumerate(ids) if t == codec.control_ids[fim.MIDDLE]]
    assert weights[:first].tolist() == [1.0] * first
    for start, (middle, size) in zip(
        (first, middles[0] + 3), zip(middles, (2, 1), strict=True), strict=True
    ):
        end = middle + 1 + size  # the middle's tokens, and what ends it
        assert weights[start : middle + 1].tolist() == [0.5] * (middle + 1 - start)
        assert weights[middle + 1 : end].tolist() == [3.0] * size
    assert end == len(ids)
