# %% [markdown]
# # Tokens and control tokens
#
# A language model never sees text. It sees a row of integers, and every one of them
# names a *piece* of text from a fixed list, the vocabulary. In this chapter you take
# apart how CodeGemma turns text into integers. You see which pieces there are, and how
# a text is cut into them. You write this algorithm yourself, and its results agree with
# those of the real one. You also see why bytes matter, and how a prompt marks the
# cursor with tokens that no text can forge.
#
# You need to know Python, and nothing about machine learning. No network is used and no
# model computes anything, so every cell answers at once. The vocabulary in the package
# has 8,192 pieces. The vocabulary of `code_gemma_2b_en` is of the same kind and has
# 256,000.

# %% tags=["parameters"]
preset = "code_gemma_tiny_py"
merges = 120  # that the vocabulary you train learns
most_characters = 1500  # of each file that your tokenizer is compared on

# %%
import html

from IPython.display import HTML, display

from codegemma_keras import CodeGemmaTokenizer, fim

tokenizer = CodeGemmaTokenizer.from_preset(preset)
source = '''def greet(name, times=2):
    """Say hello."""
    for _ in range(times):
        print("Grüße,", name, 12345)
'''


def show_tokens(ids):
    """Draw each token in one of four colours; a tooltip gives its id."""
    colours = ["#cfe8ff", "#f6d5f7", "#d3f5d3", "#fff3bf"]
    pieces = []
    for number, token in enumerate(ids):
        text = tokenizer.decode([token], errors="backslashreplace")
        text = html.escape(text).replace("\n", "⏎\n").replace(" ", "·")
        style = f"background:{colours[number % 4]};color:#222"
        pieces.append(f'<span style="{style}" title="id {token}">{text}</span>')
    display(HTML(f'<pre style="line-height:1.6">{"".join(pieces)}</pre>'))


ids = tokenizer.encode(source)
print(len(source), "characters,", len(source.encode()), "bytes,", len(ids), "tokens")
show_tokens(ids)

# %% [markdown]
# Look for four things:
#
# * Frequent words are one token, with the space before them, or the bracket after.
# * An indent is **one** token, however deep. Python would be expensive otherwise.
# * Every digit stands alone. `12345` is five tokens, so that a number always has the
#   same shape, whatever its neighbours are.
# * `ü` and `ß` are drawn as `\xc3\xbc` and so on, if the vocabulary has no piece for
#   them: then their UTF-8 *bytes* are the tokens.
#
# ## Any text, byte for byte
#
# The vocabulary has one token for each of the 256 bytes. So it can spell any text, and
# nothing like `<unk>` ever replaces a character. Decoding gives back exactly what was
# encoded, including line ends.

# %%
samples = {
    "Python": source,
    "English": "The cache holds what the model has computed for earlier tokens. " * 4,
    "numbers": "3.14159 2.71828 1.41421 1.61803 0.57721 " * 4,
    "German": "Größere Wörter sind länger, und Umlaute brauchen zwei Bytes. " * 4,
    "Chinese": "代码模型一次读取一个词元。" * 8,
    "emoji": "🙂🚀🐍🎉" * 8,
    "CRLF, tab, NUL": "a\r\n\tb\0c\u00a0d" * 8,
}
rates = {}
for name, text in samples.items():
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text, name
    rates[name] = len(text.encode()) / len(tokens)
print(f"all {len(samples)} samples came back exactly")

# %%
import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
bars = axes.barh(list(rates), list(rates.values()), color="#4a7fb5")
axes.bar_label(bars, fmt="%.1f", padding=3)
axes.invert_yaxis()
axes.set(
    xlabel="bytes per token (more is cheaper)", xlim=(0, 1.15 * max(rates.values()))
)
plt.show()

# %% [markdown]
# The bars show what text costs: time, memory and context grow with the number of tokens.
# This vocabulary was learnt from Python files, whose docstrings are English, so English is
# cheap. Code has more names and signs. A digit is always one token. In a script that the
# vocabulary does not know, each byte costs one token.
#
# ## Learning a vocabulary
#
# Where do the pieces come from? *Byte pair encoding* begins with single characters. It
# counts which two neighbours are most frequent, makes them a new piece, and repeats
# this.

# %%
import collections
import inspect
import textwrap

text = inspect.getsource(textwrap)
words = collections.Counter(text.replace(" ", " ▁").split())
words = {tuple(word): count for word, count in words.items()}


def pair_counts(words):
    """How often each pair of neighbouring pieces stands in the text."""
    counts = collections.Counter()
    for pieces, count in words.items():
        for pair in zip(pieces, pieces[1:], strict=False):
            counts[pair] += count
    return counts


def merge(pieces, pair):
    """`pieces` with every occurrence of `pair`, from the left, made one piece."""
    merged = []
    for piece in pieces:
        if merged and (merged[-1], piece) == pair:
            merged[-1] = "".join(pair)
        else:
            merged.append(piece)
    return tuple(merged)


