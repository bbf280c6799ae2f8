"""Secrets, duplicates and contamination."""

import pathlib
import random
import re

import datasketch
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codegemma_keras.data.clean import decontaminate, dedup, secrets
from codegemma_keras.data.document import Document, Report

# Assembled, so that scanners of this repository find nothing here.
SECRETS = {
    "secret": [
        "AKIA" + "IOSFODNN7RLQZKWT",
        "ghp_" + "16C7e42F292c6912E7710c838347Ae178B4a",
        "xoxb-" + "263594206564-2343594206574-FGqddMF8t08v8N7Oq4i57vs1",
        "sk_" + "live_4eC39HqLyjWDarjtT1zdp7dc",
        "AIza" + "SyDdI0hCZtE6vySjMm-WEfRq3CPzqKqqsHI",
    ],
    "email": ["jane.doe@acme-corp.com", "x.y+z@mail.uni-bonn.de"],
    "ip address": ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"],
    "password": ["postgres://admin:Tr0ub4dor3@db.internal/app"],
}


@pytest.mark.parametrize(
    ("kind", "value"), [(kind, value) for kind in SECRETS for value in SECRETS[kind]]
)
def test_planted_values_are_replaced(kind, value):
    text = f"import os\n\nurl = '{value}'  # see\n"
    found = secrets.find(text)
    assert [f.kind for f in found] == [kind]
    assert secrets.PLACEHOLDERS[kind] in secrets.replace(text, found)
    assert not secrets.find(secrets.replace(text, found))


def test_private_keys_and_assignments():
    key = (
        "-----BEGIN RSA "
        + "PRIVATE KEY-----\nMIIEow\nabc=\n-----END RSA "
        + "PRIVATE KEY-----"
    )
    text = f'a = """{key}"""\napi_key = "q7Xr2mPz9vLw4KtB8nYc"\nb = 1\n'
    cleaned = secrets.replace(text, secrets.find(text))
    assert cleaned == 'a = """<PRIVATE_KEY>"""\napi_key = "<SECRET>"\nb = 1\n'


@pytest.mark.parametrize(
    "text",
    [
        "user@example.com", "git@github.com:a/b.git", "127.0.0.1", "192.168.0.10",
        "version = '1.22.33.44'", "x@y.mean()", "A@B.T", "password = 'changeme'",
        "token = 'your-token-here-12345'", "secret_name = get_secret_value()",
        "1.2.3.4", "::1", "12:30:45", "key = 'some_long_identifier_name'",
    ],
)  # fmt: skip
def test_what_is_no_secret_stays(text):
    assert secrets.find(text) == []


def test_modes():
    document = Document(f"k = '{SECRETS['secret'][0]}' # a@b-c.org", "a.py")
    report = Report()
    assert not list(secrets.clean_documents([document], report, mode="drop"))
    assert report.number("secrets", "secret") == 1
    (kept,) = secrets.clean_documents([document], Report(), mode="keep")
    assert kept == document
    (clean,) = secrets.clean_documents([document], report)
    assert clean.text == "k = '<SECRET>' # <EMAIL>"
    with pytest.raises(ValueError, match="'hide' must be"):
        list(secrets.clean_documents([document], report, mode="hide"))


# Deduplication


def real_files(number):
    folder = pathlib.Path(np.__file__).parent
    files = [p for p in sorted(folder.rglob("*.py")) if p.stat().st_size > 3000]
    return [p.read_text() for p in files[:number]]


def test_sketches_are_those_of_datasketch():
    hashes = dedup.shingles(real_files(1)[0])
    peer = datasketch.MinHash(dedup.PERMUTATIONS, hashfunc=int, scheme="affine32")
    peer.update_batch(hashes.tolist())
    np.testing.assert_array_equal(dedup.sketch(hashes), peer.hashvalues)


