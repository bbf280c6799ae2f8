# %% [markdown]
# # The network, from einsum up
#
# CodeGemma is a stack of a few dozen equal blocks, and a block is two ideas:
# *attention*, by which a token looks at earlier ones, and a *feed-forward* layer, which
# works on each token alone. In this chapter you write all of it with NumPy in about
# sixty lines, load the trained weights, and compare with the package after each part.
# In the end both give the same numbers, and you have seen every part of the network.
#
# You need to know what a matrix product is. The letters are those of the package:
# B rows, T tokens, D width, N query heads, K key and value heads, H size of a head,
# F feed-forward width, V vocabulary, L layers.

# %% tags=["parameters"]
preset = "code_gemma_tiny_py"
tolerance = 1e-4  # largest difference to the package, relative to the largest value

# %%
import keras
import numpy as np

from codegemma_keras import CodeGemmaCausalLM

lm = CodeGemmaCausalLM.from_preset(preset, dtype="float32")
tokenizer, backbone = lm.tokenizer, lm.backbone
text = "def mean(values):\n    total = sum(values)\n    return total / len("
ids = np.array([[tokenizer.start_token_id, *tokenizer.encode(text)]])
numbers = keras.ops.convert_to_numpy

logits = numbers(lm({"token_ids": ids, "padding_mask": np.ones_like(ids)}))
best = int(logits[0, -1].argmax())
print(ids.shape[1], "tokens in, logits", logits.shape, "out")
print("likeliest next token:", repr(tokenizer.decode([best])))

# %% [markdown]
# This is the whole interface of a language model. It takes a row of integers, and for
# every place it returns a number for each of the V possible next tokens. The rest of
# this chapter is about how `logits` is computed.
#
# ## The weights

# %%
import matplotlib.pyplot as plt

blocks = []
for layer in backbone.transformer_layers:
    attention = layer.attention
    blocks.append(
        {
            "norm1": numbers(layer.pre_attention_norm.scale),  # [D]
            "query": numbers(attention.query_dense.kernel),  # [N, D, H]
            "key": numbers(attention.key_dense.kernel),  # [K, D, H]
            "value": numbers(attention.value_dense.kernel),  # [K, D, H]
            "output": numbers(attention.output_dense.kernel),  # [N, H, D]
            "norm2": numbers(layer.pre_ffw_norm.scale),  # [D]
            "gate": numbers(layer.gating_ffw.kernel),  # [D, F]
            "up": numbers(layer.gating_ffw_2.kernel),  # [D, F]
            "down": numbers(layer.ffw_linear.kernel),  # [F, D]
        }
    )
embedding = numbers(backbone.token_embedding.embeddings)  # [V, D]
final_norm = numbers(backbone.layer_norm.scale)  # [D]

for name, value in blocks[0].items():
    print(f"{name:7} {value.shape}")
sizes = {"embedding": embedding.size}
for name in ("query", "key", "value", "output", "gate", "up", "down"):
    sizes[name] = sum(block[name].size for block in blocks)
counted = embedding.size + final_norm.size
counted += sum(value.size for block in blocks for value in block.values())

figure, axes = plt.subplots(figsize=(7, 2.6), layout="constrained")
bars = axes.barh(list(sizes), [size / 1e6 for size in sizes.values()], color="#4a7fb5")
axes.bar_label(bars, fmt="%.2f", padding=3)
axes.invert_yaxis()
axes.set(xlabel="million parameters")
axes.margins(x=0.12)
plt.show()
print(f"{counted:,} parameters in {len(blocks)} blocks")

# %% [markdown]
# Each block has nine arrays. There are also one table and one final norm, and there is
# no bias anywhere. The arrays for key and value are small, because one key/value head
# serves all query heads. This is called *multi-query attention*. The 7B model has as
# many key/value heads as query heads.
#
# ## From ids to vectors
#
# A token's vector is its row in the table, times the square root of the width. The same
# table gives the answer at the end.


