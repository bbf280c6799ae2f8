"""Each profile of a GPU or a TPU, planned for its machine.

    KERAS_BACKEND=jax JAX_PLATFORMS=cpu python benchmarks/profile_plans.py
    KERAS_BACKEND=jax JAX_PLATFORMS=cpu python benchmarks/profile_plans.py 2b-t4 7b-l4

For each, the command `codegemma plan sft` of the profile and what it finds. A GPU's step
is traced, which takes seconds; a TPU's is compiled, which takes minutes and needs the extra
`tpu`. Writes benchmarks/results/profile_plans.json.
"""

import argparse
import datetime
import json
import pathlib

from codegemma_keras.plan import estimate
from codegemma_keras.recipes import profiles
from codegemma_keras.recipes.sft import SFTConfig
from codegemma_keras.training.hardware import GIB

FILE = pathlib.Path(__file__).parent / "results" / "profile_plans.json"


def planned(profile):
    """What `codegemma plan sft` says of a profile."""
    found = estimate(profile.config(SFTConfig, chat=True), profile.on)
    return {
        "command": profile.command("plan sft", chat=True),
        "gib": round((found.total + found.margin) / GIB, 1),
        "usable_gib": round(found.usable / GIB, 1),
        "loading_gib": round(found.loading / GIB, 1),
        "fits": found.fits,
        "seconds_at_best": {k: round(v, 3) for k, v in found.seconds.items()},
        "date": f"{datetime.date.today()}",
    }


def main():
    all_names = [name for name, profile in profiles.PROFILES.items() if profile.on]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("profiles", nargs="*", default=all_names)
    plans = json.loads(FILE.read_text()) if FILE.exists() else {}
    for name in parser.parse_args().profiles:
        plans[name] = planned(profiles.find(name))
        print(name, json.dumps(plans[name], indent=1), flush=True)
        FILE.write_text(json.dumps(plans, indent=1) + "\n")


if __name__ == "__main__":
    main()
