"""Fill-in-the-middle through the HTTP servers of vLLM and llama.cpp, beside Keras.

    KERAS_BACKEND=jax python benchmarks/export_http.py \\
        --vllm PYTHON --llama-server PROGRAM

The embedded preset is exported in float32, and each server is started as docs/serving.md
says. It is asked for the middle of the holes of `export_readers.py`, greedily: vLLM by
`/v1/completions` with the prompt that `fim.render` makes, llama.cpp by `/infill`. The text
must be Keras's, end where Keras ends, and show no control token. Exit code 1 otherwise.
"""

import argparse
import datetime
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import keras
from _data import device
from export_readers import HOLES

from codegemma_keras import CodeGemmaCausalLM, fim

PRESET = "code_gemma_tiny_py"
RESULTS = pathlib.Path(__file__).parent / "results" / "export_http.json"
NEW = 64
PATIENCE = 300  # seconds until a server must answer


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vllm", help="Python of an environment that has it")
    parser.add_argument("--llama-server", help="the program `llama-server`")
    options = parser.parse_args()
    lm = CodeGemmaCausalLM.from_preset(PRESET, dtype="float32")
    expected = [ours(lm, *hole) for hole in HOLES]
    found = {}
    with tempfile.TemporaryDirectory() as work:
        folder, file = f"{work}/mine", f"{work}/mine.gguf"
        lm.export(folder, "transformers", verbose=False)
        lm.export(file, "gguf", quantization="F32", verbose=False)
        port = str(free_port())
        if options.vllm:
            # What `vllm serve` runs; the command itself is missing from the CPU build.
            command = [options.vllm, "-m", "vllm.entrypoints.openai.api_server"]
            command += ["--model", folder, "--served-model-name", "mine"]
            command += ["--port", port, "--dtype", "float32", "--enforce-eager"]
            command += ["--max-model-len", "512"]
            found["vllm"] = serve(command, port, lambda hole: vllm(port, hole))
        if options.llama_server:
            command = [options.llama_server, "-m", file, "-c", "512", "--port", port]
            found["llama-server"] = serve(
                command, port, lambda hole: infill(port, hole)
            )
    report = {"device": device(), "date": datetime.date.today().isoformat()}
    report |= {
        "preset": PRESET,
        "keras": f"{keras.version()} on {keras.backend.backend()}",
    }
    # A server that is not asked keeps what it said.
    before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    report |= {"keras_texts": expected, "servers": before.get("servers", {})}
    for name, answers in found.items():
        texts = [answer["text"] for answer in answers]
        report["servers"][name] = {
            "equal": sum(a == b for a, b in zip(texts, expected, strict=True)),
            "of": len(texts),
            "show_a_control_token": sum(
                any(str(c) in t for c in fim.STOP) for t in texts
            ),
            "answers": answers,
        }
        print(name, json.dumps(report["servers"][name]))
    RESULTS.write_text(json.dumps(report, indent=1) + "\n")
    whole = (one["equal"] == one["of"] for one in report["servers"].values())
    sys.exit(0 if all(whole) else 1)


def ours(lm, prefix, suffix):
    """The middle as Keras writes it, without what an editor would tidy."""
    return lm.infill(prefix, suffix, max_new_tokens=NEW, tidy=False)


def vllm(port, hole):
    """vLLM's completion of the rendered prompt."""
    prompt = "".join(str(part) for part in fim.render(*hole))
    body = {"model": "mine", "prompt": prompt, "max_tokens": NEW, "temperature": 0}
    choice = post(port, "/v1/completions", body)["choices"][0]
    return {"text": choice["text"], "reason": choice["finish_reason"]}


def infill(port, hole):
    """llama.cpp's own route for editors."""
    body = {"input_prefix": hole[0], "input_suffix": hole[1], "input_extra": []}
    body |= {"n_predict": NEW, "temperature": 0, "cache_prompt": False}
    answer = post(port, "/infill", body)
    return {"text": answer["content"], "reason": answer["stop_type"]}


def serve(command, port, ask):
    """The answers to all holes of a server that is started for them."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    environment |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    with subprocess.Popen(command, env=environment, stdout=sys.stderr) as server:
        try:
            wait(server, port)
            return [ask(hole) for hole in HOLES]
        finally:
            server.terminate()


def wait(server, port):
    """Until `/health` says that the model is loaded."""
    for _ in range(PATIENCE):
        if server.poll() is not None:
            raise RuntimeError(f"the server ended with {server.returncode}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    raise TimeoutError(f"no answer within {PATIENCE} s")


def post(port, route, body):
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{route}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return json.load(answer)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


if __name__ == "__main__":
    main()
