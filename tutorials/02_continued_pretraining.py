# %% [markdown]
# # Learning a repository
#
# A code model has never seen *your* code: your names, your helpers and your habits. In
# this notebook a CodeGemma model reads a repository that it was not trained on, and
# becomes measurably better at it. You turn a folder of files into training rows, look
# at the graph of imports, train with `fit`, and measure bits per byte and infilling on
# files that were held out. You also measure how much the model forgets of other code.
#
# You should know notebook 01, or at least what prefix, suffix and middle are. `package`
# may be any installed package. To use a folder of your own, set `root` in the second
# cell.

# %% tags=["parameters"] backend="tensorflow"
preset = "code_gemma_tiny_py"
dtype = "auto"  # bfloat16 where the device computes it fast, else float32
package = "rich"  # MIT licence; no part of it was in the small model's training
other = "requests"  # other code, to measure what is forgotten
row_length = 512  # tokens; the real models can use 8192
batches = 0  # training batches in each epoch; 0 means all rows
rows_per_step = 8
epochs = 2  # over the repository
learning_rate = 1e-3  # for all weights; about 2e-5 for the 2B model
replay = 0.25  # share of rows with other code, against forgetting
replayed = ("email", "http", "logging", "unittest")  # packages of the standard library
most_files = 1000
test_files = 12  # files of the repository that are held out
infill_order = "spm"  # the small model knows it better than "psm"
test_tasks = 40  # lines to fill in
least_gain = 0.15  # bits per byte that held-out files must gain
most_forgetting = 0.10  # bits per byte that other code may lose

# %%
import importlib.util
import pathlib
import time

from codegemma_keras import CodeGemmaCausalLM
from codegemma_keras.training import hardware

started = time.perf_counter()
if dtype == "auto":
    dtype = hardware.mixed_policy()
    print(f"dtype: {dtype}")
root = pathlib.Path(importlib.util.find_spec(package).origin).parent
try:
    lm = CodeGemmaCausalLM.from_preset(preset, dtype=dtype)
except (OSError, ValueError, MemoryError) as error:
    print(f"{error}\n\nSo this goes on with the small model in the package.")
    preset = "code_gemma_tiny_py"
    lm = CodeGemmaCausalLM.from_preset(preset, dtype=dtype)
middle = lm.infill(
    "from rich.console import Console\n\nconsole = ",
    "\nconsole.print(message)\n",
    max_new_tokens=16,
)
print(middle)

# %% [markdown]
# ## Some files are held out
#
# The test files are chosen before anything else looks at the repository. A hash of the
# path chooses them, so the choice is the same tomorrow. Files that only hold tables of
# data (emoji, widths of characters) are not used, because the data pipeline would drop
# them, too.

# %%
import hashlib
import shutil

from codegemma_keras.data import Report
from codegemma_keras.data.clean.filters import filter_documents
from codegemma_keras.data.document import Document


def documents_of(folder, name):
    """The Python files of a folder that the pipeline's filters keep."""
    files = sorted(folder.rglob("*.py"))
    found = [
        Document(
            text=file.read_text("utf-8"),
            path=f"{name}/{file.relative_to(folder).as_posix()}",
            repo=name,
            licence="MIT",
            language="python",
        )
        for file in files
    ]
    kept = filter_documents(iter(found), Report(), languages=("python",), licences=None)
    return [(document.path, document.text) for document in kept]


def by_hash(item):
    return hashlib.blake2b(item[0].encode()).digest()


files = sorted(documents_of(root, package), key=by_hash)[:most_files]
long_enough = [item for item in files if 1_000 < len(item[1]) < 30_000]
test = long_enough[:test_files]
train = [item for item in files if item not in test]
repository = pathlib.Path("repository")
shutil.rmtree(repository, ignore_errors=True)
for path, text in train:
    file = repository / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")
print(f"{len(train)} files, {sum(len(t) for _, t in train) / 1e3:,.0f} kB to train on")
print(f"{len(test)} files, {sum(len(t) for _, t in test) / 1e3:,.0f} kB kept apart")

# %% [markdown]
# ## From files to rows
#
# `data.build` filters the files, replaces secrets and drops duplicates. It orders the
# files so that an imported file comes before the files that import it, splits them for
# fill-in-the-middle and packs them into rows. The command `codegemma data build` does
# the same.

# %%
from codegemma_keras import data

shutil.rmtree("dataset", ignore_errors=True)
settings = data.Settings(
    length=row_length,
    licences=None,  # the folder of an installed package does not hold its licence
    fim=data.FimSettings(rate=0.8),
)
report = data.build([repository], "dataset", preset, settings, keep_work=True)
for (step, reason), (number, _) in sorted(report.counts.items()):
    if step in ("read", "source", "filter", "dedup", "secrets", "fim"):
        print(f"{step:8} {reason:24} {number:5}")

