# %% [markdown]
# # Fast decoding by hand
#
# In this chapter the same model produces the same tokens in a fraction of the time. You
# start with the simplest loop and go step by step to the loop of the package. At each
# step you measure the time, and check that not a single token has changed. The steps
# are a cache, compilation, a loop that does not leave the device, and guesses that are
# checked several at a time. The largest saving comes last: it is to stop in time.
#
# You need chapter 12, or to know what a KV cache is.

# %% tags=["parameters"]
preset = "code_gemma_tiny_py"
new_tokens = 48
width = 6  # tokens that are guessed at a time
repeats = 3  # timings of each, of which the median counts
least_gain = 2.0  # of the compiled loop over calling each operation
most_forwards = 0.8  # runs of the network per token, with guesses, on repetitive text

# %%
import time

import matplotlib.pyplot as plt
import numpy as np
from keras import ops

from codegemma_keras import CodeGemmaCausalLM
from codegemma_keras.decoding.compilation import compile_program

lm = CodeGemmaCausalLM.from_preset(preset, dtype="float32")
backbone, tokenizer = lm.backbone, lm.tokenizer
prompt = """def test_add():
    assert add(1, 2) == 3
    assert add(2, 3) == 5
    assert add(3, 4) == 7


def test_sub():
    assert sub(2, 1) == 1
    assert sub("""
print(lm.generate(prompt, max_new_tokens=16))

# %% [markdown]
# The goal is to continue this prompt by `new_tokens` tokens and to take the likeliest token
# each time, whether or not the text makes sense. Every loop below has to find exactly these
# tokens.
#
# ## Step 0: everything again
#
# This loop runs the network on the whole row for each new token. The row is padded to one
# length, so that the program is compiled once, because a compiled program is made for given
# *shapes*.

