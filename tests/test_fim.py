"""Rendering and parsing are inverse, prompts read as the paper's, budgets hold."""

import functools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codegemma_keras import fim
from codegemma_keras.tokenizer.codec import PlainCodec
from tests.small_vocabulary import small_vocabulary, source

CODEC = functools.cache(lambda: PlainCodec(small_vocabulary()))
# What documents are made of: all that has broken FIM code somewhere.
SCRAPS = [
    *"abcdefgh 0123(){}:=.,#",
    *("\n", "\r\n", "\r", "\t", "\0", "    ", " " * 33, "\n" * 14, "\u2581", "\ufeff"),
    *("\U0001f469\u200d\U0001f4bb", "\u00e9", "e\u0301", "\u4e2d", "\udcff", "<", "|>"),
    *("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|file_separator|>"),
    *("<start_of_turn>", "<end_of_turn>", "<eos>", "<bos>", "<pad>", "<unk>", "<0x0A>"),
    *("def ", "return ", "self.", "import os\n", "<unused60>", "<fim_prefix>"),
]
PATHS = [
    None,
    "a.py",
    "src/pkg/mod.py",
    "\u00fc n\u00ef.py",
    "<|fim_prefix|>",
    "C:\\a b\t.py",
]

text = st.lists(st.one_of(st.sampled_from(SCRAPS), st.text(max_size=8))).map("".join)
paths = st.sampled_from(PATHS)
contexts = st.lists(st.tuples(paths.filter(bool), text), max_size=3).map(tuple)


def render(infill, spm_order="suffix_first"):
    return fim.render(
        infill.prefix,
        infill.suffix,
        infill.middle,
        path=infill.path,
        context=infill.context,
        mode=infill.mode,
        spm_order=spm_order,
    )


def random_text(rng):
    if rng.random() < 0.1:
        return ""
    return "".join(rng.choices(SCRAPS, k=rng.randrange(1, 24)))


def random_infill(rng):
    context = ()
    if rng.random() < 0.1:
        context = (("other.py", random_text(rng)), ("b.py", random_text(rng)))
    return fim.Infill(
        prefix=random_text(rng),
        middle=None if rng.random() < 0.3 else random_text(rng),
        suffix=random_text(rng),
        path=rng.choice(PATHS),
        context=context,
        mode=rng.choice(fim.MODES),
    )


def test_parse_inverts_render_over_10_000_documents():
    rng = random.Random(0)
    codec = CODEC()
    controls = set(codec.controls)
    for _ in range(10_000):
        document = random_infill(rng)
        parts = render(document)
        assert fim.parse(parts) == document
        if document.middle is not None:
            parts.append(fim.END)  # as in training: says that an empty middle is whole
        ids = codec.encode([fim.START, *parts])
        assert fim.parse(codec.decode_parts(ids)) == document
        sentinels = [i for i in ids if i in controls]
        expected = 4 + len(document.context) + (document.middle is not None)
        assert len(sentinels) == expected  # no text became one


@settings(deadline=None, max_examples=300)
@given(
    text,
    text,
    st.one_of(st.none(), text),
    paths,
    contexts,
    st.sampled_from(["psm", "spm"]),
)
def test_parse_inverts_render(prefix, suffix, middle, path, context, mode):
    document = fim.Infill(prefix, middle, suffix, path, context, mode)
    assert fim.parse(render(document)) == document
    if mode == "spm":
        assert fim.parse(render(document, "bavarian"), spm_order="bavarian") == document


def test_golden_psm_prompt():
    codec = CODEC()
    ids = [2, *codec.encode(fim.render("def f(", "):\n", path="path/file.py"))]
    head, tail = codec.encode("path/file.py\n"), codec.encode("):\n")
    assert ids == [2, *head, 67, *codec.encode("def f("), 69, *tail, 68]
    assert head[-1] == 108  # the newline of the path line, and nothing after it


