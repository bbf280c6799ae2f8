# %% [markdown]
# # Teaching a model to answer
#
# CodeGemma's instruct models were tuned on questions and answers that were made from
# open source code. In this notebook you do the same on a small scale. You talk to a
# model and measure how often its programs are right. Then you make questions from
# documented functions, keep those whose answers run, look at what the loss counts, and
# train a LoRA adapter. You score the answers again by running them, for kinds of
# functions that the training showed, and for kinds that it did not show. Finally you
# save, load and merge the adapter, and train one on a base of 8-bit integers (QLoRA).
#
# You should know notebook 01. The notebook uses SmolLM2, as notebook 01 does. For a real
# CodeGemma, choose another profile in the next cell. The last cell compares each model with
# its own start.

# %% tags=["parameters"] backend="tensorflow"
profile = "smol"  # "tiny", "2b-t4", "2b-t4x2", "2b-a100", "7b-l4", "7b-tpu": see below
isolation = "bubblewrap"  # the weakest sandbox that is allowed on your own machine
held_out_kinds = ("backwards", "divisible", "largest", "scale")  # asked, never shown
train_tasks = 240  # made by rule
test_tasks = 90  # of all fifteen kinds
most_real = 160  # functions of the package `algorithms`, of about 250
held_out_real = 3  # of these, every third one is asked and never shown
epochs = 1
quantized_steps = 4
answer_tokens = 72  # an answer that is longer is cut, and usually does not run
answers_at_once = 24  # more take more memory
run_seconds = 20.0  # for one answer
least_gain = 0.15  # of the pass rate, for kinds that the training showed

# %% [markdown]
# ## A profile for your machine
#
# A profile is a set of options that suit a machine: the model, the dtype, the rank of the
# adapter, the length of rows and the learning rate. `"smol"` is SmolLM2 on two CPU cores.
# `"2b-t4"` teaches CodeGemma 2B on Colab's or Kaggle's T4, `"2b-t4x2"` on Kaggle's two,
# and `"2b-a100"` on an A100. `"7b-l4"` tunes CodeGemma 7B, with int8 matrices, on an L4,
# and `"7b-tpu"` on a TPU v5e-8. For these, the cell prints the command that plans the
# memory, and hands the keys of Colab's or Kaggle's secrets to the download.
#
# The model gets a LoRA adapter from the beginning. A new adapter adds zero, so the model
# answers as it did before.

# %%
import time

from codegemma_keras.recipes import hosted, profiles

started = time.perf_counter()
chosen = profiles.find(profile)
hosted.sign_in(chosen.chat_preset)
try:
    lm, config = chosen.load("answers", chat=True)
except (OSError, ValueError, MemoryError) as error:
    print(f"{error}\n\nSo this goes on with the small model in the package.")
    # It has never seen a question, and needs more examples and larger steps.
    chosen, train_tasks, epochs = profiles.find("tiny"), 1300, 3
    lm, config = chosen.load("answers", chat=True, lora_rank=32, learning_rate=4e-3)
preset, row_length = config.preset, config.sequence_length
print(chosen)
if chosen.on:
    print("To see what it needs:", chosen.command("plan sft", chat=True))

# %% [markdown]
# `chat` takes a conversation, adds the control tokens of the model's format, and returns
# the answer. The list of messages is the whole memory of the model: to ask a second
# question, you send the first one and its answer again.

# %%
messages = [{"role": "user", "content": "Write a function that adds two numbers."}]
messages += [{"role": "model", "content": lm.chat(messages, max_new_tokens=48)}]
messages += [{"role": "user", "content": "Now write one that multiplies them."}]
messages += [{"role": "model", "content": lm.chat(messages, max_new_tokens=48)}]
for message in messages:
    print(f"── {message['role']}\n{message['content']}\n")

# %% [markdown]
# The answers stop in the middle because we allowed 48 tokens. The model likes to explain
# what it wrote, and the explanation is not always true.
#
# ## Questions from real code
#
# The idea comes from OSS-Instruct: open source code is full of answers. A documented
# function is an answer, the first paragraph of its docstring is the question, and its
# doctests decide whether another answer is right. In OSS-Instruct a large model writes
# the questions. Here the author of the function has written them already. The package
# `algorithms` has hundreds of such functions.

# %%
import importlib.util
import pathlib

from codegemma_keras.data import Report
from codegemma_keras.tasks import instruct

root = pathlib.Path(importlib.util.find_spec("algorithms").origin).parent
files = [
    (file.relative_to(root.parent).as_posix(), file.read_text("utf-8"))
    for file in sorted(root.rglob("*.py"))
]
report = Report()
found = list(instruct.functions(files, report))[:most_real]
for (_, reason), (number, _) in sorted(report.counts.items()):
    print(f"{reason:36} {number:4}")
