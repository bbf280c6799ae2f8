"""Decontamination: files that hold a benchmark's problems, solutions or tests.

Three kinds of probe are made from each task, and a file is contaminated if it holds
enough of any one of them:

* **words** of the problem's text, in any file, comments and docstrings included;
* **code** of the solution, as n-grams of tokens that survive white space, comments,
  docstrings, quotes, line breaks, trailing commas and *renamed identifiers*: a variable
  is written as the distance to its last mention within the n-gram (Baker's parameterised
  matching, 1993), so `x = x + y` and `a = a + b` are one, and `a = b + b` is another;
* **tests**, the same n-grams with literals, which is what makes them recognisable.

n-grams that many files hold (`for i in range(len(`) prove nothing: a background corpus
removes them. Without one the tasks themselves and a built-in share do.

Left out: semantic similarity, paraphrase, translation to another language; they need a
model, and nobody agrees on a threshold.
"""

import builtins
import collections
import dataclasses
import gzip
import json
import keyword
import pathlib
import re
import zlib
from collections.abc import Iterable, Iterator

import numpy as np

from codegemma_keras.data.document import Document, Report
from codegemma_keras.data.languages import LANGUAGES

STEP = "decontaminate"
WORDS = 10  # per n-gram of text
TOKENS = 10  # per n-gram of code
# Share of a probe's n-grams that a file must hold, and how many at least.
MIN_SHARE = {"words": 0.5, "code": 0.6, "tests": 0.5}
MIN_HITS = {"words": 3, "code": 1, "tests": 3}

# Tokens whose codes are remembered, most of a corpus's mentions: 10 MB.
MAX_REMEMBERED = 50_000
# Longer strings are prose or data, whatever their quotes.
LONG_STRING = 100
_STRINGS = (
    r"|[rRbBuUfF]{0,2}(?:'''[\s\S]*?'''|\"\"\"[\s\S]*?\"\"\")"
    r"|[rRbBuUfF]{0,2}(?:'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\")"
)
_REST = _STRINGS + r"|[^\W\d]\w*|\d[\w.]*|[^\s\w]"
_HASH_TOKEN = re.compile(r"\#[^\n]*" + _REST)
_SLASH_TOKEN = re.compile(r"//[^\n]*|/\*[\s\S]*?\*/" + _REST)
# Names that keep their identity; all others may be renamed.
_FIXED = (
    frozenset(keyword.kwlist)
    | frozenset(dir(builtins))
    | frozenset(
        "self cls this new null true false undefined void int float double string bool let "
        "const var function fn func public private static final return def".split()
    )
)
# What reformatting adds or takes away.
_DROPPED = frozenset("(),;\\{}")
_WORD = re.compile(r"\w+")


@dataclasses.dataclass(frozen=True)
class Match:
    """A file that holds a task.

    Attributes:
        task: str, the task's id.
        kind: `"words"`, `"code"` or `"tests"`.
        hits: n-grams found.
        share: of the probe's n-grams.
    """

    task: str
    kind: str
    hits: int
    share: float


@dataclasses.dataclass(frozen=True)
class Task:
    """One problem of a benchmark; any part may be empty."""

    name: str
    text: str = ""
    code: str = ""
    tests: str = ""


# n-grams


def code_ngrams(
    text: str, size: int = TOKENS, language: str = "python", inside: bool = False
) -> np.ndarray:
    """Hashes of the n-grams of a program's tokens, uint64, in order.

    Comments and strings over several lines (docstrings) are left out. A program shorter
    than `size` is one n-gram.

    Args:
        text: a program.
        size: tokens per n-gram.
        language: says what a comment is.
        inside: read strings over several lines, too, as programs of their own.
    """
    entry = LANGUAGES.get(language)
    pattern = _SLASH_TOKEN if entry and entry.comment == "//" else _HASH_TOKEN
    tokens = pattern.findall(text)
    found = _parameterised(*_codes(tokens), size)
    if inside:
        strings = [t for t in tokens if len(t) > 40 and t.endswith(_TRIPLE)]
        inner = pattern.findall("\n".join(t.lstrip("rRbBuUfF")[3:-3] for t in strings))
        found = np.concatenate((found, _parameterised(*_codes(inner), size)))
    return found


# A token as one number: its hash in the low 32 bits, and flags.
_SKIP, _NAME, _DOT, _OPEN, _DEF = (1 << bit for bit in range(32, 37))
_TRIPLE = ("'''", '"""')


