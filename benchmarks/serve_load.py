"""The server under load: 1, 4 and 16 editors that type, each in a file of its own.

    KERAS_BACKEND=jax python benchmarks/serve_load.py
    python benchmarks/serve_load.py --url http://127.0.0.1:8013 --name llama-server

Each simulated editor replays keystrokes in a real file (`keystrokes.py`) and asks for the
rest of the line after each, as a stream, by llama.cpp's `/infill`: so the same program
measures this server and `llama-server`. An editor types on as soon as it has its line,
which is the heaviest load that so many editors can make.

Reported for each number of editors: the median and the 99th percentile of the time to the
first token and to the whole line, requests a second, errors, and the server's memory
before and after. With our own server every text is compared with that of the first run of
the same place, alone: nobody is served another's text.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys
import time
import urllib.request

import keystrokes
import numpy as np
from _data import record


def main():
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--preset", default="code_gemma_tiny_py")
    options.add_argument(
        "--url", help="a server that runs already; default: start ours"
    )
    options.add_argument("--name", default="codegemma serve")
    options.add_argument("--editors", type=int, nargs="*", default=[1, 4, 16])
    options.add_argument("--strokes", type=int, default=200)
    options.add_argument("--tokens", type=int, default=16)
    options.add_argument("--characters", type=int, default=600, help="on each side")
    options = options.parse_args()
    if options.url:
        report(options, options.url, None)
        return
    command = [sys.executable, "-m", "codegemma_keras.cli", "serve", options.preset]
    command += ["--port", "0", "--rows", "16"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            url = server.stdout.readline().split()[2]
            report(options, url, server.pid)
        finally:
            server.terminate()


def report(options, url, pid):
    wait_until_ready(url)
    result = {"server": options.name, "preset": options.preset, "runs": []}
    places = {
        editor: list(strokes(editor, options)) for editor in range(max(options.editors))
    }
    alone = {}
    for editors in options.editors:
        before = memory(pid)
        begin = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(editors) as pool:
            each = list(
                pool.map(
                    lambda editor: [
                        ask(url, place, options.tokens) for place in places[editor]
                    ],
                    range(editors),
                )
            )
        seconds = time.perf_counter() - begin
        answers = [answer for of_one in each for answer in of_one]
        wrong = 0
        for editor, of_one in enumerate(each):
            for number, answer in enumerate(of_one):
                known = alone.setdefault((editor, number), answer["text"])
                wrong += known != answer["text"]
        run = summary(answers, seconds)
        run |= {"editors": editors, "other_text": wrong}
        run |= {"memory_mib": [before, memory(pid)]}
        result["runs"].append(run)
        print(json.dumps(run), flush=True)
    record("serve_load_" + options.name.replace(" ", "_").replace("-", "_"), result)


def strokes(editor, options):
    """`(prefix, suffix)` after each keystroke of an editor, of a file of its own."""
    text = f"# Editor {editor}\n" + keystrokes.source()
    for _, prefix, suffix in keystrokes.keystrokes(text, options.strokes):
        yield prefix[-options.characters :], suffix[: options.characters]


def ask(url, place, tokens):
    """Seconds to the first text and to the end of the line, and the text."""
    prefix, suffix = place
    body = {
        "input_prefix": prefix,
        "input_suffix": suffix,
        "n_predict": tokens,
        "temperature": 0,
        "stop": ["\n"],
        "stream": True,
        "cache_prompt": True,
    }
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(
        f"{url}/infill", json.dumps(body).encode(), headers
    )
    begin, first, text = time.perf_counter(), None, ""
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            for line in response:
                if line.startswith(b"data: {"):
                    first = first or time.perf_counter()
                    text += json.loads(line[6:]).get("content", "")
    except OSError as error:
        return {"error": str(error), "text": None}
    end = time.perf_counter()
    return {"first": first - begin, "line": end - begin, "text": text}


def summary(answers, seconds):
    good = [answer for answer in answers if "error" not in answer]
    run = {
        "requests": len(answers),
        "errors": len(answers) - len(good),
        "requests_per_second": round(len(good) / seconds, 2),
    }
    for kind in ("first", "line"):
        times = np.array([answer[kind] for answer in good]) * 1000
        run[f"{kind}_ms_p50"] = round(float(np.percentile(times, 50)), 1)
        run[f"{kind}_ms_p99"] = round(float(np.percentile(times, 99)), 1)
    return run


def wait_until_ready(url):
    while True:
        try:
            if urllib.request.urlopen(f"{url}/health").status == 200:
                return
        except OSError:
            time.sleep(0.5)


def memory(pid):
    """Resident memory of a process in MiB; None if it is not known."""
    if pid is None:
        return None
    pages = int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)


if __name__ == "__main__":
    main()
