# %% [markdown]
# # LoRA by hand
#
# There are two ways to teach a model one more thing. You can train all of its numbers. Or
# you can leave them as they are, and train a small *addition* to some of its matrices, which
# is the product of two thin matrices. The second way is called LoRA. In this chapter you see
# why a small addition may be enough. You write it as a layer of twenty lines, put it into
# CodeGemma, train it, compare it with full fine-tuning, and merge it into the matrices. In
# the end you see that the package's own adapters are the same thing.
#
# You need to know what training is; chapter 11 names the matrices.

# %% tags=["parameters"]
preset = "code_gemma_tiny_py"
rank = 4
alpha = 8  # the addition is scaled by alpha / rank
epochs = 5
least_drop = 0.4  # share of the loss on new examples that LoRA must take away
tolerance = 1e-3  # of equal logits, relative to the largest

# %% [markdown]
# The model is to learn to write tests for a library that does not exist, `lumen`, so it
# cannot know its names already. There are forty tests, made from a template. Eight of
# them are held out.

# %%
import contextlib
import random

import keras
import numpy as np
from keras import ops

from codegemma_keras import CodeGemmaCausalLM
from codegemma_keras.batches import pack

TEMPLATE = """from lumen import Beam, Mirror, scatter


def test_{word}_keeps_energy():
    beam = Beam(width={width}, colour="{colour}")
    mirror = Mirror(angle={angle}, coating="{word}")
    assert scatter(beam, mirror).energy == beam.energy
"""
WORDS = "silver copper glass water quartz amber ice gold slate pearl".split()


def lesson(rng):
    return TEMPLATE.format(
        word=rng.choice(WORDS),
        width=rng.randrange(10, 99),
        colour=rng.choice(["red", "green", "blue"]),
        angle=rng.randrange(10, 90),
    )


rng = random.Random(0)
lessons = [lesson(rng) for _ in range(40)]
lm = CodeGemmaCausalLM.from_preset(preset, dtype="float32")
tokenizer = lm.tokenizer


def rows_of(texts, length=128):
    """Texts as `(x, y, sample_weight)` for fit(), one text a row."""
    ids = [tokenizer.encode(text) for text in texts]
    ids = [[tokenizer.start_token_id, *i, tokenizer.end_token_id] for i in ids]
    return pack(ids, length, rows=[[row] for row in range(len(ids))])


train, test = rows_of(lessons[:32]), rows_of(lessons[32:])
start_text = "from lumen import Beam, "
print(start_text + "▶" + lm.generate(start_text, max_new_tokens=24, strip_prompt=True))

# %% [markdown]
# ## Full fine-tuning, and what it changes
#
# First we train all weights, to have something to compare with. We keep a copy of the
# weights, and afterwards look at what was *added* to them.


# %%
@contextlib.contextmanager
def tokens_given(model):
    """Within, fit() and evaluate() take rows of tokens; else they take texts."""
    model.preprocessor, kept = None, model.preprocessor
    yield
    model.preprocessor = kept


def fit(model, learning_rate):
    """Train; the loss on the eight new tests before, and after each epoch."""
    x, y, weight = test
    model.compile(optimizer=keras.optimizers.Adam(learning_rate))
    with tokens_given(model):
        before = model.evaluate(
            x, y, sample_weight=weight, batch_size=8, verbose=0, return_dict=True
        )
        history = model.fit(
            train[0],
            train[1],
            sample_weight=train[2],
            batch_size=4,
            epochs=epochs,
            validation_data=(x, y, weight),
            validation_batch_size=8,
            verbose=0,
        )
    return [before["loss"], *history.history["val_loss"]]


keras.utils.set_random_seed(0)
numbers = ops.convert_to_numpy
attention = [layer.attention for layer in lm.backbone.transformer_layers]
before = [numbers(a.query_dense.kernel).copy() for a in attention]
curves = {"all numbers": fit(lm, 3e-4)}
added = [
    numbers(a.query_dense.kernel) - old
    for a, old in zip(attention, before, strict=True)
]
trained = {"all numbers": lm.count_params()}
print("loss on new tests:", [round(float(v), 2) for v in curves["all numbers"]])

