# %% [markdown]
# # Filling in the middle
#
# A code model in an editor sees what stands before the cursor *and* after it, and writes
# what belongs between. Here you ask a CodeGemma for such middles: how the prompt is built,
# when the answer ends and what follows if nobody ends it, how other files of a project
# help, how to get several answers, how sure the model is of each token, and where the
# time goes.
#
# You need Python and nothing else. The model in the package has a few million parameters:
# it knows what Python looks like, and its answers are often wrong. To use a real one,
# change `preset` to `code_gemma_1.1_2b_en` or `code_gemma_7b_en`: all else stays. Those
# are downloaded from Kaggle, where you accept Google's licence once; without that, or
# without a network, loading says what to do.

# %% tags=["parameters"]
preset = "code_gemma_tiny_py"
dtype = None  # "bfloat16" halves the memory: 5 GB for the 2B, 17 GB for the 7B
max_new_tokens = 32
timed_requests = 12  # for the latency picture
keystrokes = 40
least_reuse = 0.8  # share of prompt tokens that a session finds in its cache

# %%
import time

from codegemma_keras import CodeGemmaCausalLM

started = time.perf_counter()
try:
    lm = CodeGemmaCausalLM.from_preset(preset, dtype=dtype)
except (OSError, ValueError, MemoryError) as error:
    print(f"{error}\n\nSo this goes on with the small model in the package.")
    preset = "code_gemma_tiny_py"
    lm = CodeGemmaCausalLM.from_preset(preset, dtype=dtype)
before = "def mean(values):\n    total = "
after = "\n    return total / len(values)\n"
middle = lm.infill(before, after, path="stats.py", until="line")
print(before + "▶" + middle + "◀" + after)

# %% [markdown]
# What stands between ▶ and ◀ the model wrote, up to the end of the line. The first call
# compiled its program; later calls of about this length reuse it.
#
# ## What the model reads
#
# A prompt is a list of *parts*: text, and four control tokens that no text can become,
# even if someone's file contains their names. In the order **PSM** (prefix, suffix,
# middle) the answer follows the suffix; in **SPM** the prefix comes last, next to the
# answer. CodeGemma was trained on both, half and half.

# %%
import html

from IPython.display import HTML, display

from codegemma_keras import fim

COLOURS = {fim.PREFIX: "#cfe8ff", fim.SUFFIX: "#f6d5f7", fim.MIDDLE: "#d3f5d3"}


def show_parts(parts):
    """Draw a prompt; each part has the colour of the control token before it."""
    pieces, colour = [], "#fff3bf"
    for part in parts:
        if isinstance(part, fim.Control):
            colour = COLOURS.get(part, "#fff3bf")
            style = f"background:{colour};color:#222;font-weight:bold"
        else:
            style = f"background:{colour};color:#222"
        text = html.escape(part).replace("\n", "⏎\n")
        pieces.append(f'<span style="{style}">{text}</span>')
    display(
        HTML(
            f'<pre style="font-family:monospace;line-height:1.5">{"".join(pieces)}</pre>'
        )
    )


for mode in ("psm", "spm"):
    print(mode.upper())
    show_parts(fim.render(before, after, path="stats.py", mode=mode))

# %% [markdown]
# A file that *speaks* of control tokens stays text. Below, the same characters are one
# token as a control, and many as text.

# %%
as_control = lm.tokenizer.encode([fim.PREFIX])
as_text = lm.tokenizer.encode("<|fim_prefix|>")
print("control:", as_control)
print("text:   ", as_text)

# %% [markdown]
# ## When does it end?
#
# A good completion ends with a control token: the model says "that is all", or goes on
# with `<|file_separator|>` and another file. `complete` cuts there and tells how it ended.
# Without stops you see what would have followed. This is the commonest complaint about
# code models in editors, and it is no fault of the model. (Control tokens have no text of
# their own: a model that only repeats its end shows nothing more here.)

# %%
completion = lm.complete(before, after, path="stats.py", max_new_tokens=max_new_tokens)
print("with stops    ", repr(completion.text), "ended by", completion.stop_reason)

prompt = "".join(fim.render(before, after, path="stats.py"))
endless = lm.generate(
    prompt, max_new_tokens=max_new_tokens, stop_token_ids=None, strip_prompt=True
)
print("without stops ", repr(endless))

