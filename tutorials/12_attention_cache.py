# %% [markdown]
# # Attention and the KV cache, measured
#
# A model answers one token at a time, and each new token looks back at all earlier
# ones. Without a cache, the work for one more token grows with the length of the text.
# The *cache* of keys and values makes this work almost constant, and it is also what
# fills the memory of a server. In this chapter you build a cache, show that it changes
# nothing but the time, measure it, and compute what it costs for the real models.
#
# You need chapter 11, or to know what keys and values are.

# %% tags=["parameters"]
preset = "code_gemma_tiny_py"
lengths = (16, 128, 288, 448)  # tokens already there, when the next is timed
repeats = 5  # timings of each, of which the median counts
tolerance = 1e-3  # largest difference of cached logits, relative to the largest value
least_gain = 3.0  # times that the cache is faster at the longest length

# %%
import time

import matplotlib.pyplot as plt
import numpy as np
from keras import ops

from codegemma_keras import CodeGemmaCausalLM
from codegemma_keras.decoding.compilation import compile_program

lm = CodeGemmaCausalLM.from_preset(preset, dtype="float32")
backbone, tokenizer = lm.backbone, lm.tokenizer
prompt = (
    "def total(prices):\n    result = 0\n    for price in prices:\n        result +="
)
print(lm.generate(prompt, max_new_tokens=12))

# %% [markdown]
# ## Without a cache
#
# The simplest program that continues a text runs the network on the whole text, takes
# the likeliest next token, appends it, and repeats this.


# %%
def next_token(logits):
    return int(ops.convert_to_numpy(logits)[0].argmax())


def continue_naively(ids, count):
    ids = list(ids)
    for _ in range(count):
        hidden = backbone.forward(ops.convert_to_tensor([ids]))  # [1, T, D]
        ids.append(next_token(backbone.logits(hidden[:, -1])))
    return ids


start = [tokenizer.start_token_id, *tokenizer.encode(prompt)]
naive = continue_naively(start, 6)
print(repr(tokenizer.decode(naive[len(start) :])))

# %% [markdown]
# In step 6 the network computes again what it computed in steps 1 to 5: the same tokens
# at the same places, seeing the same earlier tokens, give the same numbers. This holds
# because no token looks ahead. Of everything that was computed for an earlier token,
# later tokens need only two things: its key and its value in each layer.
#
# ## With a cache
#
# So we keep them: for each layer, there are two arrays of `[B, K, S, H]`. They have room
# for the H numbers of S tokens, for each row and each key head. Reading the prompt fills
# the first slots (*prefill*). Then each step runs the network on **one** token, writes
# its key and value into the next slot, and looks at all slots up to there.


# %%
def continue_with_cache(ids, count, slots):
    cache = backbone.empty_cache(1, slots)
    hidden, cache = backbone.forward(
        ops.convert_to_tensor([ids]), cache=cache, cache_index=0
    )
    ids = list(ids)
    for step in range(count):
        ids.append(next_token(backbone.logits(hidden[:, -1])))
        if step + 1 < count:
            newest = ops.convert_to_tensor([ids[-1:]])
            hidden, cache = backbone.forward(
                newest, cache=cache, cache_index=len(ids) - 1
            )
    return ids


cached = continue_with_cache(start, 6, slots=64)
print("the same tokens:", cached == naive)

# %% [markdown]
# Equal tokens are a weak test, because the likeliest token may win by a wide margin. So
# we compare all logits: those of the whole row at once, and those of the row token by
# token through the cache.

# %%
row = ops.convert_to_tensor([naive])
whole = ops.convert_to_numpy(backbone.logits(backbone.forward(row)))[0]
cache, stepwise = backbone.empty_cache(1, len(naive)), []
for place, token in enumerate(naive):
    hidden, cache = backbone.forward(
        ops.convert_to_tensor([[token]]), cache=cache, cache_index=place
    )
    stepwise.append(ops.convert_to_numpy(backbone.logits(hidden))[0, 0])
difference = float(np.abs(np.array(stepwise) - whole).max() / np.abs(whole).max())
print(f"largest difference: {difference:.1e} of the largest logit")

# %% [markdown]
# ## What it looks like
#
# Both pictures show one layer of one row. The left one shows the keys in the cache.
# Slots are filled from the left, and slots beyond the text are never looked at. The
# right one shows which token looks at which. Without a cache, the whole triangle is
# computed for each new token, and with a cache only its last line.

