# %% [markdown]
# # Mathematics, step by step
#
# CodeGemma's instruct models were also trained to reason about numbers. In this
# notebook you teach a small model to do so. You make problems with worked steps, let a
# computer algebra system check every answer, fine-tune the model, and count right
# answers for each kind of problem, with numbers that the training never showed. You
# also see where the model still fails, and why.
#
# You should know notebook 01, or at least what a prompt is. Notebook 03 explains LoRA, with
# which a larger model is trained here. For a real CodeGemma, choose another profile in the
# next cell. The last cell compares each model with its own start.

# %% tags=["parameters"] backend="tensorflow"
profile = "tiny"  # "smol", "2b-t4", "2b-t4x2", "2b-a100", "7b-l4", "7b-tpu": see below
families = (  # what is trained; the rest is only asked
    "sum",
    "difference",
    "x + a = b",
    "x - a = b",
    "words: gain",
)
train_problems = 2400
test_problems = 180  # over all families
epochs = None  # None: 6 for "tiny", which begins with nothing, and 2 for the others
row_length = 256  # tokens; several problems to a row
answers_at_once = 60  # more take more memory
least_learnt = 0.6  # of the trained families' answers that were wrong before

# %% [markdown]
# ## A profile for your machine
#
# A profile is a set of options that suit a machine: the model, the dtype, the rank of the
# adapter and the learning rate. `"tiny"` is the small model in the package. It was trained
# on Python only and does not know what a question is. All of its weights are trained here,
# because it must learn a language that it has never seen. The other models know the
# language already, and an adapter is enough. `"smol"` is SmolLM2 on two CPU cores; it is 27
# times as large and takes much longer. The others are CodeGemma on a GPU or a TPU. For
# these, the cell prints the command that plans the memory, and hands the keys of Colab's
# or Kaggle's secrets to the download.

# %%
import time

from codegemma_keras.recipes import hosted, profiles

started = time.perf_counter()
all_weights = {"lora_rank": 0, "learning_rate": 2e-3, "batch_tokens": 4 * row_length}


def load(chosen):
    more = all_weights if chosen.name == "tiny" else {}
    return chosen.load("maths", chat=True, sequence_length=row_length, **more)


chosen = profiles.find(profile)
hosted.sign_in(chosen.chat_preset)
try:
    lm, config = load(chosen)
except (OSError, ValueError, MemoryError) as error:
    print(f"{error}\n\nSo this goes on with the small model in the package.")
    chosen = profiles.find("tiny")
    lm, config = load(chosen)
epochs = epochs or (6 if chosen.name == "tiny" else 2)
trained = (
    f"an adapter of rank {config.lora_rank}" if config.lora_rank else "all weights"
)
print(f"{config.preset} in {config.dtype}; {trained} will be trained")
if chosen.on:
    plan = chosen.command("plan sft", chat=True, sequence_length=row_length)
    print("To see what it needs:", plan)
print(lm.chat("What is 2 + 2?", max_new_tokens=16))

# %% [markdown]
# The small model goes on with the question, as it would with a line of Python.
#
# ## Problems with steps
#
# Models of any size are bad at adding long numbers at once, and good at adding one
# digit at a time. So the worked solution writes down what a child would write: the
# columns from the right, and the carries.

# %%
import numpy as np

from codegemma_keras.tasks import maths

for family in maths.FAMILIES:
    problem = maths.generate(family, np.random.default_rng(4))
    mark = "" if family in families else "    (asked, never trained)"
    print(f"── {family}{mark}\n{problem.question}")
    print(problem.messages()[1]["content"], end="\n\n")

# %% [markdown]
# ## How answers are checked
#
# Each problem also exists as an equation, and `evals.maths` asks SymPy whether an
# answer solves it. `28`, `28.0` and `56/2` are the same answer. Text that a model wrote
# is never evaluated as code. Only digits, brackets and the four operations are read at
# all.

# %%
from codegemma_keras.tasks import answers as checks

for text in (
    "Answer: 28",
    "so x = 28",
    "Answer: 56/2",
    "Answer: 27",
    "__import__('os')",
):
    answer = checks.answer_of(text)
    print(f"{text!r:22} {answer!r:8} {checks.solves(answer, 'x + 2 - 30')}")

train = maths.problems(families, train_problems)
test = maths.problems(tuple(maths.FAMILIES), test_problems, held_out=True)
table = checks.exact_match([p.messages()[1]["content"] for p in train], train)
print("\nworked answers that sympy confirms:")
for family, row in table.items():
    print(f"  {family:14} {row['right']} of {row['problems']}")

# %% [markdown]
# A fifth of all *numbers* is held out, in whatever words they appear. If 28 + 30 is in
# the test set, then neither 58 - 28 nor x - 30 = 28 is in the training set.
#
# ## What the loss counts
#
# Problems become conversations, and the loss counts only the answers. Below is one row
# of training data. The green text is learnt, and the grey text is only read.

# %%
import html

from IPython.display import HTML, display

from codegemma_keras import CodeGemmaChatPreprocessor
from codegemma_keras.batches import pack

preprocessor = CodeGemmaChatPreprocessor(lm.tokenizer)
rows = [preprocessor.row(problem.messages()) for problem in train]
segments, weights = zip(*rows, strict=True)
x, y, weight = pack(segments, row_length, weights=weights)

pieces = []
for token, learnt in zip(y[0], weight[0], strict=True):
    if token:
        colour = "#d3f5d3" if learnt else "#e8e8e8"
        text = html.escape(str(lm.tokenizer.decode([int(token)])))
        pieces.append(f'<span style="background:{colour};color:#222">{text}</span>')