# %% [markdown]
# The addition is a matrix of D rows and N * H columns. How much information does it hold?
# Every matrix is a sum of simple matrices, each of which is a column times a row. Their
# sizes are the singular values. If the few largest ones make up most of the addition, then
# a few columns and rows are enough.

# %%
import matplotlib.pyplot as plt


def share_of_largest(matrix, count):
    """The part of a matrix's squares that its `count` largest directions hold."""
    values = np.linalg.svd(matrix, compute_uv=False) ** 2
    return np.cumsum(values)[:count] / values.sum()


def as_matrix(kernel):
    """`[N, D, H]` -> `[D, N * H]`."""
    return kernel.transpose(1, 0, 2).reshape(kernel.shape[1], -1)


most = 64
noise = np.random.default_rng(0).normal(size=as_matrix(added[0]).shape)
shares = {"random numbers": share_of_largest(noise, most)}
for depth in (0, len(added) - 1):
    shares[f"added, block {depth}"] = share_of_largest(as_matrix(added[depth]), most)

figure, axes = plt.subplots(figsize=(7, 2.7), layout="constrained")
for (name, share), colour in zip(
    shares.items(), ("#999999", "#4a7fb5", "#e08e45"), strict=True
):
    axes.plot(range(1, most + 1), share, color=colour, label=name)
axes.set(xlabel="directions kept", ylabel="share held", ylim=(0, 1))
axes.legend()
plt.show()

# %% [markdown]
# What training added is far from random: few directions hold much of it.
#
# ## The layer
#
# So we train only a few of them. For a linear layer `y = x W`, with W of `in` times `out`
# numbers, add
#
#     y = x W + (alpha / rank) * (x A) B        A [in, rank], B [rank, out]
#
# and leave W as it is. A begins with random numbers and B with zeros. So the product is zero
# at first and the model is unchanged, but B gets a gradient at once. Scaling by
# `alpha / rank` keeps the size of the addition about the same when you try another rank.
#
# So we need a layer that takes the output and the input of a linear layer and returns the
# output with the addition, and a way to have it called after each linear layer:


# %%
class LowRank(keras.layers.Layer):
    """Adds `scale * (x A) B` to a linear layer's output."""

    def __init__(self, in_size, out_size, rank, scale, seed):
        super().__init__()
        self.scale = scale
        start = keras.initializers.RandomNormal(stddev=in_size**-0.5, seed=seed)
        self.a = self.add_weight(shape=(in_size, rank), initializer=start)
        self.b = self.add_weight(shape=(rank, out_size), initializer="zeros")
        self.built = True

    def call(self, y, x, training=None):
        low = ops.matmul(ops.matmul(x, self.a), self.b)  # [B, T, out]
        return y + self.scale * ops.reshape(low, ops.shape(y))


def with_addition(call, addition):
    """`call` of a linear layer, followed by an addition to its output."""

    def both(x, training=None):
        return addition(call(x, training=training), x)

    return both


def linear_layers(model):
    """The four linear layers of each block whose input is `[B, T, D]`."""
    for block in model.backbone.transformer_layers:
        yield block.attention.query_dense
        yield block.attention.value_dense
        yield block.gating_ffw
        yield block.gating_ffw_2


def add_low_rank(model, rank, alpha):
    """Freeze the model and give each of those layers an addition."""
    for variable in model.backbone.weights:
        variable.trainable = False
    width = model.backbone.hidden_dim
    for seed, layer in enumerate(linear_layers(model)):
        layer._tracker.unlock()  # Keras locks a layer once it is built
        out_size = int(np.prod(layer.kernel.shape)) // width
        layer.addition = LowRank(width, out_size, rank, alpha / rank, seed)
        layer.call = with_addition(layer.call, layer.addition)
        layer._tracker.lock()


