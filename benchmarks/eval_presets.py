r"""Scores of presets on the benchmarks whose data are here.

    python benchmarks/eval_presets.py WORK
    python benchmarks/eval_presets.py WORK --presets code_gemma_tiny_py --tasks gsm8k
    python benchmarks/eval_presets.py WORK --presets smollm2_135m_code --convention editor \
        --tasks humaneval-infilling-single

WORK keeps samples and reports; run it again to go on after a stop. `codegemma eval` is the
same for one preset.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform

import keras

from codegemma_keras import evals
from codegemma_keras.evals.run import Settings
from codegemma_keras.evals.task import CONVENTIONS

RESULTS = pathlib.Path(__file__).parent / "results" / "eval_presets.json"
PRESETS = ("code_gemma_tiny_py", "code_gemma_tiny_instruct_py")
TASKS = (
    *("humaneval", "humaneval-infilling-single", "humaneval-infilling-random", "gsm8k"),
)
KEPT = (
    *("convention", "problems", "of_the_benchmark", "scores", "reasons", "stop_rate"),
    *("truncated_prompts", "notes", "speed"),
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("--presets", nargs="+", default=PRESETS)
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--convention", choices=CONVENTIONS, default="paper")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--shuffle", action="store_true", help="limit: at random")
    parser.add_argument("--batch-size", type=int, default=32)
    args = parser.parse_args()
    settings = Settings(
        limit=args.limit, shuffle=args.shuffle, batch_size=args.batch_size
    )
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else {}
    for preset in args.presets:
        for task in args.tasks:
            folder, name = args.work / pathlib.Path(preset).name, task
            if args.convention != "paper":
                folder, name = folder / args.convention, f"{task}, {args.convention}"
            if args.limit:  # beside the figure of the whole, not in its place
                part = (
                    f"{args.limit} at random" if args.shuffle else f"first {args.limit}"
                )
                name += f", {part}"
            [found] = evals.evaluate(
                [task], preset, folder, convention=args.convention, settings=settings
            ).values()
            rows.setdefault(preset, {})[name] = {
                **{key: found.get(key) for key in KEPT},
                "shuffle": args.shuffle,
                "date": f"{datetime.date.today()}",
            }
            print(preset, name, found["scores"], found["speed"], flush=True)
            about = {
                "command": "python benchmarks/eval_presets.py WORK",
                "device": f"{os.cpu_count()} {platform.machine()} CPU cores, "
                f"{keras.backend.backend()}",
                "rows": rows,
            }
            RESULTS.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
