"""The stages of a build: functions that fill one folder each from those before.

    1-read/UNIT/     documents.jsonl  index.jsonl  sketches.bin  facts.jsonl (of the whole
                     tree, also of what is dropped)              report.json  dropped.jsonl
    2-dedup/all/     verdicts.json                              reports.json  dropped.jsonl
    3-tokens/UNIT/   tokens.bin  chunks.jsonl  graphs.jsonl      report.json  dropped.jsonl
    4-shards/SHARD/  see shards.py

A unit is one source. A unit's documents are streamed: memory holds one document and the
unit's index, not its texts. The same inputs give the same bytes, so a task that was
killed is simply run again. `build` calls these functions, `beam` their parts.
"""

import collections
import dataclasses
import functools
import hashlib
import json
import pathlib
import shutil
import sys
from collections.abc import Iterator

import numpy as np

from codegemma_keras.data.clean import decontaminate, dedup, filters, secrets
from codegemma_keras.data.document import Document, Report, text_bytes, watch
from codegemma_keras.data.order import imports, order
from codegemma_keras.data.pipeline.settings import Settings, is_build_file
from codegemma_keras.data.read import sources
from codegemma_keras.data.rows import examples
from codegemma_keras.tokenizer.codec import PlainCodec

CHARACTERS_OF_LENGTHS = tuple(2**n for n in range(5, 21))


# 1. Documents of one source


def read_unit(folder: pathlib.Path, source: str, unit: str, settings: Settings):
    """Read, filter, clean and decontaminate one source into `folder`."""
    index = benchmark_index(settings)
    with (
        open(folder / "dropped.jsonl", "w", encoding="utf-8") as dropped,
        open(folder / "documents.jsonl", "wb") as texts,
        open(folder / "facts.jsonl", "w", encoding="utf-8") as facts,
        open(folder / "index.jsonl", "w", encoding="utf-8") as rows,
        open(folder / "sketches.bin", "wb") as sketches,
    ):
        report = Report(lambda entry: _write_line(dropped, entry))
        for document, kept in read_and_clean(source, unit, settings, report, index):
            found = graph_facts(document, kept, settings)
            if found is not None:
                _write_line(facts, {"repo": document.repo, "facts": found.to_json()})
            if kept:
                line = document.to_json().encode("utf-8", "surrogatepass") + b"\n"
                entry = {
                    "repo": document.repo,
                    "path": document.path,
                    "offset": texts.tell(),
                    "size": len(line),
                    **_compared(document, settings, sketches),
                }
                texts.write(line)
                _write_line(rows, entry)
    _write_report(folder, report)


def graph_facts(document, kept, settings) -> imports.Facts | None:
    """What the order of a repository needs to know of a document; None: nothing.

    A document that is not kept still decides what the imports of others mean.
    """
    if not (kept or imports.tells_order(document.path, document.language)):
        return None
    return imports.read_facts(
        document.text, document.path, document.language, settings.top_lines
    )


def _compared(document, settings, sketches):
    """What deduplication needs to know of a document; its sketch goes to a file."""
    found = dedup.signature(document.text) if settings.threshold else None
    blank = np.zeros(dedup.PERMUTATIONS, np.uint32)
    sketches.write((blank if found is None else found).astype("<u4").tobytes())
    return {
        "bytes": text_bytes(document.text),
        "exact": dedup.exact_key(document.text).hex(),
        "sketch": found is not None,
    }


def benchmark_index(settings: Settings) -> decontaminate.Index | None:
    """The tasks of the benchmarks that `settings` names."""
    tasks = [t for path in settings.benchmarks for t in decontaminate.read_tasks(path)]
    return decontaminate.Index(tasks) if tasks else None


def read_and_clean(source, unit, settings, report, index=None):
    """`(document, whether it is kept)` of one source; dropped ones only for the graph."""
    return clean(
        read_documents(source, unit, settings, report), settings, report, index
    )


def read_documents(source, unit, settings, report) -> Iterator[Document]:
    """The documents of a source that is trained on, or that tells the order of others."""
    documents = sources.read_source(
        source,
        report,
        repo=unit,
        max_file_bytes=settings.max_file_bytes,
        languages=settings.languages_read(),
        also=is_build_file,
    )
    for document in watch(_one_per_path(documents, report), report, "read"):
        report.count("licence", document.licence or "unknown")
        yield document


