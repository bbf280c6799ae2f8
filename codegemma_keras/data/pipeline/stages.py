"""The stages of a build, each a pure function from folders to one new folder or file.

    1-read/UNIT/    documents.jsonl  index.jsonl  sketches.bin  report.json  dropped.jsonl
    2-dedup/        verdicts.json                                 report.json  dropped.jsonl
    3-tokens/UNIT/  tokens.bin  chunks.jsonl  graphs.jsonl        report.json  dropped.jsonl
    shards          rows of all units, packed and shuffled

A unit is one source. A unit's documents are streamed: memory holds one document and the
unit's index, not its texts. The same inputs give the same bytes, so a stage that was
killed is simply run again.
"""

import collections
import dataclasses
import hashlib
import json
import pathlib
import shutil
import sys
from collections.abc import Iterator

import numpy as np

from codegemma_keras.data.clean import decontaminate, dedup, filters, secrets
from codegemma_keras.data.clean.licences import PERMISSIVE
from codegemma_keras.data.document import Document, Report, text_bytes, watch
from codegemma_keras.data.languages import CODE
from codegemma_keras.data.order import imports, order
from codegemma_keras.data.read import sources
from codegemma_keras.data.rows import examples, packing

CHARACTERS_OF_LENGTHS = tuple(2**n for n in range(5, 21))


_FIM = examples.FimSettings()


@dataclasses.dataclass(frozen=True)
class Settings:
    """All that decides the output, besides the sources and the tokenizer.

    Attributes:
        length: T, tokens of a row. CodeGemma's context is 8192.
        languages: to keep.
        licences: to keep; None keeps all. `""` is an unknown licence.
        secrets: `"replace"`, `"drop"` or `"keep"`, see `secrets.clean_documents`.
        threshold: Jaccard similarity of near duplicates; 0 keeps them.
        benchmarks: paths of files for `decontaminate.read_tasks`.
        top_lines: lines read for imports; None: all.
        max_file_bytes: larger files are left out.
        fim: rates, see `examples.FimSettings`; its seed also shuffles the rows.
        shard_bytes: of tokens in one shard, about.
    """

    length: int = 8192
    languages: tuple[str, ...] = CODE
    licences: tuple[str, ...] | None = tuple(sorted(PERMISSIVE))
    secrets: str = "replace"
    threshold: float = dedup.THRESHOLD
    benchmarks: tuple[str, ...] = ()
    top_lines: int | None = imports.TOP_LINES
    max_file_bytes: int = sources.MAX_FILE_BYTES
    fim: examples.FimSettings = _FIM
    shard_bytes: int = 64_000_000

    def __post_init__(self):
        if self.length < 64:
            raise ValueError(
                f"length={self.length} tokens is too short; use 64 or more."
            )
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold={self.threshold} must be between 0 and 1.")

    def rows_per_shard(self) -> int:
        return max(1, self.shard_bytes // (4 * self.length))


# 1. Documents of one source


def read_unit(source: str, unit: str, settings: Settings, folder: pathlib.Path):
    """Read, filter, clean and decontaminate one source into `folder`."""
    tasks = [t for path in settings.benchmarks for t in decontaminate.read_tasks(path)]
    index = decontaminate.Index(tasks) if tasks else None
    with (
        open(folder / "dropped.jsonl", "w", encoding="utf-8") as dropped,
        open(folder / "documents.jsonl", "wb") as texts,
        open(folder / "index.jsonl", "w", encoding="utf-8") as rows,
        open(folder / "sketches.bin", "wb") as sketches,
    ):
        report = Report(lambda entry: _write_line(dropped, entry))
        documents = document_steps(source, unit, settings, report, index)
        for document in documents:
            line = document.to_json().encode("utf-8", "surrogatepass") + b"\n"
            found = dedup.signature(document.text) if settings.threshold else None
            entry = {
                "repo": document.repo,
                "path": document.path,
                "language": document.language,
                "offset": texts.tell(),
                "size": len(line),
                "bytes": text_bytes(document.text),
                "exact": dedup.exact_key(document.text).hex(),
                "sketch": found is not None,
            }
            texts.write(line)
            blank = np.zeros(dedup.PERMUTATIONS, np.uint32)
            sketches.write((blank if found is None else found).astype("<u4").tobytes())
            _write_line(rows, entry)
    _write_report(folder, report)


def document_steps(source, unit, settings, report, index=None) -> Iterator[Document]:
    """The steps of one source before deduplication, as one generator."""
    documents = sources.read_source(
        source,
        report,
        repo=unit,
        max_file_bytes=settings.max_file_bytes,
        languages=settings.languages,
    )
    documents = watch(_one_per_path(documents, report), report, "read")
    return steps(documents, settings, report, index)


def steps(documents, settings, report, index=None) -> Iterator[Document]:
    """Filter, decontaminate and clean documents of any origin."""
    documents = filters.filter_documents(
        documents, report, languages=settings.languages, licences=settings.licences
    )
    # Before secrets are replaced: a placeholder would hide what follows it.
    documents = decontaminate.decontaminate_documents(documents, report, index)
    return secrets.clean_documents(documents, report, mode=settings.secrets)


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


def dedup_units(read: pathlib.Path, units, settings: Settings, folder: pathlib.Path):
    """Which documents of all units go: proposed by their sketches, verified by texts."""
    entries = []
    with open(folder / "sketches.bin", "wb") as joined:
        for unit in units:
            for row, entry in enumerate(read_lines(read / unit / "index.jsonl")):
                entries.append(_Entry.of(unit, row, entry))
            with open(read / unit / "sketches.bin", "rb") as part:
                shutil.copyfileobj(part, joined)
    report = Report()
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
        report.sink = lambda entry: _write_line(dropped, entry)
        for index in sorted(found):
            gone, kept = entries[index], entries[found[index].kept]
            verdicts[gone.unit][gone.row] = found[index].reason
            dedup.report_drop(report, found[index], gone.name, kept.name, gone.bytes)
    _write_json(folder / "verdicts.json", verdicts)
    _write_report(folder, report)


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
    read: pathlib.Path,
    dropped: dict,
    settings: Settings,
    codec,
    folder: pathlib.Path,
):
    """Order a unit's repositories, and write their segments."""
    repositories = collections.defaultdict(list)
    for row, entry in enumerate(read_lines(read / "index.jsonl")):
        if str(row) not in dropped:
            repositories[entry["repo"]].append(entry)
    report = Report()
    with (
        open(read / "documents.jsonl", "rb") as texts,
        open(folder / "tokens.bin", "wb") as tokens,
        open(folder / "chunks.jsonl", "w", encoding="utf-8") as chunks,
        open(folder / "graphs.jsonl", "w", encoding="utf-8") as graphs,
    ):
        for repo in sorted(repositories):
            entries = {entry["path"]: entry for entry in repositories[repo]}
            found = order_repository(
                (_document(texts, entry) for entry in entries.values()), settings
            )
            _write_line(graphs, _graph_json(repo, found))
            documents = (_document(texts, entries[path]) for path in found.paths)
            documents = count_documents(documents, report)
            for chunk in examples.chunk_repository(
                documents, codec, settings.fim, settings.length
            ):
                tokens.write(np.array(chunk.token_ids, "<i4").tobytes())
                _write_line(chunks, chunk_json(chunk, report))
    _write_report(folder, report)


