"""Exact and near duplicates."""

import random

import datasketch
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from codegemma_keras.data.clean import dedup
from codegemma_keras.data.document import Document, Report
from tests.data.clean.real_files import real_files


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
        if dedup.similarity(sketches[i], sketches[j]) >= dedup.THRESHOLD - dedup.MARGIN
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
    for j, (i, found) in dropped.items():
        assert found == 1.0
        assert (i, j) in pairs
        assert i not in dropped
    for i, j in pairs:
        assert i in dropped or j in dropped


def test_unrelated_files_under_one_banner_stay():
    """It has no licence's words, and is most of each file."""
    banner = " ".join(f"banner{i}" for i in range(300))
    texts = [text[4000:6000] for text in real_files(40)]
    documents = [
        Document(f"/* {banner} */\n{text}", f"{i}.c", "a")
        for i, text in enumerate(texts)
    ]
    report = Report()
    plain = [d.replace(text=texts[i]) for i, d in enumerate(documents)]
    alike = len(texts) - len(list(dedup.deduplicate(plain, Report())))
    assert len(list(dedup.deduplicate(documents, report))) == len(texts) - alike


def test_a_pair_is_reported_with_its_exact_similarity():
    text = real_files(1)[0]
    copy = text.replace("self", "this")
    entries = []
    documents = [Document(text, "a.py", "r"), Document(copy, "b.py", "r")]
    list(dedup.deduplicate(documents, Report(entries.append)))
    a, b = ({*dedup.shingles(t).tolist()} for t in (text, copy))
    exact = round(len(a & b) / len(a | b), 3)
    (entry,) = entries
    assert (entry["name"], entry["kept"]) == ("r:b.py", "r:a.py")
    assert entry["similarity"] == exact
    assert entry["detail"] == f"{exact:.0%} of r:a.py"


def test_what_sketches_propose_is_verified():
    """A pair that looks alike and is not stays, whatever the sketches say."""
    same = np.zeros((2, dedup.PERMUTATIONS), np.uint32)
    keys = [b"a", b"b"]
    known = ["a", "b"]
    has = np.array([True, True])
    assert dedup.decide(known, keys, same, has, 0.4, lambda i, j: 0.39) == {}
    verdict = dedup.decide(known, keys, same, has, 0.4, lambda i, j: 0.4)[1]
    assert verdict == dedup.Verdict("near duplicate", 0, 0.4)