def clean(documents, settings, report, index=None) -> Iterator[tuple[Document, bool]]:
    """Filter, decontaminate and clean documents of any origin.

    Yields:
        `(document, True)` of those that are kept, cleaned, and `(document, False)`, as
        it came, of those that are not: an empty `__init__.py` or a generated file still
        decides what the imports of others mean.
    """
    waiting = []

    def passing():
        for document in documents:
            waiting.append(document)
            yield document

    kept = filters.filter_documents(
        passing(),
        report,
        languages=settings.languages,
        licences=settings.licences,
        max_bytes=settings.max_file_bytes,
    )
    # Before secrets are replaced: a placeholder would hide what follows it.
    kept = decontaminate.decontaminate_documents(kept, report, index)
    for document in secrets.clean_documents(kept, report, mode=settings.secrets):
        # The steps hold nothing back: all that came before this one were dropped.
        yield from ((dropped, False) for dropped in waiting[:-1])
        waiting.clear()
        yield document, True
    yield from ((dropped, False) for dropped in waiting)


def _one_per_path(documents, report):
    seen = set()
    for document in documents:
        key = hashlib.blake2b("\0".join(document.key).encode(), digest_size=12).digest()
        if key in seen:
            report.drop("source", "path twice", document)
        else:
            seen.add(key)
            yield document


# 2. Duplicates among all


def dedup_units(folder: pathlib.Path, read: pathlib.Path, units, settings: Settings):
    """Which documents of all units go: proposed by their sketches, verified by texts."""
    entries = []
    with open(folder / "sketches.bin", "wb") as joined:
        for unit in units:
            for row, entry in enumerate(read_lines(read / unit / "index.jsonl")):
                entries.append(_Entry.of(unit, row, entry))
            with open(read / unit / "sketches.bin", "rb") as part:
                shutil.copyfileobj(part, joined)
    reports = {unit: Report() for unit in units}
    verdicts = collections.defaultdict(dict)
    found = {}
    if entries:
        sketches = np.memmap(folder / "sketches.bin", "<u4", "r").reshape(
            -1, dedup.PERMUTATIONS
        )
        has = np.array([e.sketch for e in entries]) & bool(settings.threshold)
        exact = [e.exact for e in entries]
        ranks = [(e.repo, e.path, e.exact) for e in entries]
        verify = dedup.Verifier(
            lambda index: entries[index].text(read), [e.repo for e in entries], exact
        )
        threshold = settings.threshold or 1.0
        found = dedup.decide(ranks, exact, sketches, has, threshold, verify)
        del sketches
    (folder / "sketches.bin").unlink()
    with open(folder / "dropped.jsonl", "w", encoding="utf-8") as dropped:
        for report in reports.values():
            report.sink = lambda entry: _write_line(dropped, entry)
        for index in sorted(found):
            gone, kept = entries[index], entries[found[index].kept]
            verdicts[gone.unit][gone.row] = found[index].reason
            dedup.report_drop(
                reports[gone.unit], found[index], gone.name, kept.name, gone.bytes
            )
    write_json(folder / "verdicts.json", verdicts)
    write_json(folder / "reports.json", {u: r.to_json() for u, r in reports.items()})


@dataclasses.dataclass(frozen=True, slots=True)
class _Entry:
    """What `dedup_units` holds of a document: a row of a unit's index."""

    unit: str
    row: int
    repo: str
    path: str
    exact: bytes
    sketch: bool
    bytes: int
    offset: int
    size: int

    @classmethod
    def of(cls, unit, row, entry):
        return cls(
            unit,
            row,
            sys.intern(entry["repo"]),
            entry["path"],
            bytes.fromhex(entry["exact"]),
            entry["sketch"],
            entry["bytes"],
            entry["offset"],
            entry["size"],
        )

    @property
    def name(self) -> str:
        return f"{self.repo}:{self.path}"

    def text(self, read: pathlib.Path) -> str:
        with open(read / self.unit / "documents.jsonl", "rb") as texts:
            return _document(texts, {"offset": self.offset, "size": self.size}).text


# 3. Tokens of one unit


def tokenize_unit(
    folder: pathlib.Path,
    read: pathlib.Path,
    duplicates: dict,
    settings: Settings,
    tokenizer: pathlib.Path,
):
    """Order a unit's repositories, and write their segments.

    Args:
        folder: to write into.
        read: the unit's folder of the first stage.
        duplicates: `{row of the index: reason}`.
        settings: of the build.
        tokenizer: file of a SentencePiece model.
    """
    codec = _codec(tokenizer)
    kept = collections.defaultdict(dict)
    for row, entry in enumerate(read_lines(read / "index.jsonl")):
        if str(row) not in duplicates:
            kept[entry["repo"]][entry["path"]] = entry
    with (
        open(read / "documents.jsonl", "rb") as texts,
        open(read / "facts.jsonl", "rb") as facts,
        open(folder / "dropped.jsonl", "w", encoding="utf-8") as dropped,
        open(folder / "tokens.bin", "wb") as tokens,
        open(folder / "chunks.jsonl", "w", encoding="utf-8") as chunks,
        open(folder / "graphs.jsonl", "w", encoding="utf-8") as graphs,
    ):
        report = Report(lambda entry: _write_line(dropped, entry))
        places = _places(facts)
        for repo, entries in sorted(kept.items()):
            found = order_repository(_facts_at(facts, places[repo]), entries)
            _write_line(graphs, _graph_json(repo, found))
            documents = (_document(texts, entries[path]) for path in found.paths)
            for chunk in chunk_documents(documents, codec, settings, report):
                tokens.write(np.array(chunk.token_ids, "<i4").tobytes())
                _write_line(chunks, {"repo": repo, **chunk_json(chunk, report)})
    _write_report(folder, report)


