"""What every file of a repository says at its top, so that comparisons can leave it out.

A licence is most of a short file, and would make all short files of a package alike.
Two kinds of header are found:

* `without_licence` removes every comment and docstring that holds a licence's words,
  wherever it stands: under a shebang, inside `#region`, after `package`, `<?php`,
  `#pragma once` or an include guard;
* `recurring` finds what most files of one repository share, whatever its words are: a
  company's banner, a block of imports.

Left out: comments behind code on one line, and languages whose comments start with a
letter or a quote. `recurring` finds those where they recur.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np

# Each paragraph of the licences in common use holds one of these, in lower case.
_WORDS = (
    "copyright", "(c) 19", "(c) 20", "\u00a9", "license", "licence", "spdx-",
    "all rights reserved", "public domain", "warrant", "redistribut", "liabilit",
    "hereby granted", "free software foundation",
)  # fmt: skip
# A `#` before a word is a directive in C and C#, before `[` or `!` an attribute in Rust.
_DIRECTIVES = (
    "define|elif|elifdef|elifndef|elseif|else|endif|endregion|error|if|ifdef|ifndef|import"
    "|include|include_next|line|nullable|pragma|region|undef|using|warning"
)
_LINE = (
    rf"(?:\#(?!(?:[ \t]*(?:{_DIRECTIVES})\b)|\[|!\[)|//|--(?!\[\[)|;|%|!(?=[ \t*!\n]))"
    r"[^\n]*(?:\n|\Z)"
)
# A run of comment lines, with blank lines between; or what opens a longer comment. The
# opener is the first on its line that could be a string, so `"a/*"` opens none.
_BLOCK = re.compile(
    rf"^(?P<lines>(?:[ \t]*{_LINE}(?:[ \t]*\n)*)+)"
    r"|^[^\n\"'`]*?(?P<open>/\*|<!--|\{-|\(\*|--\[\[|[rRuUbB]{0,2}(?:\"\"\"|'''))",
    re.M,
)
_CLOSE = {"/*": "*/", "<!--": "-->", "{-": "-}", "(*": "*)", "--[[": "]]"}


def without_licence(text: str) -> str:
    """The text without the comments and docstrings that name a licence or a copyright.

    >>> without_licence("#pragma once\\n/* Copyright 2024 A. B. */\\nint x;\\n")
    '#pragma once\\n\\nint x;\\n'
    """
    if not _names_licence(text):
        return text
    kept, place, start, missing = [], 0, 0, set()
    while block := _BLOCK.search(text, start):
        if block["lines"] is not None:
            first, end = block.span("lines")
        else:
            opener = block["open"].lstrip("rRuUbB")
            first, inside = block.start("open"), block.end("open")
            close = _CLOSE.get(opener, opener)
            # A text of a million openers is searched for their end once.
            end = -1 if close in missing else text.find(close, inside)
            if end < 0:
                missing.add(close)
                start = inside
                continue
            end += len(close)
        if _names_licence(text[first:end]):
            kept.append(text[place:first])
            place = end
        start = max(end, block.start() + 1)
    return "".join((*kept, text[place:]))


def _names_licence(text):
    text = text.lower()
    return any(word in text for word in _WORDS)


# Fewer files do not show what is a habit: two of three may be copies.
MIN_FILES = 8
# Share of the files that a phrase must recur in.
RECURS = 0.5
# Characters of a file that are looked at, at most: its top, and of its last fifth.
TOP, END = 8192, 2048


def recurring(
    texts: Sequence[str], shingles: Callable[[str], np.ndarray]
) -> np.ndarray:
    """The phrases that recur at the top of most files of one repository.

    Empty where the ends of the files are made of such phrases, too: then the files are
    copies of each other, and what they share is no header.

    Args:
        texts: of files of one repository; of 256 the share of a phrase is known within
            0.06.
        shingles: gives the phrases of a text, each once, as `dedup.shingles` does.

    Returns:
        `[n]` uint32, sorted.
    """
    none = np.zeros(0, np.uint32)
    if len(texts) < MIN_FILES:
        return none
    tops = np.concatenate([shingles(text[:TOP]) for text in texts])
    found, count = np.unique(tops, return_counts=True)
    found = found[count > RECURS * len(texts)]
    ends = [shingles(text[-max(1, min(len(text) // 5, END)) :]) for text in texts]
    ends = np.concatenate(ends)
    copies = np.isin(ends, found).sum() > RECURS * len(ends)
    return none if copies else found
