# %% [markdown]
# # Filling in the middle
#
# A code model in an editor sees the text before the cursor *and* the text after it, and
# writes what belongs between them. In this notebook you ask a CodeGemma model for such
# middles. You see how the prompt is built, when the answer ends, and what follows if
# nothing ends it. Then you add other files of a project, ask for several answers, look
# at how sure the model is of each token, and measure where the time goes.
#
# You need to know Python and nothing else. The notebook uses SmolLM2, an open model with
# 135 million parameters (Apache 2.0, a download of 93 MB), which the package re-expresses
# as a network of CodeGemma's kind. It runs on two processor cores and completes ordinary
# lines well. To use CodeGemma itself, set `preset` to `code_gemma_1.1_2b_en` or
# `code_gemma_7b_en` in the next cell. These models are downloaded from Kaggle, where
# you must accept Google's licence once. If a download is not possible, the notebook
# prints the reason and continues with a model of a few million parameters that comes with
# the package and is often wrong.

# %% tags=["parameters"]
preset = "smollm2_135m_code"
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
before = "def is_palindrome(word):\n    word = word.lower()\n    return "
after = "\n\n\nprint(is_palindrome('Level'))\n"
middle = lm.infill(before, after, path="words.py", until="line")
print(before + "▶" + middle + "◀" + after)

# %% [markdown]
# The model wrote the text between ▶ and ◀, up to the end of the line. The first call
# also compiled a program. Later calls with texts of about this length reuse it.
#
# ## What the model reads
#
# A prompt is a list of *parts*: texts and four control tokens. No text can become a
# control token, even if a file contains the name of one. In the order **PSM** (prefix,
# suffix, middle), the answer follows the suffix. In the order **SPM**, the prefix comes
# last, next to the answer. Half of CodeGemma's training used PSM, and the other half
# used SPM.
#
# SmolLM2's makers never taught it these tokens. An adapter of this package did, but the
# model still writes more lines exactly if it is asked in a third order, without control
# tokens: the suffix comes first, as if it were a part of the file that the model has
# already read, and the prefix comes last. Then the model simply continues. The preset
# knows which order is best.

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


for mode in ("psm", "spm", "left_to_right"):
    print(mode)
    show_parts(fim.render(before, after, path="words.py", mode=mode))

# %% [markdown]
# A file that contains the name of a control token stays text. In the next cell, the
# same characters are one token as a control token, and many tokens as text.

# %%
as_control = lm.tokenizer.encode([fim.PREFIX])
as_text = lm.tokenizer.encode("<|fim_prefix|>")
print("control:", as_control)
print("text:   ", as_text)

# %% [markdown]
# ## When does the answer end?
#
# A model that was taught to fill in the middle ends its answer with a control token, or
# continues with `<|file_separator|>` and another file. A model that only continues text
# has no such end. In both cases the program must cut the text at the right place:
# `complete` does so, and says how the answer ended. Without stops you see what would have
# followed. Users of code models in editors often complain about such text, but the model
# is not at fault. (Control tokens have no text of their own. If a model only repeats its
# end token, the second line of the output shows nothing more.)

# %%
completion = lm.complete(before, after, path="words.py", max_new_tokens=max_new_tokens)
print("with stops    ", repr(completion.text), "ended by", completion.stop_reason)

mode = lm.preprocessor.infill_mode  # the order in which this model is asked
prompt = "".join(fim.render(before, after, path="words.py", mode=mode))
endless = lm.generate(
    prompt, max_new_tokens=max_new_tokens, stop_token_ids=None, strip_prompt=True
)
print("without stops ", repr(endless))

# %% [markdown]
# An editor may need less: only the rest of the line, or the text up to the end of the
# block.

# %%
start = 'def area(width, height):\n    """The area of a rectangle."""\n    '
for until in ("line", "block", None):
    found = lm.complete(start, until=until, max_new_tokens=max_new_tokens)
    print(f"until={until!s:6} {found.text!r}")

# %% [markdown]
# ## Other files
#
# The argument `context` shows other files to the model, with the most related one last.
# You can measure whether a file helps without reading any answer: compare how probable
# the *right* middle is with and without the file. `log_probabilities` returns the
# log-probability of every token of a text.

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
    parts = fim.render(
        shop_before, shop_after, path="shop.py", context=context, mode=mode
    )
    ids = [lm.tokenizer.start_token_id, *lm.tokenizer.encode(parts)]
    answer = lm.tokenizer.encode(middle)
    return -float(lm.log_probabilities([ids + answer])[0][len(ids) :].sum())