# %% [markdown]
# An editor may want less: the rest of the line, or up to where the block ends.

# %%
for until in ("line", "block", None):
    found = lm.complete(
        "def area(width, height):\n    ", until=until, max_new_tokens=max_new_tokens
    )
    print(f"until={until!s:6} {found.text!r}")

# %% [markdown]
# ## Other files
#
# `context` gives the model other files, the most related last. Whether it helps can be
# measured without reading answers: how probable is the *right* middle with and without
# the other file? `log_probabilities` gives the log-probability of every token of a text.

# %%
import numpy as np

helper = (
    "SHOP_CURRENCY = 'EUR'\n\n\ndef format_price(amount_in_cents):\n    return amount\n"
)
shop_before = "from prices import SHOP_CURRENCY, "
shop_after = "\n\nprint(format_price(1250))\n"
right = "format_price"


def nats_of(middle, context):
    """Nats that the model needs for `middle`, in the place of the cursor."""
    parts = fim.render(shop_before, shop_after, path="shop.py", context=context)
    ids = [lm.tokenizer.start_token_id, *lm.tokenizer.encode(parts)]
    answer = lm.tokenizer.encode(middle)
    return -float(lm.log_probabilities([ids + answer])[0][len(ids) :].sum())


alone = nats_of(right, [])
informed = nats_of(right, [("prices.py", helper)])
print(f"{right!r} costs {alone:.1f} nats alone, {informed:.1f} with prices.py in sight")

# %% [markdown]
# ## How sure is it?
#
# The same numbers drawn on code: the paler a token, the surer the model was of it before
# it saw it. Names that are new are dark; what Python's grammar or an earlier line forces
# is pale.

# %%
source = '''class Stack:
    """A last-in, first-out list."""

    def __init__(self):
        self.items = []

    def push(self, item):
        self.items.append(item)

    def pop(self):
        if not self.items:
            raise IndexError("pop from an empty stack")
        return self.items.pop()
'''


def show_surprise(ids, log_probabilities):
    """Draw each token on orange that grows with its nats, up to 8."""
    pieces = []
    for token, value in zip(ids, log_probabilities, strict=True):
        strength = min(1.0, -float(value) / 8)
        text = html.escape(lm.tokenizer.decode([token]))
        style = (
            f"background:rgb(255,{255 - 110 * strength:.0f},{255 - 225 * strength:.0f})"
        )
        title = f"{np.exp(value):.1%}"
        pieces.append(f'<span style="{style};color:#222" title="{title}">{text}</span>')
    display(
        HTML(
            f'<pre style="font-family:monospace;line-height:1.5">{"".join(pieces)}</pre>'
        )
    )


ids = [lm.tokenizer.start_token_id, *lm.tokenizer.encode(source)]
log_probabilities = lm.log_probabilities([ids])[0]
show_surprise(ids[1:], log_probabilities[1:])
bits = -log_probabilities.sum() / np.log(2)
print(f"{bits / len(source.encode()):.2f} bits per byte")

# %% [markdown]
# ## Several answers
#
# `Sampling` draws instead of taking the likeliest token. A low temperature keeps to what
# is likely, a high one wanders. `alternatives` computes the prompt once for all of them;
# a seed makes answers repeatable, whatever else is in the batch.

# %%
from codegemma_keras import Sampling

ask = {"prefix": "def is_even(number):\n    return ", "suffix": "\n", "path": "even.py"}
for temperature in (0.0, 0.5, 1.2):
    sampling = (
        Sampling(temperature=temperature, top_p=0.95) if temperature else Sampling()
    )
    answers = lm.alternatives(
        **ask, n=4, until="line", max_new_tokens=16, sampling=sampling, seed=1
    )
    print(f"temperature {temperature}: {len({a.text for a in answers})} different")
    for answer in answers:
        sure = float(np.mean(answer.log_probabilities))
        print(f"    {answer.text!r:60.60} {sure:6.2f} nats a token")

# %% [markdown]
# ## As it comes
#
# `stream` yields text as soon as no stop can take it back. The pieces, joined, are what
# `infill` returns.

