# %% [markdown]
# # Filling in the middle: how a left-to-right model learns to look ahead
#
# A language model reads from left to right and predicts what comes next. An editor's
# cursor stands in the *middle*, and the text after it matters as much as the text
# before it. In this chapter you learn the method that brings the two together. You see
# why it needs nothing but another order of the text, and why it matters where the
# training cuts a file.
#
# You need chapter 10, or to know what a token is. The model in the package is small and
# wrong more often than right. You measure it on code that it was not trained on, the
# library `rich`.

# %% tags=["parameters"]
preset = "code_gemma_tiny_py"
spans = 1500  # cuts drawn for each picture of lengths
places = 48  # lines of held-out code that the model is asked about
row = 256  # tokens of a training row, where truncation is looked at
least_wins = 0.6  # share of the places at which the right suffix must help

# %%
import html

from IPython.display import HTML, display

from codegemma_keras import CodeGemmaCausalLM, fim

lm = CodeGemmaCausalLM.from_preset(preset)
tokenizer = lm.tokenizer
before = "def area(width, height):\n    "
after = "\n    return result\n"
middle = lm.infill(before, after, path="shapes.py", max_new_tokens=16)
print(before + "▶" + middle + "◀" + after)

# %% [markdown]
# The model wrote the text between ▶ and ◀. It used the name `result`, which stands only
# after the cursor, so it has read both sides. But the answer is wrong: it repeats the
# line that follows, with another indent, and the file is no valid Python. One answer of a
# tiny model says little. In this chapter we therefore measure how probable the right
# answer is, at many places.
#
# ## The trick
#
# Take a file and cut it at two places. Move the middle to the end, with a sign before each
# part. Then train as always: predict the next token. Nothing in the network changes. The
# model learns that after the *middle* sign comes what belongs between the other two.

# %%
YELLOW, BLUE, PINK, GREEN = "#fff3bf", "#cfe8ff", "#f6d5f7", "#d3f5d3"
COLOURS = {fim.PREFIX: BLUE, fim.SUFFIX: PINK, fim.MIDDLE: GREEN}


def show(spans):
    """Draw `(text, colour)` spans; control tokens in bold."""
    pieces = []
    for text, colour in spans:
        weight = "bold" if isinstance(text, fim.Control) else "normal"
        style = f"background:{colour};color:#222;font-weight:{weight}"
        text = html.escape(text).replace("\n", "⏎\n")
        pieces.append(f'<span style="{style}">{text}</span>')
    display(HTML(f'<pre style="line-height:1.5">{"".join(pieces)}</pre>'))


def coloured(parts):
    """Parts as spans: each has the colour of the sign before it."""
    colour = YELLOW
    for part in parts:
        if isinstance(part, fim.Control):
            colour = COLOURS.get(part, YELLOW)
        yield part, colour


program = "def area(width, height):\n    result = width * height\n    return result\n"
start = program.index("width * height")
prefix, middle, suffix = fim.split_at(program, start, start + len("width * height"))

print("as written")
show([(prefix, BLUE), (middle, GREEN), (suffix, PINK)])
for mode in ("psm", "spm"):
    print(mode.upper())
    show(coloured(fim.render(prefix, suffix, middle, path="shapes.py", mode=mode)))

# %% [markdown]
# Two orders are in use. **PSM**: prefix, suffix, middle. **SPM**: suffix, prefix, middle,
# where the answer follows directly on what it continues. CodeGemma learnt both, half and
# half, and left some files as they are, so that it still writes from left to right.
#
# Nothing is lost. The three texts can be recovered from the parts, and even from the
# tokens.

# %%
returned = []
for mode in ("psm", "spm"):
    parts = fim.render(prefix, suffix, middle, path="shapes.py", mode=mode)
    ids = tokenizer.encode(parts)
    found = fim.parse(tokenizer.decode_parts(ids))
    returned.append((found.prefix, found.middle, found.suffix))
    print(mode.upper(), len(ids), "tokens, parsed back:", found.middle)

# %% [markdown]
# ## Does it read the suffix?
#
# Ask for a line of code of which we know the right answer, and measure how probable
# that answer is to the model, in *nats* (the lower, the better; one nat less is 2.7
# times as probable). We measure this twice: with the suffix that belongs there, and
# with the suffix of another place. If the model ignores the text after the cursor,
# there is no difference.

# %%
import random

import numpy as np

from codegemma_keras.data.read import installed as corpus
from codegemma_keras.data.rows.fim_split import random_split


def is_code(text):
    """Long enough to cut, and no table of numbers."""
    digits = sum(character.isdigit() for character in text)
    return 4000 < len(text) < 60_000 and digits < 0.05 * len(text)


held_out = [d.text for d in corpus.python_files(["rich"]) if is_code(d.text)]
rng = random.Random(0)