# %% [markdown]
# The next cell does the same for some code of another kind. A model that reads nothing
# but one repository forgets other code. A few rows of code that it already knew, which
# is called *replay*, preserve most of that knowledge.

# %%
general = pathlib.Path("general-source")
shutil.rmtree(general, ignore_errors=True)
for name in replayed:
    folder = pathlib.Path(importlib.util.find_spec(name).origin).parent
    for path, text in documents_of(folder, name)[:most_files]:
        file = general / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")
shutil.rmtree("general", ignore_errors=True)
data.build([general], "general", preset, settings)
print(f"{len(list(general.rglob('*.py')))} files to replay")

# %% [markdown]
# ## The graph of imports
#
# Each point is a file, and each arrow leads from an imported file to one that imports
# it. The height is the place in the order in which the model reads the files. All
# arrows point upwards, because the least important import of every cycle was left out
# (dashed).

# %%
import json

import matplotlib.pyplot as plt
import networkx as nx

graph_file = next(pathlib.Path("dataset/.codegemma-build").rglob("graphs.jsonl"))
order = json.loads(graph_file.read_text().splitlines()[0])
place = {path: number for number, path in enumerate(order["paths"])}
graph = nx.DiGraph()
graph.add_nodes_from(order["paths"])
graph.add_edges_from((imported, importer) for importer, imported in order["kept"])
sizes = [20 + 25 * graph.out_degree(path) for path in graph]
spring = nx.spring_layout(graph.to_undirected(), seed=3, k=0.5)
position = {path: (spring[path][0], place[path]) for path in graph}
most_used = sorted(graph, key=graph.out_degree)[-12:]

figure, axes = plt.subplots(figsize=(7, 6), layout="constrained")
style = {"alpha": 0.25, "arrowsize": 6, "node_size": sizes, "ax": axes}
nx.draw_networkx_edges(graph, position, **style)
removed = [(imported, importer) for importer, imported in order["removed"]]
nx.draw_networkx_edges(
    graph, position, removed, style="dashed", edge_color="#c0392b", **style
)
nx.draw_networkx_nodes(graph, position, node_size=sizes, node_color="#4a7fb5", ax=axes)
labels = {path: path.rsplit("/", 1)[-1].removesuffix(".py") for path in most_used}
nx.draw_networkx_labels(graph, position, labels, font_size=8, ax=axes)
axes.set(ylabel="place in the order", xticks=[])
axes.tick_params(left=True, labelleft=True)
plt.show()
print(f"{len(order['kept'])} imports kept, {len(order['removed'])} left out")

# %% [markdown]
# ## One row of training data
#
# Always look at the data that a model is trained on. The prefix is blue, the suffix is
# violet, and the middle that the model must learn to write is green. The loss counts
# all of them. Paths and plain text are yellow. A row may hold several files, and
# attention stays inside a segment.

# %%
import html

from IPython.display import HTML, display

from codegemma_keras import fim
from codegemma_keras.data.rows.storage import Rows

COLOURS = {fim.PREFIX: "#cfe8ff", fim.SUFFIX: "#f6d5f7", fim.MIDDLE: "#d3f5d3"}
stored = Rows("dataset")
parts = [part for segment in stored[0] for part in lm.tokenizer.decode_parts(segment)]
pieces, colour = [], "#fff3bf"
for part in parts:
    bold = ""
    if isinstance(part, fim.Control):
        colour, bold = COLOURS.get(part, "#fff3bf"), ";font-weight:bold"
    style = f"background:{colour};color:#222{bold}"
    pieces.append(f'<span style="{style}">{html.escape(part)}</span>')
box = "font-family:monospace;line-height:1.4;max-height:24em;overflow:auto"
display(HTML(f'<pre style="{box}">{"".join(pieces)}</pre>'))
# The last token of a segment is only a target: it takes no place.
filled = sum(len(segment) - 1 for n in range(len(stored)) for segment in stored[n])
print(
    f"{len(stored)} rows of {row_length} tokens, {filled / len(stored) / row_length:.0%} full"
)

# %% [markdown]
# ## Before the training
#
# *Bits per byte* says how many bits the model needs for each byte of a file that it has
# not seen. Half as many bits mean half as much surprise. In contrast to the loss, it
# allows you to compare models with different vocabularies. For *infilling*, one line of
# a file is hidden, and the answer must equal that line exactly. There are three test
# sets: the held-out files of the repository, another package, and a part of the
# standard library, which the small model was trained on.

# %%
import asyncio

from codegemma_keras.evals import infilling
from codegemma_keras.evals.likelihood import bits_per_byte

other_root = pathlib.Path(importlib.util.find_spec(other).origin).parent
known_root = pathlib.Path(asyncio.__file__).parent
known = "asyncio"
sets = {
    package: test,
    other: sorted(documents_of(other_root, other), key=by_hash)[:test_files],
    known: sorted(documents_of(known_root, known), key=by_hash)[:test_files],
}
tasks = infilling.single_line_tasks(test, test_tasks)


