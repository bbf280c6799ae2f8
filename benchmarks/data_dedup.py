"""Near-duplicates planted in real files: recall by share and kind of edit, false merges.

    python benchmarks/data_dedup.py [--repository FOLDER_OR_ARCHIVE ...]

Files are drawn from five installed packages, as the filters leave them. A copy of each
has 1 to 15 % of its lines edited (a word replaced, a line deleted, doubled or added), or
as many of its words replaced at random, which is harder: it leaves no line alone.

Two files of different packages are unrelated, so a pair of them that is merged is merged
falsely. Pairs of one package may be duplicates; all that are merged are listed.

Headers: small files of different packages, under one licence in each place where a licence
stands in real files (`HEADERS`), compared two by two. `--repository` deduplicates whole
repositories and lists what goes, with its similarity.
"""

import argparse
import collections
import importlib.metadata
import random
import re
import textwrap
import time

import numpy as np
from _data import package_folder, record

from codegemma_keras.data.clean import dedup, filters
from codegemma_keras.data.document import Document, Report
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


# Headers

GPL = """Copyright (C) 2019 The Authors

This program is free software: you can redistribute it and/or modify it under the terms
of the GNU General Public License as published by the Free Software Foundation, either
version 3 of the License, or (at your option) any later version.

This program is distributed in the hope that it will be useful, but WITHOUT ANY WARRANTY;
without even the implied warranty of MERCHANTABILITY or FITNESS FOR A PARTICULAR PURPOSE.
See the GNU General Public License for more details.

You should have received a copy of the GNU General Public License along with this
program. If not, see <https://www.gnu.org/licenses/>."""
# No licence's words: only that it recurs tells it from code.
BANNER = " ".join(
    f"banner{i} of the great house of Example and Daughters" for i in range(20)
)


def licences():
    """Texts of licences, from packages that carry them."""

    def of(package):
        files = importlib.metadata.files(package)
        (path,) = (f for f in files if re.search(r"LICENSE(\.txt)?$", f.name))
        return path.read_text().strip()

    apache = of("absl-py")
    apache = apache[apache.rindex("Copyright") : apache.rindex("limitations") + 29]
    return {
        "MIT": of("attrs"),
        "BSD-3-Clause": of("click"),
        "Apache-2.0": textwrap.dedent(apache),
        "GPL-3.0": GPL,
    }


def marked(text, mark):
    return "\n".join(f"{mark} {line}".rstrip() for line in text.split("\n"))


def block(text):
    return "/*\n" + marked(text, " *") + "\n */"


# Where a licence stands in real files: name -> how it and the code make a file.
HEADERS = {
    "top": lambda h, c: f"{marked(h, '#')}\n\n{c}",
    "#region": lambda h, c: f"#region License\n{marked(h, '//')}\n#endregion\n\n{c}",
    "docstring": lambda h, c: f'"""\n{h}\n"""\n\n{c}',
    "after package": lambda h, c: f"package org.app.core;\n\n{block(h)}\n\n{c}",
    "after __future__": lambda h, c: (
        f"from __future__ import annotations\n\n{marked(h, '#')}\n\n{c}"
    ),
    "#pragma once": lambda h, c: f"#pragma once\n\n{marked(h, '//')}\n\n{c}",
    "include guard": lambda h, c: (
        f"#ifndef APP_H_\n#define APP_H_\n{block(h)}\n\n{c}\n#endif"
    ),
    "use strict": lambda h, c: f'"use strict";\n\n{block(h)}\n\n{c}',
    "<?php": lambda h, c: f"<?php\n{block(h)}\n\n{c}",
}


def small_files(rng, each=6):
    """`(package, code)`: real files of 30 to 150 words, comments left out."""
    found = []
    site = package_folder("numpy").parent
    for folder in sorted(p for p in site.iterdir() if (p / "__init__.py").exists()):
        codes = {}
        for path in sorted(folder.rglob("*.py")):
            code = re.sub(r"(?m)^\s*#.*\n", "", path.read_text("utf-8", "replace"))
            code = re.sub(r'\A\s*("""|\'\'\')[\s\S]*?\1', "", code).strip()
            if 40 <= len(re.findall(r"\w+", code)) <= 150:
                codes[code] = folder.name
        found += [
            (codes[c], c) for c in rng.sample(sorted(codes), min(each, len(codes)))
        ]
    return found


