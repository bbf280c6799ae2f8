"""Deduplication: exact on normalised text, near by MinHash and LSH bands.

The result depends on the set of documents alone, not on their order: documents are
ranked by `(repo, path, text)`, and in that order one is dropped exactly if it is a near
duplicate of one that was *kept*. So every dropped file has a kept one at least
`threshold` similar to it, and chains (a like b, b like c) do not swallow c, as the
connected components of other tools do.

Sketches are datasketch's (`MinHash`, scheme affine32: the same numbers for the same
hashes) computed for all shingles of a file at once; bands are as `MinHashLSH` would choose
them. Memory is one sketch of 512 bytes per document, which may lie in a file.

A licence at the top of a file is not part of what is compared: in packages of many short
files it is most of each, and would make them all alike.

Left out: duplicates of parts of files; verification on the exact shingle sets (the
sketch estimates the similarity within 0.04, and files of unrelated packages share less
than 0.2).
"""

import dataclasses
import functools
import hashlib
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from codegemma_keras.data.document import Document, Report, require

STEP = "dedup"
PERMUTATIONS = 128
# Words per shingle. A word edited at random spoils as many shingles as this; sets of
# single words are alike in unrelated files.
SHINGLE = 2
# Jaccard similarity of the sets of shingles from which on two files count as one. An
# edit of 15 % of all words leaves 0.56 on average.
THRESHOLD = 0.38
# Fewer shingles than this say too little: such files are deduplicated exactly only.
MIN_SHINGLES = 32
# In a band shared by more documents, each is compared with the first so many.
MAX_GROUP = 200
# Pairs whose sketches are compared at once: 8 MB.
_PAIRS = 8192
_HEADER = re.compile(r"\A(?:\s*(?:#(?!\w)|//|--)[^\n]*(?:\n|\Z)|\s*/\*.*?\*/)+", re.S)
_LICENCE = re.compile("copyright|licen[cs]e", re.I)
_WORD = re.compile(r"\w+")
_CHUNK = 2048  # Shingles per block: 1 MB of products, which fits the cache.


def exact_key(text: str) -> bytes:
    """16 bytes, equal for texts that differ in white space alone."""
    normal = " ".join(text.split()).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(normal, digest_size=16).digest()


@functools.cache
def _permutations(count):
    minhash = require("datasketch").MinHash(num_perm=count, seed=1, scheme="affine32")
    a, b = minhash.permutations
    return a.astype(np.uint32), b.astype(np.uint32)


@functools.cache
def bands(threshold: float = THRESHOLD, permutations: int = PERMUTATIONS):
    """`(number of bands, rows in each)` as datasketch's `MinHashLSH` chooses them.

    Weighted towards few misses: candidates are verified, so a false one costs time only.
    """
    lsh = require("datasketch").MinHashLSH(
        threshold=threshold, num_perm=permutations, weights=(0.1, 0.9)
    )
    return lsh.b, lsh.r


def without_licence(text: str) -> str:
    """The text after its leading comments, if they name a licence or a copyright."""
    header = _HEADER.match(text)
    if header and _LICENCE.search(header[0]):
        return text[header.end() :]
    return text


class _Codes(dict):
    """Word -> hash, remembered: most words of a file were in one before it."""

    def __missing__(self, word):
        if len(self) >= 50_000:  # 5 MB; a corpus has no end of words.
            self.clear()
        code = self[word] = zlib.crc32(word.encode("utf-8", "replace"))
        return code


_codes = _Codes()


def shingles(text: str, size: int = SHINGLE) -> np.ndarray:
    """Hashes of every `size` words in a row, each once, uint32 and sorted.

    A licence at the top is left out.
    """
    words = _WORD.findall(without_licence(text))
    codes = np.fromiter(map(_codes.__getitem__, words), np.uint32, len(words))
    count = len(codes) - size + 1
    if count < 1:
        return np.zeros(0, np.uint32)
    mixed = np.zeros(count, np.uint32)
    for i in range(size):
        mixed = (mixed ^ codes[i : i + count]) * np.uint32(0x9E3779B1)
        mixed ^= mixed >> np.uint32(15)
    return np.unique(mixed)


def sketch(hashes: np.ndarray, permutations: int = PERMUTATIONS) -> np.ndarray:
    """The MinHash of a set of uint32 hashes: `[permutations]` uint32, as datasketch's."""
    a, b = _permutations(permutations)
    h = hashes.astype(np.uint32)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, None)):
        h = h ^ (h >> np.uint32(shift))
        if factor:
            h = h * np.uint32(factor)
    least = np.full(permutations, 0xFFFFFFFF, np.uint32)
    for start in range(0, len(h), _CHUNK):
        block = np.multiply.outer(a, h[start : start + _CHUNK])  # [P, chunk]
        block += b[:, None]
        np.minimum(least, block.min(axis=1), out=least)
    return least


def signature(text: str, permutations: int = PERMUTATIONS) -> np.ndarray | None:
    """The sketch of a text, or None where it has too few shingles to say anything."""
    hashes = shingles(text)
    return sketch(hashes, permutations) if len(hashes) >= MIN_SHINGLES else None


def similarity(a: np.ndarray, b: np.ndarray) -> float:
    """Estimated Jaccard similarity of two sketches."""
    return float(np.mean(a == b))


