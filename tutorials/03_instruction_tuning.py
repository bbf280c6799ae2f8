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
# CodeGemma, set `preset` to `code_gemma_1.1_instruct_7b_en`, `dtype` to `bfloat16` and
# `learning_rate` to 1e-4. The last cell compares each model with its own start.
#
# On a CPU the notebook takes up to 14 GB of memory, which is more than Colab's smallest
# runtime has. On Colab, choose a runtime with more memory or with a GPU.

# %% tags=["parameters"] backend="tensorflow"
preset = "smollm2_135m_code"
dtype = "float32"  # on a GPU or TPU "bfloat16"; CPUs write text slowly in it
isolation = "bubblewrap"  # the weakest sandbox that is allowed; Colab has "namespaces"
held_out_kinds = ("backwards", "divisible", "largest", "scale")  # asked, never shown
train_tasks = 240  # made by rule
test_tasks = 90  # of all fifteen kinds
most_real = 160  # functions of the package `algorithms`, of about 250
epochs = 1
lora_rank = 16
learning_rate = 4e-4
row_length = 384  # tokens; a row holds several conversations
rows_per_step = 1  # two rows take 2 GB more memory
quantized_steps = 4
answer_tokens = 72  # an answer that is longer is cut, and usually does not run
run_seconds = 20.0  # for one answer
least_gain = 0.15  # of the pass rate, for kinds that the training showed

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
    # It has never seen a question, and needs more examples and larger steps.
    train_tasks, epochs, lora_rank, learning_rate = 1300, 3, 32, 4e-3

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
# ## Only answers that run
#
# Each answer is run with its examples in a sandbox. This is a process of its own with
# limits on time and memory, without a network, and with files that it cannot write.
# Code that comes from a repository or a model never runs anywhere else. If the sandbox
# is not available on your machine, the next cell stops and says what to do.

# %%
from codegemma_keras import sandbox

limits = sandbox.Limits(seconds=run_seconds)


def run_all(programs):
    return sandbox.run_all(programs, limits, least=isolation)


print("programs run in:", sandbox.isolation())
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
held_out_real, train_real = real[::10], [t for n, t in enumerate(real) if n % 10]
train = made + train_real
random.Random(0).shuffle(train)  # so that rows hold easy and hard questions
print(
    f"\n{len(train)} questions to train on, {len(test)} + {len(held_out_real)} to ask"
)

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


def ask(model, tasks):
    """Greedy answers to questions."""
    questions = [task.messages()[:1] for task in tasks]
    return model.chat(questions, max_new_tokens=answer_tokens)


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


asked = test + held_out_real
answers_before = ask(lm, asked)
results_before = run_answers(answers_before, asked)
passed = [result.passed for result in results_before]
print(f"made by rule: {sum(passed[: len(test)])} of {len(test)} pass")
print(f"real: {sum(passed[len(test) :])} of {len(held_out_real)} pass")

# %% [markdown]
# ## LoRA
#
# The matrices of the model stay as they are. Beside each of them, the product of two
# thin matrices is trained. These are a few percent of all weights, and the saved file
# is correspondingly small.

# %%
import keras
import matplotlib.pyplot as plt

from codegemma_keras import lora

keras.utils.set_random_seed(0)
lora.add(lm, "answers", rank=lora_rank, alpha=2 * lora_rank)
total = sum(int(np.prod(v.shape)) for v in lm.backbone.weights)
thin = sum(int(np.prod(v.shape)) for v in lm.trainable_variables)
print(f"{thin:,} of {total:,} weights train ({thin / total:.0%})")


def train_adapter(model, steps):
    """Train the active adapter; returns the loss of each step."""
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0,
        max(2, steps),
        warmup_target=learning_rate,
        warmup_steps=max(1, steps // 20),
    )
    model.compile(
        optimizer=keras.optimizers.AdamW(
            schedule, beta_2=0.95, weight_decay=0.0, global_clipnorm=1.0
        ),
        weighted_metrics=[],
        jit_compile=keras.backend.backend() == "jax",  # slower on a CPU with TensorFlow
    )
    losses, preprocessor = [], model.preprocessor
    model.preprocessor = None  # rows are tokens already
    per_epoch = len(y) // rows_per_step
    chosen = np.random.default_rng(0)
    for epoch in range(-(-steps // per_epoch)):
        begin, now = time.perf_counter(), min(per_epoch, steps - epoch * per_epoch)
        rows = chosen.permutation(len(y))[: now * rows_per_step]
        inputs = {name: values[rows] for name, values in x.items()}
        means = []
        keep = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda _, logs, means=means: means.append(logs["loss"])
        )
        model.fit(
            inputs,
            y[rows],
            sample_weight=weight[rows],
            batch_size=rows_per_step,
            verbose=0,
            callbacks=[keep],
        )
        # Keras reports the mean since the epoch began; the steps are its differences.
        losses += list(np.diff(np.arange(now + 1) * [0.0, *means]))
        speed = len(rows) * row_length / (time.perf_counter() - begin)
        print(f"epoch {epoch + 1}: mean loss {means[-1]:.3f}, {speed:,.0f} tokens/s")
    model.preprocessor = preprocessor
    return losses


losses = train_adapter(lm, epochs * (len(y) // rows_per_step))
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
# second one cannot. Look at the intervals before you believe a difference: a few
# answers more or less are chance.
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
fresh = CodeGemmaCausalLM.from_preset(preset, dtype=dtype)
lora.load(fresh, "adapter")
loaded = fresh.log_probabilities([probe])[0]
lora.merge(fresh)
merged = fresh.log_probabilities([probe])[0]
drift = max(float(np.abs(found - trained).max()) for found in (loaded, merged))
print(f"loaded and merged, log-probabilities differ by at most {drift:.1e}")

# %% [markdown]
# ## QLoRA
#
# The frozen matrices can be stored as 8-bit integers, which take a quarter of the
# memory of float32. The adapter stays in float32 and is trained in the same way.
# According to `codegemma plan`, a 7B model can be tuned in this way on a GPU with 24
# GB.

# %%
del fresh
gc.collect()
small = CodeGemmaCausalLM.from_preset(preset, dtype=dtype)


def megabytes(model):
    blocks = model.backbone.transformer_layers
    return sum(v.numpy().nbytes for block in blocks for v in block.weights) / 1e6


full = megabytes(small)
lora.quantize_base(small, "int8")
quantized = megabytes(small)
lora.add(small, "answers", rank=lora_rank, alpha=2 * lora_rank)
print(f"blocks: {full:.1f} MB -> {quantized:.1f} MB")


def answer_loss(model, task):
    """The loss of the right answer to a question, in nats a token."""
    ids, counted = map(np.array, preprocessor.row(task.messages()))
    log_probabilities = model.log_probabilities([list(ids)])[0]
    return -np.average(log_probabilities, weights=counted)


untrained = answer_loss(small, test[0])
train_adapter(small, quantized_steps)
quantized_loss = answer_loss(small, test[0])
print(
    f"loss of an answer that was not trained: {untrained:.2f} -> {quantized_loss:.2f}"
)

# %% [markdown]
# ## Summary
#
# The adapter raised the pass rate of the kinds of functions that it was trained on, for
# functions whose names it had never seen. What it gained on other kinds and on real
# functions stands above, with its interval. The adapter survives saving, loading and
# merging, and an adapter on a quantized base can be trained. The last cell checks this.

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
assert drift < 1e-3
assert quantized < 0.5 * full
assert quantized_loss < untrained