@functools.cache
def _codec(path):
    return PlainCodec(pathlib.Path(path).read_bytes())


def _places(facts):
    """`{repository: where the lines of its files start}`."""
    places, start = collections.defaultdict(list), 0
    for line in facts:
        places[json.loads(line)["repo"]].append(start)
        start += len(line)
    return places


def _facts_at(facts, places):
    for place in places:
        facts.seek(place)
        yield imports.Facts.from_json(json.loads(facts.readline())["facts"])


def order_repository(facts, kept) -> order.Order:
    """The order of those files of a repository that are kept.

    Args:
        facts: of all its files; those that are dropped still decide what imports mean.
        kept: paths.
    """
    found = order.order_files(facts)

    def both_kept(edges):
        return tuple(e for e in edges if e.importer in kept and e.imported in kept)

    return order.Order(
        tuple(path for path in found.paths if path in kept),
        both_kept(found.kept),
        both_kept(found.removed),
        {t: s for t, s in found.tests.items() if t in kept and s in kept},
        sum(path in kept for path in found.paths[: found.covered]),
    )


def chunk_documents(documents, codec, settings, report) -> Iterator[examples.Chunk]:
    """The segments of one repository's documents in order; see `chunk_repository`."""
    documents = _that_fit(documents, codec, settings, report)
    return examples.chunk_repository(
        count_documents(documents, report), codec, settings.fim, settings.length
    )


def _that_fit(documents, codec, settings, report):
    """Leave out documents whose path takes up the row."""
    for document in documents:
        # A character is four tokens at most: a short path needs no encoding.
        long = 4 * len(document.path) + 32 > settings.length
        if long and not examples.fits(document.path, codec.encode, settings.length - 1):
            report.drop("source", "path fills the row", document)
            continue
        yield document


def count_documents(documents, report):
    """Count languages and lengths of what is trained on."""
    for document in documents:
        size = text_bytes(document.text)
        report.count("language", document.language or "other", size=size)
        bound = next((b for b in CHARACTERS_OF_LENGTHS if size <= b), 2**21)
        report.count("length", f"{bound:07d}", size=size)
        yield document


def chunk_json(chunk, report) -> dict:
    """What the plan needs of a chunk; counts its tokens and kinds."""
    for kind in chunk.kinds:
        report.count("fim", kind)
    report.count("tokens", "segments", size=len(chunk.token_ids))
    digest = hashlib.blake2b(np.array(chunk.token_ids, "<i4").tobytes(), digest_size=12)
    return {
        "length": len(chunk.token_ids),
        "hash": digest.hexdigest(),
        "paths": list(dict.fromkeys(chunk.paths)),
    }


def _graph_json(repo, found):
    return {
        "repo": repo,
        "paths": found.paths,
        "kept": [[e.importer, e.imported] for e in found.kept],
        "removed": [[e.importer, e.imported] for e in found.removed],
        "tests": found.tests,
        "covered": found.covered,
    }


def _document(texts, entry):
    texts.seek(entry["offset"])
    return Document.from_json(texts.read(entry["size"]))


# Files


def read_lines(path) -> Iterator[dict]:
    with open(path, encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def read_reports(read, dedup, tokens, unit) -> Report:
    """What all stages counted of one unit; arguments are the stages' folders."""
    found = json.loads((dedup / "reports.json").read_text())[unit]
    report = Report.from_json(found)
    return report.merge(read_report(read / unit)).merge(read_report(tokens / unit))


def read_report(folder) -> Report:
    return Report.from_json(json.loads((folder / "report.json").read_text()))


def _write_line(file, entry):
    file.write(json.dumps(entry, ensure_ascii=True, sort_keys=True) + "\n")


def write_json(path, value):
    path.write_text(json.dumps(value, sort_keys=True) + "\n")


def _write_report(folder, report):
    write_json(folder / "report.json", report.to_json())
