"""What a finished run says of itself: `scores.json`, made from the files of its folder."""

import collections
import pathlib

from codegemma_keras.evals import scores
from codegemma_keras.evals.data import parsed
from codegemma_keras.evals.run import Run
from codegemma_keras.evals.task import Task


def lines(path: pathlib.Path) -> list[dict]:
    """The records of a file of JSON lines; what a kill cut short is left out."""
    whole = enumerate(path.read_bytes().split(b"\n")[:-1], 1)
    return [parsed(line, f"{path}, line {number}") for number, line in whole]


def counts(folder: pathlib.Path) -> dict[str, tuple[int, int]]:
    """`{problem: (samples, right ones)}` of a run."""
    found = {}
    for verdict in lines(folder / "verdicts.jsonl"):
        n, c = found.get(verdict["task_id"], (0, 0))
        found[verdict["task_id"]] = n + 1, c + verdict["passed"]
    return found


def summary(run: Run, task: Task) -> dict:
    """Scores and speed of a run, as JSON's types."""
    by_problem = counts(run.folder)
    n = min(n for n, _ in by_problem.values())
    samples = list(run.samples.values())
    about = {
        "task": task.name,
        "convention": task.convention,
        "preset": run.question["preset"],
        "answers": run.question.get("answers"),
        "problems": len(by_problem),
        # The data may be a part of the benchmark, or hold more than a task knows of.
        "of_the_data": len(task.problems),
        "of_the_benchmark": max(task.size or 0, len(task.problems)),
        "samples": n,
        "scores": {
            f"pass@{k}" if task.case else "accuracy": scores.score(
                by_problem, k
            ).to_json()
            for k in scores.KS
            if k <= n
        },
        "reasons": dict(
            collections.Counter(kind(v) for v in run.verdicts.values()).most_common()
        ),
        "notes": list(task.notes),
    }
    if "stop_reason" in samples[0]:
        stopped = sum(s["stop_reason"] != "max_new_tokens" for s in samples)
        about["stop_rate"] = stopped / len(samples)
        about["truncated_prompts"] = sum(s["truncated"] for s in samples)
    return {**about, "speed": speed(run.folder)}


def kind(verdict: dict) -> str:
    """Why a sample failed, without what belongs to it alone: `exception: NameError`."""
    if verdict["kind"] != "exception":
        return verdict["kind"]
    return f"exception: {verdict['reason'].partition(':')[0][:60]}"


def speed(folder: pathlib.Path) -> dict:
    """Seconds and milliseconds, from `timings.jsonl`; {} if no model was asked.

    Batches for which programs were compiled count for `seconds` only, unless there is
    no other batch.
    """
    path = folder / "timings.jsonl"
    if not path.exists():
        return {}
    records = lines(path)
    batches = [r for r in records if "rows" in r]
    starts = [r for r in records if "started" in r]
    warm = [b for b in batches if not b["compiled"]] or batches
    seconds = sum(b["seconds"] for b in warm)
    requests, tokens = sum(b["rows"] for b in warm), sum(b["new_tokens"] for b in warm)
    found = {
        "seconds": round(sum(b["seconds"] for b in batches), 1),
        "devices": list(dict.fromkeys(s["device"] for s in starts)),
        "dtype": starts[-1]["dtype"] if starts else None,
        "versions": starts[-1]["versions"] if starts else {},
        "date": starts[-1]["started"] if starts else None,
        "starts": len(starts),
    }
    if requests:
        found["ms_per_request"] = round(1000 * seconds / requests, 1)
    if tokens:
        found["ms_per_token"] = round(1000 * seconds / tokens, 2)
        found["tokens_per_second"] = round(tokens / seconds, 1)
    return found
