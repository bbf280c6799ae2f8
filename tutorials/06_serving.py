# %% [markdown]
# # Serving completions
#
# An editor does not load a model. It asks a server at every pause in your typing, and the
# answer must come within a fraction of a second. In this notebook you start such a
# server, ask it as an editor would, and find out what makes it fast: answers that stream,
# prompts that are remembered, and requests that share a batch.
#
# You should have seen notebook 01. Everything here runs on your own machine: the server
# listens at the loopback address, and the last part shows how it protects itself from web
# pages in your browser. The server is a process of its own, and needs memory besides that of
# the notebook.

# %% tags=["parameters"] extras="serve"
preset = "smollm2_135m_code"
max_new_tokens = 24
requests_per_client = 12
clients = (1, 2, 4, 8)  # at once
least_saving = 0.8  # share of a prompt that a second request finds in the cache
least_batch_gain = 1.2  # requests a second of eight clients, over one

# %%
import json
import time

import numpy as np

from codegemma_keras import CodeGemmaCausalLM

started = time.perf_counter()
try:
    CodeGemmaCausalLM.from_preset(preset)
except (OSError, ValueError, MemoryError) as error:
    print(f"{error}\n\nSo this goes on with the small model in the package.")
    preset = "code_gemma_tiny_py"

# %% [markdown]
# ## Completions in a notebook
#
# Two magics bring completion to any notebook, also on Colab, without a server.
# `%codegemma NAME` chooses the model. A cell that begins with `%%infill` is completed at the
# place that you mark with `<cursor>`:
#
#     %%infill until=line
#     def mean(values):
#         total = sum(<cursor>)
#         return total / len(values)
#
# The result is shown, and the completed cell appears below, ready to be executed. The model
# also sees the cells that you have executed before. (The next cell calls the magic by its
# name, because this notebook is made from a plain Python file.)

# %%
from IPython import get_ipython

cell = """def mean(values):
    total = sum(<cursor>)
    return total / len(values)
"""
# %load_ext codegemma_keras.notebook
get_ipython().run_line_magic("codegemma", preset)
get_ipython().run_cell_magic("infill", "until=line", cell)

# %% [markdown]
# ## A server
#
# `codegemma serve` is the same model behind HTTP. Usually you start it in a terminal.
# Here we start it as a process of its own and let it choose a free port.

# %%
import subprocess
import sys
import urllib.request

command = [sys.executable, "-m", "codegemma_keras.cli", "serve", preset]
command += ["--port", "0", "--rows", "8"]  # at most eight requests in one batch
server = subprocess.Popen(
    command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
)
url = server.stdout.readline().split()[2]
while True:
    try:
        if urllib.request.urlopen(f"{url}/health").status == 200:
            break
    except OSError:  # status 503 while the model is loaded
        time.sleep(0.2)
print("the model is loaded")

# %% [markdown]
# The server speaks several APIs, since editors were written for different servers:
# OpenAI's, Mistral's, llama.cpp's, Ollama's and Tabby's. Here is a request of OpenAI's
# completion API. `prompt` is the text before the cursor and `suffix` is the text after it.
# The server builds the fill-in-the-middle prompt.


# %%
def open_request(path, body, headers=()):
    request = urllib.request.Request(
        url + path,
        json.dumps(body).encode(),
        {"Content-Type": "application/json", **dict(headers)},
    )
    return urllib.request.urlopen(request)


def post(path, body, headers=()):
    """The answer of the server to a JSON request."""
    with open_request(path, body, headers) as response:
        return json.loads(response.read())


before = (
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n"
    "    def push(self, item):\n        "
)
after = "\n\n    def pop(self):\n        return self.items.pop()\n"
answer = post(
    "/v1/completions",
    {"prompt": before, "suffix": after, "max_tokens": max_new_tokens, "temperature": 0},
)
print(json.dumps(answer, indent=1))

# %% [markdown]
# ## Streams
#
# An editor wants to show the first line before the last one is written. With
# `"stream": true` the server sends pieces as *server-sent events*: lines that start with
# `data: `, each followed by an empty line. We note when each piece arrives.