probe = {"token_ids": test[0]["token_ids"], "padding_mask": test[0]["padding_mask"]}
lm = CodeGemmaCausalLM.from_preset(preset, dtype="float32")
untouched = numbers(lm(probe))
add_low_rank(lm, rank, alpha)
at_start = float(np.abs(numbers(lm(probe)) - untouched).max())
trained[f"rank {rank}"] = sum(int(np.prod(v.shape)) for v in lm.trainable_variables)
print("changed at the start:", at_start)
for name, count in trained.items():
    print(f"{name:12} {count:10,} numbers to train")

# %% [markdown]
# ## Training
#
# The data and the number of steps are the same. The learning rate is higher, because the
# weights of the model itself stay as they are.

# %%
curves[f"rank {rank}"] = fit(lm, 1e-2)
lm_one = CodeGemmaCausalLM.from_preset(preset, dtype="float32")
add_low_rank(lm_one, 1, alpha / rank)
trained["rank 1"] = sum(int(np.prod(v.shape)) for v in lm_one.trainable_variables)
curves["rank 1"] = fit(lm_one, 1e-2)

figure, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
for (name, losses), colour in zip(
    curves.items(), ("#999999", "#4a7fb5", "#e08e45"), strict=True
):
    label = f"{name}: {trained[name]:,} trained"
    axes.plot(losses, "o-", color=colour, label=label)
axes.set(xlabel="epoch", ylabel="loss on new tests", ylim=(0, None))
axes.legend()
plt.show()
drop = 1 - curves[f"rank {rank}"][-1] / curves[f"rank {rank}"][0]
print(f"rank {rank} took away {drop:.0%} of the loss")
print(start_text + "▶" + lm.generate(start_text, max_new_tokens=24, strip_prompt=True))

# %% [markdown]
# A small part of the numbers was enough for most of the gain. Look at the completion, too.
# In the run shown here, it has the form of the new tests, but the model still writes a
# number where the name of a class belongs.
#
# Training needs a gradient for each number that is trained, and Adam keeps two more numbers
# for it. For a 7B model, LoRA can therefore make the difference between one GPU and several.
# What was learnt is a file of its own, of a few hundred kilobytes here. The model itself is
# unchanged, and others can go on using it.
#
# ## Merging
#
# At the end, the addition can be added to the matrix itself, because `x W + s (x A) B` is
# `x (W + s A B)`. Then the model is as fast as before, and has no trace of LoRA.

# %%
tuned = numbers(lm(probe))
merged = CodeGemmaCausalLM.from_preset(preset, dtype="float32")
pairs = list(zip(linear_layers(lm), linear_layers(merged), strict=True))
for source, target in pairs:
    added = source.addition
    change = added.scale * numbers(added.a) @ numbers(added.b)
    kernel = numbers(target.kernel)
    if kernel.ndim == 3:  # [N, D, H]
        n, d, h = kernel.shape
        change = change.reshape(d, n, h).transpose(1, 0, 2)
    target.kernel.assign(kernel + change)


def distance(logits):
    """Largest difference to the tuned logits, relative to the largest of them."""
    return float(np.abs(numbers(logits) - tuned).max() / np.abs(tuned).max())


merged_error = distance(merged(probe))
print(f"merged model differs by {merged_error:.1e}")

# %% [markdown]
# ## The package's own
#
# `codegemma_keras.lora` does the same for all seven linear layers of a block, under a name,
# in the file format of PEFT: A is stored as `[rank, in]` and B as `[out, rank]`. Give it
# your numbers and it gives your logits.

# %%
import pathlib

from codegemma_keras import lora

theirs = CodeGemmaCausalLM.from_preset(preset, dtype="float32")
targets = ("q_proj", "v_proj", "gate_proj", "up_proj")
lora.add(theirs, "lumen", rank=rank, alpha=alpha, targets=targets)
for source, target in zip(linear_layers(lm), linear_layers(theirs), strict=True):
    pair = target.adapters["lumen"]
    pair.a.assign(numbers(source.addition.a).T)
    pair.b.assign(numbers(source.addition.b).T)