# %%
def compare(name, ours, theirs):
    """Print and return the largest difference, relative to the largest value."""
    theirs = numbers(theirs)
    error = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    print(f"{name:22} {ours.shape!s:18} differs by {error:.1e}")
    return error


def embed(ids):
    return embedding[ids] * np.sqrt(embedding.shape[1])  # [B, T, D]


x = embed(ids)
errors = [compare("embedding", x, backbone.embed(ids))]

# %% [markdown]
# ## RMSNorm
#
# Before each of the two parts of a block, a vector is brought to the size that the part
# was trained with. It is divided by its root mean square, and then each feature is
# scaled. The learnt scale is stored as the difference to 1, so an untrained norm scales
# nothing.


# %%
def rms_norm(x, scale):
    rms = np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6)
    return x / rms * (1 + scale)


normed = rms_norm(x, blocks[0]["norm1"])
first = backbone.transformer_layers[0]
errors.append(compare("RMSNorm", normed, first.pre_attention_norm(x)))

# %% [markdown]
# ## Positions
#
# Attention compares vectors, and a comparison does not know their positions. *Rotary*
# encoding adds the positions by rotation. A head's vector is taken as H / 2 pairs of
# numbers, each pair an arrow in a plane. At position p, arrow i is turned by the angle
# p times its frequency: the first arrow by one radian a token, the last by about a
# ten-thousandth of that. Comparing two turned arrows then depends on *how far apart*
# the tokens are, and on nothing else.


# %%
def frequencies(head_size):
    return 10_000.0 ** (-np.arange(0, head_size, 2) / head_size)  # [H / 2]


def rotate(x, positions):
    """Turn vectors `[B, T, heads, H]`; the halves of a head are the two coordinates."""
    angles = positions[:, None, None] * frequencies(x.shape[-1])  # [T, 1, H / 2]
    cos, sin = np.cos(angles), np.sin(angles)
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)


rng = np.random.default_rng(0)
head_size = blocks[0]["query"].shape[-1]
query, key = rng.normal(size=(2, 1, 1, 1, head_size))
scores = {}
for at in (0, 10, 300):
    turned_query, turned_key = (
        rotate(query, np.array([at + 7])),
        rotate(key, np.array([at])),
    )
    scores[at] = float(np.sum(turned_query * turned_key))
print("key at p, query at p + 7:", {at: round(s, 6) for at, s in scores.items()})

figure, axes = plt.subplots(figsize=(7, 2.4), layout="constrained")
angles = np.arange(64)[:, None] * frequencies(head_size)
image = axes.imshow(np.cos(angles).T, aspect="auto", cmap="RdBu", interpolation="none")
axes.set(xlabel="position", ylabel="arrow")
figure.colorbar(image, label="cosine")
plt.show()

# %% [markdown]
# The fast arrows at the top distinguish neighbours. The slow arrows at the bottom
# distinguish tokens that are near from tokens that are far away.
#
# ## Attention
#
# Three projections of its vector belong to each token. The *query* says what the token
# looks for, the *key* says what it offers, and the *value* is what it gives. The score of a
# query and a key says how much of that token's value is taken. The softmax makes the scores
# of one query add up to 1. The mask hides later tokens, because training predicts all
# places at once, and no place may see its own answer.