class _Codes(dict):
    """Token -> number, remembered."""

    def __missing__(self, token):
        if token[0] == "#" or token[:2] in ("//", "/*") or token.endswith(_TRIPLE):
            return _SKIP
        if len(token) > LONG_STRING:
            return _SKIP
        code = zlib.crc32(_plain(token).encode("utf-8", "replace"))
        if token in _DROPPED:
            code |= _SKIP
        code |= _OPEN * (token == "(") | _DOT * (token == ".") | _DEF * (token == "def")
        if token not in _FIXED and (token[0].isalpha() or token[0] == "_"):
            code |= _NAME * token.isidentifier()
        if len(self) >= MAX_REMEMBERED:  # A corpus has no end of names.
            self.clear()
        self[token] = code
        return code


_CODES = _Codes()


def _plain(token):
    """Strings without quotes and escapes, `1.` and `1.0` as `1`."""
    if token[-1] in "\"'" and len(token) > 1:
        return "'" + token.lstrip("rRbBuUfF")[1:-1].replace("\\", "")
    if token[0].isdigit() and "." in token:
        return token.rstrip("0").rstrip(".")
    return token


def _codes(tokens):
    """`(codes, names)`: a hash per token, and for renameable names their identity."""
    flags = np.fromiter(map(_CODES.__getitem__, tokens), np.int64, len(tokens))
    comment = flags == _SKIP
    flags = flags[~comment]
    before = np.concatenate(([0], flags[:-1]))
    after = np.concatenate((flags[1:], [0]))
    # Attributes and called functions keep their names; defined ones may be renamed.
    called = (after & _OPEN > 0) & (before & _DEF == 0)
    is_name = (flags & _NAME > 0) & (before & _DOT == 0) & ~called
    code = flags & 0xFFFFFFFF
    names = np.where(is_name, code + 1, 0).astype(np.uint64)
    kept = flags & _SKIP == 0
    return np.where(is_name, 0, code).astype(np.uint64)[kept], names[kept]


def _parameterised(codes, names, size):
    """Rolling hashes in which a name counts as the distance to its last mention."""
    count = len(codes)
    if not count:
        return np.zeros(0, np.uint64)
    # distance[i] = i - (last place of the same name), or 0.
    distance = np.zeros(count, np.uint64)
    order = np.argsort(names, kind="stable")
    same = (names[order][1:] == names[order][:-1]) & (names[order][1:] > 0)
    distance[order[1:][same]] = (order[1:] - order[:-1])[same]
    size = min(size, count)
    number = count - size + 1
    mixed = np.full(number, 0x243F6A8885A308D3, np.uint64)
    for k in range(size):
        gap = distance[k : k + number]
        # Beyond the n-gram's start a name is new.
        token = codes[k : k + number] ^ (np.where(gap <= k, gap, 0) << np.uint64(40))
        is_name = names[k : k + number] > 0
        mixed = (mixed ^ token ^ np.where(is_name, 1 << 33, 0).astype(np.uint64)) * (
            np.uint64(0x9E3779B97F4A7C15)
        )
        mixed ^= mixed >> np.uint64(31)
    return mixed


class _Words(dict):
    def __missing__(self, word):
        if len(self) >= MAX_REMEMBERED:
            self.clear()
        code = self[word] = zlib.crc32(word.encode("utf-8", "replace"))
        return code


_WORDS = _Words()


def word_ngrams(text: str, size: int = WORDS) -> np.ndarray:
    """Hashes of the n-grams of the words of a text, whatever stands between them."""
    words = _WORD.findall(text.lower())
    if len(words) < size:
        return np.zeros(0, np.uint64)
    codes = np.fromiter(map(_WORDS.__getitem__, words), np.uint64, len(words))
    return _parameterised(codes, np.zeros(len(codes), np.uint64), size)


# Probes


