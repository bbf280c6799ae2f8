"""What the runs of `rl_tiny.py` did to HumanEval and GSM8K, which none of them trains on.

    KERAS_BACKEND=jax python benchmarks/rl_benchmarks.py runs/rl_tiny --seeds 1

The tuned preset and the adapters of the runs are asked in the chat format. OUT is the
folder of `rl_tiny.py`; a preset or a run that is not there is made first, and a stopped
evaluation goes on.
"""

import datetime
import json
import os
import pathlib
import platform

import rl_tiny

from codegemma_keras import evals
from codegemma_keras.evals.run import Settings

RESULTS = pathlib.Path(__file__).parent / "results" / "rl_benchmarks.json"
TASKS = ("gsm8k", "humaneval")


def main():
    parser = rl_tiny.arguments(__doc__.splitlines()[0])
    parser.set_defaults(seeds=[1], arms=("reinforce", "rejection"))
    parser.add_argument("--limit", type=int)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    start = rl_tiny.tuned(options)
    adapters = {"before": None}
    for seed in options.seeds:
        for arm in options.arms:
            config = rl_tiny.settings(arm, start, options, seed)
            adapters[f"{arm} {seed}"] = pathlib.Path(config.out) / "adapter"
            if not adapters[f"{arm} {seed}"].exists():
                rl_tiny.one_run(arm, config)
    rows = {}
    for name, adapter in adapters.items():
        for task in TASKS:
            [found] = evals.evaluate(
                [task],
                start,
                options.out / "benchmarks" / name.replace(" ", "-"),
                adapter=adapter,
                chat=True,
                settings=Settings(limit=options.limit, batch_size=32),
            ).values()
            kept = ("problems", "scores", "stop_rate", "reasons")
            rows.setdefault(name, {})[task] = {key: found[key] for key in kept}
            print(name, task, found["scores"], found["stop_rate"], flush=True)
    about = {
        "command": "python benchmarks/rl_benchmarks.py OUT",
        "device": f"{os.cpu_count()} {platform.machine()} CPU cores",
        "date": f"{datetime.date.today()}",
        "rows": rows,
    }
    RESULTS.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