# %%
def stream(body):
    """`(seconds, text)` for each piece, as it arrives."""
    begin = time.perf_counter()
    with open_request("/v1/completions", {**body, "stream": True}) as response:
        for line in response:
            if line.startswith(b"data: {"):
                piece = json.loads(line[6:])["choices"][0]["text"]
                yield time.perf_counter() - begin, piece


question = {"prompt": before, "suffix": after, "max_tokens": max_new_tokens}
pieces = list(stream({**question, "temperature": 0}))
for seconds, piece in pieces[:8]:
    print(f"{seconds * 1000:6.1f} ms  {piece!r}")
streamed = "".join(piece for _, piece in pieces)
print("the pieces are the whole answer:", streamed == answer["choices"][0]["text"])

# %% [markdown]
# ## What the server remembers
#
# While you type, most of the prompt stays as it is. The server keeps the keys and values
# of earlier prompts, and computes only what follows the longest beginning that it knows.
# llama.cpp's route `/infill` says how many tokens it computed (`prompt_n`) and how many it
# found (`tokens_cached`). We type a line, one character at a time.

# %%
long_before = "".join(f"def step_{n}(x):\n    return x + {n}\n\n\n" for n in range(12))
typed = "def double(x):\n    return x"
rows = []
for end in range(len(typed) + 1):
    body = {"input_prefix": long_before + typed[:end], "input_suffix": after}
    found = post("/infill", {**body, "n_predict": 4, "temperature": 0})
    timings = found["timings"]
    rows.append((timings["prompt_n"], found["tokens_cached"], timings["prompt_ms"]))
for computed, cached, milliseconds in rows[:4]:
    print(
        f"computed {computed:4}  found {cached:4}  {milliseconds:6.1f} ms to the first token"
    )
computed = sum(row[0] for row in rows[1:])
saved = 1 - computed / sum(row[0] + row[1] for row in rows[1:])
print(f"after the first request, {saved:.0%} of all prompt tokens were found")

# %% [markdown]
# ## Many editors
#
# A processor reads all weights of the model for every token that it writes. If it writes
# tokens for several requests in one step, it reads the weights only once. The server
# therefore keeps one *running batch*: a new request joins it at the next step, and a
# finished one leaves it. Let us measure with one to eight clients at once. Each client
# asks for other places of a file, one request after another.

# %%
import concurrent.futures


def client(number):
    """Seconds of each request."""
    taken = []
    for place in range(requests_per_client):
        text = f"# file {number}\n" + long_before[: 200 + 20 * place]
        begin = time.perf_counter()
        post(
            "/v1/completions",
            {"prompt": text, "max_tokens": max_new_tokens, "temperature": 0},
        )
        taken.append(time.perf_counter() - begin)
    return taken


def load(count):
    """`(requests a second, seconds of each request)` of so many clients at once."""
    begin = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        taken = np.concatenate(list(pool.map(client, range(count))))
    return len(taken) / (time.perf_counter() - begin), taken


for count in clients:
    load(count)  # programs for batches of each size are compiled at first use
measured = {count: load(count) for count in clients}

# %%
import matplotlib.pyplot as plt

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
left.plot(clients, [measured[n][0] for n in clients], "o-")
left.set(xlabel="clients at once", ylabel="requests a second", ylim=(0, None))
right.boxplot(
    [measured[n][1] * 1000 for n in clients], tick_labels=clients, showfliers=False
)
right.set(xlabel="clients at once", ylabel="milliseconds of a request", ylim=(0, None))
plt.show()
gain = max(measured[n][0] for n in clients) / measured[clients[0]][0]
print(f"at best, {gain:.1f} times the requests a second of one client")

# %% [markdown]
# More clients get more work done in a second, and each of them waits longer. On a large
# model the gain is larger, because reading the weights takes nearly all of the time there.
#
# ## Who may ask
#
# A server on your own machine can be reached by every web page that is open in your
# browser, because a page may send requests to `127.0.0.1`. The server therefore refuses
# requests that come from pages (the browser adds a header `Origin`), requests that name
# another host (which is how *DNS rebinding* works), and bodies that are not JSON.

