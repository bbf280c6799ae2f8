"""SmolLM2 for one person: tokens a second and memory, in four programs with the same weights.

    python benchmarks/one_model.py WORK --peers PYTHON --llama-server PROGRAM

WORK is a folder for the exported files (1.4 GB), which are made once. PYTHON is of an
environment with Transformers (`make .venv-peers/.installed`), PROGRAM as `make test-serving`
builds it. Each program runs in a process of its own, one after the other, with two threads:

* `codegemma_keras on JAX`, `codegemma_keras on TensorFlow`: float32;
* `Transformers`: its Gemma, float32, greedy, with its cache;
* `llama.cpp F32` and `llama.cpp F16`: the exported GGUF files.

Reported: the seconds to the first token of a prompt of 256 tokens that is new each time, the
tokens a second after it (128 tokens, no stop), and the peak of resident memory. Medians of
several calls; the first call, which compiles, is left out and given apart.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
import urllib.request

import _memory

PRESET = "smollm2_135m_code"
PROMPT, NEW = 256, 128
OURS = {"codegemma_keras on JAX": "jax", "codegemma_keras on TensorFlow": "tensorflow"}
FILES = {"llama.cpp F32": "F32", "llama.cpp F16": "F16"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("--peers", help="a Python with Transformers")
    parser.add_argument("--llama-server", help="the program")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--here", choices=["ours", "transformers"], help="in a child")
    options = parser.parse_args()
    if options.here:
        generate = {"ours": ours, "transformers": transformers}[options.here](options)
        print("RESULT" + json.dumps(measured(generate, options.repeats)))
        return
    from _data import record

    found = {name: child("ours", options, backend) for name, backend in OURS.items()}
    if options.peers:
        export(options.work / "hf", "transformers", "float32")
        found["Transformers"] = child("transformers", options, "none", options.peers)
    if options.llama_server:
        for name, kind in FILES.items():
            file = options.work / f"{kind}.gguf"
            export(file, "gguf", kind)
            found[name] = llama_cpp(file, options)
    record(f"one_model_{PRESET}", {"prompt": PROMPT, "new": NEW, "programs": found})


def export(out, format, kind):
    if not out.exists():
        command = [
            sys.executable,
            "-m",
            "codegemma_keras.cli",
            "export",
            PRESET,
            str(out),
        ]
        command += ["--format", format, "--quantization", kind]
        subprocess.run(command, check=True, env={**os.environ, "KERAS_BACKEND": "jax"})


def child(library, options, backend, python=sys.executable):
    """The figures of a program in a process of its own."""
    command = [python, __file__, str(options.work), "--here", library]
    command += ["--repeats", str(options.repeats)]
    env = {**os.environ, "KERAS_BACKEND": backend, "OMP_NUM_THREADS": "2"}
    result = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True)
    if result.returncode:
        raise SystemExit(f"{command} failed.")
    figures = json.loads(result.stdout.partition("RESULT")[2])
    print(library, backend, figures, flush=True)
    return figures


def prompt(number):
    """Token ids of another text each time."""
    return [1000 + (number * 7919 + place * 104729) % 40000 for place in range(PROMPT)]


def measured(generate, repeats, peak=_memory.peak_bytes):
    """Times of `generate(token ids, count)`, which gives no text and stops nowhere."""
    began = time.perf_counter()
    generate(prompt(0), 1), generate(prompt(1), NEW)
    figures = {"first_calls_s": round(time.perf_counter() - began, 1)}
    first, whole = [], []
    for number in range(repeats):
        for count, times in ((1, first), (NEW, whole)):
            began = time.perf_counter()
            generate(prompt(2 * number + (count > 1) + 2), count)
            times.append(time.perf_counter() - began)
    first, whole = statistics.median(first), statistics.median(whole)
    return figures | {
        "first_token_s": round(first, 3),
        "tokens_per_second": round((NEW - 1) / (whole - first), 1),
        "peak_gib": round(peak() / 2**30, 2),
    }


# The programs


def ours(options):
    from codegemma_keras import CodeGemmaCausalLM

    engine = CodeGemmaCausalLM.from_preset(PRESET, dtype="float32").engine
    return lambda ids, count: engine.generate([ids], count)


def transformers(options):
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(2)
    model = AutoModelForCausalLM.from_pretrained(options.work / "hf", dtype="float32")
    settings = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}

    def generate(ids, count):
        with torch.no_grad():
            new = model.generate(
                torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                max_new_tokens=count,
                **settings,
            )
        assert new.shape[1] == len(ids) + count

    return generate


def llama_cpp(file, options):
    from serve_load import wait_until_ready

    command = [options.llama_server, "-m", str(file), "-c", "2048", "-np", "1"]
    command += ["-t", "2", "--port", "8019"]
    url = "http://127.0.0.1:8019"

    def generate(ids, count):
        body = {"prompt": ids, "n_predict": count, "temperature": 0, "ignore_eos": True}
        body["cache_prompt"] = False
        request = urllib.request.Request(
            url + "/completion",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        answer = json.load(urllib.request.urlopen(request))
        assert answer["tokens_predicted"] == count

    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **quiet) as server:
        try:
            wait_until_ready(url, server)
            peak = lambda: _memory.peak_bytes(server.pid)  # noqa: E731
            figures = measured(generate, options.repeats, peak)
        finally:
            server.terminate()
    print(file.name, figures, flush=True)
    return figures


if __name__ == "__main__":
    main()
