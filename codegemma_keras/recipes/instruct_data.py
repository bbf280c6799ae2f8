"""Instruction data from real code: a model invents exercises, and running them decides.

    codegemma data instruct path/to/repo lib-1.0.tar.gz --out exercises

    sources -> filters -> snippets -> a model's answers -> parsed -> executed
            -> not contaminated -> no duplicates -> rows.jsonl

The model is a preset, or any server with OpenAI's chat API: `--url` and `--model`. Answers
are appended as they come, so the same command goes on after a stop. `rows.jsonl` is for
`codegemma sft --data` (its messages) and `codegemma rl --data` (its tests).

Left out: judging how good a problem is. What survives is consistent, not always sensible.
"""

import dataclasses
import json
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import tyro

from codegemma_keras import bars, files
from codegemma_keras.data.clean import decontaminate, dedup, filters, licences, secrets
from codegemma_keras.data.document import Document, Report, content_hash
from codegemma_keras.data.read import sources
from codegemma_keras.evals.evaluation import open_model
from codegemma_keras.evals.run import Run
from codegemma_keras.evals.task import Message
from codegemma_keras.recipes.chat_server import ChatServer
from codegemma_keras.tasks import oss_instruct
from codegemma_keras.training import config as settings
from codegemma_keras.training.progress import say

Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class InstructConfig:
    """Settings of `codegemma data instruct`: exercises that a model invents from code."""

    sources: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE...")
    ]
    """Folders, archives and jsonl files of code, as `codegemma data build` takes them."""
    out: str
    """Folder of the answers, the rows and the report. The same command with the same
    folder goes on where it stopped."""

    preset: str = "smollm2_135m_code"
    """Name or folder of a model that chats; not used where `url` is given."""
    url: str | None = None
    """Ask a server instead: the address of OpenAI's API, such as
    http://127.0.0.1:8012/v1."""
    model: str | None = None
    """With `url`: the model's name there."""
    key_variable: str = "OPENAI_API_KEY"
    """With `url`: the environment variable that holds the key, if one is needed."""

    snippets: int = 200
    """The number of pieces of code to show to the model, each once."""
    lines: int = 15
    """The most lines of a piece."""
    temperature: float = 0.7
    """The temperature of sampling. 0 always takes the most probable token."""
    max_new_tokens: int = 768
    """The most tokens of an answer."""
    batch_size: int = 16
    """The number of answers at once."""
    seed: int = 0
    """The seed for choosing the pieces and for sampling."""

    any_licence: bool = False
    """Also use files with an unknown or a copyleft licence."""
    decontaminate: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Benchmark files whose problems must not come out (HumanEval, infilling, MBPP, GSM8K
    as jsonl)."""
    threshold: float = dedup.THRESHOLD
    """Similarity from which two exercises are near duplicates; 0 keeps them."""
    isolation: Literal["bubblewrap", "namespaces", "limits"] = "bubblewrap"
    """The weakest sandbox that programs of the model may run in."""

    def __post_init__(self):
        for name in ("snippets", "lines", "max_new_tokens", "batch_size"):
            settings.at_least(self, name, 1)
        settings.at_least(self, "temperature", 0)
        settings.between(self, "threshold", 0, 1)
        if self.url and not self.model:
            raise ValueError("url is given: say the model's name there with model.")
        if self.model and not self.url:
            raise ValueError(
                f"model={self.model!r} is a name at a server: give its url, or name "
                "the model by preset."
            )

    @property
    def generator(self) -> str:
        """The name of the model that writes."""
        return self.model or self.preset


def make(config: InstructConfig) -> Report:
    """Ask, check and write; or go on with it.

    Returns:
        The counts of every step; they are also in `out/report.json`.

    Raises:
        ConnectionError, PermissionError: the server cannot be asked.
        FileNotFoundError: there is no such source.
        RuntimeError: the sandbox is missing.
        ValueError: no code to begin with; other settings for the same folder; a model
            that does not chat.
    """
    report = Report()
    found = oss_instruct.snippets(
        _documents(config, report), config.snippets, config.lines, config.seed
    )
    if not found:
        raise ValueError(
            f"There is no piece of Python code in {', '.join(config.sources)}: "
            f"{_counts(report) or 'no file was read'}. --any-licence uses files whose "
            "licence is not known."
        )
    question = {
        "generator": config.generator,
        "url": config.url,
        "snippets": [snippet.name for snippet in found],
        "requests": content_hash("\0".join(s.request() for s in found)).hex(),
        "temperature": config.temperature,
        "max_new_tokens": config.max_new_tokens,
        "batch_size": config.batch_size,
        "seed": config.seed,
    }
    folder = Run(pathlib.Path(config.out), question)
    with bars.shown() as show:
        answers = _answers(
            config, folder, found, lambda *counts: show("asking the model", *counts)
        )
    exercises = _kept(config, found, answers, report)
    rows = [exercise.to_json(config.generator) for exercise in exercises]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    files.put(folder.folder / "rows.jsonl", text.encode())
    folder.put("report.json", report.to_json())
    say(_counts(report))
    say(
        f"{len(rows)} of {len(found)} pieces of code ({len(rows) / len(found):.1%}) became "
        f"exercises: {folder.folder / 'rows.jsonl'}"
    )
    return report


def _documents(config, report) -> list[Document]:
    """Python files that may be used, without secrets."""
    found = []
    for source in config.sources:
        sources.check_source(source)
        read = sources.read_source(source, report)
        found += filters.filter_documents(
            read,
            report,
            languages=("python",),
            licences=None if config.any_licence else licences.PERMISSIVE,
        )
    return list(secrets.clean_documents(found, report))


def _answers(config, folder, found, progress: Progress) -> list[str]:
    """The model's answer to each snippet; those that are there are not asked again."""
    known = {task: one["completion"] for (task, _), one in folder.samples.items()}
    places = range(0, len(found), config.batch_size)
    batches = [found[i : i + config.batch_size] for i in places]
    open_batches = [b for b in batches if any(s.name not in known for s in b)]
    if open_batches:
        ask = _asker(config)
    done = len(found) - sum(len(batch) for batch in open_batches)
    for batch in open_batches:
        progress(done, len(found))
        seeds = [_seed(config.seed, snippet.name) for snippet in batch]
        texts = ask([snippet.request() for snippet in batch], seeds)
        records = [
            {"task_id": snippet.name, "index": 0, "completion": text}
            for snippet, text in zip(batch, texts, strict=True)
        ]
        folder.append("samples", records)
        known |= {record["task_id"]: record["completion"] for record in records}
        done += len(batch)
    progress(done, len(found))
    return [known[snippet.name] for snippet in found]


