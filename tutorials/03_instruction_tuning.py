# %% [markdown]
# # Teaching a model to answer
#
# CodeGemma's instruct models were tuned on questions and answers that were made from
# open source code. In this notebook you do the same on a small scale. You make
# questions from documented functions, keep those whose answers run, look at what the
# loss counts, and train a LoRA adapter. You score answers by running them, before and
# after the training. Finally you save, load and merge the adapter, and train one on a
# base of 8-bit integers (QLoRA).
#
# You should know notebook 01. For a real model, set `preset` to `code_gemma_7b_en`,
# `dtype` to `bfloat16` and `learning_rate` to 2e-4.

# %% tags=["parameters"] backend="tensorflow"
preset = "code_gemma_tiny_py"
dtype = "float32"
isolation = "bubblewrap"  # the weakest sandbox that is allowed; Colab has "namespaces"
train_tasks = 1300
test_tasks = 90
most_real = 1000  # functions of the package `algorithms`
epochs = 3
lora_rank = 32
learning_rate = 4e-3  # high, because the model is small and time is short
row_length = 512  # tokens; a row holds several conversations
rows_per_step = 4
quantized_steps = 20
run_seconds = 20.0  # for one answer
most_before = 0.05  # pass rate before training, at most
least_after = 0.10  # and after, at least

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
question = "Write a Python function `add_seven(x)`.\nReturn x plus 7."
print(lm.chat(question, max_new_tokens=24))

# %% [markdown]
# The model continues with *some* Python, if with anything. Nothing in its training told
# it what a question is.
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
# A model with a few million parameters cannot answer any of these questions, before or
# after the training. So most of the training set is made by rules: fifteen kinds of
# one-line functions, with names, numbers and wordings that vary. The test asks for
# functions whose names never occur in the training set.

# %%
from codegemma_keras.tasks import small_functions

made = small_functions.tasks(train_tasks + test_tasks)
test, made = made[:test_tasks], made[test_tasks:]
print(test[4].question, "\n──\n" + test[4].answer)
held_out_real, train_real = real[::10], [t for n, t in enumerate(real) if n % 10]
train = made + train_real
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
# show.

# %%
from codegemma_keras import chat


def ask(model, tasks):
    """Greedy answers to questions."""
    prompts = [
        "".join(part for part, _ in chat.render(t.messages()[:1], True)) for t in tasks
    ]
    return model.generate(prompts, max_new_tokens=64, strip_prompt=True)


def score(answers, tasks):
    """`(share that passes, results)` of answers, by executing them."""
    programs = [
        instruct.program(instruct.code_of(answer), task)
        for answer, task in zip(answers, tasks, strict=True)
    ]
    results = run_all(programs)
    return sum(r.passed for r in results) / len(results), results


answers_before = ask(lm, test)
before, _ = score(answers_before, test)
print(f"pass rate before: {before:.0%}")

# %% [markdown]
# ## LoRA
#
# The matrices of the model stay as they are. Beside each of them, the product of two
# thin matrices is trained. These are a few percent of all weights, and the saved file
# is correspondingly small.

# %%
import keras
import matplotlib.pyplot as plt
import numpy as np

from codegemma_keras import lora

keras.utils.set_random_seed(0)
lora.add(lm, "answers", rank=lora_rank, alpha=2 * lora_rank)
total = sum(int(np.prod(v.shape)) for v in lm.backbone.weights)
thin = sum(int(np.prod(v.shape)) for v in lm.trainable_variables)
print(f"{thin:,} of {total:,} weights train ({thin / total:.0%})")


