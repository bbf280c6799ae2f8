# %% [markdown]
# # Which other files should the model see?
#
# At a cursor, a model sees the text before and after it. Much of what it needs stands in
# other files: the name of a helper, the order of its arguments, a constant. A context
# window holds a few thousand tokens, and a repository has many more. So a program must
# choose what to show. In this chapter you build three ways to choose, and measure them
# without reading a single completion: a choice is good if the model then finds the *right*
# line more probable.
#
# You should know notebook 01. The chapter uses SmolLM2 (a download of 93 MB), or the small
# model of the package if there is no network.

# %% tags=["parameters"]
preset = "smollm2_135m_code"
package = "networkx"  # an installed package, read as a repository
lines_to_guess = 64
snippet_lines = 10
shown_snippets = 3
before_lines = 16  # of the file itself, before the cursor
least_gain = 0.02  # nats a token, of retrieval over random snippets

# %%
import time

from codegemma_keras import CodeGemmaCausalLM

started = time.perf_counter()
try:
    lm = CodeGemmaCausalLM.from_preset(preset)
except (OSError, ValueError, MemoryError) as error:
    print(f"{error}\n\nSo this goes on with the small model in the package.")
    preset = "code_gemma_tiny_py"
    lm = CodeGemmaCausalLM.from_preset(preset)
mode = lm.preprocessor.infill_mode  # the order in which this model is asked
print(preset, "is asked in the order", mode)

# %% [markdown]
# ## A repository in snippets
#
# We cut every file into snippets of ten lines. A snippet is what we may show. Short
# snippets use few tokens. Long snippets contain more information. Editors often use ten to
# sixty lines.

# %%
import importlib.util
import pathlib

root = pathlib.Path(importlib.util.find_spec(package).submodule_search_locations[0])
files = {}
for path in sorted(root.rglob("*.py")):
    text = path.read_text(encoding="utf-8", errors="replace")
    if "tests" not in path.parts and 1_000 < len(text) < 60_000:
        files[f"{package}/{path.relative_to(root).as_posix()}"] = text

snippets = []  # (path, text)
for path, text in files.items():
    lines = text.splitlines(keepends=True)
    for start in range(0, len(lines), snippet_lines):
        snippets.append((path, "".join(lines[start : start + snippet_lines])))
print(f"{len(files)} files, {len(snippets):,} snippets")

# %% [markdown]
# ## Lines to guess
#
# We choose lines at random, each from another file, and hide them. A line must have a
# bracket and two names, because a line such as `else:` can be guessed without any context.
# It must also be code. Python's module `ast` finds the docstrings and the other strings of
# several lines, and a line with a comment is not chosen.

# %%
import ast
import math
import random
import re

# %%
NAME = re.compile(r"[A-Za-z_][A-Za-z_0-9]{2,}")
choice = random.Random(3)


def lines_of_strings(text):
    """The places of lines, from 0, that a docstring or a string of several lines takes."""
    places = set()
    for node in ast.walk(ast.parse(text)):
        is_docstring = isinstance(node, ast.Expr) and isinstance(
            node.value, ast.Constant
        )
        is_string = isinstance(node, ast.JoinedStr | ast.Constant)
        if is_docstring or (is_string and node.end_lineno > node.lineno):
            places |= set(range(node.lineno - 1, node.end_lineno))
    return places


def a_hole(path):
    """`(path, text before, hidden line, text after)`, or None."""
    lines = files[path].splitlines(keepends=True)
    strings = lines_of_strings(files[path])
    places = [n for n in range(20, len(lines) - 5) if n not in strings]
    choice.shuffle(places)
    for place in places:
        line = lines[place].strip()
        enough = "(" in line and len(NAME.findall(line)) >= 2
        if enough and "#" not in line and line[0] not in "'\"@":
            indent = lines[place][: len(lines[place]) - len(lines[place].lstrip())]
            before = "".join(lines[max(0, place - before_lines) : place]) + indent
            return path, before, line, "\n" + "".join(lines[place + 1 : place + 4])
    return None


paths = list(files)
choice.shuffle(paths)
holes = [hole for hole in map(a_hole, paths) if hole][:lines_to_guess]
path, before, line, after = holes[0]
print(f"{path}\n...{before[-160:]}▶{line}◀{after}")

