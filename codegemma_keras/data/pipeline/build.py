"""`build`: sources in, a dataset folder out; killed at any moment, it goes on.

Each task writes into a folder of its own and renames it when it is complete and on disk,
so what has its final name is whole. A second call with the same settings skips finished
tasks; as every task is a function of its inputs alone, the result has the same bytes as
that of an undisturbed run. Other settings in the same folder are an error.

In OUT, which must be new, empty or a build's own (see folder.py):

    .codegemma-build/       manifest.json, 1-read and so on (stages.py); removed at the end
    *.array_record-*        shards, a TFDS dataset
    report.md, report.html, dropped.jsonl, tokenizer.model
    build.json              what the build was made from
    data.json               moved there last: its presence means finished
"""

import collections
import concurrent.futures
import concurrent.futures.process
import contextlib
import dataclasses
import errno
import functools
import hashlib
import json
import multiprocessing
import os
import pathlib
import shutil
import time
from collections.abc import Sequence

from codegemma_keras import files
from codegemma_keras.data.document import Report
from codegemma_keras.data.pipeline import report as report_page
from codegemma_keras.data.pipeline import stages
from codegemma_keras.data.pipeline.folder import (
    BUILD,
    DATA,
    MANIFEST,
    TIMINGS,
    BuildFolder,
    run_task,
)
from codegemma_keras.data.pipeline.stages import Settings
from codegemma_keras.data.read import sources
from codegemma_keras.data.rows import storage
from codegemma_keras.tokenizer.codec import PlainCodec, with_sentinel_names

# Of a preset's folder in KerasHub's format; `presets.VOCABULARY`, without its Keras.
VOCABULARY = "assets/tokenizer/vocabulary.spm"
STAGES = ("read", "dedup", "tokens", "shards")
FOLDERS = ("1-read", "2-dedup", "3-tokens", "4-shards", "5-results")


def build(
    sources_: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    tokenizer,
    settings: Settings = Settings(),  # noqa: B008 - frozen
    *,
    workers: int = 1,
    progress=None,
    keep_work: bool = False,
) -> Report:
    """Build a dataset folder.

    Args:
        sources_: folders, archives and jsonl files; each one repository (a jsonl file
            names them).
        out: the folder; made if need be. An unfinished build there goes on.
        tokenizer: a SentencePiece file of a CodeGemma vocabulary, a preset, or an
            object with `encode(parts)` and `proto` (bytes).
        settings: what to keep, and how to make examples.
        workers: processes. The result does not depend on it.
        progress: called as `progress(stage, done, total)`.
        keep_work: leave the intermediate files.

    Returns:
        The merged report of all stages.

    Raises:
        FileNotFoundError: a source is not there.
        ValueError: `out` holds a build with other settings, or nothing was left to
            train on.
        OSError: reading or writing failed; what is finished is kept.
    """
    folder = BuildFolder(out, FOLDERS)
    units = _units(sources_)
    proto = read_proto(tokenizer)
    PlainCodec(proto)  # What is wrong with it is said before hours of reading.
    manifest = _manifest(units, settings, proto)
    with folder.lock():
        _check_manifest(folder, manifest)
        if not folder.finished():
            folder.begin(manifest)
            try:
                _run(folder, units, proto, settings, workers, progress or _silent)
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    raise OSError(
                        errno.ENOSPC,
                        f"The disk of {out} is full. Make room and run the same command "
                        "again: finished work is kept",
                    ) from error
                raise
        if not keep_work:
            folder.clear()
    return Report.from_json(folder.finished()["report"])


def _silent(stage, done, total):
    """No progress is shown."""