# %%
start = [tokenizer.start_token_id, *tokenizer.encode(prompt)]
slots = 64 * -(-(len(start) + new_tokens + width + 1) // 64)  # a multiple of 64
times, found = {}, {}


def measure(name, decode):
    """Note the tokens that `decode()` finds, and the median of its milliseconds a token."""
    found[name] = decode()  # compiles
    taken = []
    for _ in range(repeats):
        begin = time.perf_counter()
        decode()
        taken.append(time.perf_counter() - begin)
    times[name] = 1e3 * float(np.median(taken)) / new_tokens
    print(f"{name:22} {times[name]:7.2f} ms a token")


def whole_row(ids, place):
    hidden = backbone.forward(ids)  # [1, S, D]
    logits = backbone.logits(ops.take(hidden, place, axis=1))  # [1, V]
    return ops.argmax(logits, axis=-1)


run_whole_row = compile_program(backbone, whole_row)


def everything_again():
    row = np.zeros((1, slots), "int32")
    row[0, : len(start)] = start
    for place in range(len(start) - 1, len(start) - 1 + new_tokens):
        row[0, place + 1] = int(run_whole_row(row, np.int32(place))[0])
    return row[0, len(start) : len(start) + new_tokens].tolist()


measure("everything again", everything_again)

# %% [markdown]
# ## Step 1: a cache
#
# This is chapter 12 in four lines. Nothing is compiled, so each operation is called by
# itself.


# %%
def prefill(ids, cache):
    hidden, cache = backbone.forward(ids, cache=cache, cache_index=0)
    return ops.argmax(backbone.logits(hidden[:, -1]), axis=-1), cache


def step(token, place, cache):
    """The token `[1]` after `token` `[1]`, which goes into slot `place`."""
    hidden, cache = backbone.forward(token[:, None], cache=cache, cache_index=place)
    return ops.argmax(backbone.logits(hidden[:, 0]), axis=-1), cache


def decode_with(prefill, step):
    """Tokens by these two functions, in a loop of Python."""
    ids = np.array([start], "int32")
    token, cache = prefill(ids, backbone.empty_cache(1, slots))
    tokens = [int(token[0])]
    while len(tokens) < new_tokens:
        place = np.int32(len(start) + len(tokens) - 1)
        token, cache = step(np.array(tokens[-1:], "int32"), place, cache)
        tokens.append(int(token[0]))
    return tokens


def cached_uncompiled():
    return decode_with(
        lambda ids, cache: prefill(ops.convert_to_tensor(ids), cache),
        lambda token, place, cache: step(ops.convert_to_tensor(token), place, cache),
    )


measure("cache, each op called", cached_uncompiled)

# %% [markdown]
# This takes far less arithmetic than before, and yet it may be *slower*. With so small a
# model, most of the time goes into calling the operations one by one, and not into the
# arithmetic.
#
# ## Step 2: compile the step
#
# The compiler makes one program of all operations of a step. `donate` says that the old
# cache is not needed afterwards, so the new key and value are written into it. Without
# `donate`, every step would copy the whole cache.

# %%
run_prefill = compile_program(backbone, prefill, donate=(1,))
run_step = compile_program(backbone, step, donate=(2,))
measure("cache, compiled step", lambda: decode_with(run_prefill, run_step))

# %% [markdown]
# ## Step 3: do not come back
#
# After each step, Python fetches a number, looks at it and sends it in again. On a GPU
# the device waits during this trip. So we put the loop itself into the program. It ends when
# there are enough tokens, or at the first *stop token*.


# %%
def loop(token, place, limit, stops, output, cache):
    """Decode up to `limit` tokens into `output` `[1, M]`; gives it and their number."""

    def going_on(count, token, place, output, cache):
        stopped = ops.any(token[:, None] == stops[None, :])
        return ops.logical_and(count < limit, ops.logical_not(stopped))

    def body(count, token, place, output, cache):
        token, cache = step(token, place, cache)
        token = ops.cast(token, "int32")
        output = ops.slice_update(output, [0, count], token[:, None])
        return count + 1, token, place + 1, output, cache

    output = ops.slice_update(output, [0, 0], token[:, None])
    state = (ops.ones_like(place), token, place, output, cache)
    count, _, _, output, cache = ops.while_loop(going_on, body, state)
    return output, count, cache


run_loop = compile_program(backbone, loop, donate=(5,))
nothing = np.array([-1], "int32")  # no token has this id


def decode_on_device(stops=nothing):
    ids = np.array([start], "int32")
    token, cache = run_prefill(ids, backbone.empty_cache(1, slots))
    output, count, _ = run_loop(
        ops.cast(token, "int32"),
        np.int32(len(start)),
        np.int32(new_tokens),
        stops,
        np.zeros((1, new_tokens), "int32"),
        cache,
    )
    return ops.convert_to_numpy(output)[0, : int(count)].tolist()


measure("loop on the device", decode_on_device)

# %% [markdown]
# ## Step 4: guess, and check several at once
#
# A step reads all weights to compute one token. On a machine that spends most of its time on
# this reading, a step for seven tokens takes hardly longer. We do not know the next tokens,
# but we can *guess* them. We run the network on the newest token and the guesses together,
# and for each place it says which token it would have chosen. As long as guess and choice
# agree, the guesses are exactly what plain decoding would have found. The choice after the
# last right guess is one more token, at no extra cost. A wrong guess costs only its
# arithmetic. What it wrote into the cache lies behind the newest token, where no token looks
# before it is overwritten.
#
# Guesses can come from a small model. A simpler source is the text itself, because code
# repeats itself: we look for the last place where the newest two tokens stood before, and
# guess what followed there.


# %%
def guess(history, count, agree=2):
    """`count` tokens that followed the newest `agree` tokens when they last stood there."""
    newest = history[-agree:]
    for place in range(len(history) - agree - 1, -1, -1):
        if history[place : place + agree] == newest:
            copied = history[place + agree : place + agree + count]
            return copied + history[-1:] * (count - len(copied))
    return history[-1:] * count  # nothing agrees: any guess will do


def verify(tokens, place, cache):
    """What the network chooses after each of `tokens` `[1, 1 + width]`."""
    hidden, cache = backbone.forward(tokens, cache=cache, cache_index=place)
    return ops.argmax(backbone.logits(hidden), axis=-1), cache


run_verify = compile_program(backbone, verify, donate=(2,))
accepted = []


def decode_with_guesses():
    accepted.clear()
    ids = np.array([start], "int32")
    token, cache = run_prefill(ids, backbone.empty_cache(1, slots))
    tokens = [int(token[0])]
    while len(tokens) < new_tokens:
        draft = guess(start + tokens, width)
        place = np.int32(len(start) + len(tokens) - 1)
        row = np.array([[tokens[-1], *draft]], "int32")
        choice, cache = run_verify(row, place, cache)
        choice = ops.convert_to_numpy(choice)[0].tolist()  # 1 + width of them
        good = 0
        while good < width and draft[good] == choice[good]:
            good += 1
        tokens += choice[: good + 1]
        accepted.append(good + 1)
    return tokens[:new_tokens]


measure("with guesses", decode_with_guesses)
forwards = len(accepted) / new_tokens
print(f"{len(accepted)} runs of the network for {new_tokens} tokens")

# %% [markdown]
# This loop still comes back to Python after each check. The package makes and checks its
# guesses on the device (`generate(..., speculate=True)`). Here are its times:

# %%
package = {"package": False, "package, guessing": True}
for name, speculate in package.items():
    measure(
        name,
        lambda speculate=speculate: (
            lm.engine.generate(
                [start], new_tokens, stop_token_ids=(), speculate=speculate
            )[0].token_ids
        ),
    )

# %%
figure, axes = plt.subplots(
    1, 2, figsize=(7.4, 3), layout="constrained", width_ratios=[3, 2]
)
colours = ["#e08e45"] * 2 + ["#4a7fb5"] * 3 + ["#8fc98f"] * 2
bars = axes[0].barh(list(times), list(times.values()), color=colours)
axes[0].bar_label(bars, fmt="%.2f", padding=3)
axes[0].invert_yaxis()
axes[0].set(xlabel="ms a token")
axes[0].margins(x=0.18)
axes[1].bar(range(1, len(accepted) + 1), accepted, color="#4a7fb5")
axes[1].axhline(1, color="#333", linewidth=1)
axes[1].set(xlabel="run of the network", ylabel="tokens won")
plt.show()
same = {name: tokens == found["everything again"] for name, tokens in found.items()}
print("all the same tokens:", all(same.values()))

# %% [markdown]
# The left picture shows the time of each step. How the steps compare depends on the
# machine. On a GPU, the trips to Python cost more, and a larger model spends more time
# on reading weights and less on calls. The right picture shows how many tokens each
# check won. On text that repeats itself, a check wins several tokens. On new text it
# wins one, and the guesses were useless.
#
# ## Step 5: stop
#
# All of these steps make a token cheap. A token that is not computed at all costs nothing.
# A completion is over at the first control token. A program that goes on to a fixed length
# and cuts the text afterwards also pays for the tokens that it throws away. The CodeGemma paper
# reports 1,505 seconds for 1,033 single lines filled in by the 7B model, and 8,330 for its
# instruction-tuned sister on the same machine. A token costs the same in both,
# but the second model writes many more tokens.

# %%
asked, computed = 0, 0
for name in ("add", "mean", "largest", "join", "count"):
    done = lm.complete(
        f"def {name}(values):\n    result = ",
        "\n    return result\n",
        max_new_tokens=new_tokens,
    )
    asked += new_tokens
    computed += len(done.token_ids)
print(f"{computed} tokens computed of {asked} that were allowed")

# %% [markdown]
# ## Exercises
#
# Each of the next cells fails on purpose, with a hint, until you have filled it in. The
# solutions are in `tutorials/solutions/24_fast_decoding.py`.
#
# **1.** Each guess is right with probability `p`, independently; the first wrong one ends
# the run. How many tokens does one run with `width` guesses win on average? (The choice
# after the last good guess counts, too.)


# %% tags=["exercise"]
def expected_tokens(p, width):
    """Tokens won by one run of the network, on average."""
    return None  # your lines


assert expected_tokens(0.0, 6) is not None, "Hint: at least one token is always won."
assert expected_tokens(0.0, 6) == 1, "Hint: with no good guess it is exactly one."
assert expected_tokens(1.0, 6) == 7, "Hint: all good: the guesses, and one more."
assert abs(expected_tokens(0.5, 2) - 1.75) < 1e-9, (
    "Hint: add p to the power of 0..width."
)

# %% [markdown]
# **2.** The tokens that a check has won may contain a stop token. What may be kept? (The
# stop token itself is kept, because it says why the text ended.)


# %% tags=["exercise"]
def keep_until_stop(won, stop_ids):
    """`(tokens to keep, whether to stop)`."""
    return None  # your lines


assert keep_until_stop([5, 6], {1}) is not None, "Hint: look for the first stop token."
assert keep_until_stop([5, 6], {1}) == ([5, 6], False), "Hint: none: keep all."
assert keep_until_stop([5, 1, 6, 70], {1, 70}) == ([5, 1], True), (
    "Hint: the first stop token is kept, what follows it is not."
)

# %% [markdown]
# **3.** A compiled program fits one shape, and compiling takes seconds. So lengths are
# rounded up to a few sizes, *buckets*: 64, 128, 256, ... Which bucket does a given
# length need?


# %% tags=["exercise"]
def bucket(length):
    """The smallest of 64, 128, 256, ... that is at least `length`."""
    return None  # your lines


assert bucket(1) is not None, "Hint: begin at 64 and double."
assert bucket(1) == 64, "Hint: the smallest is 64."
assert [bucket(n) for n in (64, 65, 128, 1000)] == [64, 128, 128, 1024], (
    "Hint: a length that is a bucket's own size fits into it."
)

# %% [markdown]
# ## Check
#
# The last cell checks what this chapter says.

# %%
assert all(same.values()), same
assert times["cache, each op called"] > least_gain * times["loop on the device"]
assert times["cache, compiled step"] < times["everything again"]
assert forwards <= most_forwards
assert computed <= asked

# %% [markdown]
# ## Further reading
#
# * [Fast inference from transformers via speculative
#   decoding](https://arxiv.org/abs/2211.17192) and [Accelerating large language model decoding
#   with speculative sampling](https://arxiv.org/abs/2302.01318) let a small model guess and the
#   large one check.
# * [Inference with reference](https://arxiv.org/abs/2304.04487) takes the guesses from the text
#   that is there already, as this chapter does.
