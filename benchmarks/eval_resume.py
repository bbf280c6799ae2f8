"""`codegemma eval`, killed with SIGKILL at ten random moments, ends in the same files.

    python benchmarks/eval_resume.py

One evaluation runs undisturbed. Others of the same question are killed at random moments
of their life (loading, decoding, judging) and started again, until they end. Samples,
verdicts and scores must be the same bytes.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import random
import subprocess
import sys
import tempfile
import time

RESULTS = pathlib.Path(__file__).parent / "results" / "eval_resume.json"
TASK = "humaneval-infilling-light"
COMPARED = ("question.json", "samples.jsonl", "verdicts.jsonl", "bigcode.json")


def command(out, limit):
    return [
        *(sys.executable, "-m", "codegemma_keras.cli", "eval", TASK),
        *("--limit", str(limit), "--batch-size", "4", "--out", str(out)),
    ]


def lines(folder):
    """How far a run has come: samples and verdicts."""
    names = ("samples.jsonl", "verdicts.jsonl")
    paths = [folder / TASK / name for name in names]
    return [p.read_bytes().count(b"\n") if p.exists() else 0 for p in paths]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--limit", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, kills = random.Random(args.seed), []
    with tempfile.TemporaryDirectory() as folder:
        whole = pathlib.Path(folder, "whole")
        started = time.perf_counter()
        subprocess.run(command(whole, args.limit), check=True, capture_output=True)
        seconds = time.perf_counter() - started
        killed = [pathlib.Path(folder, "killed")]
        while len(kills) < args.kills:
            wait = rng.uniform(0, seconds)
            with subprocess.Popen(
                command(killed[-1], args.limit),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            ) as process:
                try:
                    process.wait(wait)
                except subprocess.TimeoutExpired:
                    process.kill()
                    kills.append({"after": round(wait, 1), "lines": lines(killed[-1])})
                    print(kills[-1], flush=True)
                    continue
            # It ended before it could be killed. The next kills are of another run.
            killed.append(pathlib.Path(folder, f"killed-{len(killed)}"))
        subprocess.run(command(killed[-1], args.limit), check=True, capture_output=True)
        ended = [f for f in killed if (f / TASK / "scores.json").exists()]
        same = {
            name: all(
                (whole / TASK / name).read_bytes() == (f / TASK / name).read_bytes()
                for f in ended
            )
            for name in COMPARED
        }
        scores = [
            json.loads((f / TASK / "scores.json").read_text())["scores"]
            for f in (whole, *ended)
        ]
    about = {
        "command": "python benchmarks/eval_resume.py",
        "device": f"{os.cpu_count()} {platform.machine()} CPU cores",
        "date": f"{datetime.date.today()}",
        "problems": args.limit,
        "seconds_undisturbed": round(seconds, 1),
        "runs": len(ended),
        "kills": kills,
        "same_bytes": same,
        "same_scores": all(found == scores[0] for found in scores),
        "scores": scores[0],
    }
    print(json.dumps(about, indent=1))
    RESULTS.write_text(json.dumps(about, indent=1) + "\n")
    if not (all(same.values()) and about["same_scores"]):
        sys.exit("a killed evaluation differs from the undisturbed one")


if __name__ == "__main__":
    main()