def draw_place():
    """`(prefix, line, suffix)` at a line of held-out code, a few lines around it."""
    while True:
        lines = rng.choice(held_out).splitlines(keepends=True)
        i = rng.randrange(8, len(lines) - 6)
        line = lines[i].strip()
        if 12 <= len(line) <= 60 and lines[i + 1].strip() and line[0] not in "#\"'":
            start = len(lines[i]) - len(lines[i].lstrip())
            head = "".join(lines[i - 8 : i]) + lines[i][:start]
            return head, lines[i][start:-1], "\n" + "".join(lines[i + 1 : i + 6])


drawn = [draw_place() for _ in range(places)]


def nats(prompts, answers):
    """Nats of each answer after its prompt, parts of text and controls."""
    rows, starts = [], []
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = [tokenizer.start_token_id, *tokenizer.encode(prompt)]
        starts.append(len(ids))
        rows.append(ids + tokenizer.encode(answer))
    scores = lm.log_probabilities(rows)
    return np.array([-s[at:].sum() for s, at in zip(scores, starts, strict=True)])


lines = [line for _, line, _ in drawn]
right = nats([fim.render(p, s, path="a.py") for p, _, s in drawn], lines)
befores, _, afters = zip(*drawn, strict=True)
elsewhere = afters[1:] + afters[:1]
mixed = zip(befores, elsewhere, strict=True)
wrong = nats([fim.render(p, s, path="a.py") for p, s in mixed], lines)
wins = float(np.mean(right < wrong))
print(f"right suffix {right.mean():.1f} nats a line, another's {wrong.mean():.1f}")
print(f"the right suffix helps at {wins:.0%} of {places} places")

# %%
import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(4, 3.6), layout="constrained")
top = 1.05 * max(right.max(), wrong.max())
axes.plot([0, top], [0, top], color="#999", linewidth=1)
axes.scatter(wrong, right, s=16, color="#4a7fb5")
axes.set(xlabel="nats with another's suffix", ylabel="nats with the right suffix")
axes.text(0.97 * top, 0.05 * top, "the suffix helps", ha="right", color="#555")
plt.show()

# %% [markdown]
# Points below the line are places where the model used what stands after the cursor.
#
# ## Where to cut
#
# Training has to choose two places in every file. The first choice that comes to mind,
# two uniformly random places, gives middles of a third of the file. But what does an
# editor ask for? It asks for the rest of a line, or for a few lines. The next picture
# shows three rules on the same files:

# %%
rules = ("character", "short", "line")
lengths = {}
for rule in rules:
    cuts = [random_split(rng.choice(held_out), rng, rule) for _ in range(spans)]
    lengths[rule] = [len(m) for _, m, _ in cuts]
short = {rule: float(np.mean(np.array(n) <= 80)) for rule, n in lengths.items()}

figure, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
edges = np.geomspace(1, 60_000, 28)
for rule, colour in zip(rules, ("#e08e45", "#8fc98f", "#4a7fb5"), strict=True):
    label = f"{rule}: {short[rule]:.0%} of at most 80"
    axes.hist(
        np.maximum(lengths[rule], 1),
        edges,
        histtype="step",
        label=label,
        color=colour,
        linewidth=2,
    )
axes.set(xscale="log", xlabel="characters in the middle", ylabel="cuts")
figure.legend(loc="outside upper center", ncols=3, frameon=False)
plt.show()

# %% [markdown]
# With uniform cuts, a model hardly ever practises the short middles that it will be asked
# for, and it hardly ever sees one *end*. A large model learns both nevertheless, because it
# reads hundreds of billions of tokens. The small model in this package learnt neither to
# stop nor to fill a line until its cuts were drawn by the other rules.
#
# ## Characters, not tokens
#
# One might cut between tokens, which is easier, or between lines. But a programmer's
# cursor stands between any two characters. How often is that inside a token?

# %%
inside, total = 0, 0
for text in held_out[:8]:
    borders, place = {0}, 0
    for token in tokenizer.encode(text[:6000]):
        place += len(tokenizer.decode_bytes([token]))
        borders.add(place)
    inside += place - len(borders)
    total += place
print(f"{inside / total:.0%} of all cursor places are inside a token")

# %% [markdown]
# Therefore training must cut between *characters* first, and then encode each part by
# itself. A model that was trained on cuts between tokens has never seen a half word
# before the cursor. Bavarian et al. (2022) trained the same model three times and
# published the pass rates on middles between random characters:

# %%
published = {
    "between lines": 0.015,
    "between tokens": 0.102,
    "between characters": 0.321,
}
figure, axes = plt.subplots(figsize=(7, 1.9), layout="constrained")
bars = axes.barh(list(published), list(published.values()), color="#4a7fb5")
axes.bar_label(bars, fmt="%.3f", padding=3)
axes.invert_yaxis()
axes.set(xlabel="pass rate, random-span infilling (arXiv 2207.14255)", xlim=(0, 0.38))
plt.show()

