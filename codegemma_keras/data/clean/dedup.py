"""Deduplication: exact on normalised text, near by MinHash and LSH bands.

The result depends on the set of documents alone, not on their order: documents are
ranked by `(repo, path, text)`, and in that order one is dropped exactly if it is a near
duplicate of one that was *kept*. So every dropped file has a kept one at least
`threshold` similar to it, and chains (a like b, b like c) do not swallow c, as the
connected components of other tools do.

Sketches are datasketch's (`MinHash`, scheme affine32: the same numbers for the same
hashes) computed for all shingles of a file at once; bands are as `MinHashLSH` would choose
them. Memory is one sketch of 512 bytes per document, which may lie in a file.

What is compared is the code: comments that name a licence are left out of the sketch
(`headers.without_licence`). Sketches only propose pairs. Each is verified by the exact
similarity of its texts, without the phrases that recur in most files of a repository
(`headers.recurring`), before a file is dropped.

Left out: duplicates of parts of files.
"""

import collections
import dataclasses
import functools
import hashlib
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from codegemma_keras.data.clean.headers import recurring, without_licence
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
# Sketches err by 0.04 in one of three pairs: so much below the threshold they propose.
MARGIN = 0.05
# In a band shared by more documents, each is compared with the first so many.
MAX_GROUP = 200
# Pairs whose sketches are compared at once: 8 MB.
_PAIRS = 8192
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

    Comments that name a licence are left out.
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
    """Pairs `(i, j)`, i < j, of documents that may be `threshold` similar.

    Args:
        sketches: `[n, P]` uint32; may be a memory map, read one band at a time.
        threshold: of the similarity; estimates may lie `MARGIN` below it.
        members: rows to compare, in order of rank; the pairs index this. Default: all.
    """
    members = np.arange(len(sketches)) if members is None else np.asarray(members)
    number, rows = bands(threshold, sketches.shape[1])
    found = set()
    for band in range(number):
        keys = band_key(sketches[members, band * rows : (band + 1) * rows], 0, rows)
        for first, second in _candidates(keys):
            alike = sketches[members[first]] == sketches[members[second]]  # [pairs, P]
            alike = alike.mean(axis=1) >= threshold - MARGIN
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


def jaccard(a: np.ndarray, b: np.ndarray, ignored: np.ndarray | None = None) -> float:
    """Exact similarity of two results of `shingles`, 0 to 1.

    Args:
        a, b: `[n]` and `[m]` uint32, each value once.
        ignored: `[k]` uint32, of neither: phrases that recur. If they leave too little
            of one file to compare, they count.
    """
    if ignored is not None and len(ignored):
        rest = [x[~np.isin(x, ignored, assume_unique=True)] for x in (a, b)]
        if min(map(len, rest)) >= MIN_SHINGLES:
            a, b = rest
        else:
            # Of a few words each agreement would be chance: what they say must be all.
            return float(np.array_equal(a, b))
    common = len(np.intersect1d(a, b, assume_unique=True))
    return common / max(1, len(a) + len(b) - common)


class Verifier:
    """The exact similarity of two documents, from their texts.

    Calling it with two indices gives their `jaccard`, without what recurs in most files
    of the repository of either.

    Args:
        read: gives the text of a document, by index.
        repos: the repository of each document.
        exact: `exact_key` of each; decides which files of a repository are looked at for
            what recurs.
    """

    # Shingles of files and phrases of repositories that are kept: 10 kB each on average.
    CACHED = 2048
    # Files of a repository that are looked at for what recurs.
    SAMPLE = 256

    def __init__(
        self,
        read: Callable[[int], str],
        repos: Sequence[str],
        exact: Sequence[bytes],
    ):
        self._read, self._repos, self._exact = read, repos, exact
        self._files = None
        self._shingles = functools.lru_cache(self.CACHED)(lambda i: shingles(read(i)))
        self._recurring = functools.lru_cache(self.CACHED)(self._find_recurring)

    def __call__(self, i: int, j: int) -> float:
        repos = sorted({self._repos[i], self._repos[j]})
        ignored = np.concatenate([self._recurring(repo) for repo in repos])
        return jaccard(self._shingles(i), self._shingles(j), ignored)

    def _find_recurring(self, repo):
        if self._files is None:
            self._files = collections.defaultdict(list)
            for index, name in enumerate(self._repos):
                self._files[name].append(index)
        sample = sorted(self._files[repo], key=self._exact.__getitem__)[: self.SAMPLE]
        return recurring([self._read(index) for index in sample], shingles)