def order_repository(documents, settings) -> order.Order:
    """The order of one repository's documents."""
    return order.order_files(
        [
            imports.read_facts(d.text, d.path, d.language, settings.top_lines)
            for d in documents
        ]
    )


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


# 4. Rows of all units


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which segments make up which row.

    Attributes:
        rows: lists of chunk numbers, shuffled.
        unit, offset, lengths: of each chunk: where its tokens lie; `[chunks]`.
    """

    rows: list[list[int]]
    unit: np.ndarray
    offset: np.ndarray
    lengths: np.ndarray


def plan_rows(tokens: pathlib.Path, units, settings: Settings) -> Plan:
    """Pack all segments; the order follows from their contents and the seed."""
    unit, offset, lengths, hashes = [], [], [], []
    for number, name in enumerate(units):
        place = 0
        for entry in read_lines(tokens / name / "chunks.jsonl"):
            unit.append(number)
            offset.append(place)
            lengths.append(entry["length"])
            hashes.append(bytes.fromhex(entry["hash"]))
            place += entry["length"]
    # By content, so that the same documents pack alike wherever they come from.
    ranked = sorted(range(len(hashes)), key=lambda i: (hashes[i], unit[i], offset[i]))
    packed = packing.pack_lengths([lengths[i] for i in ranked], settings.length)
    rows = [[ranked[i] for i in row] for row in packed]
    seed = str(settings.fim.seed).encode()

    def shuffled(row):
        digest = hashlib.blake2b(seed, digest_size=12)
        for index in row:
            digest.update(hashes[index])
        return digest.digest()

    rows.sort(key=shuffled)
    return Plan(
        rows,
        np.array(unit, np.int32),
        np.array(offset, np.int64),
        np.array(lengths, np.int32),
    )


def shard_plan(plan: Plan, settings: Settings, shard: int) -> list:
    """What one shard holds: for each row, `(unit, offset, length)` of its segments."""
    size = settings.rows_per_shard()
    parts = (plan.unit, plan.offset, plan.lengths)
    return [
        [tuple(int(part[index]) for part in parts) for index in row]
        for row in plan.rows[shard * size : (shard + 1) * size]
    ]


def read_rows(tokens: pathlib.Path, units, rows: list, length: int):
    """The rows of a `shard_plan`, as `packing.fill_row` makes them."""
    maps = {}
    for row in rows:
        segments = []
        for number, start, size in row:
            if number not in maps:
                if len(maps) > 64:
                    maps.clear()
                maps[number] = np.memmap(
                    tokens / units[number] / "tokens.bin", "<i4", "r"
                )
            segments.append(maps[number][start : start + size])
        yield packing.fill_row(segments, length)


# Files


def read_lines(path) -> Iterator[dict]:
    with open(path, encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def read_report(folder) -> Report:
    return Report.from_json(json.loads((folder / "report.json").read_text()))


def _write_line(file, entry):
    file.write(json.dumps(entry, ensure_ascii=True, sort_keys=True) + "\n")


def _write_json(path, value):
    path.write_text(json.dumps(value, sort_keys=True) + "\n")


def _write_report(folder, report):
    _write_json(folder / "report.json", report.to_json())