# %%
keys = ops.convert_to_numpy(
    backbone.forward(
        ops.convert_to_tensor([start]), cache=backbone.empty_cache(1, 48), cache_index=0
    )[1][0][0]
)[0, 0]  # [S, H] of layer 0
figure, axes = plt.subplots(1, 2, figsize=(7.2, 2.8), layout="constrained")
axes[0].imshow(keys.T, aspect="auto", cmap="RdBu", vmin=-3, vmax=3)
axes[0].axvline(len(start) - 0.5, color="#333")
axes[0].set(xlabel="slot", ylabel="key, H numbers", title="the cache after prefill")
triangle = np.tril(np.ones((24, 24)))
triangle[-1] = 2
axes[1].imshow(triangle, cmap="Blues", vmin=0, vmax=2.5)
axes[1].set(xlabel="looked at", ylabel="looks", title="all pairs, and the new ones")
plt.show()

# %% [markdown]
# ## Measured
#
# Now we measure the time for *one more* token after T tokens, with and without the
# cache. So far, Python called each operation by itself, and most of the measured time
# would be that of the calls. Therefore both ways are compiled. This makes one program
# of all operations, with one program for each length. (Chapter 24 explains it.)


# %%
def median_ms(program, *args):
    """Milliseconds of a call, the median; a first call compiles and is not counted."""
    taken = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        ops.convert_to_numpy(program(*args))
        taken.append(1e3 * (time.perf_counter() - begin))
    return float(np.median(taken[1:]))


def everything(ids):
    return backbone.forward(ids)[:, -1]


def newest_only(token, place, cache):
    return backbone.forward(token, cache=cache, cache_index=place)[0]


everything = compile_program(backbone, everything)
newest_only = compile_program(backbone, newest_only)
rng = np.random.default_rng(0)
text_ids = rng.integers(300, tokenizer.vocabulary_size(), size=(1, max(lengths) + 1))
text_ids = text_ids.astype("int32")
without, with_cache = [], []
for length in lengths:
    so_far, newest = text_ids[:, : length + 1], text_ids[:, length : length + 1]
    # What the cache holds does not matter for the time.
    cache = backbone.empty_cache(1, length + 1)
    without.append(median_ms(everything, so_far))
    with_cache.append(median_ms(newest_only, newest, np.int32(length), cache))
    print(
        f"{length:4} tokens: {without[-1]:6.1f} ms naive, {with_cache[-1]:5.2f} ms cached"
    )
gain = without[-1] / with_cache[-1]

figure, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
axes.plot(lengths, without, "o-", color="#e08e45", label="everything again")
axes.plot(lengths, with_cache, "o-", color="#4a7fb5", label="with the cache")
axes.set(xlabel="tokens already there", ylabel="ms for one more", ylim=(0, None))
axes.legend()
plt.show()
print(f"{gain:.1f} times faster at {lengths[-1]} tokens")

# %% [markdown]
# ## What it costs: memory
#
# Each token of each row keeps a key and a value of K heads of H numbers, in every
# layer. The number of *query* heads does not matter. The 2B model has one key head
# (multi-query attention), the 7B has sixteen. The next picture shows what one row of
# text takes in bfloat16, which has two bytes for each number.

# %%
models = {
    "2B (K = 1)": {"layers": 18, "heads": 1, "size": 256, "weights": 2_506_172_416},
    "2B, if it had K = N = 8": {"layers": 18, "heads": 8, "size": 256, "weights": None},
    "7B (K = 16)": {"layers": 28, "heads": 16, "size": 256, "weights": 8_537_680_896},
}
figure, axes = plt.subplots(figsize=(7, 2.9), layout="constrained")
tokens = np.array([0, 8192])
cost = {}
colours = ("#4a7fb5", "#999999", "#e08e45")
for (name, m), colour in zip(models.items(), colours, strict=True):
    cost[name] = 2 * m["layers"] * m["heads"] * m["size"] * 2  # bytes a token
    style = "-" if m["weights"] else "--"
    axes.plot(tokens, tokens * cost[name] / 1e9, style, color=colour, label=name)
    print(
        f"{name:24} {cost[name]:8,} bytes a token, {8192 * cost[name] / 1e9:.2f} GB a row"
    )
axes.set(xlabel="tokens of context", ylabel="GB of cache a row")
axes.legend()
plt.show()

