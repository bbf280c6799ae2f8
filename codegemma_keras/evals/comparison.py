"""Two runs of the same task, problem by problem."""

import dataclasses
import json
import pathlib
from collections.abc import Collection, Mapping

from codegemma_keras import files
from codegemma_keras.evals import scores, summary
from codegemma_keras.evals.data import parsed


def check(other: pathlib.Path, problems: Mapping[str, Collection[str]]) -> None:
    """Refuse an evaluation that cannot be compared with, before anything is asked.

    Args:
        other: folder of the other evaluation.
        problems: `{task: ids of the problems that will be asked}`.

    Raises:
        FileNotFoundError: there is no such folder, or no finished run of a task in it.
        ValueError: it is of other problems, or damaged.
    """
    if not other.is_dir():
        raise FileNotFoundError(
            f"--compare {other}: there is no such folder. Give the --out of another "
            "evaluation of the same tasks."
        )
    for task, ids in problems.items():
        solved, _ = _finished(other / task)
        scores.compare(dict.fromkeys(ids, False), solved)


def write(folder: pathlib.Path, other: pathlib.Path) -> None:
    """Write `comparison.json` into the folder of a run.

    Compared are the first samples of each problem.

    Args:
        folder: of a finished run.
        other: of another finished run of the task.

    Raises:
        FileNotFoundError: there is no other run.
        ValueError: it is of other problems.
    """
    solved, theirs = _finished(other)
    found = scores.compare(_solved(folder), solved)
    said = {
        "with": str(other),
        "convention": theirs["convention"],
        "preset": theirs["preset"],
        "answers": theirs.get("answers"),
        **dataclasses.asdict(found),
    }
    files.put(folder / "comparison.json", (json.dumps(said) + "\n").encode())


def _finished(folder):
    """Which problems a finished run solved, and what its scores say."""
    path = folder / "scores.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no finished run of {folder.name} to compare with. Finish it "
            "first, or leave out --compare."
        )
    said = parsed(path.read_bytes(), path)
    try:
        solved = _solved(folder)
        return solved, {key: said[key] for key in ("convention", "preset")} | {
            "answers": said.get("answers")
        }
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise ValueError(
            f"{folder} is damaged and cannot be compared with: {error!r}. Evaluate it "
            "again, or leave out --compare."
        ) from None


def _solved(folder):
    return {
        verdict["task_id"]: verdict["passed"]
        for verdict in summary.lines(folder / "verdicts.jsonl")
        if verdict["index"] == 0
    }
