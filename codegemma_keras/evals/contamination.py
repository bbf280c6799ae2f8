"""Contamination: which problems of a benchmark stand in what a model was trained on.

The search is that of the data pipeline (`data.clean.decontaminate`): words of problems,
code of solutions and tests, however they are written. Sources are read as the pipeline
reads them, unfiltered; a finished dataset is read row by row, its middles put back.
"""

import collections
import pathlib
from collections.abc import Iterator, Mapping, Sequence

from codegemma_keras import fim
from codegemma_keras.data.clean import decontaminate
from codegemma_keras.data.document import Report
from codegemma_keras.data.languages import language_of
from codegemma_keras.data.read import sources
from codegemma_keras.data.rows.storage import Rows
from codegemma_keras.evals import scores
from codegemma_keras.evals.task import Task
from codegemma_keras.tokenizer.codec import PlainCodec

PLACES = 3  # that are named for each problem


def texts(source) -> Iterator[tuple[str, str, str]]:
    """`(name, language, text)` of each document of a source.

    Args:
        source: a folder, an archive or a jsonl file, as `codegemma data build` takes
            them, or a dataset that it made.
    """
    path = pathlib.Path(source)
    if (path / "data.json").is_file():
        yield from _of_dataset(path)
        return
    for document in sources.read_source(path, Report()):
        yield f"{document.repo}/{document.path}", document.language, document.text


def check(trained_on: Sequence[str]) -> None:
    """Refuse sources that cannot be read, before anything is asked.

    Raises:
        OSError: there is none of a name.
        ValueError: it is none of the kinds that `texts` takes.
    """
    for source in trained_on:
        path = pathlib.Path(source)
        if (path / "data.json").is_file():
            next(iter(_of_dataset(path)), None)
        else:
            sources.check_source(path)


def _of_dataset(folder):
    rows = Rows(folder)
    codec = PlainCodec((folder / "tokenizer.model").read_bytes())
    for number in range(len(rows)):
        for segment in rows[number]:
            for parts in _files(codec.decode_parts(segment)):
                yield (f"{folder.name} row {number}", *_whole(parts))


def _files(parts):
    """The parts of each file of a segment."""
    file = []
    for part in parts:
        if part in (fim.START, fim.END, fim.PAD, fim.FILE_SEPARATOR):
            if file:
                yield file
            file = []
        else:
            file.append(part)
    if file:
        yield file


def _whole(parts):
    """`(language, text)` of a file, its middle where it was."""
    strings = [part for part in parts if not isinstance(part, fim.Control)]
    if len(strings) < len(parts):
        try:
            found = fim.parse(parts)
            text = found.prefix + (found.middle or "") + found.suffix
            return language_of(found.path or "") or "python", text
        except ValueError:  # cut at the border of a row
            pass
    path, _, text = "".join(strings).partition("\n")
    return language_of(path) or "python", text


def find(tasks: Sequence[Task], trained_on: Sequence[str]) -> tuple[dict, int]:
    """Problems that stand in sources.

    Args:
        tasks: whose problems.
        trained_on: sources, see `texts`.

    Returns:
        `({(task, problem): places}, documents read)`.
    """
    probes, owners = {}, collections.defaultdict(list)
    for task in tasks:
        for problem in task.problems if task.probe else ():
            probe = task.probe(problem)
            # Holes in one program are one probe.
            key = (probe.text, probe.code, probe.tests)
            probes.setdefault(key, probe)
            owners[probes[key].name].append((task.name, problem.id))
    index = decontaminate.Index(probes.values())
    found, documents = collections.defaultdict(list), 0
    for source in trained_on:
        for name, language, text in texts(source):
            documents += 1
            for match in index.matches(text, language):
                said = f"{name} ({match.kind}, {match.share:.0%})"
                for owner in owners[match.task]:
                    found[owner].append(said)
    return dict(found), documents


def about(task: Task, counts: Mapping, found: Mapping, documents, trained_on) -> dict:
    """What `contamination.json` holds. `problems` is None where nothing was looked for.

    Args:
        task: whose run.
        counts: `{problem: (samples, right ones)}`.
        found, documents: of `find`.
        trained_on: the sources.
    """
    read = [pathlib.Path(source).name for source in trained_on]
    if task.probe is None:
        return {"sources": read, "documents": documents, "problems": None}
    problems = {
        problem: places[:PLACES]
        for (name, problem), places in sorted(found.items())
        if name == task.name and problem in counts
    }
    clean = {p: c for p, c in counts.items() if p not in problems}
    return {
        "sources": read,
        "documents": documents,
        "problems": problems,
        "without": scores.score(clean).to_json() if clean else None,
    }