learnt, lengths = [], []
for _ in range(merges):
    pair, _count = max(pair_counts(words).items(), key=lambda item: (item[1], item[0]))
    words = {merge(pieces, pair): count for pieces, count in words.items()}
    learnt.append("".join(pair))
    lengths.append(sum(len(pieces) * count for pieces, count in words.items()))
print("first:", learnt[:16])
print("last: ", learnt[-8:])

figure, axes = plt.subplots(figsize=(7, 2.6), layout="constrained")
axes.plot(range(1, merges + 1), lengths, color="#4a7fb5")
axes.set(xlabel="merges learnt", ylabel="tokens of the text", ylim=(0, None))
plt.show()

# %% [markdown]
# The first merges save most. After a hundred merges you recognise words. After eight
# thousand you have a vocabulary as large as that of the embedded model. Each further
# doubling saves less, although it doubles the table of embeddings.
#
# ## Cutting a text
#
# Each learnt piece has a *score*: the earlier it was learnt, the higher its score. To
# encode a text, we begin with its characters. Then we repeat one step: join the two
# neighbours whose union is the piece with the highest score. Runs of spaces, newlines and
# tabs are set aside before that, each as one piece. A character that no piece covers is
# replaced by its bytes. That is the whole tokenizer:

# %%
from codegemma_keras.formats import sentencepiece_model as pieces_of

vocabulary = list(pieces_of.pieces(tokenizer.proto))
id_of = {name: i for i, (name, _, _) in enumerate(vocabulary)}
score_of = {n: s for n, s, kind in vocabulary if kind == pieces_of.NORMAL}
runs = {
    n for n, _, kind in vocabulary if kind == pieces_of.USER_DEFINED and n[0] in "\n\t▁"
}
longest_run = max(map(len, runs))


def split_runs(text):
    """`(piece, is a run)`: whole runs of white space, and single characters."""
    place = 0
    while place < len(text):
        for length in range(longest_run, 0, -1):
            if text[place : place + length] in runs:
                yield text[place : place + length], True
                break
        else:
            length = 1
            yield text[place], False
        place += length


def encode_by_hand(text):
    """Ids of a text: the highest-scoring merge first, the leftmost of equals."""
    pieces = list(split_runs(text.replace(" ", "▁")))
    while True:
        best, where = None, None
        for i in range(len(pieces) - 1):
            (left, left_run), (right, right_run) = pieces[i : i + 2]
            score = score_of.get(left + right)
            if not (left_run or right_run) and score is not None:
                if best is None or score > best:
                    best, where = score, i
        if where is None:
            break
        joined = pieces[where][0] + pieces[where + 1][0]
        pieces[where : where + 2] = [(joined, False)]
    ids = []
    for piece, _ in pieces:
        if piece in id_of:
            ids.append(id_of[piece])
        else:
            ids += [id_of[f"<0x{byte:02X}>"] for byte in piece.encode()]
    return ids


files = {"textwrap": text, "greet": source, "German": samples["German"]}
files["emoji"] = samples["emoji"]
agree = {}
for name, file in files.items():
    start = file[:most_characters]
    agree[name] = encode_by_hand(start) == tokenizer.encode(start)
    print(f"{name:9} {len(tokenizer.encode(start)):4} tokens, the same: {agree[name]}")

# %% [markdown]
# ## Control tokens
#
# A prompt must say things that are not text: where the part before the cursor begins,
# where the part after it begins, and that the model should write now. Each such sign is
# a *control token* with an id of its own. The package keeps them apart by *type*: a
# `fim.Control` becomes the token, a string never does.

# %%
for control in (fim.START, fim.END, *fim.SENTINELS, fim.FILE_SEPARATOR):
    (token,) = tokenizer.encode([control])
    print(f"{token:4}  {control}")

forged = tokenizer.encode(str(fim.PREFIX))
print("the same characters as text:", [tokenizer.decode([i]) for i in forged])

# %% [markdown]
# Why is this so strict? Consider a file that is *about* CodeGemma, such as a test or
# this very tutorial. If its text could become control tokens, the model would believe
# that a new prompt begins in the middle of the file. In databases, the same mistake is
# called injection. The method `tokenize`, which `generate` uses for raw prompts, does
# turn such text into control tokens. Use it for prompts that you wrote, and never for
# files that someone else wrote.

# %%
file_about_us = "# The prompt starts with <|fim_prefix|>, then comes the code.\n"
as_text = tokenizer.encode(file_about_us)
as_raw_prompt = [int(i) for i in tokenizer.tokenize(file_about_us)]
prefix_id = tokenizer.fim_prefix_id
print("encode:  ", prefix_id in as_text)
print("tokenize:", prefix_id in as_raw_prompt)

# %% [markdown]
# ## Borders
#
# Each part of a prompt is encoded by itself. So the cursor is always a border between
# tokens. This can have a cost: if a word is cut, its halves are other tokens than the
# whole word. Let us cut the small program above at every place and count.

# %%
whole = len(tokenizer.encode(source))
extra = []
for cut in range(1, len(source)):
    halves = tokenizer.encode(source[:cut]) + tokenizer.encode(source[cut:])
    extra.append(len(halves) - whole)