# %% [markdown]
# Take a card of 32 GB. The weights of the 7B model are 17 GB in bfloat16, and the rest
# holds the cache of three rows of full context. The 2B model's weights are 5 GB, and
# the rest holds 178 rows. This is the purpose of multi-query attention. Decoding reads
# all weights *and* the whole cache for each token, so less memory also means less time.
#
# ## Reuse
#
# A cache outlives a request. When you type a letter, most of the prompt is the same as
# before, from its beginning. All slots up to the first difference can stay. How many
# these are depends on the order of the prompt (chapter 13). In PSM the suffix follows the
# prefix, so a new letter moves the whole suffix.

# %%
from codegemma_keras import fim


def shared(a, b):
    """How many tokens two rows have in common at their beginning."""
    for place, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return place
    return min(len(a), len(b))


suffix = "\n    return result\n\n\ndef mean(prices):\n    return total(prices) / len(prices)\n"
reuse = {}
for mode in ("psm", "spm"):
    rows = [
        tokenizer.encode(fim.render(prompt[:end], suffix, mode=mode))
        for end in range(len(prompt) - 30, len(prompt) + 1)
    ]
    found = [shared(a, b) / len(b) for a, b in zip(rows, rows[1:], strict=False)]
    reuse[mode] = float(np.mean(found))
    print(
        f"{mode.upper()}: {reuse[mode]:.0%} of the prompt is there from the last letter"
    )

# %% [markdown]
# ## Exercises
#
# Each of the next cells fails on purpose, with a hint, until you have filled it in. The
# solutions are in `tutorials/solutions/12_attention_cache.py`.
#
# **1.** A server has so many bytes left beside the weights. How many rows of `context`
# tokens can it decode at once?


# %% tags=["exercise"]
def rows_that_fit(free_bytes, context, layers, key_heads, head_size, bytes_per_number):
    """The number of rows whose caches fit."""
    return None  # your lines


found = rows_that_fit(8_000_000_000, 8192, 28, 16, 256, 2)
assert found is not None, "Hint: divide by the bytes of one row, without remainder."
assert found != 4, "Hint: a key and a value: twice."
assert found == 2, "Hint: layers * key_heads * head_size numbers of each kind a token."
assert rows_that_fit(8_000_000_000, 8192, 18, 1, 256, 2) == 52, "Hint: a whole number."

# %% [markdown]
# **2.** Rows of a batch have different lengths. Write the new key of each row into its own
# next slot. Leave all other slots as they are.


# %% tags=["exercise"]
def write_rows(cache, new, lengths):
    """`[B, K, S, H]` with `new` `[B, K, H]` in slot lengths[b] of row b; a new array."""
    return None  # your lines


cache_before = np.zeros((3, 2, 4, 5))
new = np.ones((3, 2, 5))
written = write_rows(cache_before, new, np.array([2, 0, 3]))
assert written is not None, "Hint: numpy takes one index array for rows, one for slots."
assert cache_before.sum() == 0, "Hint: copy first; the old cache may still be needed."
filled = [np.flatnonzero(row.sum((0, 2))).tolist() for row in written]
assert filled == [[2], [0], [3]], "Hint: written[np.arange(B), :, lengths] = new."

# %% [markdown]
# **3.** A session holds the ids that its cache was made from. A new prompt comes. Which of
# its tokens must be computed? Keep in mind that the *last* token must always be: its
# logits say what comes next, and the cache does not hold those.


# %% tags=["exercise"]
def to_compute(cached_ids, prompt_ids):
    """`(first slot, ids)`: what to run, from which slot on."""
    return None  # your lines


found = to_compute([2, 10, 11, 12], [2, 10, 11, 13, 14])
assert found is not None, "Hint: `shared` above counts the equal tokens."
assert found == (3, [13, 14]), "Hint: the slots up to the first difference can stay."
assert to_compute([2, 10, 11], [2, 10, 11]) == (2, [11]), (
    "Hint: nothing differs, but the last token has to run again."
)
assert to_compute([2, 10, 11, 12], [2, 10]) == (1, [10]), "Hint: a shorter prompt, too."

# %% [markdown]
# ## Check
#
# The last cell checks what this chapter says.

# %%
assert cached == naive
assert difference < tolerance
assert gain > least_gain
assert reuse["spm"] > reuse["psm"] + 0.25
assert cost["2B (K = 1)"] == 18_432
assert cost["7B (K = 16)"] == 458_752

# %% [markdown]
# ## Further reading
#
# * [Fast transformer decoding: one write-head is all you
#   need](https://arxiv.org/abs/1911.02150) introduced attention with a single key/value head,
#   for the sake of the cache.
# * [GQA](https://arxiv.org/abs/2305.13245) stands between one key/value head and many.
# * [PagedAttention](https://arxiv.org/abs/2309.06180) manages the caches of many users in
#   pages.
