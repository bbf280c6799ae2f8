"""Near-duplicates planted in real files: recall by share and kind of edit, false merges.

    python benchmarks/data_dedup.py

Files are those of the installed networkx, keras and numpy. A copy of each has 1 to 15 %
of its lines edited (a word replaced, a line deleted, doubled or added), or as many of
its words replaced at random, which is harder: it leaves no line alone.
"""

import argparse
import random
import re
import time

import numpy as np
from _data import record, site_packages_files

from codegemma_keras.data import dedup


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


def main():
    args = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    args.add_argument("--files", type=int, default=1000)
    files = args.parse_args().files
    rng = random.Random(0)
    texts = site_packages_files(("networkx", "keras", "numpy"), limit=files)
    texts = [t for t in texts if dedup.signature(t) is not None]
    sketches = np.array([dedup.signature(t) for t in texts])
    base = dedup.similar_pairs(sketches)
    kept = [i for i in range(len(texts)) if i not in dedup.keep_one(base)]
    texts, sketches = [texts[i] for i in kept], sketches[kept]
    print(f"{len(texts)} files that are no duplicates of each other")
    recall = {}
    for kind, edit in (("lines", edit_lines), ("words", edit_words)):
        for share in (0.01, 0.02, 0.05, 0.1, 0.15):
            edited = np.array(
                [
                    s
                    if (s := dedup.signature(edit(t, share, rng))) is not None
                    else np.zeros(dedup.PERMUTATIONS, np.uint32)
                    for t in texts
                ]
            )
            pairs = dedup.similar_pairs(np.concatenate((sketches, edited)))
            n = len(texts)
            hits = sum((i, i + n) in pairs for i in range(n))
            recall[f"{kind} {share:.0%}"] = round(hits / n, 4)
            print(f"{kind} {share:4.0%}: recall {hits / n:.4f}")
    # All pairs of different files: the true similarity of what was merged.
    sets = [dedup.shingles(t) for t in texts]
    total = len(texts) * (len(texts) - 1) // 2
    merged = false = 0
    everything = site_packages_files(("networkx", "keras", "numpy"), limit=files)
    everything = [t for t in everything if dedup.signature(t) is not None]
    sets = [dedup.shingles(t) for t in everything]
    for i, j in base:
        merged += 1
        union = len(np.union1d(sets[i], sets[j]))
        true = (len(sets[i]) + len(sets[j]) - union) / union
        false += true < dedup.THRESHOLD - 0.1
    sample = texts[:200]
    megabytes = sum(len(t.encode()) for t in sample) / 1e6
    ours(sample[:5])
    start = time.perf_counter()
    ours(sample)
    mine = time.perf_counter() - start
    start = time.perf_counter()
    plain_datasketch(sample)
    plain = time.perf_counter() - start
    record(
        "data_dedup",
        {
            "files": len(texts),
            "threshold": dedup.THRESHOLD,
            "shingle_words": dedup.SHINGLE,
            "bands": dedup.bands(),
            "recall": recall,
            "merged_pairs_before_planting": merged,
            "of_these_truly_below_threshold_by_0.1": false,
            "pairs_compared": total,
            "false_merge_rate": false / total,
            "ours_mb_per_s": round(megabytes / mine, 2),
            "datasketch_loop_mb_per_s": round(megabytes / plain, 2),
            "ratio": round(plain / mine, 1),
        },
    )


if __name__ == "__main__":
    main()