inside = sum(value != 0 for value in extra) / len(extra)

figure, axes = plt.subplots(figsize=(7, 2.6), layout="constrained")
axes.bar(range(1, len(source)), extra, width=1.0, color="#e08e45")
axes.set(xlabel="character at which the text is cut", ylabel="tokens more")
plt.show()
print(f"{inside:.0%} of the places change the number of tokens")

# %% [markdown]
# (Where a bar points down, the two halves take fewer tokens than the whole, because greedy
# merging does not always find the shortest sequence.)
#
# A programmer's cursor stands at any of these places. If a model was trained only on
# whole tokens, about half of the cursor positions give it token sequences unlike its
# training data. Chapter 13 is about that.
#
# ## Characters from tokens
#
# While a model answers, tokens come one by one, but a character may be several of them.
# Printing each as it comes would show broken signs. The decoder below waits until a
# character is whole.

# %%
from codegemma_keras.tokenizer.tokenizer import IncrementalDecoder

answer = "x = '🙂'"
decoder = IncrementalDecoder(tokenizer)
stream = [decoder.push(token) for token in tokenizer.encode(answer)] + [
    decoder.finish()
]
print(stream)
naive = "".join(tokenizer.decode([token]) for token in tokenizer.encode(answer))
print("one by one, naively:", naive)

# %% [markdown]
# ## Exercises
#
# Each of the next cells fails on purpose, with a hint, until you have filled it in. The
# solutions are in `tutorials/solutions/10_tokens.py`.
#
# **1.** A model's input begins with the token *bos*, once. Build the row of ids that asks
# for what belongs between `prefix` and `suffix`: bos, the prefix sign, the prefix, the
# suffix sign, the suffix, the middle sign.


# %% tags=["exercise"]
def prompt_ids(tokenizer, prefix, suffix):
    """Ids of a prompt for the middle."""
    return None  # your lines


found = prompt_ids(tokenizer, "a = ", "\n<|fim_suffix|>")
assert found is not None, "Hint: tokenizer.encode takes a list of Controls and strings."
assert found[0] == tokenizer.start_token_id, "Hint: the first id is start_token_id."
assert found.count(tokenizer.start_token_id) == 1, "Hint: bos comes once."
assert found.count(tokenizer.fim_suffix_id) == 1, "Hint: a suffix is text, a str."
expected = tokenizer.encode(fim.render("a = ", "\n<|fim_suffix|>"))
assert found[1:] == expected, "Hint: the order is prefix, suffix, middle."

# %% [markdown]
# **2.** How many bytes at the end of `data` belong to a character that is not complete
# yet? In UTF-8 a byte below 128 is a character; `0b110xxxxx`, `0b1110xxxx` and
# `0b11110xxx` begin one of two, three and four bytes; `0b10xxxxxx` continues it.


# %% tags=["exercise"]
def incomplete_bytes(data):
    """The number of bytes to hold back."""
    return None  # your lines


smile = "🙂".encode()
assert incomplete_bytes(b"ab") is not None, "Hint: return a number, 0 for plain text."
assert incomplete_bytes(b"ab") == 0, "Hint: bytes below 128 are whole characters."
assert incomplete_bytes(b"ab" + smile) == 0, "Hint: a whole character may be shown."
for have in (1, 2, 3):
    held = incomplete_bytes(b"ab" + smile[:have])
    assert held == have, (
        "Hint: go back from the end to the byte that begins a character."
    )
assert incomplete_bytes("é".encode()[:1]) == 1, "Hint: two-byte characters, too."

# %% [markdown]
# **3.** Merge by hand: given pieces and scores, do one step of the algorithm above.


# %% tags=["exercise"]
def merge_once(pieces, scores):
    """The pieces after the best merge; as they were if there is none."""
    return None  # your lines


found = merge_once(["d", "e", "f", "e"], {"de": -3.0, "ef": -1.0, "fe": -2.0})
assert found is not None, "Hint: look at each pair of neighbours, and return a list."
assert found == ["d", "ef", "e"], "Hint: -1 is the highest score, so `ef` is first."
assert merge_once(["a", "b", "a", "b"], {"ab": -1.0}) == ["ab", "a", "b"], (
    "Hint: one merge at a time, the leftmost of equals."
)
assert merge_once(["x", "y"], {}) == ["x", "y"], (
    "Hint: without a merge nothing changes."
)

# %% [markdown]
# ## Check
#
# The last cell checks what this chapter says.

# %%
assert all(agree.values()), agree
assert lengths == sorted(lengths, reverse=True)
assert prefix_id not in as_text
assert prefix_id in as_raw_prompt
assert len(forged) > 1
assert "".join(stream) == answer
assert all("\ufffd" not in piece for piece in stream)
assert inside > 0.25
assert rates["Python"] > rates["Chinese"]

# %% [markdown]
# ## Further reading
#
# * [Neural machine translation of rare words with subword
#   units](https://arxiv.org/abs/1508.07909) brought byte-pair encoding to language models.
# * [SentencePiece](https://arxiv.org/abs/1808.06226) describes the program and the file format
#   of Gemma's tokenizer.