def test_similar_pairs_are_those_of_a_full_comparison():
    rng = random.Random(0)
    texts = real_files(30)
    texts += [t.replace("self", "this") + f"\n# {rng.random()}" for t in texts[:10]]
    sketches = np.array([dedup.signature(t) for t in texts])
    slow = {
        (i, j)
        for j in range(len(texts))
        for i in range(j)
        if dedup.similarity(sketches[i], sketches[j]) >= dedup.THRESHOLD
    }
    assert dedup.similar_pairs(sketches) == slow
    assert len(slow) >= 10


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), max_size=40), st.integers(1, 9))
def test_candidates_are_the_pairs_of_each_group(keys, most):
    """In blocks of arrays here, one by one on Beam."""
    before = dedup.MAX_GROUP, dedup._PAIRS
    dedup.MAX_GROUP, dedup._PAIRS = most, 3
    try:
        found = [
            pair
            for first, second in dedup._candidates(np.array(keys, np.uint64))
            for pair in zip(first.tolist(), second.tolist(), strict=True)
        ]
        groups = [[i for i, k in enumerate(keys) if k == key] for key in range(5)]
        expected = [pair for group in groups for pair in dedup.group_pairs(group)]
    finally:
        dedup.MAX_GROUP, dedup._PAIRS = before
    assert sorted(found) == sorted(expected)


LICENCE = " ".join(f"word{i} of the licence" for i in range(200))


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (f"#!/usr/bin/env python\n# Copyright 2024\n#\n# {LICENCE}\n", "import os\n"),
        (f"\n// Licensed under X.\n// {LICENCE}\n\n", "package a\n"),
        (f"/* {LICENCE} */\n", "#include <a.h>\n"),
        (f"/*\n * License\n * {LICENCE}\n */\n// More.\n", "int x;\n"),
        (f"-- license {LICENCE}", ""),
    ],
)
def test_a_licence_at_the_top_makes_no_duplicate(header, code):
    assert dedup.without_licence(header + code).strip() == code.strip()
    files = real_files(6)
    one, two = (header + code + text[:600] for text in files[4:6])
    sketches = np.array([dedup.signature(one), dedup.signature(two)])
    assert dedup.similar_pairs(sketches) == set()


@pytest.mark.parametrize(
    "text",
    ["# How this works\n\nx = 1\n", "#include <licence.h>\n", "", "\n\n", "/* open"],
)
def test_other_comments_stay(text):
    assert dedup.without_licence(text) == text


def test_half_of_a_licence_is_looked_for_in_linear_time():
    # Quadratic, this would take hours.
    for text in ("\n" * 10**6, "# x\n" * 10**6, "/*" * 10**6, "//" + "-" * 10**6):
        assert dedup.without_licence(text) == text


def test_edited_copies_are_found_and_others_kept():
    rng = random.Random(1)
    documents = []
    for i, text in enumerate(real_files(20)):
        lines = text.split("\n")
        for place in rng.sample(range(len(lines)), len(lines) * 15 // 100):
            lines[place] = f"changed_{rng.random()} = {place}"
        documents.append(Document(text, f"{i}.py", "a"))
        documents.append(Document("\n".join(lines), f"{i}.py", "b"))
        documents.append(Document(text.replace("\n", "\r\n"), f"{i}.py", "c"))
    report = Report()
    kept = list(dedup.deduplicate(documents, report))
    assert {d.repo for d in kept} == {"a"}
    assert report.number("dedup", "exact duplicate") == 20
    assert report.number("dedup", "near duplicate") == 60 - 20 - len(kept)
    shuffled = rng.sample(documents, len(documents))
    again = list(dedup.deduplicate(shuffled, Report()))
    assert sorted(d.key for d in again) == sorted(d.key for d in kept)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=30))
def test_every_dropped_one_is_like_a_kept_one(pairs):
    pairs = {(min(p), max(p)) for p in pairs if p[0] != p[1]}
    dropped = dedup.keep_one(pairs)
    for j, i in dropped.items():
        assert (i, j) in pairs
        assert i not in dropped
    for i, j in pairs:
        assert i in dropped or j in dropped