def band_key(sketches: np.ndarray, band: int, rows: int) -> np.ndarray:
    """One uint64 per document, equal where all rows of the band are: `[n, P] -> [n]`."""
    key = np.full(len(sketches), 0xCBF29CE484222325, np.uint64)
    for row in range(band * rows, (band + 1) * rows):
        key = (key ^ sketches[:, row].astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        key ^= key >> np.uint64(29)
    return key


def group_pairs(members: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Pairs `(i, j)`, i < j, of one band's members; the first `MAX_GROUP` with all."""
    members = sorted(members)
    for place, j in enumerate(members):
        for i in members[: min(place, MAX_GROUP)]:
            yield i, j


def similar_pairs(
    sketches: np.ndarray,
    threshold: float = THRESHOLD,
    members: np.ndarray | None = None,
) -> set:
    """Pairs `(i, j)`, i < j, of documents at least `threshold` similar.

    Args:
        sketches: `[n, P]` uint32; may be a memory map, read one band at a time.
        threshold: of the estimated similarity.
        members: rows to compare, in order of rank; the pairs index this. Default: all.
    """
    members = np.arange(len(sketches)) if members is None else np.asarray(members)
    number, rows = bands(threshold, sketches.shape[1])
    found = set()
    for band in range(number):
        keys = band_key(sketches[members, band * rows : (band + 1) * rows], 0, rows)
        for first, second in _candidates(keys):
            alike = sketches[members[first]] == sketches[members[second]]  # [pairs, P]
            alike = alike.mean(axis=1) >= threshold
            found.update(
                zip(first[alike].tolist(), second[alike].tolist(), strict=True)
            )
    return found


def _candidates(keys: np.ndarray):
    """Blocks `(first, second)` of the pairs of `group_pairs`, for all groups of keys."""
    order = np.argsort(keys, kind="stable")
    new = np.concatenate(([True], np.diff(keys[order]) != 0))
    starts = np.flatnonzero(new)
    group = np.cumsum(new) - 1
    ends = np.append(starts[1:], len(order))[group]
    # Each place with the one `step` after it, for as long as both are in one group.
    places = np.flatnonzero(np.arange(len(order)) - starts[group] < MAX_GROUP)
    step = 1
    while len(places := places[places + step < ends[places]]):
        for block in range(0, len(places), _PAIRS):
            part = places[block : block + _PAIRS]
            yield order[part], order[part + step]
        step += 1


def keep_one(pairs: Iterable[tuple[int, int]]) -> dict[int, int]:
    """`{dropped: kept}`: in order of rank, drop what is like an earlier kept one."""
    earlier = {}
    for i, j in pairs:
        earlier.setdefault(j, []).append(i)
    dropped = {}
    for j in sorted(earlier):
        kept = [i for i in earlier[j] if i not in dropped]
        if kept:
            dropped[j] = min(kept)
    return dropped


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Why a document goes: `reason`, and the index of the one that stays for it."""

    reason: str
    kept: int


def decide(
    ranks: Sequence,
    exact: Sequence[bytes],
    sketches: np.ndarray,
    has_sketch: np.ndarray,
    threshold: float = THRESHOLD,
) -> dict[int, Verdict]:
    """Which documents to drop, from what is known of each.

    Args:
        ranks: a sortable key per document; the least of a group of duplicates stays.
        exact: `exact_key` of each.
        sketches: `[n, P]` uint32.
        has_sketch: `[n]` bool.
        threshold: see `similar_pairs`.

    Returns:
        `{index: Verdict}` of those to drop.
    """
    order = sorted(range(len(ranks)), key=ranks.__getitem__)
    first, verdicts, unique = {}, {}, []
    for index in order:
        kept = first.setdefault(exact[index], index)
        if kept != index:
            verdicts[index] = Verdict("exact duplicate", kept)
        elif has_sketch[index]:
            unique.append(index)
    if len(unique) > 1:
        for j, i in keep_one(similar_pairs(sketches, threshold, unique)).items():
            verdicts[unique[j]] = Verdict("near duplicate", unique[i])
    return verdicts


def deduplicate(
    documents: Iterable[Document], report: Report, *, threshold: float = THRESHOLD
) -> Iterator[Document]:
    """Documents without their duplicates, in the order they came in.

    Holds all documents; `build` does the same from sketches on disk.

    Args:
        documents: any.
        report: counts `"exact duplicate"` and `"near duplicate"`.
        threshold: Jaccard similarity of the sets of shingles.
    """
    documents = list(documents)
    ranks = [(*d.key, exact_key(d.text)) for d in documents]
    found = [signature(d.text) for d in documents]
    blank = np.zeros(PERMUTATIONS, np.uint32)
    sketches = np.array([blank if s is None else s for s in found]).reshape(
        -1, PERMUTATIONS
    )
    has = np.array([s is not None for s in found], bool)
    verdicts = decide(ranks, [r[2] for r in ranks], sketches, has, threshold)
    for index, document in enumerate(documents):
        verdict = verdicts.get(index)
        if verdict is None:
            yield document
        else:
            kept = documents[verdict.kept]
            report.drop(
                STEP, verdict.reason, document, detail=f"of {kept.repo}:{kept.path}"
            )