# %%
import urllib.error

attempts = {
    "an editor": {},
    "a page of another site": {"Origin": "https://example.org"},
    "another name for this host": {"Host": "example.org"},
    "a form, as a page can send it": {"Content-Type": "text/plain"},
}
statuses = {}
for who, headers in attempts.items():
    try:
        with open_request(
            "/v1/completions", {"prompt": "a", "max_tokens": 1}, headers
        ) as r:
            statuses[who] = r.status
    except urllib.error.HTTPError as error:
        statuses[who] = error.code
        error.close()
    print(f"{statuses[who]}  {who}")

# %% [markdown]
# ## What the server tells about itself
#
# `/metrics` has counters for Prometheus. The most useful ones are the time to the first
# token and the share of prompt tokens that were found in a cache.

# %%
with urllib.request.urlopen(f"{url}/metrics") as response:
    text = response.read().decode()
for line in text.splitlines():
    if line.startswith(
        ("llamacpp:", "codegemma_cached", "codegemma_first_token_seconds_sum")
    ):
        print(line)

# %% [markdown]
# ## Exercises
#
# Each of the next cells fails on purpose, with a hint, until you have filled it in. The
# solutions are in `tutorials/solutions/06_serving.py`.
#
# **1.** Write a parser for server-sent events. It gets the bytes of a whole stream and
# returns the JSON object of every event. The event `[DONE]` ends the stream and is no
# JSON.


# %% tags=["exercise"]
def events(data):
    return None  # your lines


sample = b'data: {"n": 1}\n\ndata: {"n": 2}\n\ndata: [DONE]\n\n'
found = events(sample)
assert found is not None, "Hint: events are separated by an empty line."
assert found == [{"n": 1}, {"n": 2}], "Hint: leave out the event [DONE]."

# %% [markdown]
# **2.** An editor needs to know how long its users wait at worst. Return the median and
# the 99th percentile of a list of seconds, in milliseconds.


# %% tags=["exercise"]
def waits(seconds):
    return None  # your lines


found = waits([0.1] * 98 + [0.5, 2.0])
assert found is not None, "Hint: np.percentile(values, [50, 99])."
assert abs(found[0] - 100) < 1e-6, "Hint: one second has a thousand milliseconds."
assert found[1] > 500, "Hint: the 99th percentile is nearly the longest."

# %% [markdown]
# ## Summary
#
# You asked a server as an editor does. The stream gave the same text as the whole answer.
# Most of the prompt was found in the cache while you typed, several clients shared the
# work, and web pages were refused. `docs/editors.md` shows how to connect VS Code, Vim,
# Neovim, Emacs and JupyterLab.

# %%
import os
import pathlib
import re

# Linux knows the peak of a process. What `resource` tells of a child begins with the
# memory of the process that started it.
status = pathlib.Path(f"/proc/{server.pid}/status")
peak = re.search(r"VmHWM:\s+(\d+)", status.read_text() if status.exists() else "")
server.terminate()
server.wait()
server.stdout.close()
minutes = (time.perf_counter() - started) / 60
print(f"{minutes:.1f} minutes on {os.cpu_count()} CPU cores")
if peak:
    print(f"the server took at most {int(peak[1]) / 2**20:.1f} GB of memory")
assert streamed == answer["choices"][0]["text"]
assert saved >= least_saving
assert gain >= least_batch_gain
assert statuses.pop("an editor") == 200
assert min(statuses.values()) >= 400

# %% [markdown]
# ## Further reading
#
# * [Efficient memory management for large language model serving with
#   PagedAttention](https://arxiv.org/abs/2309.06180) is the paper of vLLM. It explains why the
#   cache decides how many users a server can hold.
# * [SGLang](https://arxiv.org/abs/2312.07104) shares the cache of common prefixes between
#   requests.