# %% [markdown]
# Cuts between characters solve 21 times as many problems as cuts between lines, and 3
# times as many as cuts between tokens. Only the place of the cut differs.
#
# ## The model must learn when to stop
#
# A middle has to *end*: after it, training puts the sign for "another file follows", or
# the end of the text. A classic mistake loses it. Files are longer than rows, so
# something must be cut off. If you rearrange the parts first and truncate afterwards,
# you lose the middle and the sign that ends it. Below, the same files become rows in
# both orders.


# %%
def has_all(ids):
    """Whether a row holds the middle sign and the end of the middle."""
    return tokenizer.fim_middle_id in ids and ids[-1] == tokenizer.file_separator_id


def rearrange(text):
    prefix, middle, suffix = random_split(text, rng, "line")
    parts = [*fim.render(prefix, suffix, middle), fim.FILE_SEPARATOR]
    return tokenizer.encode(parts)


truncated_last, truncated_first = [], []
for text in held_out:
    truncated_last.append(has_all(rearrange(text)[:row]))
    room = row - 4  # three signs and the end
    piece = tokenizer.decode(tokenizer.encode(text)[:room], errors="ignore")
    while len(ids := rearrange(piece)) > row:  # cuts inside tokens cost a few more
        piece = piece[: -max(1, len(ids) - row)]
    truncated_first.append(has_all(ids))
kept = {"last": np.mean(truncated_last), "first": np.mean(truncated_first)}
print(
    f"rearranged, then truncated: {kept['last']:.0%} of {len(held_out)} rows are whole"
)
print(f"truncated, then rearranged: {kept['first']:.0%}")

# %% [markdown]
# A model trained on rows of the first kind never learns to stop. In an editor it fills the
# middle, and goes on with the next file.
#
# ## Exercises
#
# Each of the next cells fails on purpose, with a hint, until you have filled it in. The
# solutions are in `tutorials/solutions/13_fim.py`.
#
# **1.** Write the training text of SPM as parts, without `fim.render`.


# %% tags=["exercise"]
def spm(prefix, middle, suffix):
    """Parts: the suffix, the prefix, the middle, each after its sign."""
    return None  # your lines


found = spm("a", "b", "c")
assert found is not None, "Hint: a list such as [fim.SUFFIX, suffix, ...]."
assert fim.SUFFIX in found, "Hint: use the Controls of fim, not their names as text."
assert found == fim.render("a", "c", "b", mode="spm"), "Hint: suffix, prefix, middle."

# %% [markdown]
# **2.** Cut a text at two uniformly random places between characters. Both ends of the
# text count as places, any part may be empty, and a Windows line end (`\r\n`) stays whole:
# no editor puts a cursor into it.


# %% tags=["exercise"]
def cut_twice(text, rng):
    """`(prefix, middle, suffix)`; rng is a random.Random."""
    return None  # your lines


tries = [cut_twice("ab\r\ncd", random.Random(seed)) for seed in range(400)]
assert tries[0] is not None, "Hint: sort two of rng.randint(0, len(text)), then slice."
assert all("".join(t) == "ab\r\ncd" for t in tries), "Hint: the parts make the text."
assert any(not t[0] for t in tries), "Hint: the first place is before everything."
assert any(not t[2] for t in tries), "Hint: the last place is after everything."
assert any(not t[1] for t in tries), "Hint: a middle may be empty."
assert not any(part.endswith("\r") for t in tries for part in t), (
    "Hint: if the cut has \\r before it and \\n after it, move it."
)

# %% [markdown]
# **3.** A model was not stopped in time. Cut its answer, a list of parts, before the first
# control token, and give the text.


# %% tags=["exercise"]
def answer_of(parts):
    """The text before the first Control."""
    return None  # your lines


runaway = ["width", " * height", fim.FILE_SEPARATOR, "b.py\n", fim.PREFIX, "x"]
assert answer_of(runaway) is not None, "Hint: go through the parts and collect text."
assert answer_of(runaway) == "width * height", "Hint: leave at the first fim.Control."
assert answer_of([fim.END]) == "", "Hint: an answer may be empty."
assert answer_of(["say '<|fim_prefix|>'"]) == "say '<|fim_prefix|>'", (
    "Hint: ask for the type, isinstance(part, fim.Control), not for what it reads."
)

# %% [markdown]
# ## Check
#
# The last cell checks what this chapter says.

# %%
assert returned == [(prefix, middle, suffix)] * 2
assert wins >= least_wins
assert right.mean() < wrong.mean()
assert short["line"] > 3 * short["character"]
assert inside / total > 0.4
assert kept["first"] == 1.0
assert kept["last"] < 0.5

# %% [markdown]
# ## Further reading
#
# * [Efficient training of language models to fill in the
#   middle](https://arxiv.org/abs/2207.14255) compares PSM and SPM, and cuts at lines, tokens
#   and characters.
# * [InCoder](https://arxiv.org/abs/2204.05999) fills in code that was masked, and tests it by
#   running.
# * The [CodeGemma report](https://arxiv.org/abs/2406.11409) says how often, and in which order,
#   the real models were trained to fill in.
