"""From a new process to its first token: without and with compiled programs on disk.

    KERAS_BACKEND=jax python benchmarks/startup.py

Each measurement is a process of its own: it builds a model of random weights, then asks
for the first token after a prompt of 200, greedy, and times that call. The first process
finds an empty folder of compiled programs, the second what the first left; KerasHub the
same beside it. TensorFlow keeps nothing on disk, so there every process is a first one.
Imports and the making of the weights are the same for all and not counted; they are
listed.

    KERAS_BACKEND=jax python benchmarks/startup.py --part compilations

counts what is compiled for prompts of 200 different lengths after `warm_up`, by the
engine and on JAX by JAX itself, with the embedded preset.
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

    from codegemma_keras.decoding.compilation import keep_compiled

    if keras.config.backend() == "jax":
        keep_compiled(folder)
    if library == "ours":
        model = _models.Ours(_models.make_backbone(size))
    else:
        import keras_hub

        sizes = _models.backbone_arguments(size)
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
    parser.add_argument("--part", nargs="*", default=["startup"])
    parser.add_argument("--size", default="mid")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--library", choices=("ours", "keras_hub"), help="internal")
    parser.add_argument("--folder", help="internal")
    args = parser.parse_args()
    if args.library:
        print(json.dumps(measure(args.library, args.size, args.folder)))
        return
    import _models
    import keras

    report, runs = _models.Report("startup"), {}
    if "compilations" in args.part:
        compilations(report)
    if "startup" not in args.part:
        return
    on_disk = keras.config.backend() == "jax"
    for _ in range(args.repeats):
        for library in ("ours", "keras_hub"):
            with tempfile.TemporaryDirectory() as folder:
                for process in ("first", "second") if on_disk else ("first",):
                    command = [sys.executable, __file__, "--size", args.size]
                    command += ["--library", library, "--folder", folder]
                    done = subprocess.run(command, capture_output=True, text=True)
                    if done.returncode:
                        raise SystemExit(done.stderr)
                    result = json.loads(done.stdout.splitlines()[-1])
                    runs.setdefault(f"{library} {process}", []).append(result)
                    print(library, process, result, flush=True)
        write(report, args.size, runs)


def compilations(report, lengths=200, new=16):
    """How many programs are compiled after `warm_up`."""
    import _models
    import keras

    from codegemma_keras import CodeGemmaCausalLM

    lm = CodeGemmaCausalLM.from_preset(_models.EMBEDDED, dtype="float32")
    seconds, ahead = _models.timed(lm.warm_up, lengths + new)
    events = []
    if keras.config.backend() == "jax":
        import jax

        jax.monitoring.register_event_duration_secs_listener(
            lambda event, *_, **__: (
                events.append(event)
                if event.endswith("backend_compile_duration")
                else None
            )
        )
    before = lm.engine.compilations
    for prompt in _models.random_prompts(lm.backbone, range(1, lengths + 1)):
        lm.engine.generate([prompt], new, lm.tokenizer.stop_token_ids)
    report.put(
        "compilations",
        prompts=lengths,
        programs_by_warm_up=ahead,
        warm_up_seconds=seconds,
        programs_after=lm.engine.compilations - before,
        jax_compilations_after=len(events),
    )


def write(report, size, runs):
    """Medians of the runs so far."""
    import _models

    middle = {
        name: {
            key: _models.median([r[key] for r in results])
            for key in ("ready_seconds", "first_call_seconds", "next_call_seconds")
        }
        for name, results in runs.items()
    }
    call = "first_call_seconds"
    report.put(
        size,
        repeats=len(runs["ours first"]),
        medians=middle,
        second_over_first={
            library: middle[f"{library} second"][call]
            / middle[f"{library} first"][call]
            for library in ("ours", "keras_hub")
            if f"{library} second" in middle
        },
    )


if __name__ == "__main__":
    main()
