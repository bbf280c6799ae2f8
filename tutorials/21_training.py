# %% [markdown]
# # Training from nothing, on a laptop
#
# In this chapter you train a small language model from nothing, in a few minutes, on source
# code that is already on your machine: parts of Python's own library, and Keras. You make
# the vocabulary, check the network before you trust it, train it, and compare it with models
# that only count. In the end you compute what the same training costs at the size of
# CodeGemma.
#
# You need chapters 10 and 11, or to know what a token and a network are. The network that
# you train here has half a million parameters. It will learn how Python looks, and not what
# it means.

# %% tags=["parameters"] backend="tensorflow"
packages = ("json", "logging", "email", "http", "asyncio", "unittest", "keras")
pieces = 1024  # of the vocabulary
length = 128  # tokens of a row
batch = 8  # rows of a step
held_rows = 128  # kept apart for the test
steps = 1600
report_every = 200
peak_rate = 3e-3
least_gain = 0.2  # nats below the table of pairs

# %%
import contextlib
import math
import time

import keras
import numpy as np

from codegemma_keras import CodeGemmaBackbone, CodeGemmaCausalLM, CodeGemmaTokenizer
from codegemma_keras.data.read import installed as corpus
from codegemma_keras.preprocessor import CodeGemmaCausalLMPreprocessor
from codegemma_keras.tokenizer.training import train_tokenizer

keras.utils.set_random_seed(0)
files = [document.text for document in corpus.python_files(packages)]
tokenizer = CodeGemmaTokenizer(proto=train_tokenizer(files, pieces))
ids = [tokenizer.encode(text) for text in files]
total, characters = sum(map(len, ids)), sum(map(len, files))
print(f"{len(files)} files, {characters:,} characters, {total:,} tokens")
print([tokenizer.decode([i]) for i in ids[0][:24]])

# %% [markdown]
# The vocabulary is small on purpose: each piece is a row of the embedding table, and a small
# network should not spend all its parameters there.
#
# ## The data
#
# The files are put in random order, joined by the token that ends a file, and cut into
# rows. A row of `length + 1` tokens is both input and target, because the target of
# each token is the next one. The last rows are held out, and nothing is learnt from them.
# There are more rows than the run can read in a few minutes, so we keep as many as it will
# read, each of them once. The network and the models that count learn from these rows only.

# %%
order = np.random.default_rng(0).permutation(len(ids))
stream = []
for i in order:
    stream += [*ids[i], tokenizer.file_separator_id]