def merged_of(one, two):
    """Whether one of two texts of different repositories goes."""
    pair = [Document(one, "a.py", "a"), Document(two, "b.py", "b")]
    return len(list(dedup.deduplicate(pair, Report()))) < 2


def false_by_header(number, rng):
    """Share of pairs of unrelated small files that are merged, by place of the licence."""
    files = small_files(rng)
    result = {"small_files": len(files), "packages": len({p for p, _ in files})}
    pairs = []
    while len(pairs) < number:
        one, two = rng.sample(files, 2)
        # A file that was copied from package to package is no unrelated one.
        if one[0] != two[0] and not merged_of(one[1], two[1]):
            pairs.append((one[1], two[1]))
    shares = {}
    for place, put in HEADERS.items():
        for name, text in licences().items():
            false = sum(merged_of(put(text, a), put(text, b)) for a, b in pairs)
            shares[f"{place}, {name}"] = round(false / number, 4)
    result["pairs_each"] = number
    result["false_share"] = shares
    result["false_share_all"] = round(sum(shares.values()) / len(shares), 5)
    own = [
        Document(f"x{i} = 1\n/* {BANNER} */\n{code}", f"{i}.py", "a")
        for i, (_, code) in enumerate(files)
    ]
    plain = [Document(code, f"{i}.py", "a") for i, (_, code) in enumerate(files)]
    gone = [len(d) - len(list(dedup.deduplicate(d, Report()))) for d in (plain, own)]
    result["one_repository_under_a_banner"] = {
        "files": len(files),
        "dropped_without_it": gone[0],
        "dropped_with_it": gone[1],
    }
    return result


def kept_of(source):
    """What deduplication alone leaves of a repository, and the pairs that it found."""
    found = list(
        filters.filter_documents(
            sources.read_source(source, Report(), repo="x"), Report(), licences=None
        )
    )
    entries = dropped_of(found)
    kept = len(found) - len(entries)
    return {
        "source": source.rstrip("/").rpartition("/")[2],
        "files": len(found),
        "kept": kept,
        "kept_share": round(kept / len(found), 4),
        "dropped": [[e["name"][2:], e["kept"][2:], e["similarity"]] for e in entries],
    }


def dropped_of(found):
    """Entries `{name, kept, similarity, ...}` of the duplicates among documents."""
    entries = []
    list(dedup.deduplicate(found, Report(entries.append)))
    return entries


def recall_of(found, edit):
    """Share of the documents whose edited copy goes."""
    copies = [d.replace(text=edit(d.text), repo=f"{d.repo}~copy") for d in found]
    gone = {e["name"] for e in dropped_of([*found, *copies])}
    return sum(":".join(d.key) in gone for d in copies) / len(copies)


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
    args.add_argument("--pairs", type=int, default=1000, help="per header")
    args.add_argument("--repository", nargs="*", default=[])
    args = args.parse_args()
    rng = random.Random(0)
    found = documents(args.files, rng)
    entries = dropped_of(found)
    own = collections.Counter(d.repo for d in found)
    apart = sum(own[a] * own[b] for a in own for b in own if a < b)
    false = [e for e in entries if e["name"].split(":")[0] != e["kept"].split(":")[0]]
    result = {
        "files": len(found),
        "threshold": dedup.THRESHOLD,
        "shingle_words": dedup.SHINGLE,
        "bands": dedup.bands(),
        "unrelated_pairs": apart,
        "dropped_for_a_file_of_another_package": len(false),
        "dropped_for_a_file_of_their_package": len(entries) - len(false),
        "dropped": [[e["name"], e["kept"], e["similarity"]] for e in entries],
        "recall": {},
    }
    # Duplicates that are there already would be found for the wrong reason, or twice.
    gone = {e["name"] for e in entries}
    unique = [d for d in found if ":".join(d.key) not in gone]
    result["files_copied"] = len(unique)
    for kind, edit in (("lines", edit_lines), ("words", edit_words)):
        for share in SHARES:
            recall = recall_of(unique, lambda t, e=edit, s=share: e(t, s, rng))
            result["recall"][f"{kind} {share:.0%}"] = round(recall, 4)
    record("data_dedup", result)
    result["headers"] = false_by_header(args.pairs, rng)
    result["repositories"] = [kept_of(source) for source in args.repository]
    result |= speed([d.text for d in rng.sample(unique, 200)])
    record("data_dedup", result)


if __name__ == "__main__":
    main()