# Decontamination

CODE = '''def running_mean(values, width):
    """Mean of each window of the given width over the list of values, as a new list."""
    means = []
    for start in range(len(values) - width + 1):
        window = values[start : start + width]
        means.append(sum(window) / len(window))
    return means
'''
TASK = decontaminate.Task(
    "Bench/0",
    CODE.split('"""')[1],
    CODE,
    "assert candidate([1, 2, 3, 4], 2) == [1.5, 2.5, 3.5]",
)
INDEX = decontaminate.Index([TASK])


def kinds(text):
    return {m.kind for m in INDEX.matches(text)}


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c,
        lambda c: c.replace("    ", "\t").replace("values[", "values [\n   "),
        lambda c: re.sub(r"\n", "  # a note\n", re.sub(r'""".*?"""', "", c)),
        lambda c: (
            c.replace("values", "xs").replace("window", "part").replace("means", "r")
        ),
        lambda c: re.sub(r'\n    """.*?"""', "", c),
        lambda c: (
            f'TEXT = """\n{re.sub(chr(34) * 3 + ".*?" + chr(34) * 3, "", c)}\n"""'
        ),
    ],
)
def test_code_is_found_however_it_is_written(change):
    text = "\n".join(real_files(3)[:1]) + "\n\n" + change(CODE) + "\nx = 1\n"
    assert "code" in kinds(text)


def test_other_code_of_the_same_shape_is_not_found():
    other = CODE.replace("sum(window) / len(window)", "max(window) * start")
    other = other.replace("values[start : start + width]", "values[width : start]")
    other = re.sub(r'""".*?"""', "", other)
    assert kinds(other) == set()
    assert all(not INDEX.matches(text) for text in real_files(50))


def test_words_and_tests_are_found_in_prose():
    prose = (
        "Write: mean of each window, of the given width, over the list of values as a"
    )
    assert kinds(f"# {prose} new list!") == {"words"}
    assert "tests" in kinds(
        "def check():\n    assert candidate([1,2,3,4],2)==[1.5,2.5,3.5]\n"
    )
    report = Report()
    sink = []
    report.sink = sink.append
    document = Document(CODE, "a.py", "r", language="python")
    assert not list(decontaminate.decontaminate_documents([document], report, INDEX))
    assert sink[0]["reason"] == "Bench"
    assert "Bench/0 code" in sink[0]["detail"]


@settings(max_examples=60, deadline=None)
@given(st.permutations(["a", "b", "c", "d"]))
def test_renaming_is_a_bijection(names):
    """`a = b + a` and `b = a + b` are one; `a = b + b` is another."""
    table = dict(zip("abcd", names, strict=True))
    text = "a = b + a * c - d + a"
    renamed = "".join(table.get(c, c) for c in text)
    same = decontaminate.code_ngrams(text)
    np.testing.assert_array_equal(decontaminate.code_ngrams(renamed), same)
    merged = renamed.replace(names[1], names[0])
    assert not np.array_equal(decontaminate.code_ngrams(merged), same)


def test_common_ngrams_prove_nothing():
    assert decontaminate.Index([TASK], background=[CODE, CODE]).matches(CODE) == [] or (
        {m.kind for m in decontaminate.Index([TASK], [CODE, CODE]).matches(CODE)}
        == {"tests"}
    )


def test_benchmark_files(tmp_path):
    path = tmp_path / "gsm8k_test.jsonl"
    path.write_text('{"question": "How many?", "answer": "3"}\n')
    (task,) = decontaminate.read_tasks(path)
    assert task == decontaminate.Task("gsm8k_test/0", "How many?")
    path.write_text('{"what": 1}\n')
    with pytest.raises(ValueError, match="line 1 has the keys"):
        decontaminate.read_tasks(path)