rows = np.array(stream[: len(stream) // length * length]).reshape(-1, length)
rows = np.insert(rows, 0, tokenizer.start_token_id, axis=1)  # bos, [R, length + 1]
train_rows, test_rows = rows[:-held_rows][: steps * batch], rows[-held_rows:]


def inputs(rows):
    """Rows as `(x, y)` for fit()."""
    x = {"token_ids": rows[:, :-1], "padding_mask": np.ones_like(rows[:, :-1])}
    return x, rows[:, 1:]


print(
    f"{len(rows):,} rows; {len(train_rows):,} to learn from, {len(test_rows)} to test"
)

# %% [markdown]
# ## The network, and two checks
#
# An untrained network should know nothing. All V tokens should be equally likely, which
# gives a loss of `ln V`. A much larger loss means that the untrained network already
# prefers some tokens, which suggests a faulty initialisation.


# %%
def new_model():
    """An untrained CodeGemma, small."""
    backbone = CodeGemmaBackbone(
        vocabulary_size=tokenizer.vocabulary_size(),
        num_layers=3,
        num_query_heads=4,
        num_key_value_heads=1,
        hidden_dim=128,
        intermediate_dim=2 * 256,  # both branches
        head_dim=32,
    )
    preprocessor = CodeGemmaCausalLMPreprocessor(tokenizer, sequence_length=length)
    return CodeGemmaCausalLM(backbone, preprocessor)


@contextlib.contextmanager
def tokens_given(model):
    """Within, fit() and evaluate() take rows of tokens; else they take texts."""
    model.preprocessor, kept = None, model.preprocessor
    yield
    model.preprocessor = kept


def test_loss(model):
    """Nats a token on the rows kept apart."""
    x, y = inputs(test_rows)
    with tokens_given(model):
        found = model.evaluate(x, y, batch_size=batch, verbose=0, return_dict=True)
    return float(found["loss"])


lm = new_model()
parameters = lm.count_params()
lm.compile(optimizer=keras.optimizers.Adam(peak_rate))
at_start = test_loss(lm)
print(f"{parameters:,} parameters")
print(f"loss {at_start:.2f}, ln V = {math.log(tokenizer.vocabulary_size()):.2f}")

# %% [markdown]
# The second check finds most mistakes of a training program within seconds: give the
# network *one* batch again and again. It must learn this batch by heart. If it cannot,
# no amount of data will help.

# %%
one_batch = inputs(train_rows[:batch])
with tokens_given(lm):
    history = lm.fit(*one_batch, batch_size=batch, epochs=40, verbose=0)
by_heart = history.history["loss"]
print("one batch:", [round(v, 2) for v in by_heart[::8]], "...", round(by_heart[-1], 3))

# %% [markdown]
# ## What counting can do
#
# A loss means nothing without a comparison. How good is a model that knows only how
# *frequent* each token is? How good is a model that knows which token follows which? Both
# models are made by counting.
#
# The comparison must be fair. So both models count exactly the tokens that the network will
# read, and they are tested on the same held-out rows. A pair that was never counted must not
# get the probability zero. So the table of pairs is mixed with the single counts, as if these
# were `weight` more observations. We try several weights and keep the one that suits the
# held-out rows best, which favours the table a little.

# %%
V = tokenizer.vocabulary_size()
_, targets = inputs(train_rows)
previous = train_rows[:, :-1]
singles = np.bincount(targets.ravel(), minlength=V) + 0.1
single_p = singles / singles.sum()
pairs = np.zeros((V, V))
np.add.at(pairs, (previous.ravel(), targets.ravel()), 1)
x, y = inputs(test_rows)


def pair_loss(weight):
    """Nats a token if the single counts are worth so many observations."""
    pair_p = (pairs + weight * single_p) / (pairs.sum(1, keepdims=True) + weight)
    return float(-np.log(pair_p[x["token_ids"], y]).mean())


by_weight = {weight: pair_loss(weight) for weight in (2, 5, 10, 20, 50, 100, 200)}
counting = {
    "single tokens": float(-np.log(single_p[y]).mean()),
    "pairs": min(by_weight.values()),
}
print("weights:", {weight: round(value, 2) for weight, value in by_weight.items()})
print({name: round(value, 2) for name, value in counting.items()})

# %% [markdown]
# ## The run
#
# The learning rate rises for a few steps, because the first gradients of an untrained
# network vary strongly. Then it falls to zero in a straight line, so that the weights settle.
# Keras reports the mean loss since a call of `fit` began, and the loss of each single step
# follows from the means before and after it.

# %%
from codegemma_keras.training.schedules import WarmupStableDecay

keras.utils.set_random_seed(1)
lm = new_model()
schedule = WarmupStableDecay(peak_rate, steps, warmup_steps=steps // 20, decay=0.95)
lm.compile(
    optimizer=keras.optimizers.AdamW(
        schedule, weight_decay=0.1, beta_2=0.95, global_clipnorm=1.0
    )
)
opening = "def read(self, path):\n"


def sample():
    """What the model makes of an opening, greedily."""
    text = lm.generate(opening, max_new_tokens=24, strip_prompt=True)
    return text


samples = {0: sample()}
losses, tested, seconds = [], [(0, test_loss(lm))], 0.0
for done in range(0, steps, report_every):
    some = train_rows[done * batch : (done + report_every) * batch]
    means = []
    keep = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda _, logs, means=means: means.append(logs["loss"])
    )
    begin = time.perf_counter()
    with tokens_given(lm):
        lm.fit(
            *inputs(some), batch_size=batch, verbose=0, shuffle=False, callbacks=[keep]
        )
    seconds += time.perf_counter() - begin
    losses += list(np.diff(np.arange(len(means) + 1) * [0.0, *means]))
    tested.append((done + report_every, test_loss(lm)))
    print(f"step {tested[-1][0]:4}: {tested[-1][1]:.2f} nats a token")
samples[steps] = sample()

# %%
import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
axes.plot(losses, color="#8fc98f", linewidth=0.6, label="each step")
axes.plot(*zip(*tested, strict=True), "o-", color="#4a7fb5", label="held-out rows")
for (name, value), style in zip(counting.items(), ("--", ":"), strict=True):
    axes.axhline(value, color="#e08e45", linestyle=style, label=f"counting {name}")
axes.set(xlabel="step", ylabel="nats a token", ylim=(0, None))
axes.legend(ncols=2)
plt.show()
for step, text in samples.items():
    print(f"after {step} steps:", repr(text))

# %% [markdown]
# The network ends clearly below the table of pairs, and both have read the same 1,638,400
# tokens. The table has a place for each of a million pairs, and the network must share half
# a million numbers among all that it knows. The network wins because it sees more than one
# token: a name that was used some lines above, a bracket that is still open, the depth of
# the indentation.
#
# It needs time for this. At the first tests, the table is still better, although it has
# counted all the rows by then and the network has read only some of them. Without the dashed
# and dotted lines, you could not tell when the network begins to know more than pairs.
#
# The thin line is the loss of each step. It jumps up and down, because a step has only eight
# rows, and some files are harder to predict than others. So a single step says little, and
# the tests, which always use the same held-out rows, say more. At the end of the schedule
# the learning rate is zero, and a longer run would need a longer schedule.
#
# ## What it costs at full size
#
# Training takes about 6 operations for each parameter and each token. The forward pass needs
# a multiplication and an addition, and the backward pass needs twice as many. So the cost of
# a run is 6 times the parameters times the tokens. We take the speed that was just measured
# on this machine, and compute how long CodeGemma 2B would train here on its 500 billion
# tokens.

# %%
seen = train_rows[:, 1:].size
speed = 6 * parameters * seen / seconds  # operations a second
years = 6 * 2.5e9 * 500e9 / speed / (365 * 24 * 3600)
print(
    f"here: {seen:,} tokens in {seconds:.0f} s, {speed / 1e9:.1f} billion operations a second"
)
print(f"CodeGemma 2B on this machine: {years:,.0f} years")

# %% [markdown]
# A small network does not use the whole processor, so a large one would be somewhat faster
# than this. But even a factor of ten would not change the conclusion. That is why one starts
# from a trained model, and why chapter 23 changes as little of it as possible.
#
# ## Exercises
#
# Each of the next cells fails on purpose, with a hint, until you have filled it in. The
# solutions are in `tutorials/solutions/21_training.py`.
#
# **1.** Write the schedule: linear from 0 to `peak` in `warmup` steps, then constant, and
# linear down to 0 in the last `decay` share of all steps.


# %% tags=["exercise"]
def rate_at(step, peak, steps, warmup, decay):
    """The learning rate of a step; step 0 has rate 0, and so has the last, `steps`."""
    return None  # your lines


assert rate_at(0, 1.0, 100, 10, 0.2) is not None, "Hint: three cases, by the step."
assert rate_at(0, 1.0, 100, 10, 0.2) == 0, "Hint: it begins at 0."
assert abs(rate_at(5, 1.0, 100, 10, 0.2) - 0.5) < 1e-9, "Hint: half way up at half."
assert rate_at(50, 1.0, 100, 10, 0.2) == 1.0, "Hint: the peak in between."
assert abs(rate_at(90, 1.0, 100, 10, 0.2) - 0.5) < 1e-9, "Hint: half way down at 90."

# %% [markdown]
# **2.** Models with different vocabularies cannot be compared by nats a *token*, for their
# tokens differ in length. Bits per *byte* of text can be.


# %% tags=["exercise"]
def bits_per_byte(nats_per_token, tokens, size):
    """Bits for each of `size` bytes, if their text has so many tokens."""
    return None  # your lines


found = bits_per_byte(math.log(256), 1000, 1000)
assert found is not None, "Hint: a nat is 1 / ln 2 bits."
assert abs(found - 8) < 1e-9, "Hint: 256 equally likely tokens of a byte each: 8 bits."
assert abs(bits_per_byte(2.0, 100, 400) - 0.7213) < 1e-3, (
    "Hint: all nats are nats_per_token times tokens; share them among the bytes."
)

# %% [markdown]
# **3.** You have a number of operations to spend. The rule of thumb of Hoffmann et al.
# (2022) says that a network should see about 20 tokens per parameter. How large a
# network, and how many tokens?


# %% tags=["exercise"]
def best_size(operations):
    """`(parameters, tokens)` with tokens = 20 * parameters."""
    return None  # your lines


found = best_size(6 * 1e6 * 20e6)
assert found is not None, "Hint: operations = 6 * parameters * tokens."
assert abs(found[0] - 1e6) < 1, "Hint: that is 120 times the square of the parameters."
assert abs(found[1] - 20e6) < 20, "Hint: tokens are 20 times as many."

# %% [markdown]
# ## Check
#
# The last cell checks what this chapter says.

# %%
final = tested[-1][1]
assert abs(at_start - math.log(V)) < 1.0
assert by_heart[-1] < 0.3 * by_heart[0]
assert len(train_rows) == steps * batch == len(losses) * batch  # each row once
assert final < counting["pairs"] - least_gain
assert samples[0] != samples[steps]

# %% [markdown]
# ## Further reading
#
# * [Scaling laws for neural language models](https://arxiv.org/abs/2001.08361) relates the loss
#   to parameters, data and operations.
# * [Training compute-optimal large language models](https://arxiv.org/abs/2203.15556) corrects
#   it: 20 tokens for each parameter.
# * [Decoupled weight decay regularization](https://arxiv.org/abs/1711.05101) introduced the
#   optimizer AdamW.
