"""`build`: sources in, a dataset folder out; killed at any moment, it goes on.

Each task writes into a folder of its own and renames it when it is complete and on disk,
so what has its final name is whole. A second call with the same question skips finished
tasks; as every task is a function of its inputs alone, the result has the same bytes as
that of an undisturbed run. Another question in the same folder is an error.

In OUT, which must be new, empty or a build's own (see folder.py):

    .codegemma-build/       the work of each stage (stages.py); removed at the end
    *.array_record-*        shards, a TFDS dataset
    report.md, dropped.jsonl, rows.jsonl, tokenizer.model
    report.html, build.json when, how and from what it was made; all others have the same
                            bytes whenever and wherever the same is built
    data.json               moved there last: its presence means finished
"""

import contextlib
import dataclasses
import errno
import json
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Sequence

from codegemma_keras import files
from codegemma_keras.data.document import Report
from codegemma_keras.data.pipeline import question, shards, stages, summary
from codegemma_keras.data.pipeline.folder import (
    BUILD,
    DATA,
    MANIFEST,
    TIMINGS,
    BuildFolder,
    run_task,
)
from codegemma_keras.data.pipeline.settings import Settings
from codegemma_keras.data.pipeline.workers import worker_pool
from codegemma_keras.data.rows import storage
from codegemma_keras.tokenizer.codec import PlainCodec

STAGES = ("read", "dedup", "tokens", "shards")
FOLDERS = ("1-read", "2-dedup", "3-tokens", "4-shards", "5-results")
TOKENIZER = "tokenizer.model"


def build(
    sources: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    tokenizer,
    settings: Settings = Settings(),  # noqa: B008 - frozen
    *,
    workers: int = 1,
    progress: Callable[[str, int, int], None] | None = None,
    keep_work: bool = False,
) -> Report:
    r"""Build a dataset folder.

    Args:
        sources: folders, archives and jsonl files; each one repository (a jsonl file
            names them).
        out: the folder; made if need be. An unfinished build there goes on, a finished
            one of the same sources and settings is left as it is.
        tokenizer: a SentencePiece file of a CodeGemma vocabulary, a preset, or an
            object with `encode(parts)` and `proto` (bytes).
        settings: what to keep, and how to make examples.
        workers: processes. The result does not depend on it.
        progress: called as `progress(stage, done, total)`; not called where all is done.
        keep_work: leave the intermediate files.

    Returns:
        The merged report of all stages.

    Raises:
        FileNotFoundError: a source is not there.
        ValueError: `out` holds something else, such as a build of other sources or
            settings, or nothing was left to train on.
        OSError: reading or writing failed; what is finished is kept.

    Examples:
        >>> import pathlib
        >>> pathlib.Path("project").mkdir()
        >>> _ = pathlib.Path("project/a.py").write_text("x = 1\n" * 200)
        >>> settings = data.Settings(length=256, licences=None)
        >>> _ = data.build(["project"], "rows", "code_gemma_tiny_py", settings)

        >>> pathlib.Path("rows/report.html").exists()
        True
    """
    folder = BuildFolder(out, FOLDERS)
    units = question.find_units(sources)
    proto = question.read_proto(tokenizer)
    PlainCodec(proto)  # What is wrong with it is said before hours of reading.
    asked = question.ask(units, settings, proto)
    with _disk_errors(folder.out), folder.lock():
        _refuse_other_questions(folder, asked)
        if not folder.finished():
            folder.begin(asked)
            files.put(folder.work / "5-results" / TOKENIZER, proto)
            job = _Build(folder, units, settings)
            _run(job, workers, progress or (lambda *_: None))
            _finish(job)
        if not keep_work:
            folder.clear()
    return Report.from_json(folder.about()["report"])


def _refuse_other_questions(folder, asked):
    old = folder.manifest()
    different = question.differences(old, asked) if old else []
    if different:
        shown = "; ".join(different[:5]) + ("; ..." if len(different) > 5 else "")
        raise ValueError(
            f"{folder.out} holds a build that differs: {shown}. Name another folder, or "
            "remove this one."
        )


@contextlib.contextmanager
def _disk_errors(out):
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(
            error.errno,
            f"The disk of {out} is full. Make room and run the same command again: "
            "finished work is kept",
        ) from error