class Index:
    """Probes of all tasks; finds which of them a file holds.

    Args:
        tasks: of any number of benchmarks.
        background: texts that are known to be clean, such as the standard library; an
            n-gram that stands in two or more of them proves nothing.
    """

    def __init__(self, tasks: Iterable[Task], background: Iterable[str] = ()):
        probes = []
        for task in tasks:
            for kind, text, ngrams in (
                ("words", task.text, word_ngrams),
                ("code", task.code, code_ngrams),
                ("tests", task.tests, code_ngrams),
            ):
                found = np.unique(ngrams(text)) if text.strip() else ()
                if len(found):
                    probes.append((task.name, kind, found))
        common = self._common(probes, background)
        self.probes = []
        self._owners = collections.defaultdict(list)
        for name, kind, found in probes:
            kept = [int(h) for h in found if int(h) not in common]
            if not kept:
                continue
            for ngram in kept:
                self._owners[ngram].append(len(self.probes))
            self.probes.append((name, kind, len(kept)))
        self._known = np.array(sorted(self._owners), np.uint64)

    def _common(self, probes, background):
        known = np.unique(np.concatenate([p[2] for p in probes] or [[]])).astype(
            np.uint64
        )
        seen = collections.Counter()
        for text in background:
            mine = np.unique(np.concatenate((code_ngrams(text), word_ngrams(text))))
            seen.update(np.intersect1d(mine, known, assume_unique=True).tolist())
        return {ngram for ngram, number in seen.items() if number >= 2}

    def matches(self, text: str, language: str = "python") -> list[Match]:
        """The tasks that a text holds, by name."""
        if not len(self._known):
            return []
        code = code_ngrams(text, language=language, inside=True)
        hashes = np.concatenate((code, word_ngrams(text)))
        place = np.searchsorted(self._known, hashes)
        place[place == len(self._known)] = 0
        hits = collections.Counter()
        for ngram in set(hashes[self._known[place] == hashes].tolist()):
            hits.update(self._owners[ngram])
        found = []
        for probe, number in hits.items():
            name, kind, size = self.probes[probe]
            if number >= min(size, MIN_HITS[kind]) and number >= MIN_SHARE[kind] * size:
                found.append(Match(name, kind, number, round(number / size, 3)))
        return sorted(found, key=lambda m: (m.task, m.kind))


def decontaminate_documents(
    documents: Iterable[Document], report: Report, index: Index | None
) -> Iterator[Document]:
    """Drop files that hold a task.

    Args:
        documents: any.
        report: counts drops by benchmark; each detail says what matched.
        index: of the tasks; None passes everything on.
    """
    for document in documents:
        found = index.matches(document.text, document.language) if index else []
        if not found:
            yield document
            continue
        benchmark = found[0].task.partition("/")[0]
        said = [f"{m.task} {m.kind} {m.hits} ({m.share:.0%})" for m in found[:8]]
        more = f" and {len(found) - 8} more" if len(found) > 8 else ""
        report.drop(STEP, benchmark, document, detail="; ".join(said) + more)


# Benchmarks


def read_tasks(path) -> list[Task]:
    """Tasks of a benchmark file: HumanEval, an infilling set, MBPP or GSM8K, told by its keys.

    Args:
        path: `.jsonl` or `.jsonl.gz`.

    Raises:
        ValueError: the rows are of none of these.
    """
    path = pathlib.Path(path)
    opener = gzip.open if path.name.endswith(".gz") else open
    with opener(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file if line.strip()]
    return [_task(row, number, path.name) for number, row in enumerate(rows)]


def _task(row, number, file):
    if "canonical_solution" in row and "prompt" in row:
        if (
            "suffix" in row
        ):  # An infilling set: prompt + middle + suffix is one program.
            code = row["prompt"] + row["canonical_solution"] + row["suffix"]
            return Task(row["task_id"], _docstrings(code), code, row.get("test", ""))
        code = row["prompt"] + row["canonical_solution"]
        return Task(
            row["task_id"], _docstrings(row["prompt"]), code, row.get("test", "")
        )
    if "code" in row and "test_list" in row:
        tests = "\n".join(row["test_list"])
        text = row.get("text") or row.get("prompt") or ""
        return Task(f"MBPP/{row.get('task_id', number)}", text, row["code"], tests)
    if "question" in row and "answer" in row:
        name = file.removesuffix(".gz").removesuffix(".jsonl")
        return Task(f"{name}/{number}", row["question"])
    raise ValueError(
        f"{file}: line {number + 1} has the keys {sorted(row)}; known are those of "
        "HumanEval, HumanEval infilling, MBPP and GSM8K."
    )


def _docstrings(code):
    found = re.findall(r"'''(.*?)'''|\"\"\"(.*?)\"\"\"", code, re.S)
    return "\n".join(a or b for a, b in found)