def test_what_each_mode_reads_like():
    show = lambda *a, **k: "".join(fim.render(*a, **k))  # noqa: E731
    p, m, s, f = fim.PREFIX, fim.MIDDLE, fim.SUFFIX, fim.FILE_SEPARATOR
    assert show("P", "S") == f"{p}P{s}S{m}"
    assert show("P", "S", "M", path="a.py") == f"a.py\n{p}P{s}S{m}M"
    assert show("P", "S", "M", mode="spm") == f"{s}S{p}P{m}M"
    assert show("P", "S", "M", mode="spm", spm_order="bavarian") == f"{p}{s}S{m}PM"
    context = [("b.py", "B\n"), ("c.py", "")]
    assert show("P", "S", path="a.py", context=context) == (
        f"b.py\nB\n{f}c.py\n{f}a.py\n{p}P{s}S{m}"
    )
    assert fim.render_plain("T", "a.py") == ["a.py\nT"]
    assert fim.render_plain("T") == ["T"]


@pytest.mark.parametrize("mode", fim.MODES)
@pytest.mark.parametrize("order", fim.SPM_ORDERS)
def test_inference_prompt_starts_the_training_text(mode, order):
    """In tokens, too: what was trained is what is asked."""
    codec = CODEC()
    options = {"path": "a.py", "mode": mode, "spm_order": order}
    prompt = codec.encode(fim.render("retu", "s\n", **options))
    training = codec.encode(fim.render("retu", "s\n", "rn value", **options))
    assert training[: len(prompt)] == prompt
    assert training[len(prompt) :] == codec.encode("rn value")


def test_a_model_that_cannot_fill_in_is_asked_from_left_to_right():
    f = fim.FILE_SEPARATOR
    options = {"path": "a.py", "mode": "left_to_right"}
    assert fim.render("P", "\nS", **options) == ["S", f, "a.py\n", "P"]
    assert fim.render("P", "\n \n", **options) == ["a.py\n", "P"]
    assert fim.render("\n  ", "", **options) == ["a.py\n", "\n "]
    context = fim.render("P", "", mode="left_to_right", context=[("b.py", "B")])
    assert context == ["b.py\nB", f, "P"]
    with pytest.raises(ValueError, match="mode='left_to_right' must be one of"):
        fim.render("P", "S", "M", mode="left_to_right")


def test_control_equals_no_string():
    assert fim.Control("<|fim_prefix|>") == fim.PREFIX
    assert fim.PREFIX != "<|fim_prefix|>"
    assert "<|fim_prefix|>" not in (fim.PREFIX, fim.MIDDLE)
    assert repr(fim.PREFIX) == "Control('<|fim_prefix|>')"
    smuggled = fim.render(fim.MIDDLE, fim.SUFFIX, fim.PREFIX)
    assert [type(part) for part in smuggled[1::2]] == [str, str, str]


def test_render_refuses():
    with pytest.raises(ValueError, match=r"mode='pms' must be one of"):
        fim.render("", "", mode="pms")
    with pytest.raises(ValueError, match="spm_order='x' must be one of"):
        fim.render("", "", spm_order="x")
    for path in ("a\n.py", "a.py\r"):
        with pytest.raises(ValueError, match="line break"):
            fim.render("", "", path=path)
    with pytest.raises(ValueError, match="path is empty"):
        fim.render("", "", path="")
    with pytest.raises(ValueError, match=r"\(path, text\) pairs"):
        fim.render("", "", context=["ab"])
    with pytest.raises(
        TypeError, match=r"prefix must be a str, not bytes.*surrogateescape"
    ):
        fim.render(b"", "")
    with pytest.raises(TypeError, match="suffix must be a str, not NoneType"):
        fim.render("", None)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "the parts end there"),
        (["text"], "no path line"),
        (["a.py\nmore", fim.PREFIX], "no path line"),
        ([fim.PREFIX, "p", fim.MIDDLE], "should be Control.*fim_suffix"),
        (["no newline", fim.FILE_SEPARATOR, fim.PREFIX], "without the path line"),
        (fim.render("p", "s", "m") + fim.render("p", "s", "m"), "one file at a time"),
    ],
)
def test_parse_refuses(parts, message):
    with pytest.raises(ValueError, match=message):
        fim.parse(parts)