def _seed(seed, name) -> int:
    return int.from_bytes(content_hash(f"{seed} {name}")[:4], "big")


def _asker(config) -> Callable[[Sequence[str], Sequence[int]], list[str]]:
    """A function from requests and seeds to answers."""
    if config.url:
        server = ChatServer(
            config.url, config.model, os.environ.get(config.key_variable, "")
        )
        return lambda requests, seeds: server.ask(
            requests, seeds, config.temperature, config.max_new_tokens
        )
    model = open_model(config.preset)
    sampling = {"temperature": config.temperature}
    model.check(sampling, chat=True)

    def ask(requests, seeds):
        asked = [model.ask(Message(r), config.max_new_tokens) for r in requests]
        found = model.complete(asked, sampling=sampling, seeds=seeds)
        return [text.text for text in found]

    return ask


def _kept(config, found, answers, report) -> list[oss_instruct.Exercise]:
    """What is left of the answers after every check, each counted."""
    step = oss_instruct.STEP
    parsed = []
    for snippet, answer in zip(found, answers, strict=True):
        report.count(step, "asked")
        exercise, reason = oss_instruct.parse(answer, snippet)
        if exercise is None:
            report.drop(step, reason, snippet.name)
        else:
            parsed.append(exercise)
    passed = oss_instruct.passing(parsed, report, least=config.isolation)
    by_name = {exercise.origin.name: exercise for exercise in passed}
    documents = [
        Document(_as_code(exercise), name, language="python")
        for name, exercise in by_name.items()
    ]
    tasks = [t for path in config.decontaminate for t in decontaminate.read_tasks(path)]
    index = decontaminate.Index(tasks) if tasks else None
    documents = decontaminate.decontaminate_documents(documents, report, index)
    documents = dedup.deduplicate(documents, report, threshold=config.threshold)
    kept = [by_name[document.path] for document in documents]
    report.count(step, "kept", len(kept))
    return kept


def _as_code(exercise):
    """An exercise as a file: the problem as the text in front of its solution."""
    problem = exercise.problem.replace('"""', "'''").replace("\\", "\\\\")
    tests = "\n".join(exercise.tests)
    return f'"""{problem}"""\n\n{exercise.solution}\n\n{tests}\n'


def _counts(report):
    return "\n".join(
        f"{step}: {number:,} {reason}"
        for (step, reason), (number, _) in sorted(report.counts.items())
    )


if __name__ == "__main__":
    from codegemma_keras.cli import main

    sys.exit(main(["data", "instruct", *sys.argv[1:]]))
