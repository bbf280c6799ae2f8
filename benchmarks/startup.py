"""From a new process to its first token: without and with compiled programs on disk.

    KERAS_BACKEND=jax python benchmarks/startup.py

Each measurement is a process of its own: it builds a model of random weights, then asks
for the first token after a prompt of 200, greedy, and times that call. The first process
finds an empty folder of compiled programs, the second what the first left; KerasHub the
same beside it. JAX only: TensorFlow keeps nothing on disk. Imports and the making of
the weights are the same for all and not counted; they are listed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time


def measure(library, size, folder):
    """In this process: seconds of imports and weights, of the first call, of the next."""
    start = time.perf_counter()
    import _models
    import keras
    import numpy as np

    from codegemma_keras import CodeGemmaBackbone
    from codegemma_keras.decoding.programs import keep_compiled

    keep_compiled(folder)
    sizes = _models.backbone_arguments(size)
    if library == "ours":
        model = _models.Ours(CodeGemmaBackbone(**sizes))
    else:
        import keras_hub

        model = _models.KerasHub(keras_hub.models.GemmaBackbone(**sizes))
    prompt = np.random.default_rng(1).integers(5, 1000, 200).tolist()
    ready = time.perf_counter()
    model.generate([prompt], 1, 216)
    first = time.perf_counter()
    model.generate([prompt], 1, 216)
    return {
        "ready_seconds": ready - start,
        "first_call_seconds": first - ready,
        "next_call_seconds": time.perf_counter() - first,
        "backend": keras.config.backend(),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="mid")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--library", choices=("ours", "keras_hub"), help="internal")
    parser.add_argument("--folder", help="internal")
    args = parser.parse_args()
    if args.library:
        print(json.dumps(measure(args.library, args.size, args.folder)))
        return
    runs = {}
    for _ in range(args.repeats):
        for library in ("ours", "keras_hub"):
            with tempfile.TemporaryDirectory() as folder:
                for process in ("first", "second"):
                    command = [sys.executable, __file__, "--size", args.size]
                    command += ["--library", library, "--folder", folder]
                    done = subprocess.run(command, capture_output=True, text=True)
                    if done.returncode:
                        raise SystemExit(done.stderr)
                    result = json.loads(done.stdout.splitlines()[-1])
                    runs.setdefault(f"{library} {process}", []).append(result)
                    print(library, process, result, flush=True)
    import _models

    medians = {
        name: {
            key: _models.median([r[key] for r in results])
            for key in ("ready_seconds", "first_call_seconds", "next_call_seconds")
        }
        for name, results in runs.items()
    }
    ratios = {
        library: medians[f"{library} second"]["first_call_seconds"]
        / medians[f"{library} first"]["first_call_seconds"]
        for library in ("ours", "keras_hub")
    }
    _models.write(
        "startup",
        {
            "size": args.size,
            "repeats": args.repeats,
            "medians": medians,
            "second_over_first": ratios,
        },
    )


if __name__ == "__main__":
    main()
