"""Two runs of the same task, problem by problem."""

import dataclasses
import json
import pathlib

from codegemma_keras import files
from codegemma_keras.evals import scores, summary


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
    if not (other / "scores.json").is_file():
        raise FileNotFoundError(
            f"{other} holds no finished run of {folder.name} to compare with."
        )
    found = scores.compare(_solved(folder), _solved(other))
    theirs = json.loads((other / "scores.json").read_text("utf-8"))
    said = {
        "with": str(other),
        "convention": theirs["convention"],
        "preset": theirs["preset"],
        **dataclasses.asdict(found),
    }
    files.put(folder / "comparison.json", (json.dumps(said) + "\n").encode())


def _solved(folder):
    return {
        verdict["task_id"]: verdict["passed"]
        for verdict in summary.lines(folder / "verdicts.jsonl")
        if verdict["index"] == 0
    }