def keep_one(
    pairs: Iterable[tuple[int, int]],
    verify: Callable[[int, int], float] | None = None,
    threshold: float = THRESHOLD,
) -> dict[int, tuple[int, float]]:
    """In order of rank, drop what is like an earlier one that was kept.

    Args:
        pairs: `(i, j)`, i < j, that may be alike.
        verify: gives the similarity of a pair, such as a `Verifier`. None: 1.0 for all.
        threshold: of that similarity.

    Returns:
        `{dropped: (kept, similarity)}`, the first that is kept and like it.
    """
    earlier = {}
    for i, j in pairs:
        earlier.setdefault(j, []).append(i)
    dropped = {}
    for j in sorted(earlier):
        for i in sorted(earlier[j]):
            if i in dropped:
                continue
            found = verify(i, j) if verify else 1.0
            if found >= threshold:
                dropped[j] = i, found
                break
    return dropped


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Why a document goes.

    Attributes:
        reason: `"exact duplicate"` or `"near duplicate"`.
        kept: the index of the one that stays for it.
        similarity: of the two, 0 to 1.
    """

    reason: str
    kept: int
    similarity: float = 1.0


def decide(
    ranks: Sequence,
    exact: Sequence[bytes],
    sketches: np.ndarray,
    has_sketch: np.ndarray,
    threshold: float = THRESHOLD,
    verify: Callable[[int, int], float] | None = None,
) -> dict[int, Verdict]:
    """Which documents to drop, from what is known of each.

    Args:
        ranks: a sortable key per document; the least of a group of duplicates stays.
        exact: `exact_key` of each.
        sketches: `[n, P]` uint32.
        has_sketch: `[n]` bool.
        threshold: Jaccard similarity of near duplicates.
        verify: the exact similarity of two documents by index, see `Verifier`. None
            trusts the sketches.

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
        pairs = similar_pairs(sketches, threshold, unique)
        check = verify and (lambda i, j: verify(unique[i], unique[j]))
        for j, (i, found) in keep_one(pairs, check, threshold).items():
            verdicts[unique[j]] = Verdict("near duplicate", unique[i], found)
    return verdicts


def report_drop(report: Report, verdict: Verdict, name, kept: str, size: int = 0):
    """Count a duplicate; the entry of the sink has `kept` and `similarity`.

    Args:
        report: any.
        verdict: of the document.
        name: a `Document`, or `"repo:path"`.
        kept: `"repo:path"` of the one that stays.
        size: bytes; taken from a `Document`.
    """
    similarity = round(verdict.similarity, 3)
    detail = f"{similarity:.0%} of {kept}"
    report.drop(
        STEP, verdict.reason, name, size, detail, kept=kept, similarity=similarity
    )


def deduplicate(
    documents: Iterable[Document], report: Report, *, threshold: float = THRESHOLD
) -> Iterator[Document]:
    r"""Documents without their duplicates, in the order they came in.

    Holds all documents; `build` does the same from sketches on disk.

    Args:
        documents: any.
        report: counts `"exact duplicate"` and `"near duplicate"`; see `report_drop`.
        threshold: Jaccard similarity of the sets of shingles; 0 keeps near duplicates.

    Examples:
        >>> files = [Document("x = 1\n", "a.py"), Document("x = 1\n", "b.py")]
        >>> [d.path for d in deduplicate(files, Report())]
        ['a.py']
    """
    documents = list(documents)
    ranks = [(*d.key, exact_key(d.text)) for d in documents]
    exact = [rank[2] for rank in ranks]
    sketches = np.zeros((len(documents), PERMUTATIONS), np.uint32)
    has = np.zeros(len(documents), bool)
    for index, document in enumerate(documents if threshold else ()):
        if (found := signature(document.text)) is not None:
            has[index], sketches[index] = True, found
    texts = [d.text for d in documents]
    verify = Verifier(texts.__getitem__, [d.repo for d in documents], exact)
    verdicts = decide(ranks, exact, sketches, has, threshold or 1.0, verify)
    for index, document in enumerate(documents):
        if verdict := verdicts.get(index):
            kept = ":".join(documents[verdict.kept].key)
            report_drop(report, verdict, document, kept)
        else:
            yield document
