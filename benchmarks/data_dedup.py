"""Near-duplicates planted in real files: recall by share and kind of edit, false merges.

    python benchmarks/data_dedup.py

Files are drawn from five installed packages, as the filters leave them. A copy of each
has 1 to 15 % of its lines edited (a word replaced, a line deleted, doubled or added), or
as many of its words replaced at random, which is harder: it leaves no line alone.

Two files of different packages are unrelated, so a pair of them that is merged is merged
falsely. Pairs of one package may be duplicates; all that are merged are listed.
"""

import argparse
import collections
import random
import re
import time

import numpy as np
from _data import package_folder, record

from codegemma_keras.data.clean import dedup, filters
from codegemma_keras.data.document import Report
from codegemma_keras.data.read import sources


def edit_lines(text, share, rng):
    lines = text.split("\n")
    for i in rng.sample(range(len(lines)), max(1, round(share * len(lines)))):
        kind = rng.randrange(4)
        if kind == 0:
            lines[i] = re.sub(r"\w+", f"word{rng.randrange(10**6)}", lines[i], count=1)
        elif kind == 1:
            lines[i] = ""
        elif kind == 2:
            lines[i] += "\n" + lines[i]
        else:
            lines[i] += f"\nadded_{rng.randrange(10**6)} = compute({rng.random()})"
    return "\n".join(lines)


def edit_words(text, share, rng):
    return re.sub(
        r"\w+",
        lambda m: f"w{rng.randrange(10**6)}" if rng.random() < share else m[0],
        text,
    )


def plain_datasketch(texts):
    """What datasketch's documentation shows: one update per shingle, one query per text."""
    import datasketch

    lsh = datasketch.MinHashLSH(threshold=dedup.THRESHOLD, num_perm=dedup.PERMUTATIONS)
    for name, text in enumerate(texts):
        words = re.findall(r"\w+", text)
        minhash = datasketch.MinHash(num_perm=dedup.PERMUTATIONS)
        for i in range(len(words) - dedup.SHINGLE + 1):
            minhash.update(" ".join(words[i : i + dedup.SHINGLE]).encode())
        lsh.query(minhash)
        lsh.insert(name, minhash)


def ours(texts):
    found = [dedup.signature(text) for text in texts]
    dedup.similar_pairs(np.array([s for s in found if s is not None]))


PACKAGES = ("jax", "keras", "networkx", "numpy", "sympy")
SHARES = (0.01, 0.02, 0.05, 0.1, 0.15)


def documents(per_package, rng):
    found = []
    for package in PACKAGES:
        files = sources.read_folder(
            package_folder(package), Report(), repo=package, languages=("python",)
        )
        files = filters.filter_documents(files, Report(), licences=None)
        files = [d for d in files if dedup.signature(d.text) is not None]
        found += rng.sample(files, min(per_package, len(files)))
    return found


def recall_of(texts, sketches, edit):
    """Share of the texts whose edited copy is paired with them."""
    blank = np.zeros(dedup.PERMUTATIONS, np.uint32)
    edited = [dedup.signature(edit(text)) for text in texts]
    edited = np.array([blank if s is None else s for s in edited])
    pairs = dedup.similar_pairs(np.concatenate((sketches, edited)))
    return sum((i, i + len(texts)) in pairs for i in range(len(texts))) / len(texts)


def speed(texts):
    """MB/s of ours and of datasketch's loop."""
    megabytes = sum(len(t.encode()) for t in texts) / 1e6
    ours(texts[:5])
    start = time.perf_counter()
    ours(texts)
    mine = time.perf_counter() - start
    start = time.perf_counter()
    plain_datasketch(texts)
    plain = time.perf_counter() - start
    return {
        "ours_mb_per_s": round(megabytes / mine, 2),
        "datasketch_loop_mb_per_s": round(megabytes / plain, 2),
        "ratio": round(plain / mine, 1),
    }


def main():
    args = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    args.add_argument("--files", type=int, default=250, help="per package")
    rng = random.Random(0)
    found = documents(args.parse_args().files, rng)
    sketches = np.array([dedup.signature(d.text) for d in found])
    merged = sorted(dedup.similar_pairs(sketches))
    own = collections.Counter(d.repo for d in found)
    apart = sum(own[a] * own[b] for a in own for b in own if a < b)
    false = [(i, j) for i, j in merged if found[i].repo != found[j].repo]
    result = {
        "files": len(found),
        "threshold": dedup.THRESHOLD,
        "shingle_words": dedup.SHINGLE,
        "bands": dedup.bands(),
        "unrelated_pairs": apart,
        "unrelated_pairs_merged": len(false),
        "pairs_of_one_package": sum(n * (n - 1) // 2 for n in own.values()),
        "pairs_of_one_package_merged": len(merged) - len(false),
        "merged": [
            [
                ":".join(found[i].key),
                ":".join(found[j].key),
                round(dedup.similarity(sketches[i], sketches[j]), 3),
            ]
            for i, j in merged
        ],
        "recall": {},
    }
    # Duplicates that are there already would be found for the wrong reason, or twice.
    dropped = dedup.keep_one(merged)
    kept = [i for i in range(len(found)) if i not in dropped]
    texts, sketches = [found[i].text for i in kept], sketches[kept]
    result["files_copied"] = len(texts)
    record("data_dedup", result)
    for kind, edit in (("lines", edit_lines), ("words", edit_words)):
        for share in SHARES:
            recall = recall_of(texts, sketches, lambda t, e=edit, s=share: e(t, s, rng))
            result["recall"][f"{kind} {share:.0%}"] = round(recall, 4)
            record("data_dedup", result)
    result |= speed(rng.sample(texts, 200))
    record("data_dedup", result)


if __name__ == "__main__":
    main()
