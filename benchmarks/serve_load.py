"""The server under load: 1, 4 and 16 editors that type, each in a file of its own.

    KERAS_BACKEND=jax python benchmarks/serve_load.py --preset smollm2_135m_code
    ... --name llama-server --start "llama-server -m mine.gguf -c 32768 -np 16 --port 8013"
    ... --name vllm --start "python -m vllm.entrypoints.openai.api_server ... --port 8013"

Each simulated editor replays keystrokes in a real file, another one for each editor
(`_strokes.py`), and asks for the rest of the line after each, as a stream. An editor types
on as soon as it has its line, which is the heaviest load that so many editors can make.

Every server gets the same prompt: the text after the cursor, then the text before it, as a
model that knows no sentinels is asked. Ours makes it itself from `/infill`; llama.cpp gets
it by `/completion` and vLLM by `/v1/completions`. `--cold` tells llama.cpp to forget each
prompt at its end.

Reported: the seconds from the start of the process until it is ready and until it has
answered a first request. For each number of editors: the median and the 99th percentile of
the time to the first token and to the whole line, requests a second, errors, and the memory
of the server's processes before and after. Every text of every editor is compared with that
of the same place by this editor alone (`compare`): nobody is served another's text. Texts
that start alike and part, as rounding makes them in other batches, are counted apart.
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

import numpy as np
from _data import RESULTS, device
from _strokes import places

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
    shown = shlex.join(["codegemma", *command[3:]])
    if options.start:
        command = shlex.split(options.start)
        shown = re.sub(r"\S*/", "", options.start)
    url = f"http://127.0.0.1:{command[command.index('--port') + 1]}"
    begin = time.perf_counter()
    with subprocess.Popen(command, stdout=sys.stderr) as server:
        try:
            wait_until_ready(url, server)
            started = {"seconds_to_ready": round(time.perf_counter() - begin, 1)}
            ask(url, next(places(0, 1, options.lines)), options)
            started["seconds_to_first_line"] = round(time.perf_counter() - begin, 1)
            print(json.dumps(started), flush=True)
            report(options, url, server.pid, started, shown)
        finally:
            server.terminate()


def report(options, url, pid, started, command):
    runs, alone = [], {}
    typed = [
        list(places(editor, options.strokes, options.lines))
        for editor in range(max(options.editors))
    ]
    for editors in options.editors:
        # Programs for so many at once are compiled at first use.
        type_all(url, [own[:20] for own in typed[:editors]], options)
        before = memory(pid)
        begin = time.perf_counter()
        each = type_all(url, typed[:editors], options)
        seconds = time.perf_counter() - begin
        run = {"editors": editors} | summary([a for one in each for a in one], seconds)
        ask_alone(url, typed[:editors], each, alone, options)
        run |= compare([[a["text"] for a in one] for one in each], alone)
        run |= {"memory_mib": [before, memory(pid)]}
        runs.append(run)
        print(json.dumps(run), flush=True)
    file = RESULTS / "serve_load.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    name = options.name + (" cold" if options.cold else "")
    shown = ("preset", "tokens", "lines", "strokes")
    results[name] = {
        "device": device(),
        "date": datetime.date.today().isoformat(),
        "command": command,
        **{key: getattr(options, key) for key in shown},
        **started,
        "runs": runs,
    }
    file.write_text(json.dumps(results, indent=1) + "\n")


def ask_alone(url, typed, each, alone, options):
    """Texts by `(editor, stroke)`, of editors that type while no other one does."""
    for editor, own in enumerate(typed):
        for number, place in enumerate(own):
            if (editor, number) not in alone:
                one = len(typed) == 1  # which was alone
                answer = each[0][number] if one else ask(url, place, options)
                alone[editor, number] = answer["text"]


def compare(each, alone):
    """How the texts of all editors differ from those of the same editors alone.

    Args:
        each: the texts of each editor, by stroke; None: an error.
        alone: texts by `(editor, stroke)`.

    Returns:
        Of so many `compared`, how many are an editor's own text alone (`telling`: if
        another one's were served, it would be seen), how many part from it after a
        beginning that is the same, as by rounding (`parted_texts`), how many differ
        from the start (`other_texts`), and how many of all that differ are another
        editor's text at this stroke (`texts_of_others`).
    """
    counts = dict.fromkeys(
        ("compared", "telling", "parted_texts", "other_texts", "texts_of_others"), 0
    )
    for editor, texts in enumerate(each):
        for number, text in enumerate(texts):
            mine, expected = text or "", alone[editor, number] or ""
            others = {
                alone[other, number] or ""
                for other in range(len(each))
                if other != editor
            }
            counts["compared"] += 1
            counts["telling"] += expected not in others
            alike = mine[:1] == expected[:1]
            counts["parted_texts"] += mine != expected and alike
            counts["other_texts"] += not alike
            counts["texts_of_others"] += mine != expected and mine in others
    return counts


def type_all(url, places, options):
    """The answers to several editors that type at the same time."""

    def one(own):
        return [ask(url, place, options) for place in own]

    with concurrent.futures.ThreadPoolExecutor(len(places)) as pool:
        return list(pool.map(one, places))


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