# %%
request = {"prefix": before, "suffix": after, "path": "stats.py", "max_new_tokens": 24}
pieces = list(lm.stream(**request))
print(pieces)
streamed_equals = "".join(pieces) == lm.infill(**request)
print("joined equals infill:", streamed_equals)

# %% [markdown]
# ## Where the time goes
#
# A request reads the prompt once (*prefill*) and then computes token after token. Asking
# for one token, and for many, tells the two apart. Below each request is one thin bar:
# the median is what a user feels, the longest what a user remembers. (The figures shown
# were made on a machine that was busy with other work: read the proportions, not the
# milliseconds, and run it yourself.)

# %%
import matplotlib.pyplot as plt

long_before = source * 2 + "\n\n" + before


def seconds_of(tokens):
    """Seconds of requests for so many tokens, whatever the answer is."""
    seconds = []
    for number in range(timed_requests + 1):
        begin = time.perf_counter()
        prompt = f"# {number}\n" + "".join(fim.render(long_before, after))
        lm.generate(prompt, max_new_tokens=tokens, stop_token_ids=None)
        seconds.append(time.perf_counter() - begin)
    return np.array(seconds[1:])  # the first one compiled


one, many = seconds_of(1), seconds_of(1 + max_new_tokens)
per_token = max(0.0, np.median(many) - np.median(one)) / max_new_tokens
prompt_tokens = len(lm.tokenizer.encode(fim.render(long_before, after)))
print(f"prompt of {prompt_tokens} tokens: {np.median(one) * 1e3:.1f} ms")
print(f"each new token: {per_token * 1e3:.2f} ms")

figure, axes = plt.subplots(figsize=(7, 2.6), layout="constrained")
places = np.arange(timed_requests)
axes.bar(
    places, many * 1e3, width=0.6, color="#8fc98f", label=f"{max_new_tokens} tokens"
)
axes.bar(places, one * 1e3, width=0.6, color="#4a7fb5", label="prompt and first token")
axes.set(xlabel="request", ylabel="milliseconds")
axes.legend(loc="lower right")
plt.show()

# %% [markdown]
# ## Typing
#
# In an editor most of the prompt is the same from one keystroke to the next. A session
# keeps what the model computed and computes only what follows the longest common
# beginning. Which order the prompt has decides how long that is: with PSM a letter before
# the cursor moves the whole suffix; the session's own layout, `line`, puts the line that
# you type last.

# %%
typed = "        return self.items[-1] if self.items else None  # the top, or None"[
    :keystrokes
]
head = source.partition("    def pop")[0] + "    def peek(self):\n"
tail = "\n\n    def pop" + source.partition("    def pop")[2]
reuse, computed = {}, {}
for layout in ("psm", "line", "spm"):
    session = lm.session(layout)
    new = []
    for end in range(len(typed) + 1):
        found = session.complete(head + typed[:end], tail, max_new_tokens=4)
        new.append(found.computed_tokens)
    computed[layout] = new
    reuse[layout] = 1 - sum(new[1:]) / (found.prompt_tokens * (len(new) - 1))
    print(f"{layout:4}: {reuse[layout]:.0%} of prompt tokens found in the cache")

figure, axes = plt.subplots(figsize=(7, 2.6), layout="constrained")
for layout, new in computed.items():
    axes.step(range(len(new)), np.maximum(new, 1), where="mid", label=layout)
axes.set(xlabel="keystroke", ylabel="tokens computed", yscale="log")
axes.legend()
plt.show()

# %% [markdown]
# Cached answers are exact: the same tokens as a cold call with the same layout.
#
# ## What was claimed
#
# * No control token ever reaches the reader, and text never becomes one.
# * Streaming gives the same text.
# * A session finds most of the prompt in its cache, in the layouts made for typing.
#
# Not claimed: that the small model's answers are right. Notebook 02 makes it better at
# one project; the real models need only another `preset`.

# %%
import os
import resource

print(
    f"{(time.perf_counter() - started) / 60:.1f} minutes on {os.cpu_count()} CPU cores, at "
    f"most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GB of memory"
)
assert len(as_control) == 1 < len(as_text)
assert not any(str(stop) in completion.text for stop in fim.STOP)
assert streamed_equals
assert reuse["line"] >= least_reuse
assert reuse["spm"] >= least_reuse
assert min(reuse["line"], reuse["spm"]) > reuse["psm"]