# %% [markdown]
# ## Three ways to choose
#
# * **Random** snippets of other files. They are the control: perhaps any code of the same
#   project helps.
# * **Jaccard**: the snippets whose set of names overlaps most with the names around the
#   cursor. The similarity of two sets is the size of their intersection over that of their
#   union. RepoCoder and several editor plug-ins begin with this.
# * **BM25**: the same idea, but a name counts more if few snippets contain it. `self` says
#   nothing, and `topological_sort` says much. Search engines use this formula.
#
# The names that we search for are those near the cursor, of the last lines before it and
# of the lines after it. The hidden line itself is never used.

# %%
import collections

names_of = [collections.Counter(NAME.findall(text)) for _, text in snippets]
lengths = [sum(names.values()) for names in names_of]
mean_length = sum(lengths) / len(lengths)
holders = collections.Counter(name for names in names_of for name in names)


def query_of(before, after):
    """The names near the cursor."""
    return set(NAME.findall("".join(before.splitlines(keepends=True)[-8:]) + after))


def jaccard(query, number):
    names = names_of[number].keys()
    return len(query & names) / (len(query | names) or 1)


def bm25(query, number, k=1.2, b=0.75):
    found = 0.0
    for name in query:
        count = names_of[number].get(name, 0)
        if count:
            rare = math.log(
                1 + (len(snippets) - holders[name] + 0.5) / (holders[name] + 0.5)
            )
            size = 1 - b + b * lengths[number] / mean_length
            found += rare * count * (k + 1) / (count + k * size)
    return found


def chosen(way, hole):
    """The snippets to show, the most related last, next to the file of the cursor."""
    path, before, _, after = hole
    others = [n for n, (where, _) in enumerate(snippets) if where != path]
    if way == "none":
        return []
    if way == "random":
        picked = random.Random(path).sample(others, shown_snippets)
    else:
        query = query_of(before, after)
        score = {"jaccard": jaccard, "bm25": bm25}[way]
        picked = sorted(others, key=lambda number: score(query, number))[
            -shown_snippets:
        ]
    return [snippets[number] for number in picked]


for where, text in chosen("bm25", holes[0])[-1:]:
    print(f"the best snippet for the first hole, from {where}:\n\n{text}")

# %% [markdown]
# The snippets come from other files than the one with the cursor. A snippet of the same file
# could contain the hidden line itself, or lines that show its result.
#
# ## The measure
#
# For every hole and every way, we compute how many *nats* the model needs for the hidden
# line: minus the logarithm of its probability. One nat less means that the line is e = 2.7
# times as probable. We divide by the number of tokens, so that long lines do not count more.

# %%
import numpy as np

from codegemma_keras import fim

WAYS = ("none", "random", "jaccard", "bm25")
room = lm.preprocessor.sequence_length - 2


def tokens_of(way, hole):
    """`(prompt ids, ids of the hidden line)`."""
    path, before, line, after = hole
    shown = chosen(way, hole)
    answer = lm.tokenizer.encode(line)
    while True:
        parts = fim.render(before, after, path=path, context=shown, mode=mode)
        ids = [lm.tokenizer.start_token_id, *lm.tokenizer.encode(parts)]
        if len(ids) + len(answer) <= room or not (shown or before):
            return ids, answer
        if shown:
            shown = shown[1:]  # the least related snippet goes first
        else:
            before = before[len(before) // 4 + 1 :]


nats, cost = {}, {}
for way in WAYS:
    pairs = [tokens_of(way, hole) for hole in holes]
    rows = lm.log_probabilities([ids + answer for ids, answer in pairs])
    nats[way] = np.array(
        [
            -float(np.mean(row[len(ids) :]))
            for row, (ids, _) in zip(rows, pairs, strict=True)
        ]
    )
    cost[way] = np.mean([len(ids) for ids, _ in pairs])
    print(
        f"{way:8} {nats[way].mean():.3f} nats a token, prompts of {cost[way]:.0f} tokens"
    )

# %% [markdown]
# ## Is the difference real?
#
# A few dozen lines are a small sample. We compare the ways on the *same* lines, because the
# difference of a pair varies much less than the lines themselves do. The interval resamples
# the holes.

# %%
import matplotlib.pyplot as plt


def interval(values):
    """`(low, mean, high)`: the middle 95 % of the means of resampled values."""
    rng = np.random.default_rng(0)
    means = [rng.choice(values, len(values)).mean() for _ in range(4000)]
    low, high = np.percentile(means, [2.5, 97.5])
    return low, np.mean(values), high


gains = {way: interval(nats["none"] - nats[way]) for way in WAYS[1:]}
figure, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3), layout="constrained")
for place, (low, mean, high) in enumerate(gains.values()):
    left.plot([low, high], [place, place], color="C0", linewidth=3)
    left.plot([mean], [place], "o", color="C0")