def train_adapter(model, steps):
    """Train the active adapter; returns the losses, running means of each epoch."""
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
    keep = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda _, logs: losses.append(logs["loss"])
    )
    model.preprocessor = None  # rows are tokens already
    per_epoch = len(y) // rows_per_step
    chosen = np.random.default_rng(0)
    for epoch in range(-(-steps // per_epoch)):
        begin, now = time.perf_counter(), min(per_epoch, steps - epoch * per_epoch)
        rows = chosen.permutation(len(y))[: now * rows_per_step]
        inputs = {name: values[rows] for name, values in x.items()}
        model.fit(
            inputs,
            y[rows],
            sample_weight=weight[rows],
            batch_size=rows_per_step,
            verbose=0,
            callbacks=[keep],
        )
        speed = len(rows) * row_length / (time.perf_counter() - begin)
        print(f"epoch {epoch + 1}: loss {losses[-1]:.3f}, {speed:,.0f} tokens/s")
    model.preprocessor = preprocessor
    return losses


losses = train_adapter(lm, epochs * (len(y) // rows_per_step))
figure, axes = plt.subplots(figsize=(7, 2.4), layout="constrained")
axes.plot(losses, color="#4a7fb5", linewidth=1)
axes.set(xlabel="step", ylabel="loss, nats a token")
plt.show()

# %% [markdown]
# ## After the training

# %%
answers_after = ask(lm, test)
after, results = score(answers_after, test)
kinds = sorted({task.origin for task in test})
by_kind = [
    np.mean([r.passed for r, t in zip(results, test, strict=True) if t.origin == kind])
    for kind in kinds
]
figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
axes.barh(kinds, by_kind, color="#4a9d5b")
axes.invert_yaxis()
axes.set(xlim=(0, 1), xlabel="share of answers that pass")
plt.show()
print(f"pass rate: {before:.0%} -> {after:.0%} of {len(test)} answers")

real_rate, _ = score(ask(lm, held_out_real), held_out_real)
print(f"on real functions it never saw: {real_rate:.0%} of {len(held_out_real)}")

# %% [markdown]
# Real functions remain out of reach for a model of this size. Here are some answers to
# the easy questions, with the result of the sandbox:

# %%
for number in range(4):
    print(test[number].question.partition("\n\n")[0])
    print("   before:", repr(answers_before[number])[:76])
    print("   after: ", repr(instruct.code_of(answers_after[number]))[:76])
    print("   →", results[number].reason, end="\n\n")

# %% [markdown]
# ## Save, load, merge
#
# The adapter is saved as a folder in PEFT's format, which Transformers can load as
# well. When a fresh model loads it, the answers are the same. When it is merged into
# the matrices, it costs no time any more, and the answers are the same up to rounding.

# %%
lora.save(lm, "adapter", "answers")
size = sum(f.stat().st_size for f in pathlib.Path("adapter").iterdir())
print(
    f"adapter: {size / 1e6:.1f} MB; {sorted(f.name for f in pathlib.Path('adapter').iterdir())}"
)

fresh = CodeGemmaCausalLM.from_preset(preset, dtype=dtype)
lora.load(fresh, "adapter")
prompts = [task.messages()[0]["content"] for task in test[:6]]
same = [
    fresh.chat(p, max_new_tokens=48) == lm.chat(p, max_new_tokens=48) for p in prompts
]
print("loaded, same answers:", sum(same), "of", len(same))

probe = lm.tokenizer.encode(test[0].question)
apart = fresh.log_probabilities([probe])[0]
lora.merge(fresh)
merged = fresh.log_probabilities([probe])[0]
drift = float(np.abs(apart - merged).max())
print(f"merged, log-probabilities differ by at most {drift:.1e}")

# %% [markdown]
# ## QLoRA
#
# The frozen matrices can be stored as 8-bit integers, which take a quarter of the
# memory of float32. The adapter stays in float32 and is trained in the same way.
# According to `codegemma plan`, a 7B model can be tuned in this way on a GPU with 24
# GB.

# %%
small = CodeGemmaCausalLM.from_preset(preset, dtype=dtype)


def megabytes(model):
    blocks = model.backbone.transformer_layers
    return sum(v.numpy().nbytes for block in blocks for v in block.weights) / 1e6


full = megabytes(small)
lora.quantize_base(small, "int8")
quantized = megabytes(small)
lora.add(small, "answers", rank=lora_rank, alpha=2 * lora_rank)
print(f"blocks: {full:.1f} MB -> {quantized:.1f} MB")
quantized_losses = train_adapter(small, quantized_steps)

# %% [markdown]
# ## Summary
#
# Before the training hardly any answer passed. Now a good part of them passes, for
# functions whose names never occurred in the training set. The adapter survives saving,
# loading and merging, and an adapter on a quantized base can be trained. The last cell
# checks this.

# %%
import os
import resource

print(
    f"{(time.perf_counter() - started) / 60:.1f} minutes on {os.cpu_count()} CPU cores, at "
    f"most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GB of memory"
)
assert not {t.name for t in test} & {t.name for t in train}
assert before <= most_before
assert after >= least_after
assert all(same)
assert drift < 1e-3
assert quantized < 0.5 * full
assert quantized_losses[-1] < quantized_losses[0]