display(
    HTML(
        f'<pre style="font-family:monospace;white-space:pre-wrap">{"".join(pieces)}</pre>'
    )
)
print(f"{len(train)} problems in {len(y)} rows of {row_length} tokens")
print(f"{weight.mean():.0%} of the tokens are learnt")

# %% [markdown]
# ## Before the training


# %%
def ask(problems):
    """The model's greedy answers."""
    asked = [problem.messages()[:1] for problem in problems]
    return [
        answer
        for first in range(0, len(asked), answers_at_once)
        for answer in lm.chat(asked[first : first + answers_at_once], max_new_tokens=96)
    ]


answers_before = ask(test)
before = checks.exact_match(answers_before, test)
for family, row in before.items():
    print(f"{family:14} {row['right']:3} of {row['problems']}")

# %% [markdown]
# ## Training
#
# `compile_model` chooses the optimizer as the recipe `codegemma sft` does.

# %%
import keras
import matplotlib.pyplot as plt

from codegemma_keras.training import model, order

keras.utils.set_random_seed(0)
rows_at_once = order.rows_of_part(config)
parts = len(y) // rows_at_once  # of an epoch; an update is made of one or several
model.compile_model(lm, config, max(1, epochs * parts // config.accumulation))
losses, text_preprocessor = [], lm.preprocessor
lm.preprocessor = None  # rows are tokens already
shuffled = np.random.default_rng(0)
for epoch in range(epochs):
    begin = time.perf_counter()
    rows, means = shuffled.permutation(len(y))[: parts * rows_at_once], [0.0]
    keep_mean = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda _, logs, means=means: means.append(logs["loss"])
    )
    lm.fit(
        {name: values[rows] for name, values in x.items()},
        y[rows],
        sample_weight=weight[rows],
        batch_size=rows_at_once,
        verbose=0,
        callbacks=[keep_mean],
    )
    # Keras reports the mean since the epoch began; the steps are its differences.
    losses += list(np.diff(np.arange(len(means)) * means))
    speed = len(rows) * row_length / (time.perf_counter() - begin)
    print(f"epoch {epoch + 1}: mean loss {means[-1]:.3f}, {speed:,.0f} tokens/s")
lm.preprocessor = text_preprocessor

figure, axes = plt.subplots(figsize=(7, 2.4), layout="constrained")
axes.plot(losses, color="#2f6296", linewidth=1)
axes.set(xlabel="step", ylabel="loss, nats a token", ylim=(0, None))
plt.show()

# %% [markdown]
# ## After the training
#
# The model gets the same questions again.

# %%
answers_after = ask(test)
after = checks.exact_match(answers_after, test)

names = list(after)
places = np.arange(len(names))
shares_before = [before[name]["exact_match"] for name in names]
shares = [after[name]["exact_match"] for name in names]
figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
axes.barh(places + 0.2, shares_before, 0.35, color="#b9b9b9", label="before")
axes.barh(places - 0.2, shares, 0.35, color="#4a9d5b", label="after")
labels = [name if name in families else f"{name} (not trained)" for name in names]
axes.set_yticks(places, labels)
axes.invert_yaxis()
axes.set(xlim=(0, 1), xlabel="exact match on unseen numbers")
axes.legend(loc="lower right")
plt.show()
for name in names:
    print(
        f"{name:14} {before[name]['exact_match']:4.0%} -> {after[name]['exact_match']:4.0%}"
    )

# %% [markdown]
# ## Where it still fails
#
# Four families of problems were not part of the training. The *long sum* needs the same
# steps as a sum, only more of them: models of this kind learn a procedure for the
# lengths that they saw. *Words: loss* needs a subtraction, which other families have as
# well, but nothing in the training said that giving something away means to subtract.
# Here is one wrong answer of each kind:

# %%
shown = set()
for problem, answer in zip(test, answers_after, strict=True):
    right = checks.solves(checks.answer_of(answer), problem.equation)
    if not right and problem.family not in shown:
        shown.add(problem.family)
        print(f"── {problem.family}\n{problem.question}\n{answer.strip()}")
        print(f"✗ {problem.answer} is right\n")

# %% [markdown]
# ## With a network
#
# GSM8K has 8,500 school problems in words, and TensorFlow Datasets can download it:
# `tfds.data_source("gsm8k")` has the columns `question` and `answer`, and `answer_of`
# reads its `####`. A model needs some billions of parameters to solve any of them.
#
# ## Summary
#
# We compare the model with its own start, over the families that the training showed. The
# last cell counts the problems that it got wrong before, and asks how many of them it
# solves now, with pairs of numbers that it had not seen. A model that solved all of them
# from the beginning has nothing to learn here, and must not have forgotten any.

# %%
import os
import resource

right_before = sum(before[name]["right"] for name in families if name in before)
right_after = sum(after[name]["right"] for name in families if name in after)
asked = sum(after[name]["problems"] for name in families if name in after)
print(f"trained families: {right_before} of {asked} right before, {right_after} after")
print(
    f"{(time.perf_counter() - started) / 60:.1f} minutes on {os.cpu_count()} CPU cores, at "
    f"most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GB of memory"
)
assert all(row["exact_match"] == 1 for row in table.values())
assert right_after - right_before >= least_learnt * (asked - right_before)

# %% [markdown]
# ## Further reading
#
# * [Training verifiers to solve math word problems](https://arxiv.org/abs/2110.14168)
#   introduced GSM8K, whose worked answers end in `####`.
# * [Chain-of-thought prompting](https://arxiv.org/abs/2201.11903) shows that written steps help
#   large models.
# * [Analysing mathematical reasoning abilities of neural
#   models](https://arxiv.org/abs/1904.01557) makes problems by programs, as this notebook does.
