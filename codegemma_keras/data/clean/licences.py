"""Which licence a repository states, from its files.

A handful of phrases that only one licence family has; no similarity search. What is not
recognised is `""`, and whether that may pass is the caller's choice.
"""

import posixpath
import re
from collections.abc import Callable, Iterable

PERMISSIVE = frozenset(
    (
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "BSL-1.0",
        "CC0-1.0",
        "ISC",
        "MIT",
        "PSF-2.0",
        "Python-2.0",
        "Unlicense",
        "Zlib",
    )
)
# Of text in lower case with single spaces. In this order: the first that is found
# counts. Copyleft first, so that a file that quotes both is not taken for the milder one.
_PHRASES = (
    ("AGPL-3.0", r"affero general public license"),
    ("LGPL-3.0", r"lesser general public license"),
    ("GPL-3.0", r"gnu general public license"),
    ("MPL-2.0", r"mozilla public license"),
    ("EPL-2.0", r"eclipse public license"),
    ("Apache-2.0", r"apache license,?\s+version 2|licensed under the apache license"),
    ("PSF-2.0", r"python software foundation license"),
    ("BSL-1.0", r"boost software license"),
    ("CC0-1.0", r"cc0 1\.0 universal"),
    ("Unlicense", r"free and unencumbered software released into the public domain"),
    ("BSD-3-Clause", r"neither the names? .{0,200}\bnor (?:the )?names?\b"),
    ("BSD-2-Clause", r"redistributions of source code must retain"),
    ("ISC", r"permission to use, copy, modify, and(?:/or)? distribute this software"),
    ("MIT", r"permission is hereby granted, free of charge"),
    ("Zlib", r"altered source versions must be plainly marked"),
)
_PATTERNS = [(name, re.compile(pattern)) for name, pattern in _PHRASES]
_NAME = re.compile(r"(?:licen[cs]e|copying|unlicense|pkg-info|metadata)\b.*", re.I)
_FIELD = re.compile(r"^License(?:-Expression)?:\s*([A-Za-z0-9.+ -]{2,40})$", re.M)


def says_licence(path: str) -> bool:
    """Whether a file of that name may state the repository's licence."""
    return _NAME.fullmatch(posixpath.basename(path)) is not None


def find_licence(files: Iterable[tuple[str, Callable[[], bytes]]]) -> str:
    """The licence of a repository, from `(path, read)` of its files.

    Files near the root count before deeper ones, licence texts before package metadata.
    """
    named = [(path, read) for path, read in files if says_licence(path)]

    def order(item):
        name = posixpath.basename(item[0]).lower()
        return item[0].count("/"), name.startswith(("pkg-info", "metadata")), item[0]

    for _path, read in sorted(named, key=order):
        if licence := recognise(read().decode("utf-8", "replace")):
            return licence
    return ""


def recognise(text: str) -> str:
    """SPDX identifier of a licence text or of a package's metadata, or `""`."""
    folded = re.sub(r"\s+", " ", text.lower())
    for name, pattern in _PATTERNS:
        if pattern.search(folded):
            return name
    if match := _FIELD.search(text):
        value = match[1].strip()
        return next((p for p in PERMISSIVE if p.lower() == value.lower()), "")
    return ""