@dataclasses.dataclass
class _Build:
    """What the stages of one build share.

    Attributes:
        folder: a `BuildFolder`.
        units: of `question.find_units`.
        settings: of the build.
        plan: of the rows, once tokens are there.
    """

    folder: BuildFolder
    units: list[question.Unit]
    settings: Settings
    plan: shards.Plan | None = None

    def __post_init__(self):
        self.read, self.dedup, self.tokens, self.shards, self.results = (
            self.folder.work / name for name in FOLDERS
        )
        self.dedup = self.dedup / "all"
        self.keys = [unit.key for unit in self.units]

    def shard_names(self):
        number = -(-len(self.plan.rows) // self.settings.rows_per_shard())
        return [storage.shard_name(i, number) for i in range(number)]


# What each stage has to do: `{folder: (function, *args)}`, the largest tasks first.


def _read_tasks(job):
    units = sorted(job.units, key=lambda unit: -_size(unit.path))
    return {
        job.read / u.key: (stages.read_unit, u.path, u.name, job.settings)
        for u in units
    }


def _dedup_tasks(job):
    return {job.dedup: (stages.dedup_units, job.read, job.keys, job.settings)}


def _token_tasks(job):
    verdicts = json.loads((job.dedup / "verdicts.json").read_text())
    tokenizer = job.results / TOKENIZER
    return {
        job.tokens / key: (
            stages.tokenize_unit,
            job.read / key,
            verdicts.get(key, {}),
            job.settings,
            tokenizer,
        )
        for key in sorted(job.keys, key=lambda key: -_size(job.read / key))
    }


def _shard_tasks(job):
    job.plan = shards.plan_rows(job.tokens, job.keys, job.settings)
    if not job.plan.rows:
        error = summary.nothing_left(_reports(job).values())
        job.folder.clear()  # so that other settings may be tried with the same folder
        raise error
    return {
        job.shards / name: (
            shards.write_shard,
            name,
            job.tokens,
            job.keys,
            shards.shard_plan(job.plan, job.settings, number),
        )
        for number, name in enumerate(job.shard_names())
    }


_TASKS = (_read_tasks, _dedup_tasks, _token_tasks, _shard_tasks)


def _run(job, number, progress):
    timings = {}
    with worker_pool(number) as run:
        for stage, find_tasks in zip(STAGES, _TASKS, strict=True):
            start = time.perf_counter()
            tasks = [
                (run_task, folder, *task)
                for folder, task in find_tasks(job).items()
                if not folder.exists()
            ]
            run(tasks, lambda done, total, stage=stage: progress(stage, done, total))
            timings[stage] = round(time.perf_counter() - start, 3)
    if not (job.folder.work / TIMINGS).exists():
        files.put(job.folder.work / TIMINGS, json.dumps(timings).encode())


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


# The end


def _finish(job):
    """The reports and the metadata, and all of it moved to its place."""
    results, made = job.results, {n: job.shards / n for n in job.shard_names()}
    _join(_dropped(job), results / "dropped.jsonl")
    _join((path / "rows.jsonl" for path in made.values()), results / "rows.jsonl")
    counts = [json.loads((p / "count.json").read_text()) for p in made.values()]
    _write_metadata(results, list(made), counts)
    about = summary.about(job, _reports(job))
    summary.write(job, about)
    shutil.copyfile(job.folder.work / MANIFEST, results / BUILD)
    moved = {name: path / name for name, path in made.items()}
    moved |= {path.name: path for path in results.iterdir()}
    # An interrupted call may have moved some already.
    there = {n: p if p.exists() else job.folder.out / n for n, p in moved.items()}
    about["files"] = {
        name: path.stat().st_size
        for name, path in sorted(there.items())
        if name not in (BUILD, DATA, "report.html")
    }
    moved[DATA] = results / DATA
    text = json.dumps(about, indent=1, sort_keys=True) + "\n"
    moved[DATA].write_text(text, "utf-8")
    job.folder.publish(moved)


def _write_metadata(results, names, counts):
    stand_ins = [results / name for name in names]  # TFDS looks at the names alone.
    for path in stand_ins:
        path.touch()
    rows, size = [count[0] for count in counts], sum(count[1] for count in counts)
    storage.write_metadata(results, rows, size)
    for path in stand_ins:
        path.unlink()


def _reports(job) -> dict[str, Report]:
    """What the stages counted of each source."""
    folders = job.read, job.dedup, job.tokens
    return {unit.name: stages.read_reports(*folders, unit.key) for unit in job.units}


def _dropped(job):
    """The lists of dropped documents, in the order of the stages."""
    folders = [*(job.read / k for k in job.keys), job.dedup]
    folders += [job.tokens / k for k in job.keys]
    return [folder / "dropped.jsonl" for folder in folders]


def _join(parts, path: pathlib.Path):
    with open(path, "wb") as joined:
        for part in parts:
            with open(part, "rb") as file:
                shutil.copyfileobj(file, joined)
