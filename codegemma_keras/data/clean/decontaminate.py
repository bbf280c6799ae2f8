"""Decontamination: files that hold a benchmark's problems, solutions or tests.

Three kinds of probe are made from each task, and a file is contaminated if it holds
enough of any one of them:

* **words** of the problem's text, in any file, comments and docstrings included;
* **code** of the solution, as n-grams of tokens that survive another layout, other
  names, comments, docstrings, type hints and logging, see `ngrams`; or, of a function of
  a few tokens (`return x + y`), as a whole and with its name, for many files hold the like;
* **tests**, the same n-grams with literals, which is what makes them recognisable.

n-grams that many files hold (`for i in range(len(`) prove nothing: a background corpus
removes them. Without one the tasks themselves and a built-in share do.

Left out: semantic similarity, paraphrase, translation to another language; they need a
model, and nobody agrees on a threshold.
"""

import ast
import collections
import dataclasses
import gzip
import json
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from codegemma_keras.data.clean.ngrams import Program, code_ngrams, word_ngrams
from codegemma_keras.data.document import Document, Report

STEP = "decontaminate"
# Share of a probe's n-grams that a file must hold, and how many at least.
MIN_SHARE = {"words": 0.5, "code": 0.6, "tests": 0.5}
MIN_HITS = {"words": 3, "code": 1, "tests": 3}
# Functions of fewer tokens are told as a whole, with their name.
SHORT = 16
# With a name of fewer letters they are told by text and tests alone: many files hold
# `def add(x, y): return x + y`.
MIN_NAME = 4
# A probe of fewer n-grams of code needs a larger share of them.
FEW_NGRAMS = 12
SHARE_OF_FEW = 0.8


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
        self._sizes = set()
        for task in tasks:
            for kind, found in (
                ("words", word_ngrams(task.text)),
                ("code", self._code(task.code)),
                ("tests", code_ngrams(task.tests)),
            ):
                if len(found):
                    probes.append((task.name, kind, np.unique(found)))
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

    def _code(self, text):
        program = Program(_functions(text))
        if not 0 < len(program) < SHORT:
            return program.ngrams()
        name = re.search(r"\bdef (\w+)", text)
        if name and len(name[1]) < MIN_NAME:
            return ()
        self._sizes.add(len(program))
        return program.functions([len(program)])[:1]

    def _common(self, probes, background):
        known = np.unique(np.concatenate([p[2] for p in probes] or [[]])).astype(
            np.uint64
        )
        seen = collections.Counter()
        for text in background:
            mine = np.unique(
                np.concatenate((self._hashes(text, "python"), word_ngrams(text)))
            )
            seen.update(np.intersect1d(mine, known, assume_unique=True).tolist())
        return {ngram for ngram, number in seen.items() if number >= 2}

    def _hashes(self, text, language):
        program = Program(text, language, inside=True)
        return np.concatenate(
            (program.ngrams(), program.functions(sorted(self._sizes)))
        )

    def matches(self, text: str, language: str = "python") -> list[Match]:
        """The tasks that a text holds, by name."""
        if not len(self._known):
            return []
        hashes = np.concatenate((self._hashes(text, language), word_ngrams(text)))
        place = np.searchsorted(self._known, hashes)
        place[place == len(self._known)] = 0
        hits = collections.Counter()
        for ngram in set(hashes[self._known[place] == hashes].tolist()):
            hits.update(self._owners[ngram])
        found = []
        for probe, number in hits.items():
            name, kind, size = self.probes[probe]
            few = kind == "code" and size < FEW_NGRAMS
            share = SHARE_OF_FEW if few else MIN_SHARE[kind]
            if number >= min(size, MIN_HITS[kind]) and number >= share * size:
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
    name = path.name.removesuffix(".gz").removesuffix(".jsonl")
    return [_task(row, number, name) for number, row in enumerate(rows)]


def _task(row, number, file):
    name = row.get("task_id", number)
    try:
        if "test_list" in row:
            return task_of(row, f"MBPP/{name}")
        return task_of(row, f"{file}/{number}" if "question" in row else name)
    except ValueError as error:
        raise ValueError(f"{file}: line {number + 1} {error}") from None


def task_of(row: Mapping, name: str) -> Task:
    """The task of one row of a benchmark, told by its keys.

    Args:
        row: of HumanEval, an infilling set, MBPP or GSM8K.
        name: the task's name.

    Raises:
        ValueError: the row is of none of these.
    """
    if "canonical_solution" in row and "prompt" in row:
        code = row["prompt"] + row["canonical_solution"] + row.get("suffix", "")
        # Of an infilling set prompt, middle and suffix are one program.
        text = _docstrings(code if "suffix" in row else row["prompt"])
        return Task(name, text, code, row.get("test", ""))
    if "code" in row and "test_list" in row:
        tests = "\n".join(row["test_list"])
        return Task(
            name, row.get("text") or row.get("prompt") or "", row["code"], tests
        )
    if "question" in row and "answer" in row:
        return Task(name, row["question"])
    raise ValueError(
        f"has the keys {sorted(row)}; known are those of HumanEval, HumanEval "
        "infilling, MBPP and GSM8K."
    )


def _functions(code):
    """The functions and classes of a program: its imports prove nothing."""
    try:
        nodes = ast.parse(code).body
    except (SyntaxError, ValueError):
        return code
    kinds = ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef
    found = [ast.get_source_segment(code, n) for n in nodes if isinstance(n, kinds)]
    return "\n\n".join(found) or code


def _docstrings(code):
    found = re.findall(r"'''(.*?)'''|\"\"\"(.*?)\"\"\"", code, re.S)
    return "\n".join(a or b for a, b in found)