print("\n" + found[3].question)
print("──\n" + found[3].answer)

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
# ## Only answers that run
#
# Each answer is run in the sandbox, together with its examples. Code that comes from a
# repository or a model never runs anywhere else.

# %%
limits = sandbox.Limits(seconds=run_seconds)


def run_all(programs):
    return sandbox.run_all(programs, limits, least=isolation)


real = instruct.keep(found, run_all, report)
for (step, reason), (number, _) in sorted(report.counts.items()):
    if step == "execution":
        print(f"{reason:24} {number:4}")

# %% [markdown]
# ## Easy questions, too
#
# Most of these functions are too hard for a model of this size, before and after the
# training. So we add questions that are made by rules: fifteen kinds of one-line
# functions, with names, numbers and wordings that vary. Four of the kinds are held out.
# The test asks for all fifteen, always for functions whose names never occur in the
# training set.

# %%
import random

from codegemma_keras.tasks import small_functions

made = small_functions.tasks(train_tasks + test_tasks)
test, made = made[:test_tasks], made[test_tasks:]
made = [task for task in made if task.origin not in held_out_kinds]
print(test[4].question, "\n──\n" + test[4].answer)
real_test = real[::held_out_real]
train_real = [t for n, t in enumerate(real) if n % held_out_real]
train = made + train_real
random.Random(0).shuffle(train)  # so that rows hold easy and hard questions
print(f"\n{len(train)} questions to train on, {len(test)} + {len(real_test)} to ask")

# %% [markdown]
# ## What the loss counts
#
# A conversation has turns. The loss counts the answer and the token that ends it, from
# which the model learns to stop. The green text is learnt, and the grey text is only
# read.

# %%
import html

import numpy as np
from IPython.display import HTML, display

from codegemma_keras import CodeGemmaChatPreprocessor
from codegemma_keras.batches import pack

preprocessor = CodeGemmaChatPreprocessor(lm.tokenizer)
ids, weights = preprocessor.row(train[0].messages())
pieces = []
for token, learnt in zip(ids, weights, strict=True):
    (part,) = lm.tokenizer.decode_parts([token]) or [""]
    colour = "#d3f5d3" if learnt else "#e8e8e8"
    style = f"background:{colour};color:#222;border-right:1px solid #fff"
    pieces.append(f'<span style="{style}">{html.escape(part)}</span>')
display(
    HTML(f'<pre style="font-family:monospace;line-height:1.6">{"".join(pieces)}</pre>')
)

rows = [preprocessor.row(task.messages()) for task in train]
rows = [row for row in rows if len(row[0]) <= row_length]  # never cut an answer
segments, weights = zip(*rows, strict=True)
x, y, weight = pack(segments, row_length, weights=weights)
print(
    f"{len(rows)} conversations in {len(y)} rows; {weight.mean():.0%} of tokens learnt"
)

# %% [markdown]
# ## Before the training
#
# The score is the share of answers that run and do what the examples of the question
# show. `chat` answers a list of conversations in one batch.

# %%
import collections


def ask(lm, tasks):
    """Greedy answers to questions, some at a time."""
    questions, answers = [task.messages()[:1] for task in tasks], []
    for start in range(0, len(questions), answers_at_once):
        some = questions[start : start + answers_at_once]
        answers += lm.chat(some, max_new_tokens=answer_tokens)
    return answers


def run_answers(answers, tasks):
    """The result of each answer, by executing it."""
    programs = [
        instruct.program(instruct.code_of(answer), task)
        for answer, task in zip(answers, tasks, strict=True)
    ]
    return run_all(programs)


def pass_rates(results, tasks):
    """The share that passes for each kind of function."""
    by_kind = collections.defaultdict(list)
    for result, task in zip(results, tasks, strict=True):
        by_kind[task.origin].append(result.passed)
    return {kind: np.mean(passed) for kind, passed in by_kind.items()}


asked = test + real_test
answers_before = ask(lm, asked)
results_before = run_answers(answers_before, asked)
passed = [result.passed for result in results_before]
print(f"made by rule: {sum(passed[: len(test)])} of {len(test)} pass")
print(f"real: {sum(passed[len(test) :])} of {len(real_test)} pass")

# %% [markdown]
# ## LoRA
#
# The matrices of the model stay as they are. Beside each of them, the product of two
# thin matrices is trained, which `chosen.load` has added. These are a few percent of all
# weights, and the saved file is correspondingly small. `compile_model` chooses the
# optimizer as the recipe `codegemma sft` does.

# %%
import keras
import matplotlib.pyplot as plt

from codegemma_keras import CodeGemmaCausalLM, lora
from codegemma_keras.training import model, order