# %%
def softmax(scores):
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def attend(x, block, positions):
    """`[B, T, D]` -> `[B, T, D]`, and the weights `[B, K, G, T, S]`."""
    query = rotate(np.einsum("btd,ndh->btnh", x, block["query"]), positions)
    key = rotate(np.einsum("bsd,kdh->bskh", x, block["key"]), positions)
    value = np.einsum("bsd,kdh->bskh", x, block["value"])
    B, T, N, H = query.shape
    K = key.shape[2]
    query = query.reshape(B, T, K, N // K, H) / np.sqrt(H)  # G = N / K share a key head
    scores = np.einsum("btkgh,bskh->bkgts", query, key)
    visible = positions[None, :] <= positions[:, None]  # [T, S]
    weights = softmax(np.where(visible, scores, -1e30))
    taken = np.einsum("bkgts,bskh->btkgh", weights, value).reshape(B, T, N, H)
    return np.einsum("btnh,nhd->btd", taken, block["output"]), weights


from codegemma_keras import ops as package_ops

positions = np.arange(ids.shape[1])
attended, weights = attend(normed, blocks[0], positions)
slots = keras.ops.convert_to_tensor(positions[None].astype("int32"))
theirs = first.attention(
    keras.ops.convert_to_tensor(normed.astype("float32")),
    package_ops.rotary_angles(slots, head_size),
    package_ops.attention_mask(slots, slots),
)
errors.append(compare("attention", attended, theirs))

# %% [markdown]
# What do heads look at? Each picture is one head of the first block. A row belongs to the
# token that looks, and a column to the token that is looked at. The darker a field is, the
# more of that token's value is taken.
# Training did not tell the heads what to do, and they do different things.

# %%
pieces = [tokenizer.decode([i]).replace("\n", "⏎") or "bos" for i in ids[0]]
figure, axes = plt.subplots(1, 3, figsize=(7.5, 2.9), layout="constrained")
heads = weights.reshape(-1, *weights.shape[-2:])  # [N, T, S]
for axis, head in zip(axes, heads, strict=False):
    axis.imshow(head, cmap="Blues", vmin=0, vmax=1)
    axis.set_xticks(range(len(pieces)), pieces, rotation=90, fontsize=6)
    axis.set_yticks(range(len(pieces)), pieces, fontsize=6)
plt.show()

# %% [markdown]
# ## The feed-forward part
#
# Each token is projected to F numbers, twice. One of the two results passes through the
# function GELU and acts as a gate: it decides how much of the other result passes. A
# last projection leads back to D numbers. Most parameters of a model are in this part.


# %%
def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def feed_forward(x, block):
    gate = gelu(np.einsum("btd,df->btf", x, block["gate"]))
    up = np.einsum("btd,df->btf", x, block["up"])
    return np.einsum("btf,fd->btd", gate * up, block["down"])


# %% [markdown]
# ## The stack
#
# A block *adds* what its two parts found to what was there. So a vector travels through
# the network, and each layer writes something into it. At the end it is compared with the
# vector of every token in the table: the products are the logits.


# %%
def run_block(x, block, positions):
    x = x + attend(rms_norm(x, block["norm1"]), block, positions)[0]
    return x + feed_forward(rms_norm(x, block["norm2"]), block)


def to_logits(x):
    return np.einsum("btd,vd->btv", rms_norm(x, final_norm), embedding)


def network(ids):
    """Logits `[B, T, V]`, and the vectors after each block."""
    positions = np.arange(ids.shape[1])
    states = [embed(ids)]
    for block in blocks:
        states.append(run_block(states[-1], block, positions))
    return to_logits(states[-1]), states


ours, states = network(ids)
errors.append(compare("the whole network", ours, logits))
same_choice = bool((ours.argmax(-1) == logits.argmax(-1)).all())
print("the same likeliest token at every place:", same_choice)

# %% [markdown]
# These sixty lines give the same numbers as the package. Small differences remain
# because the package computes in float32, and NumPy used float64 in some places.
#
# ## Looking inside
#
# Because every layer only adds something, you can ask early: what would the model
# answer if it had to stop after layer 2? The picture below shows, for some places of
# the text, the probability of the token that the full network finds likeliest.

# %%
final = softmax(ours)[0]  # [T, V]
choice = final.argmax(-1)
lens = np.array([softmax(to_logits(s))[0][positions, choice] for s in states])

figure, axes = plt.subplots(figsize=(7.5, 3), layout="constrained")
image = axes.imshow(lens, aspect="auto", cmap="Blues", vmin=0, vmax=1)
answers = [tokenizer.decode([int(i)]).replace("\n", "⏎") for i in choice]
labels = [f"{a} → {b}" for a, b in zip(pieces, answers, strict=True)]
axes.set_xticks(positions, labels, rotation=90, fontsize=7)
axes.set(ylabel="after block")
figure.colorbar(image, label="probability")
plt.show()

# %% [markdown]
# ## Exercises
#
# Each of the next cells fails on purpose, with a hint, until you have filled it in. The
# solutions are in `tutorials/solutions/11_network.py`.
#
# **1.** How many parameters has CodeGemma 2B? Count the arrays of a block as above.


# %% tags=["exercise"]
def count_parameters(V, L, D, F, N, K, H):
    """Parameters of a CodeGemma of these sizes."""
    return None  # your lines


tiny = count_parameters(10, 1, 4, 6, 2, 1, 2)
assert tiny is not None, (
    "Hint: V * D for the table, and L times the sum of nine arrays."
)
assert tiny % 4 == 0, (
    "Hint: the last norm has D parameters, each block's two norms 2 D."
)
assert tiny == 40 + 8 + 32 + 16 + 72 + 4, (
    "Hint: query and output count N, the others K."
)
found = count_parameters(256_000, 18, 2048, 16_384, 8, 1, 256)
assert found == 2_506_172_416, "Hint: the feed-forward part has three arrays of D * F."

# %% [markdown]
# **2.** Training packs several documents into one row. A token may look back, but only
# within its own document. Given the number of the document of each place, make the mask.


# %% tags=["exercise"]
def packed_mask(segments):
    """bool `[T, T]`: whether the token of a row may look at that of a column."""
    return None  # your lines


mask = packed_mask(np.array([1, 1, 2, 2, 2]))
assert mask is not None, "Hint: compare segments[:, None] with segments[None, :]."
assert mask.shape == (5, 5), "Hint: one row for each token that looks."
assert not mask[0, 1], "Hint: no token sees a later one."
assert not mask[2, 1], "Hint: the first token of document 2 does not see document 1."
assert mask.sum() == 3 + 6, (
    "Hint: every token sees itself and all before it in its own."
)

# %% [markdown]
# **3.** With multi-query attention, G query heads share one key head. Software that
# knows only equal numbers of heads can still run such a model, if the keys are
# repeated. In which order must they be repeated?


# %% tags=["exercise"]
def repeat_heads(key, n):
    """`[B, S, K, H]` -> `[B, S, n, H]`: for each query head its key head."""
    return None  # your lines


query = rng.normal(size=(1, 1, 4, 8))
key = rng.normal(size=(1, 3, 2, 8))
grouped = np.einsum("btkgh,bskh->bkgts", query.reshape(1, 1, 2, 2, 8), key)
repeated = repeat_heads(key, 4)
assert repeated is not None, "Hint: numpy has repeat and tile; one of them is right."
assert repeated.shape == (1, 3, 4, 8), "Hint: repeat along axis 2, n / K times."
plain = np.einsum("btnh,bsnh->bnts", query, repeated)
assert np.allclose(plain.reshape(grouped.shape), grouped), (
    "Hint: query heads 0 and 1 share key head 0: each key head's copies are neighbours."
)

# %% [markdown]
# ## Check
#
# The last cell checks what this chapter says.

# %%
assert max(errors) < tolerance, errors
assert same_choice
assert counted == backbone.count_params()
assert np.ptp(list(scores.values())) < 1e-9
assert np.allclose(weights.sum(-1), 1)

# %% [markdown]
# ## Further reading
#
# * [Attention is all you need](https://arxiv.org/abs/1706.03762) introduced the transformer.
# * [RoFormer](https://arxiv.org/abs/2104.09864) introduced rotary positions.
# * The [Gemma report](https://arxiv.org/abs/2403.08295) lists the sizes of this network, and
#   what differs from the first transformer.