package_error = distance(theirs(probe))
lora.save(theirs, "lumen-adapter", "lumen")
size = sum(file.stat().st_size for file in pathlib.Path("lumen-adapter").iterdir())
print(f"differs by {package_error:.1e}; saved: {size / 1e3:.0f} kB")

# %% [markdown]
# ## Exercises
#
# Each of the next cells fails on purpose, with a hint, until you have filled it in. The
# solutions are in `tutorials/solutions/23_lora_by_hand.py`.
#
# **1.** How many numbers does LoRA train in CodeGemma 2B, if the query and the value
# projection of each of 18 layers are adapted?


# %% tags=["exercise"]
def lora_numbers(rank, layers, width, out_sizes):
    """Numbers in all A and B; out_sizes of the adapted layers of one block."""
    return None  # your lines


found = lora_numbers(8, 18, 2048, [8 * 256, 1 * 256])
assert found is not None, "Hint: for each adapted layer, A and B."
assert found % 18 == 0, "Hint: the same in every one of the layers."
assert found == 921_600, "Hint: A has width * rank numbers, B rank * out."

# %% [markdown]
# **2.** Fold an addition into a query kernel `[N, D, H]`, given A `[D, rank]` and B
# `[rank, N * H]`.


# %% tags=["exercise"]
def fold(kernel, a, b, scale):
    """The kernel `[N, D, H]` with the addition."""
    return None  # your lines


generator = np.random.default_rng(0)
kernel = generator.normal(size=(2, 5, 3))
a, b = generator.normal(size=(5, 1)), generator.normal(size=(1, 6))
x = generator.normal(size=(4, 5))
expected = np.einsum("td,ndh->tnh", x, kernel) + 0.5 * (x @ a @ b).reshape(4, 2, 3)
folded = fold(kernel, a, b, 0.5)
assert folded is not None, (
    "Hint: a @ b is [D, N * H]; its columns are heads, one by one."
)
assert folded.shape == (2, 5, 3), "Hint: reshape to [D, N, H], then transpose."
assert np.allclose(np.einsum("td,ndh->tnh", x, folded), expected), (
    "Hint: reshaping [D, N * H] straight to [N, D, H] mixes the heads up."
)

# %% [markdown]
# **3.** Two adapters are to work at once, as one. Make one pair of matrices that adds what
# both add. (Their scales are 1.)


# %% tags=["exercise"]
def together(a1, b1, a2, b2):
    """`(a, b)` with `x a b == x a1 b1 + x a2 b2`."""
    return None  # your lines


generator = np.random.default_rng(0)
a1, b1 = generator.normal(size=(5, 2)), generator.normal(size=(2, 6))
a2, b2 = generator.normal(size=(5, 3)), generator.normal(size=(3, 6))
both = together(a1, b1, a2, b2)
assert both is not None, "Hint: the rank of the sum is the sum of the ranks."
assert both[0].shape == (5, 5), "Hint: put a1 and a2 side by side."
assert both[1].shape == (5, 6), "Hint: put b1 above b2."
assert np.allclose(both[0] @ both[1], a1 @ b1 + a2 @ b2), "Hint: in the same order."

# %% [markdown]
# ## Check
#
# The last cell checks what this chapter says.

# %%
assert at_start == 0
assert trained[f"rank {rank}"] < 0.1 * trained["all numbers"]
assert drop >= least_drop
assert merged_error < tolerance
assert package_error < tolerance
for name, share in shares.items():
    if name.startswith("added"):
        assert share[7] > 2 * shares["random numbers"][7]

# %% [markdown]
# ## Further reading
#
# * [LoRA](https://arxiv.org/abs/2106.09685) is the method of this chapter.
# * [Intrinsic dimensionality explains the effectiveness of language model
#   fine-tuning](https://arxiv.org/abs/2012.13255) says why so few numbers can be enough.
# * [QLoRA](https://arxiv.org/abs/2305.14314) trains the same adapters on weights of four bits.
