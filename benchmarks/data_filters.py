"""What each limit of the filters drops from real packages, and what other limits would.

    python benchmarks/data_filters.py

Every check alone, on every Python file of the packages and of the standard library,
whatever the other checks say. For each limit: how the measure is distributed, how many
files the limit drops, how many at half and at twice the limit, and which they are, for a
reader to judge whether they are written by hand.
"""

import argparse
import collections

import numpy as np
from _data import package_folder, record, stdlib_folder

from codegemma_keras.data.clean import filters
from codegemma_keras.data.document import MAX_FILE_BYTES, Report, text_bytes
from codegemma_keras.data.read import sources

PACKAGES = (
    "jax", "keras", "keras_hub", "networkx", "numpy", "scipy", "sympy", "tensorflow",
)  # fmt: skip
NAMED = 40


def mean_line(text):
    return len(text) / (text.count("\n") + 1)


def longest_line(text):
    return max(map(len, text.split("\n")))


def solid(text):
    return max(1, len(text) - sum(map(text.count, " \n\t\r")))


def digits(text):
    return sum(map(text.count, "0123456789")) / solid(text)


def letters(text):
    return len(text.translate(filters._NO_SYMBOLS)) / solid(text)


# Measure -> (function, limit, whether more is worse).
LIMITS = {
    "mean line, characters": (mean_line, filters.MAX_MEAN_LINE, True),
    "longest line, characters": (longest_line, filters.MAX_LINE, True),
    "share of digits": (digits, filters.MAX_DIGITS, True),
    "share of letters and digits": (letters, filters.MIN_ALNUM, False),
    "size, bytes": (text_bytes, MAX_FILE_BYTES, True),
}
CHECKS = ("generated_check", "vendored_check", "binary_check", "encoding_check")


def folders():
    for package in PACKAGES:
        yield package, package_folder(package)
    for path in sorted(stdlib_folder().iterdir()):
        if path.is_dir() and path.name not in ("site-packages", "__pycache__"):
            yield f"stdlib/{path.name}", path


def documents():
    for name, folder in folders():
        found = sources.read_folder(
            folder, Report(), repo=name, languages=("python",), max_file_bytes=10**9
        )
        yield from (
            d for d in found if not filters.size_check(d) or len(d.text) > 10**6
        )


def main():
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    names, sizes, found = [], [], collections.defaultdict(list)
    said = collections.defaultdict(list)
    for document in documents():
        names.append(":".join(document.key))
        sizes.append(text_bytes(document.text))
        for measure, (function, _, _) in LIMITS.items():
            found[measure].append(function(document.text))
        for check in CHECKS:
            if getattr(filters, check)(document):
                said[check].append(names[-1])
    sizes = np.array(sizes)
    result = {"files": len(names), "megabytes": round(sizes.sum() / 1e6, 2)}
    for measure, (_, limit, above) in LIMITS.items():
        values = np.array(found[measure])

        def beyond(bound, values=values, above=above):
            return values > bound if above else values < bound

        gone = np.flatnonzero(beyond(limit))
        worst = gone[np.argsort(-values[gone] if above else values[gone])]
        harder, softer = (limit / 2, limit * 2) if above else (limit * 2, limit / 2)
        places = (0.5, 0.9, 0.99, 0.999) if above else (0.5, 0.1, 0.01, 0.001)
        result[measure] = {
            "limit": limit,
            "quantiles": {
                str(q): round(float(v), 3)
                for q, v in zip(places, np.quantile(values, places), strict=True)
            },
            "dropped": len(gone),
            "dropped_share_of_bytes": round(float(sizes[gone].sum() / sizes.sum()), 5),
            f"dropped_at_{harder:g}": int(beyond(harder).sum()),
            f"dropped_at_{softer:g}": int(beyond(softer).sum()),
            "which": [[names[i], round(float(values[i]), 3)] for i in worst[:NAMED]],
        }
    for check, which in said.items():
        result[check] = {"dropped": len(which), "which": which[:NAMED]}
    record("data_filters", result)


if __name__ == "__main__":
    main()