total = sum(int(np.prod(v.shape)) for v in lm.backbone.weights)
thin = sum(int(np.prod(v.shape)) for v in lm.trainable_variables)
print(f"{thin:,} of {total:,} weights train ({thin / total:.0%})")


rows_at_once = order.rows_of_part(config)
parts_of_epoch = len(y) // rows_at_once  # an update has `config.accumulation` of them


def train_adapter(lm, config, parts):
    """Train the active adapter; returns the loss of each part of an update."""
    model.compile_model(lm, config, max(2, parts // config.accumulation))
    losses, text_preprocessor = [], lm.preprocessor
    lm.preprocessor = None  # rows are tokens already
    shuffled = np.random.default_rng(0)
    for epoch in range(-(-parts // parts_of_epoch)):
        begin = time.perf_counter()
        now = min(parts_of_epoch, parts - epoch * parts_of_epoch)
        rows = shuffled.permutation(len(y))[: now * rows_at_once]
        means = []
        keep = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda _, logs, means=means: means.append(logs["loss"])
        )
        lm.fit(
            {name: values[rows] for name, values in x.items()},
            y[rows],
            sample_weight=weight[rows],
            batch_size=rows_at_once,
            verbose=0,
            callbacks=[keep],
        )
        # Keras reports the mean since the epoch began; the steps are its differences.
        losses += list(np.diff(np.arange(now + 1) * [0.0, *means]))
        speed = len(rows) * row_length / (time.perf_counter() - begin)
        print(f"epoch {epoch + 1}: mean loss {means[-1]:.3f}, {speed:,.0f} tokens/s")
    lm.preprocessor = text_preprocessor
    return losses


losses = train_adapter(lm, config, epochs * parts_of_epoch)
width = min(8, len(losses))
smooth = np.convolve(losses, np.ones(width) / width, mode="valid")
figure, axes = plt.subplots(figsize=(7, 2.4), layout="constrained")
axes.plot(losses, color="#b9cfe4", linewidth=1, label="a step")
axes.plot(
    np.arange(len(smooth)) + width - 1,
    smooth,
    color="#2f6296",
    label=f"mean of {width}",
)
axes.set(xlabel="step", ylabel="loss, nats a token", ylim=(0, None))
axes.legend()
plt.show()

# %% [markdown]
# ## After the training
#
# Each line is a kind of function, from its pass rate before the training (grey) to the
# one after it. The kinds below the dashed line were not in the training set.

# %%
answers_after = ask(lm, asked)
results_after = run_answers(answers_after, asked)
of_rules = slice(0, len(test))  # the others are real functions
rates_before = pass_rates(results_before[of_rules], test)
rates_after = pass_rates(results_after[of_rules], test)
shown = sorted(rates_after, key=lambda kind: (kind in held_out_kinds, kind))
figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
for place, kind in enumerate(shown):
    start, end = rates_before[kind], rates_after[kind]
    colour = "#c98a2b" if kind in held_out_kinds else "#4a9d5b"
    axes.plot([start, end], [place, place], color="#d0d0d0", linewidth=2, zorder=1)
    axes.scatter(start, place, color="#9a9a9a", zorder=2)
    axes.scatter(end, place, color=colour, zorder=3)
axes.axhline(len(shown) - len(held_out_kinds) - 0.5, color="#808080", linestyle="--")
axes.set_yticks(range(len(shown)), shown)
axes.invert_yaxis()
axes.set(xlim=(-0.03, 1.03), xlabel="share of answers that pass")
plt.show()


def interval(passed):
    """The 95 % interval of a share, by Wilson's formula."""
    n, share, z = len(passed), np.mean(passed), 1.96
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return f"{share:.0%} [{centre - half:.0%}, {centre + half:.0%}]"


groups = {"trained kinds": [], "held-out kinds": [], "real functions": []}
for number, task in enumerate(asked):
    if number >= len(test):
        group = "real functions"
    else:
        group = "held-out kinds" if task.origin in held_out_kinds else "trained kinds"
    groups[group].append(number)
for name, numbers in groups.items():
    before, after = (
        interval([results[number].passed for number in numbers])
        for results in (results_before, results_after)
    )
    print(f"{name:15} {before:16} -> {after}")

# %% [markdown]
# The training teaches two things. The model now answers with the function alone, so an
# answer takes few tokens and is not cut. It also learns what the words of the trained
# kinds mean. The first lesson can carry over to kinds that were not shown, and the
# second one cannot.
#
# Look at the intervals before you believe a difference. The trained kinds rise so much that
# their two intervals do not overlap. In the other two groups, compare the intervals yourself.
# Where they overlap widely, a few answers more or less are chance, and only more questions
# could show whether the training helped.
#
# Here are some answers, with the result of the sandbox:

# %%
changed = [
    n for n in range(len(test)) if results_before[n].passed != results_after[n].passed
]
failed = [n for n in range(len(test)) if not results_after[n].passed]
for number in [*changed[:3], *failed[:2]]:
    print(test[number].question.partition("\n\n")[0])
    for name, answers, results in (
        ("before", answers_before, results_before),
        ("after", answers_after, results_after),
    ):
        print(f"   {name}: {results[number].reason}")
        print("      " + instruct.code_of(answers[number]).replace("\n", "\n      "))

# %% [markdown]
# ## Save, load, merge
#
# The adapter is saved as a folder in PEFT's format, which Transformers can load as
# well. A fresh model that loads it gives the same probabilities. When the adapter is
# merged into the matrices, it costs no time any more, and the probabilities are the same
# up to rounding.

# %%
import gc

lora.save(lm, "adapter", "answers")
size = sum(f.stat().st_size for f in pathlib.Path("adapter").iterdir())
print(
    f"adapter: {size / 1e6:.1f} MB; {sorted(f.name for f in pathlib.Path('adapter').iterdir())}"
)

probe = lm.tokenizer.encode(test[0].question)
trained = lm.log_probabilities([probe])[0]
del lm  # one model in memory at a time
gc.collect()
fresh = CodeGemmaCausalLM.from_preset(preset, dtype=config.dtype)
model.quantize(fresh, config)  # if the profile says so
lora.load(fresh, "adapter")
found = [fresh.log_probabilities([probe])[0]]
if not config.quantize:  # integers cannot hold the sum
    lora.merge(fresh)
    found.append(fresh.log_probabilities([probe])[0])
drift = max(float(np.abs(values - trained).max()) for values in found)
print(f"loaded and merged, log-probabilities differ by at most {drift:.1e}")

# %% [markdown]
# ## QLoRA
#
# The frozen matrices can be stored as 8-bit integers, which take a quarter of the
# memory of float32 and half of that of bfloat16. The adapter stays in float32 and is
# trained in the same way. With the profile `"7b-l4"`, all of this notebook runs in this
# way.

# %%
import math

del fresh
gc.collect()


BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}


def megabytes(lm):
    weights = [v for block in lm.backbone.transformer_layers for v in block.weights]
    return sum(math.prod(v.shape) * BYTES.get(v.dtype, 4) for v in weights) / 1e6


def answer_loss(lm, task):
    """The loss of the right answer to a question, in nats a token."""
    ids, counted = map(np.array, preprocessor.row(task.messages()))
    log_probabilities = lm.log_probabilities([list(ids)])[0]
    return -np.average(log_probabilities, weights=counted)


plain = CodeGemmaCausalLM.from_preset(preset, dtype=config.dtype)
full = megabytes(plain)
del plain
gc.collect()
integers = "int4" if config.dtype == "float16" else "int8"  # a T4 has no other choice
small, config = chosen.load("answers", chat=True, quantize=integers)
quantized = megabytes(small)
print(f"blocks: {full:.1f} MB -> {quantized:.1f} MB with the adapter")
untrained = answer_loss(small, test[0])
train_adapter(small, config, quantized_steps)
quantized_loss = answer_loss(small, test[0])
print(
    f"loss of an answer that was not trained: {untrained:.2f} -> {quantized_loss:.2f}"
)

# %% [markdown]
# ## Summary
#
# The adapter raised the pass rate of the kinds of functions that it was trained on, for
# functions whose names it had never seen. For other kinds and for real functions, the
# intervals say whether there is a change that one may believe. The adapter survives saving,
# loading and merging, and an adapter on a quantized base can be trained. The last cell
# checks this, and compares the model with its own start.

# %%
import os
import resource

print(
    f"{(time.perf_counter() - started) / 60:.1f} minutes on {os.cpu_count()} CPU cores, at "
    f"most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GB of memory"
)
assert not {t.name for t in test} & {t.name for t in train}
before, after = (
    np.mean([results[number].passed for number in groups["trained kinds"]])
    for results in (results_before, results_after)
)
assert after >= min(before + least_gain, 0.95)
assert drift < (1e-3 if config.dtype == "float32" else 0.3)  # 16 bits round more
assert quantized < 0.75 * full
assert quantized_loss < untrained

# %% [markdown]
# ## Further reading
#
# * [LoRA](https://arxiv.org/abs/2106.09685) introduced adapters of low rank.
# * [QLoRA](https://arxiv.org/abs/2305.14314) trains such adapters beside a base in four bits.
# * [Magicoder](https://arxiv.org/abs/2312.02120) introduced OSS-Instruct, in which a model
#   writes tasks that are inspired by pieces of real code.