def measure():
    """Bits per byte of each set, and infilling on the repository's own."""
    bits = {
        name: bits_per_byte(lm, files)["bits_per_byte"] for name, files in sets.items()
    }
    records = infilling.run(lm, tasks, infill_order, max_new_tokens=48)
    return bits, infilling.summary(records), records


bits_before, lines_before, records_before = measure()
for name, value in bits_before.items():
    print(f"{name:18} {value:.3f} bits per byte")
print(f"lines filled in exactly: {lines_before['exact_match']:.0%}")

# %% [markdown]
# ## Training
#
# `data.load` gives batches for `fit`, here from two folders in proportion. Each row of
# the repository is seen `epochs` times on average.

# %%
import keras

keras.utils.set_random_seed(0)
steps = batches or max(1, int(len(stored) / rows_per_step / (1 - replay)))
schedule = keras.optimizers.schedules.CosineDecay(
    0.0, epochs * steps, warmup_target=learning_rate, warmup_steps=max(1, steps // 10)
)
lm.compile(
    optimizer=keras.optimizers.AdamW(
        schedule, beta_2=0.95, weight_decay=0.1, global_clipnorm=1.0
    ),
    weighted_metrics=[],
    jit_compile=keras.backend.backend() == "jax",  # slower on a CPU with TensorFlow
)
losses = []


class Log(keras.callbacks.Callback):
    """Keeps every loss and prints ten lines in all."""

    def on_train_batch_end(self, batch, logs=None):
        mean, count = logs["loss"], batch + 1  # Keras gives the mean since the start
        losses.append(mean * count - sum(losses[len(losses) - batch :]))
        if (batch + 1) % max(1, epochs * steps // 10) == 0:
            speed = count * rows_per_step * row_length / (time.perf_counter() - begin)
            print(
                f"step {count}/{epochs * steps}: loss {losses[-1]:.2f}, {speed:,.0f} tokens/s"
            )


begin = time.perf_counter()
text_preprocessor, lm.preprocessor = lm.preprocessor, None  # rows are tokens already
lm.fit(
    data.load({"dataset": 1 - replay, "general": replay}, rows_per_step),
    steps_per_epoch=epochs * steps,
    verbose=0,
    callbacks=[Log()],
)
lm.preprocessor = text_preprocessor

figure, axes = plt.subplots(figsize=(7, 2.4), layout="constrained")
axes.plot(losses, color="#4a7fb5", linewidth=1)
axes.set(xlabel="step", ylabel="loss, nats a token")
plt.show()

# %% [markdown]
# ## After the training

# %%
import numpy as np

bits_after, lines_after, records_after = measure()
change = {name: bits_after[name] / bits_before[name] - 1 for name in sets}

figure, axes = plt.subplots(figsize=(7, 2.6), layout="constrained")
places = np.arange(len(sets))
axes.barh(
    places - 0.2, list(bits_before.values()), 0.35, color="#b9b9b9", label="before"
)
axes.barh(places + 0.2, list(bits_after.values()), 0.35, color="#4a9d5b", label="after")
axes.set_yticks(places, list(sets))
axes.invert_yaxis()
axes.set(xlabel="bits per byte (less is better)")
axes.legend()
plt.show()
for name in sets:
    print(
        f"{name:18} {bits_before[name]:.3f} -> {bits_after[name]:.3f} ({change[name]:+.0%})"
    )
for measure_name in ("exact_match", "parse_rate", "stop_rate"):
    old, new = lines_before[measure_name], lines_after[measure_name]
    print(f"filled-in lines, {measure_name:12} {old:4.0%} -> {new:4.0%}")

# %% [markdown]
# Does the answer stop at the end of the line? It does so less often than before.
# `data.build` cuts middles of any length, while most middles in the small model's own
# training were lines, and a model learns the lengths that it is shown. Therefore only
# few lines are reproduced exactly, both before and after. With a model of billions of
# parameters, both numbers mean more. Here are some of the answers:

# %%
for old, new in list(zip(records_before, records_after, strict=True))[:5]:
    print(old["path"])
    print(f"    right   {old['middle'].strip()!r:.70}")
    print(f"    before  {old['completion'].strip()!r:.70}")
    print(f"    after   {new['completion'].strip()!r:.70}")

# %% [markdown]
# ## Summary
#
# Held-out files of the repository cost clearly fewer bits than before, and other code
# does not cost many more. The last cell checks both. Set `replay` to 0 to see what the
# replayed rows are worth. As a next step, save the model with
# `lm.save_to_preset("my_model")`. After that, `from_preset("my_model")` loads it.

# %%
import os
import resource

print(
    f"{(time.perf_counter() - started) / 60:.1f} minutes on {os.cpu_count()} CPU cores, at "
    f"most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GB of memory"
)
assert change[package] <= -least_gain
assert max(change[other], change[known]) <= most_forgetting