def _run(folder, units, proto, settings, workers, progress):
    work = folder.work
    read, tokens, shards, results = (work / name for name in FOLDERS if "2" not in name)
    names = sorted(units)
    files.put(results / "tokenizer.model", proto)
    timings = {}
    with _pool(workers) as pool:
        with _timed(timings, "read"):
            jobs = [
                (_read_task, read, n, units[n], settings)
                for n in sorted(names, key=lambda n: -_size(units[n]))
                if not (read / n).exists()
            ]
            _all(pool, jobs, lambda done, total: progress("read", done, total))
        with _timed(timings, "dedup"):
            _dedup_task(work, names, settings)
            progress("dedup", 1, 1)
        with _timed(timings, "tokens"):
            dedup = work / "2-dedup" / "all"
            verdicts = json.loads((dedup / "verdicts.json").read_text())
            codec = str(results / "tokenizer.model")
            jobs = [
                (
                    _tokens_task,
                    tokens,
                    n,
                    read / n,
                    verdicts.get(n, {}),
                    settings,
                    codec,
                )
                for n in sorted(names, key=lambda n: -_size(read / n))
                if not (tokens / n).exists()
            ]
            _all(pool, jobs, lambda done, total: progress("tokens", done, total))
        with _timed(timings, "shards"):
            plan = stages.plan_rows(tokens, names, settings)
            if not plan.rows:
                raise _nothing_left(_merged(work, names))
            number = -(-len(plan.rows) // settings.rows_per_shard())
            made = [shards / storage.shard_name(i, number) for i in range(number)]
            jobs = [
                (_shard_task, work, path, stages.shard_plan(plan, settings, i), names)
                + (settings.length,)
                for i, path in enumerate(made)
                if not path.exists()
            ]
            _all(pool, jobs, lambda done, total: progress("shards", done, total))
    _finish(folder, names, settings, plan, made)
    if not (work / TIMINGS).exists():
        files.put(work / TIMINGS, json.dumps(timings).encode())


def _finish(folder, names, settings, plan, shards):
    """The reports, the metadata, and last what says that all is there."""
    work, results = folder.work, folder.work / "5-results"
    counts = [json.loads((path / "count.json").read_text()) for path in shards]
    report = _merged(work, names)
    used = int(plan.lengths.sum())
    report.count("rows", "rows", len(plan.rows), size=used)
    _join(work, names, results / "dropped.jsonl")
    about = {
        "length": settings.length,
        "rows": len(plan.rows),
        "tokens": used,
        "padding": round(1 - used / (len(plan.rows) * settings.length), 6),
        "settings": _settings_json(settings),
        "sources": names,
        "report": report.to_json(),
    }
    graphs = (work / "3-tokens" / name / "graphs.jsonl" for name in names)
    graph = report_page.choose_graph(graphs)
    (results / "report.md").write_text(report_page.markdown(about, graph), "utf-8")
    (results / "report.html").write_text(report_page.html_page(about, graph), "utf-8")
    rows, record_bytes = [c[0] for c in counts], sum(c[1] for c in counts)
    # TFDS looks at the shards' names alone.
    stand_ins = [results / path.name for path in shards]
    for path in stand_ins:
        path.touch()
    storage.write_metadata(results, rows, record_bytes, settings.length)
    for path in stand_ins:
        path.unlink()
    shutil.copyfile(work / MANIFEST, results / BUILD)
    text = json.dumps(about, indent=1, sort_keys=True) + "\n"
    (results / DATA).write_text(text)
    made = {path.name: path / path.name for path in shards}
    folder.publish(made | {path.name: path for path in results.iterdir()})


def _nothing_left(report):
    counts = sorted(report.counts.items(), key=lambda item: -item[1][0])
    dropped = [(reason, n) for (_, reason), (n, _) in counts if reason != "in"][:6]
    return ValueError(
        "No document was left to train on. Dropped: "
        + ", ".join(f"{reason} ({number})" for reason, number in dropped)
        + "."
    )


# Tasks. Each takes plain values, so that it can run in another process.


def _read_task(folder, unit, source, settings):
    run_task(folder / unit, lambda to: stages.read_unit(source, unit, settings, to))


def _dedup_task(work, units, settings):
    run_task(
        work / "2-dedup" / "all",
        lambda to: stages.dedup_units(work / "1-read", units, settings, to),
    )


def _tokens_task(folder, unit, read, dropped, settings, tokenizer):
    codec = _codec(tokenizer)
    run_task(
        folder / unit,
        lambda to: stages.tokenize_unit(read, dropped, settings, codec, to),
    )


def _shard_task(work, path, rows, units, length):
    def fill(to):
        made = stages.read_rows(work / "3-tokens", units, rows, length)
        count = storage.write_shard(to / path.name, made, length)
        (to / "count.json").write_text(json.dumps(count))

    run_task(path, fill)


@functools.cache
def _codec(path):
    return PlainCodec(pathlib.Path(path).read_bytes())


def _pool(workers):
    if workers < 1:
        raise ValueError(f"workers={workers} must be 1 or more.")
    if workers == 1:
        return contextlib.nullcontext()
    # Spawned: forking a process with threads (TensorFlow, JAX) may deadlock.
    context = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(workers, context)


def _all(pool, jobs, progress):
    progress(0, len(jobs))
    if pool is None:
        for done, (task, *args) in enumerate(jobs, 1):
            task(*args)
            progress(done, len(jobs))
        return
    try:
        futures = [pool.submit(task, *args) for task, *args in jobs]
        for done, future in enumerate(concurrent.futures.as_completed(futures), 1):
            future.result()
            progress(done, len(jobs))
    except concurrent.futures.process.BrokenProcessPool as error:
        raise RuntimeError(
            "A worker process died. Either memory ran out (use fewer workers), or the "
            'calling script starts workers without `if __name__ == "__main__":`. '
            "Finished work is kept: run the same again."
        ) from error
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise


# Small parts


def _units(paths):
    """`{unit: source}`; sources of one name are numbered in the order of their paths."""
    found, units = collections.defaultdict(list), {}
    for path in dict.fromkeys(str(pathlib.Path(p).resolve()) for p in paths):
        if not os.path.exists(path):
            raise FileNotFoundError(f"source {path!r}: no such folder or file.")
        found[sources.source_name(path)].append(path)
    for name, same in found.items():
        for number, path in enumerate(sorted(same), 1):
            units[name if number == 1 else f"{name}~{number}"] = path
    if not units:
        raise ValueError("No source was given. Name folders, archives or jsonl files.")
    return units


def _size(path):
    """Bytes of a source, about: the largest are begun first, so that none is left over."""
    if os.path.isfile(path):
        return os.path.getsize(path)
    found = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                found += os.lstat(os.path.join(folder, name)).st_size
    return found


def read_proto(tokenizer) -> bytes:
    """The SentencePiece model of a tokenizer, a file or a preset.

    A file, a preset's folder and the embedded preset are read as they are; only a preset
    that must be downloaded loads Keras.
    """
    proto = getattr(tokenizer, "proto", None)
    if proto is None:
        path = pathlib.Path(tokenizer)
        embedded = pathlib.Path(__file__).parents[2] / "assets" / path
        for file in (embedded / VOCABULARY, path, path / VOCABULARY):
            if file.is_file():
                return with_sentinel_names(file.read_bytes())
        from codegemma_keras.tokenizer.tokenizer import CodeGemmaTokenizer

        proto = CodeGemmaTokenizer.from_preset(os.fspath(tokenizer)).proto
    if isinstance(proto, str):
        return pathlib.Path(proto).read_bytes()
    return bytes(proto)


def _settings_json(settings):
    return json.loads(json.dumps(dataclasses.asdict(settings)))


def _manifest(units, settings, proto):
    return {
        "sources": units,
        "settings": _settings_json(settings),
        "tokenizer": hashlib.blake2b(proto, digest_size=16).hexdigest(),
        "format": 1,
    }


def _check_manifest(folder, manifest):
    """Refuse a folder that holds the answer to another question."""
    old = folder.manifest()
    different = [key for key in manifest if old and old.get(key) != manifest[key]]
    if different:
        raise ValueError(
            f"{folder.out} holds a build with other {', '.join(different)}. Name another "
            "folder, or remove this one."
        )


def _merged(work, names):
    report = stages.read_report(work / "2-dedup" / "all")
    for name in names:
        report.merge(stages.read_report(work / "1-read" / name))
        report.merge(stages.read_report(work / "3-tokens" / name))
    return report


def _join(work, names, path):
    parts = [work / "1-read" / name / "dropped.jsonl" for name in names]
    parts.append(work / "2-dedup" / "all" / "dropped.jsonl")
    with open(path, "wb") as joined:
        for part in parts:
            with open(part, "rb") as file:
                shutil.copyfileobj(file, joined)


@contextlib.contextmanager
def _timed(timings, name):
    start = time.perf_counter()
    yield
    timings[name] = round(time.perf_counter() - start, 3)