alone = nats_of(right, [])
informed = nats_of(right, [("prices.py", helper)])
print(f"{right!r} costs {alone:.1f} nats alone, {informed:.1f} with prices.py in sight")

# %% [markdown]
# ## How sure is the model?
#
# The next picture draws the same numbers on code. A pale token is one that the model
# expected. New names are dark, and everything that Python's grammar or an earlier line
# determines is pale.

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
# By default the model takes the likeliest token. `Sampling` makes it draw tokens at
# random instead. With a low temperature it stays close to what is likely, and with a
# high one it becomes adventurous. `alternatives` computes the prompt once for all
# answers. With a seed, the answers can be repeated, whatever else is in the batch.

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
# ## Streaming
#
# `stream` yields text as soon as no stop can remove it again. The pieces together are
# the text that `infill` returns.

# %%
request = {"prefix": before, "suffix": after, "path": "words.py", "max_new_tokens": 24}
pieces = list(lm.stream(**request))
print(pieces)
streamed_equals = "".join(pieces) == lm.infill(**request)
print("joined equals infill:", streamed_equals)

# %% [markdown]
# ## Where the time goes
#
# A request first reads the prompt in one step, which is called *prefill*. Then it
# computes one token after another. If you ask once for one token and once for many, you
# can tell the two apart. Each bar below is one request. Blue bars are
# requests for one token, and green bars are requests for many. The median describes a
# typical wait, and the longest bar the worst one. (The machine that made these
# figures was busy with other work. Look at the proportions and not at the milliseconds,
# and run the cell yourself.)

# %%
import matplotlib.pyplot as plt

long_before = source * 2 + "\n\n" + before


def seconds_of(tokens):
    """Seconds of requests for so many tokens, whatever the answer is."""
    seconds = []
    for number in range(timed_requests + 1):
        begin = time.perf_counter()
        prompt = f"# {number}\n" + "".join(fim.render(long_before, after, mode=mode))
        lm.generate(prompt, max_new_tokens=tokens, stop_token_ids=None)
        seconds.append(time.perf_counter() - begin)
    return np.array(seconds[1:])  # the first one compiled


one, many = seconds_of(1), seconds_of(1 + max_new_tokens)
per_token = max(0.0, np.median(many) - np.median(one)) / max_new_tokens
prompt_tokens = len(lm.tokenizer.encode(fim.render(long_before, after, mode=mode)))
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
# In an editor, most of the prompt stays the same from one keystroke to the next. A
# session keeps what the model has computed, and computes only what follows the longest
# common beginning of the old and the new prompt. The order of the prompt decides how
# long this beginning is. With PSM, one letter before the cursor moves the whole suffix.
# The layout `line`, which a session uses by default, puts the line that you type last.

# %%
typed = "        return self.items[-1] if self.items else None  # the top, or None"[
    :keystrokes
]
head = source.partition("    def pop")[0] + "    def peek(self):\n"
tail = "\n\n    def pop" + source.partition("    def pop")[2]
reuse, computed = {}, {}
for layout in ("psm", "line", "spm"):  # see docs/decoding.md
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
# Answers from the cache are exact: they have the same tokens as a call without a
# session and with the same layout. (SmolLM2's session uses the layout `left_to_right`,
# which saves as much as `spm`. The other layouts are measured here for comparison.)
#
# ## Summary
#
# The last cell checks these statements:
#
# * No control token ever reaches the reader, and text never becomes a control token.
# * Streaming gives the same text as `infill`.
# * A session finds most of the prompt in its cache with the layouts that are made for
#   typing.
#
# A small model is often wrong, so check its completions. Notebook 02 makes a model better at
# one project.

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

# %% [markdown]
# ## Further reading
#
# * The [CodeGemma report](https://arxiv.org/abs/2406.11409) describes the models, their control
#   tokens and how they were trained.
# * [Efficient training of language models to fill in the
#   middle](https://arxiv.org/abs/2207.14255) introduced prefix, suffix and middle in this form.