def test_split_at():
    assert fim.split_at("abcd", 1, 3) == ("a", "bc", "d")
    assert fim.split_at("", 0, 0) == ("", "", "")
    for start, end in ((-1, 2), (3, 2), (0, 5)):
        with pytest.raises(ValueError, match="0 <= start <= end <= 4"):
            fim.split_at("abcd", start, end)


def prompt_tokens(prefix, suffix, context=(), path=None):
    return len(CODEC().encode(fim.render(prefix, suffix, path=path, context=context)))


@settings(deadline=None, max_examples=200)
@given(text, text, contexts, paths, st.integers(0, 60))
def test_shrink_fits_and_keeps_what_is_nearest(prefix, suffix, context, path, extra):
    limit = prompt_tokens("", "", path=path) + extra
    kept = fim.shrink(prefix, suffix, context, limit, CODEC().encode, path=path)
    assert prompt_tokens(*kept, path=path) <= limit
    assert prefix.endswith(kept[0])
    assert suffix.startswith(kept[1])
    assert list(context)[len(context) - len(kept[2]) :] == kept[2]
    if prompt_tokens(prefix, suffix, context, path) <= limit:
        assert kept == (prefix, suffix, list(context))


def test_shrink_shares_three_to_one():
    encode = CODEC().encode
    count = lambda text: len(encode([text]))  # noqa: E731
    code = source()
    prefix, suffix, _ = fim.shrink(code, code, [], 403, encode)
    assert 296 <= count(prefix) <= 300
    assert 96 <= count(suffix) <= 103
    # What one side does not need goes to the other, and then to the context.
    prefix, suffix, _ = fim.shrink(code, "pass\n", [], 403, encode)
    assert suffix == "pass\n"
    assert 396 <= count(prefix) + count(suffix) <= 400
    prefix, suffix, _ = fim.shrink("def f", code, [], 403, encode)
    assert prefix == "def f"
    assert 396 <= count(prefix) + count(suffix) <= 400
    files = [("far.py", "x = 1\n"), ("near.py", "y = 2\n")]
    near = prompt_tokens("def", "pass", files[1:])
    assert fim.shrink("def", "pass", files, near, encode) == ("def", "pass", files[1:])
    assert fim.shrink("def", "pass", files, near - 1, encode) == ("def", "pass", [])


def test_shrink_of_a_long_file_encodes_little_of_it():
    seen = 0

    def encode(parts):
        nonlocal seen
        seen += sum(map(len, parts))
        return CODEC().encode(parts)

    code = source() * 100
    prefix, suffix, _ = fim.shrink(code, code, [], 500, encode)
    assert code.endswith(prefix)
    assert code.startswith(suffix)
    assert seen < len(code) / 10


def test_shrink_refuses_a_limit_below_the_sentinels():
    with pytest.raises(ValueError, match="limit=2 is too small"):
        fim.shrink("a", "b", [], 2, CODEC().encode)
    assert fim.shrink("a", "b", [("c.py", "")], 3, CODEC().encode) == ("", "", [])


def test_text_that_fits_is_never_cut():
    """At every cursor of real code, with a limit that is just enough."""
    encode, code = CODEC().encode, source()[:3000]
    for cursor in range(0, len(code), 7):
        prefix, suffix = (
            code[max(0, cursor - 700) : cursor],
            code[cursor : cursor + 400],
        )
        limit = prompt_tokens(prefix, suffix)
        assert fim.shrink(prefix, suffix, [], limit, encode) == (prefix, suffix, [])


def test_a_huge_context_file_is_not_encoded_whole():
    seen = 0

    def encode(parts):
        nonlocal seen
        seen += sum(map(len, parts))
        return CODEC().encode(parts)

    huge = ("huge.py", source() * 100)
    assert fim.shrink("a", "b", [huge], 500, encode) == ("a", "b", [])
    assert seen < len(huge[1]) / 10
