"""The server under load: 1, 4 and 16 editors that type, each in a file of its own.

    KERAS_BACKEND=jax python benchmarks/serve_load.py --preset smollm2_135m_code
    ... --name llama-server --start "llama-server -m mine.gguf -c 32768 -np 16 --port 8013"
    ... --name vllm --start "python -m vllm.entrypoints.openai.api_server ... --port 8013"

Each simulated editor replays keystrokes in a real file (`keystrokes.py`) and asks for the
rest of the line after each, as a stream. An editor types on as soon as it has its line,
which is the heaviest load that so many editors can make.

Every server gets the same prompt: the text after the cursor, then the text before it, as a
model that knows no sentinels is asked. Ours makes it itself from `/infill`; llama.cpp gets
it by `/completion` and vLLM by `/v1/completions`. `--cold` tells llama.cpp to forget each
prompt at its end.

Reported: the seconds from the start of the process until it is ready and until it has
answered a first request. For each number of editors: the median and the 99th percentile of
the time to the first token and to the whole line, requests a second, errors, and the memory
of the server's processes before and after. Every text is compared with that of the same
place by one editor alone: nobody is served another's text. Texts that start alike and part,
as rounding makes them in other batches, are counted apart.
"""

import argparse
import concurrent.futures
import datetime
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import time
import urllib.request

import keystrokes
import numpy as np
from _data import RESULTS, device

from codegemma_keras import fim

ROUTES = {"llama-server": "/completion", "vllm": "/v1/completions"}  # others: `/infill`


def main():
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--preset", default="code_gemma_tiny_py")
    options.add_argument("--name", default="codegemma serve")
    options.add_argument("--start", help="the command of another server, with --port")
    options.add_argument(
        "--cold", action="store_true", help="llama.cpp: no prompt cache"
    )
    options.add_argument("--editors", type=int, nargs="*", default=[1, 4, 16])
    options.add_argument("--strokes", type=int, default=200)
    options.add_argument("--tokens", type=int, default=16)
    options.add_argument("--lines", type=int, default=20, help="on each side")
    options = options.parse_args()
    command = [sys.executable, "-m", "codegemma_keras.cli", "serve", options.preset]
    command += ["--port", "8013", "--rows", "16", "--no-warm-up"]
    if options.start:
        command = shlex.split(options.start)
    url = f"http://127.0.0.1:{command[command.index('--port') + 1]}"
    begin = time.perf_counter()
    with subprocess.Popen(command, stdout=sys.stderr) as server:
        try:
            wait_until_ready(url, server)
            started = {"seconds_to_ready": round(time.perf_counter() - begin, 1)}
            ask(url, next(strokes(0, options)), options)
            started["seconds_to_first_line"] = round(time.perf_counter() - begin, 1)
            print(json.dumps(started), flush=True)
            report(options, url, server.pid, started)
        finally:
            server.terminate()


def report(options, url, pid, started):
    runs = []
    places = {
        editor: list(strokes(editor, options)) for editor in range(max(options.editors))
    }
    alone = {}
    for editors in options.editors:
        # Programs for so many at once are compiled at first use.
        type_all(url, [places[editor][:20] for editor in range(editors)], options)
        before = memory(pid)
        begin = time.perf_counter()
        each = type_all(url, [places[editor] for editor in range(editors)], options)
        seconds = time.perf_counter() - begin
        run = {"editors": editors} | summary([a for one in each for a in one], seconds)
        run |= compare(url, places, each, alone, options)
        run |= {"memory_mib": [before, memory(pid)]}
        runs.append(run)
        print(json.dumps(run), flush=True)
    file = RESULTS / "serve_load.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    name = options.name + (" cold" if options.cold else "")
    results[name] = {
        "device": device(),
        "date": datetime.date.today().isoformat(),
        "command": options.start and re.sub(r"\S*/", "", options.start),
        **{key: getattr(options, key) for key in ("preset", "tokens", "lines")},
        **started,
        "runs": runs,
    }
    file.write_text(json.dumps(results, indent=1) + "\n")


def compare(url, places, each, alone, options):
    """Texts that differ from those of one editor alone: by rounding, or otherwise."""
    parted = other = compared = 0
    for editor, answers in enumerate(each):
        if editor > 3:
            break  # asking again alone takes time
        for number, answer in enumerate(answers):
            place = editor, number
            if place not in alone:
                one = (
                    answer
                    if len(each) == 1
                    else ask(url, places[editor][number], options)
                )
                alone[place] = one["text"]
            compared += 1
            mine, theirs = answer["text"] or "", alone[place] or ""
            parted += mine != theirs and mine[:1] == theirs[:1]
            other += mine[:1] != theirs[:1]
    return {"compared": compared, "parted_texts": parted, "other_texts": other}


def type_all(url, places, options):
    """The answers to several editors that type at the same time."""

    def one(own):
        return [ask(url, place, options) for place in own]

    with concurrent.futures.ThreadPoolExecutor(len(places)) as pool:
        return list(pool.map(one, places))


def strokes(editor, options):
    """`(prefix, suffix)` after each keystroke of an editor, of a file of its own."""
    text = f"# Editor {editor}\n" + keystrokes.source()
    for _, prefix, suffix in keystrokes.keystrokes(text, options.strokes):
        # Whole lines, as editors cut: so the beginning stays while a line is typed.
        before = prefix.splitlines(keepends=True)[-options.lines :]
        after = suffix.splitlines(keepends=True)[: options.lines]
        yield "".join(before), "".join(after)


def ask(url, place, options):
    """Seconds to the first text and to the end of the line, and the text."""
    prefix, suffix = place
    route = ROUTES.get(options.name, "/infill")
    body = {"temperature": 0, "stop": ["\n"], "stream": True}
    if route == "/infill":
        body |= {"input_prefix": prefix, "input_suffix": suffix}
        body |= {"n_predict": options.tokens}
    else:
        parts = fim.render(prefix, suffix, mode=fim.LEFT_TO_RIGHT)
        body["prompt"] = "".join(str(part) for part in parts)
        if route == "/completion":
            body |= {"n_predict": options.tokens, "cache_prompt": not options.cold}
        else:
            body |= {"model": "mine", "max_tokens": options.tokens}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url + route, json.dumps(body).encode(), headers)
    begin, first, text = time.perf_counter(), None, ""
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            for line in response:
                if line.startswith(b"data: {"):
                    first = first or time.perf_counter()
                    found = json.loads(line[6:])
                    if "choices" in found:
                        text += "".join(c["text"] for c in found["choices"])
                    else:
                        text += found.get("content", "")
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


def wait_until_ready(url, server):
    while server.poll() is None:
        try:
            if urllib.request.urlopen(f"{url}/health").status == 200:
                return
        except OSError:
            time.sleep(0.5)
    raise SystemExit(f"The server ended with code {server.returncode}.")


def memory(pid):
    """Resident memory of a process and all that it started, in MiB."""
    pages, todo = 0, [pid]
    while todo:
        folder = pathlib.Path(f"/proc/{todo.pop()}")
        pages += int((folder / "statm").read_text().split()[1])
        for children in folder.glob("task/*/children"):
            todo += map(int, children.read_text().split())
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)


if __name__ == "__main__":
    main()
