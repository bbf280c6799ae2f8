# %% [markdown]
# # Mathematics, step by step
#
# CodeGemma's instruct models were also trained to reason about numbers. In this
# notebook you teach a small model to do so. You make problems with worked steps, let a
# computer algebra system check every answer, fine-tune the model, and count right
# answers for each kind of problem, with numbers that the training never showed. You
# also see where the model still fails, and why.
#
# You should know notebook 01, or at least what a prompt is. For a real model, set
# `preset` to `code_gemma_1.1_instruct_7b_en` and `lora_rank` to 16. Notebook 03
# explains LoRA.

# %% tags=["parameters"] backend="tensorflow"
preset = "code_gemma_tiny_py"
dtype = "auto"  # bfloat16 where the device computes it fast, else float32
families = (  # what is trained; the rest is only asked
    "sum",
    "difference",
    "x + a = b",
    "x - a = b",
    "words: gain",
)
train_problems = 2400
test_problems = 180  # over all families
epochs = 6
learning_rate = 2e-3  # of all weights; a large model wants a hundredth of it, and LoRA
lora_rank = 0  # 0 trains all weights
row_length = 256  # tokens; several problems to a row
rows_per_step = 4
most_before = 0.05  # exact match of a family before training, at most
least_after = 0.7  # after, at least ...
least_families = 3  # ... in so many families

# %%
import time

from codegemma_keras import CodeGemmaCausalLM
from codegemma_keras.training import hardware

started = time.perf_counter()
if dtype == "auto":
    dtype = hardware.mixed_policy()
    print(f"dtype: {dtype}")
try:
    lm = CodeGemmaCausalLM.from_preset(preset, dtype=dtype)
except (OSError, ValueError, MemoryError) as error:
    print(f"{error}\n\nSo this goes on with the small model in the package.")
    preset = "code_gemma_tiny_py"
    lm = CodeGemmaCausalLM.from_preset(preset, dtype=dtype)
print(lm.chat("What is 2 + 2?", max_new_tokens=16))

# %% [markdown]
# The small model was trained on Python only, so it does not know what a question is.
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
    return lm.chat([p.messages()[:1] for p in problems], max_new_tokens=96)


answers_before = ask(test)
before = checks.exact_match(answers_before, test)
for family, row in before.items():
    print(f"{family:14} {row['right']:3} of {row['problems']}")

# %% [markdown]
# ## Training
#
# All weights of the small model are trained, because it must learn a language that it
# has never seen. A large model knows the language already, and an adapter is enough.

# %%
import keras

from codegemma_keras import lora

keras.utils.set_random_seed(0)
if lora_rank:
    lora.add(lm, "maths", rank=lora_rank)
steps = epochs * (len(y) // rows_per_step)
schedule = keras.optimizers.schedules.CosineDecay(
    0.0, max(1, steps - 20), warmup_target=learning_rate, warmup_steps=20
)
lm.compile(
    optimizer=keras.optimizers.AdamW(
        schedule, beta_2=0.95, weight_decay=0.0, global_clipnorm=1.0
    ),
    weighted_metrics=[],
    jit_compile=keras.backend.backend() == "jax",  # slower on a CPU with TensorFlow
)
losses = []
keep_loss = keras.callbacks.LambdaCallback(
    on_train_batch_end=lambda _, logs: losses.append(logs["loss"])
)
text_preprocessor, lm.preprocessor = lm.preprocessor, None  # rows are tokens already
for epoch in range(epochs):
    begin = time.perf_counter()
    lm.fit(
        x,
        y,
        sample_weight=weight,
        batch_size=rows_per_step,
        verbose=0,
        callbacks=[keep_loss],
    )
    speed = weight.size / (time.perf_counter() - begin)
    print(f"epoch {epoch + 1}: loss {losses[-1]:.3f}, {speed:,.0f} tokens/s")
lm.preprocessor = text_preprocessor

# %% [markdown]
# ## After the training
#
# The model gets the same questions again.

# %%
import matplotlib.pyplot as plt

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
axes.axvline(least_after, color="#c0392b", linewidth=1, linestyle="--")
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
# Before the training the model solved almost nothing. Afterwards it solves most
# problems of several families, with pairs of numbers that it had not seen. The last
# cell checks this.

# %%
import os
import resource

learnt = [
    name
    for name in families
    if name in after and shares[names.index(name)] >= least_after
]
print("learnt:", ", ".join(learnt))
print(
    f"{(time.perf_counter() - started) / 60:.1f} minutes on {os.cpu_count()} CPU cores, at "
    f"most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GB of memory"
)
assert all(row["exact_match"] == 1 for row in table.values())
assert max(before[name]["exact_match"] for name in families) <= most_before
assert len(learnt) >= least_families

# %% [markdown]
# ## Further reading
#
# * [Training verifiers to solve math word problems](https://arxiv.org/abs/2110.14168)
#   introduced GSM8K, whose worked answers end in `####`.
# * [Chain-of-thought prompting](https://arxiv.org/abs/2201.11903) shows that written steps help
#   large models.
# * [Analysing mathematical reasoning abilities of neural
#   models](https://arxiv.org/abs/1904.01557) makes problems by programs, as this notebook does.
