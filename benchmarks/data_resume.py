"""`kill -9` at random moments, then go on: the result has the same bytes.

    python benchmarks/data_resume.py --tokenizer FILE [--kills 20]

One undisturbed build; then builds that are killed after a random part of its time, each
going on where the last one died, until `kills` were done; then one that may finish. A
build that finishes early is started anew.
"""

import argparse
import hashlib
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from _data import record, stdlib_folder

SCRIPT = """
import sys
from codegemma_keras.data.pipeline import build as pipeline
from codegemma_keras.data.pipeline.settings import Settings
if __name__ == "__main__":
    settings = Settings(length=512, licences=None, languages=("python",),
                               shard_bytes=200_000)
    pipeline.build(sys.argv[3:], sys.argv[1], sys.argv[2], settings)
"""
PACKAGES = ("json", "http", "logging")


def digest(folder):
    found = hashlib.sha256()
    # These two say when and by which command.
    of_one_run = ("build.json", "report.html")
    for path in sorted(p for p in folder.iterdir() if p.name not in of_one_run):
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--kills", type=int, default=20)
    args = parser.parse_args()
    rng = random.Random(0)
    sources = [str(stdlib_folder() / name) for name in PACKAGES]
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)

        def command(out):
            return [sys.executable, "-c", SCRIPT, str(out), args.tokenizer, *sources]

        start = time.perf_counter()
        subprocess.run(command(root / "whole"), check=True, stderr=subprocess.DEVNULL)
        whole = time.perf_counter() - start
        expected = digest(root / "whole")
        kills = early = 0
        same = []
        out = root / "killed"
        while kills < args.kills:
            process = subprocess.Popen(command(out), stderr=subprocess.DEVNULL)
            try:
                process.wait(timeout=rng.uniform(0.15, 1.0) * whole)
                early += 1
                same.append(digest(out) == expected)
                shutil.rmtree(out)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
        subprocess.run(command(out), check=True, stderr=subprocess.DEVNULL)
        same.append(digest(out) == expected)
    record(
        "data_resume",
        {
            "kills": kills,
            "seconds_undisturbed": round(whole, 1),
            "finished_builds": len(same),
            "of_these_identical": sum(same),
        },
    )


if __name__ == "__main__":
    main()