left.axvline(0, color="black", linewidth=1)
left.set_yticks(range(len(gains)), list(gains))
left.set(xlabel="nats a token saved, against no snippet", ylim=(-0.5, len(gains) - 0.5))
left.invert_yaxis()
right.scatter(nats["random"], nats["bm25"], s=14)
limit = max(nats["random"].max(), nats["bm25"].max()) * 1.05
right.plot([0, limit], [0, limit], color="black", linewidth=1)
right.set(xlabel="nats with random snippets", ylabel="nats with BM25's")
plt.show()
over_random = interval(nats["random"] - nats["bm25"])
low, mean, high = over_random
print(f"BM25 over random: {mean:.3f} [{low:.3f}, {high:.3f}] nats a token")

# %% [markdown]
# Each point on the right is a hidden line. Points below the diagonal are lines that BM25's
# snippets made more probable than random ones did. The next cell shows the one that
# gained most, and the snippet that was chosen for it.

# %%
best = int(np.argmax(nats["random"] - nats["bm25"]))
path, before, line, after = holes[best]
print(f"{path}\n    {line}\n")
where, text = chosen("bm25", holes[best])[-1]
print(f"best snippet, from {where}:\n{text[:700]}")

# %% [markdown]
# Always look at examples before you interpret a mean. Ask what the snippet gave the model:
# a function that the hidden line calls, or only text that returns in the project? Both make
# a line more probable, but only the first one is knowledge of the code. In the run shown
# here, the best snippet contains the hidden line itself, because two modules of the package
# are nearly the same. Such copies are common in real projects, and an editor profits from
# them, but a mean that rests on a few of them says little about another project.
#
# ## What an editor does
#
# An editor has no time to read a repository at every keystroke. It keeps snippets of the
# files that you opened lately, and chooses among those. llama.vim sends them as
# `input_extra`, and `lm.complete(..., context=[(path, text), ...])` takes them in the same
# order, the most related last. The prompt must not change at every keystroke either, or the
# cache of notebook 06 is of no use. So the choice is made when you stop typing, and not
# while you type.
#
# ## Exercises
#
# Each of the next cells fails on purpose, with a hint, until you have filled it in. The
# solutions are in `tutorials/solutions/25_retrieval.py`.
#
# **1.** Write the similarity of Jaccard for two sets. Two empty sets have similarity 0.


# %% tags=["exercise"]
def similarity(a, b):
    return None  # your lines


found = similarity({"x", "y"}, {"y", "z"})
assert found is not None, "Hint: & is the intersection and | is the union."
assert abs(found - 1 / 3) < 1e-9, "Hint: one common name of three."
assert similarity(set(), set()) == 0, "Hint: avoid a division by zero."

# %% [markdown]
# **2.** A name that stands in every snippet should count for nearly nothing. Write the
# weight of BM25 for a name that stands in `n` of `total` snippets.


# %% tags=["exercise"]
def rarity(n, total):
    return None  # your lines


found = rarity(1, 1000)
assert found is not None, "Hint: math.log(1 + (total - n + 0.5) / (n + 0.5))."
assert abs(found - math.log(1 + 999.5 / 1.5)) < 1e-9, "Hint: mind the two halves."
assert rarity(1000, 1000) < 0.001, "Hint: a name that is everywhere tells nothing."

# %% [markdown]
# ## Summary
#
# You measured the value of context by the probability of the right line. Snippets that
# share names with the place of the cursor helped more than random ones from the same
# project.

# %%
import os
import resource

print(
    f"{(time.perf_counter() - started) / 60:.1f} minutes on {os.cpu_count()} CPU cores, at "
    f"most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GB of memory"
)
assert len(holes) == lines_to_guess
assert mean >= least_gain

# %% [markdown]
# ## Further reading
#
# * [RepoCoder](https://arxiv.org/abs/2303.12570) searches the repository, completes, and
#   searches again with the completion.
# * [CrossCodeEval](https://arxiv.org/abs/2310.11248) has lines that cannot be guessed without
#   other files.
# * [The probabilistic relevance framework: BM25 and beyond](https://doi.org/10.1561/1500000019)
#   derives the weights of rare names.
