"""Planted secrets and addresses: recall by kind; and what is found in real packages.

    python benchmarks/data_secrets.py [--clean FOLDER ...]

Each planted value is random, in the shape its maker documents (`_secret_kinds`, written
apart from the rules of the product), on a random line of a real file. It is found if no
eight characters of it in a row are left. The false ones are counted per 100 files of
packages whose authors left no secrets; every one is listed. Authors' emails are no
false ones: they are what is looked for.
"""

import argparse
import collections
import pathlib
import random

from _data import package_folder, record
from _secret_kinds import KINDS, Maker

from codegemma_keras.data.clean import secrets

PACKAGES = ("networkx", "sympy", "keras", "numpy")
ENDINGS = ("py", "cs", "js", "ts", "java", "go", "rs", "cpp", "h", "kt")
PLANTED = 50


def real_files(folders):
    found = []
    for folder in folders:
        for ending in ENDINGS:
            found += sorted(pathlib.Path(folder).rglob(f"*.{ending}"))
    return [p.read_text("utf-8", "replace") for p in found if p.is_file()]


def is_gone(value, text):
    """Whether no more is left of a secret than what any text might hold."""
    size = min(8, len(value))
    return not any(value[i : i + size] in text for i in range(len(value) - size + 1))


def recall_of(lines, make, hosts, rng):
    maker, hits = Maker(rng), 0
    for i in range(PLANTED):
        value = make(maker)
        text = rng.choice(hosts).split("\n")
        text.insert(rng.randrange(len(text)), lines[i % len(lines)].format(s=value))
        text = "\n".join(text)
        # The marks of a key may stay; a prefix is no secret.
        secret = value.partition("-----\n")[2].partition("\n-----")[0] or value
        hits += is_gone(secret, secrets.replace(text, secrets.find(text)))
    return hits / PLANTED


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clean", nargs="*", default=[])
    args = parser.parse_args()
    rng = random.Random(0)
    files = real_files([*map(package_folder, PACKAGES), *args.clean])
    hosts = [f for f in files if 1_000 < len(f) < 20_000]
    hosts = [f for f in rng.sample(hosts, 400) if not secrets.find(f)]
    recall = {k: recall_of(*KINDS[k], hosts, rng) for k in KINDS}
    found = collections.Counter()
    listed, flagged = [], 0
    for text in files:
        hits = secrets.find(text)
        flagged += any(f.kind != "email" for f in hits)
        for finding in hits:
            found[finding.kind] += 1
            if finding.kind != "email" and len(listed) < 100:
                shown = text[max(0, finding.start - 20) : finding.end + 10][:100]
                listed.append(f"{finding.kind}: {shown!r}")
    record(
        "data_secrets",
        {
            "kinds": len(recall),
            "planted_per_kind": PLANTED,
            "recall_all": round(sum(recall.values()) / len(recall), 4),
            "recall_below_1": {k: v for k, v in recall.items() if v < 1},
            "packages": [*PACKAGES, *(pathlib.Path(p).name for p in args.clean)],
            "files": len(files),
            "findings_in_real_packages": dict(found),
            "files_flagged_other_than_email_per_100": round(
                100 * flagged / len(files), 3
            ),
            "listed": listed,
        },
    )


if __name__ == "__main__":
    main()
