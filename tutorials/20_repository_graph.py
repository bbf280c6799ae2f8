# %% [markdown]
# # Reading a repository as a graph
#
# A file of a program rarely stands alone. It imports others, and whoever wants to
# understand it reads those first. A code model can do the same if its training text has
# this order: an imported file comes before the files that import it. In this chapter
# you build this order by hand for a small repository. You find the imports, decide
# which files they mean, break cycles, and put the files in a line. Then you do the same
# for a real repository.
#
# You need to know Python. No model is used, and every cell answers at once.

# %% tags=["parameters"]
preset = "code_gemma_tiny_py"  # its tokenizer measures distances
package = "rich"  # an installed package, read as a repository
window = 8192  # tokens of context, as CodeGemma has
least_gain = 1.2  # times as many imports in sight as in the order of names

# %%
shop = {
    "shop/__init__.py": "",
    "shop/basket.py": """
from shop.item import Item
from shop.money import add, zero


class Basket:
    def total(self):
        from shop.discount import reduced  # here, for discount imports this file

        return reduced(self, add(zero(), *self.prices))
""",
    "shop/cli.py": """
import sys

from shop import basket, discount
""",
    "shop/discount.py": """
from .basket import Basket
from .money import percent


def reduced(basket: Basket, price):
    return percent(price, 90)
""",
    "shop/item.py": "from shop.money import Money\n",
    "shop/money.py": "import json\n",
    "shop/json.py": "def dump(item):\n    return str(item)\n",
    "tests/test_item.py": "import shop.item\n",
}
print("\n".join(sorted(shop)))

# %% [markdown]
# In the order of names, `basket.py` comes before `item.py` and `money.py`, although it uses
# both. A model that is trained on this text must guess what `Item` might be. In another
# order, it could have read it before.
#
# ## Step 1: imports
#
# Python's own parser finds the imports, and nothing is executed. For each import, we
# note the dotted name, how many folders up a leading dot points, and whether the import
# stands inside a function. An import inside a function is executed late, and often
# stands there *because* of a cycle.

# %%
import ast


def imports_of(text):
    """`(dotted name, leading dots, inside a function)` of each import."""
    found = []

    def visit(node, late):
        late = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if isinstance(node, ast.Import):
            found.extend((name.name, 0, late) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = f"{node.module}." if node.module else ""
            found.extend((base + n.name, node.level, late) for n in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child, late)

    visit(ast.parse(text), False)
    return found


for path in ("shop/basket.py", "shop/discount.py"):
    print(path, imports_of(shop[path]))

# %% [markdown]
# ## Step 2: which file is meant?
#
# `shop.item.Item` may be a file `shop/item/Item.py`, or a name in `shop/item.py`. The rule
# of the CodeGemma paper is the *longest path-suffix match*: of all files whose path ends
# like the import, the one that agrees in most parts. It needs no knowledge of how a
# project is installed.


# %%
def resolve(name, importer, level, paths):
    """The path that an import means, or None if it is no file of the repository."""
    parts = name.split(".")
    if level:  # relative: so many folders up from the importer
        parts = importer.split("/")[:-level] + parts
    for end in range(len(parts), 0, -1):  # the last part may be a name in the file
        for start in range(end):  # longest suffix first
            tail = "/".join(parts[start:end])
            for candidate in (f"{tail}.py", f"{tail}/__init__.py"):
                matches = [p for p in paths if f"/{p}".endswith(f"/{candidate}")]
                if matches:
                    return min(matches, key=lambda p: (p.count("/"), p))
    return None


def edges_of(repository):
    """`{(importer, imported): importance}`."""
    edges = {}
    for importer, text in repository.items():
        for name, level, late in imports_of(text):
            imported = resolve(name, importer, level, repository)
            if imported not in (None, importer):
                weight = 0.3 if late else 1.0
                known = edges.get((importer, imported), 0)
                edges[importer, imported] = max(weight, known)
    return edges


edges = edges_of(shop)
for (importer, imported), weight in edges.items():
    print(f"{importer:20} needs {imported:20} {weight}")

# %% [markdown]
# One line is wrong: `shop/money.py` imports the `json` of the standard library, and the
# rule finds `shop/json.py`. A suffix is a guess. The package also checks whether Python
# *could load* the file under that name from that place. So a plain `import json` never
# leads to a file inside another package.
#
# ## Step 3: no cycles
#
# `basket` needs `discount`, which needs `basket`. The two files cannot both come first, so
# one of the two edges has to go. We remove the less important one, which is the import
# inside a function. In general, we add the edges from the most important to the least
# important, and leave out each edge that would close a cycle.


# %%
def reaches(start, goal, edges):
    """Whether `start` needs `goal`, directly or through others."""
    waiting, seen = [start], {start}
    while waiting:
        node = waiting.pop()
        if node == goal:
            return True
        new = {b for a, b in edges if a == node} - seen
        seen |= new
        waiting += new
    return False


def break_cycles(edges):
    """`(kept, removed)`, lists of `(importer, imported)`."""
    kept, removed = [], []
    for importer, imported in sorted(edges, key=lambda edge: (-edges[edge], edge)):
        closes = reaches(imported, importer, kept)
        (removed if closes else kept).append((importer, imported))
    return kept, removed


edges.pop(("shop/money.py", "shop/json.py"))  # the wrong one
kept, removed = break_cycles(edges)
print("removed:", removed)

# %% [markdown]
# ## Step 4: a line
#
# Now the files can be ordered. The next file is always one whose imports are all
# placed. If there are several, we take the one that is *nearest* to the placed files,
# counted in steps along imports, so that related files stay together. Ties are decided
# by name. Files without any edge come last, also ordered by name.


# %%
def steps_from(starts, edges):
    """Steps along imports, in either direction, from the nearest of `starts`."""
    steps, layer = dict.fromkeys(starts, 0), set(starts)
    while layer:
        near = {b for a, b in edges if a in layer} | {a for a, b in edges if b in layer}
        layer = near - set(steps)
        steps |= dict.fromkeys(layer, max(steps.values()) + 1)
    return steps


def line_up(paths, edges):
    """The order of files."""
    touched = {path for edge in edges for path in edge}
    placed = []
    while len(placed) < len(touched):
        steps = steps_from(placed, edges) if placed else {}
        waiting = {importer for importer, imported in edges if imported not in placed}
        ready = touched - set(placed) - waiting
        placed.append(min(ready, key=lambda p: (steps.get(p, float("inf")), p)))
    return placed + sorted(set(paths) - touched)


order = line_up(shop, kept)
print("\n".join(order))

# %% [markdown]
# In the next picture, every file is a place on the line, and every import is an arc. An
# arc above the line is obeyed: the imported file stands to the left. The orange arcs
# below the line are not obeyed.

# %%
import matplotlib.pyplot as plt
from matplotlib.patches import Arc


def draw(axes, order, edges, names=True, alpha=1.0):
    """One order of files with its imports."""
    place = {path: i for i, path in enumerate(order)}
    tallest = 1
    for importer, imported in edges:
        left, right = place[imported], place[importer]
        good = left < right
        width = abs(right - left)
        tallest = max(tallest, width)
        side = {"theta1": 0, "theta2": 180} if good else {"theta1": 180, "theta2": 360}
        colour = "#4a7fb5" if good else "#e08e45"
        arc = Arc(
            ((left + right) / 2, 0), width, width, color=colour, alpha=alpha, **side
        )
        axes.add_patch(arc)
    axes.plot(range(len(order)), [0] * len(order), ".", color="#333")
    axes.set(
        xlim=(-0.6, len(order) - 0.4), ylim=(-tallest / 2 - 0.5, tallest / 2 + 0.5)
    )
    axes.set_yticks([])
    labels = [path.removesuffix(".py") for path in order] if names else []
    axes.set_xticks(range(len(labels)), labels, rotation=30, ha="right", fontsize=8)
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)


figure, axes = plt.subplots(2, 1, figsize=(7, 5.6), layout="constrained")
draw(axes[0], sorted(shop), edges)
axes[0].set_title("in the order of names", fontsize=10)
draw(axes[1], order, edges)
axes[1].set_title("in the order of the graph", fontsize=10)
plt.show()

# %% [markdown]
# The one arc below the line is the import that was removed.
#
# ## A real repository
#
# The package reads imports of nine languages, knows what can be loaded, weighs imports by
# kind and by how often their names are used, and puts tests beside what they test. The
# next cell applies it to the small repository and to a real one.

# %%
from codegemma_keras import data
from codegemma_keras.data.order.imports import read_facts
from codegemma_keras.data.read import installed as corpus

facts = [read_facts(text, path, "python") for path, text in shop.items()]
package_order = data.order_files(facts)
print("the small one:", list(package_order.paths))

files = {d.path: d.text for d in corpus.python_files([package])}
found = data.order_files([read_facts(t, p, "python") for p, t in files.items()])
needs = [(edge.importer, edge.imported) for edge in (*found.kept, *found.removed)]
print(
    f"{len(files)} files, {len(found.kept)} imports kept, {len(found.removed)} removed"
)

orders = {"names": sorted(files), "graph": list(found.paths)}
figure, axes = plt.subplots(2, 1, figsize=(7.4, 5.6), layout="constrained", dpi=60)
for axis, (name, paths) in zip(axes, orders.items(), strict=True):
    draw(axis, paths, needs, names=False, alpha=0.35)
    axis.set_title(f"{package} in the order of {name}", fontsize=10)
plt.show()

# %% [markdown]
# What does the order gain? A model can see only a window of tokens. For each import, we
# count whether the imported file comes before the importer, and whether all of it is
# still in the window when the importer's first line is read.

# %%
from codegemma_keras import CodeGemmaTokenizer

tokenizer = CodeGemmaTokenizer.from_preset(preset)
length = {path: len(tokenizer.encode(text)) for path, text in files.items()}
before, in_sight = {}, {}
for name, paths in orders.items():
    start, total = {}, 0
    for path in paths:
        start[path] = total
        total += length[path]
    first = [start[b] < start[a] for a, b in needs]
    seen = [start[b] < start[a] <= start[b] + window for a, b in needs]
    before[name], in_sight[name] = sum(first) / len(needs), sum(seen) / len(needs)
    print(
        f"{name}: imported first {before[name]:.0%}, in the window {in_sight[name]:.0%}"
    )

figure, axes = plt.subplots(figsize=(7, 2), layout="constrained")
places = range(len(orders))
axes.barh(
    [p - 0.2 for p in places],
    before.values(),
    0.38,
    label="imported first",
    color="#8fc98f",
)
axes.barh(
    [p + 0.2 for p in places],
    in_sight.values(),
    0.38,
    label="and in the window",
    color="#4a7fb5",
)
axes.set_yticks(places, [f"order of {name}" for name in orders])
axes.invert_yaxis()
axes.set(xlim=(0, 1), xlabel="share of imports")
figure.legend(loc="outside upper center", ncols=2, frameon=False)
plt.show()

# %% [markdown]
# Where the order of the graph still breaks an import, the import is part of a cycle. Most
# imported files are outside the window in any order. A repository is much longer than the
# window, and a file that all others import can be near to only a few of them. The order
# brings more of the imported files into the window. Longer contexts and retrieval are other
# ways to the same goal.
#
# ## Exercises
#
# Each of the next cells fails on purpose, with a hint, until you have filled it in. The
# solutions are in `tutorials/solutions/20_repository_graph.py`.
#
# **1.** Turn a relative import into the dotted name from the top of the repository. One dot
# means the importer's own folder, two dots the folder above.


# %% tags=["exercise"]
def absolute(importer, level, module):
    """`("a/b/c.py", 1, "d")` -> `"a.b.d"`."""
    return None  # your lines


assert absolute("a/b/c.py", 1, "d") is not None, (
    "Hint: split the importer at the slashes."
)
assert absolute("a/b/c.py", 1, "d") == "a.b.d", (
    "Hint: one dot drops the file's own name."
)
assert absolute("a/b/c.py", 2, "d.e") == "a.d.e", (
    "Hint: each further dot drops a folder."
)
assert absolute("a/b/__init__.py", 1, "d") == "a.b.d", (
    "Hint: a package's file likewise."
)

# %% [markdown]
# **2.** Is an order good? Count the imports that it breaks.


# %% tags=["exercise"]
def broken(order, edges):
    """How many `(importer, imported)` have the importer first."""
    return None  # your lines


assert broken(["a", "b"], [("b", "a")]) is not None, (
    "Hint: note the place of each file."
)
assert broken(["a", "b"], [("b", "a")]) == 0, (
    "Hint: b needs a, and a comes first: good."
)
assert broken(["b", "a", "c"], [("b", "a"), ("c", "b"), ("a", "c")]) == 2, (
    "Hint: compare the two places of each edge."
)

# %% [markdown]
# **3.** A test file should stand right beside what it tests. Given an order, move each
# `test_x.py` directly behind the file named `x.py`, if there is one.


# %% tags=["exercise"]
def tests_beside(order):
    """The order, with tests behind their subjects."""
    return None  # your lines


moved = tests_beside(["m/a.py", "m/b.py", "tests/test_a.py", "tests/test_z.py"])
assert moved is not None, "Hint: take the tests with a subject out, then insert them."
assert len(moved) == 4, "Hint: no file gets lost."
assert moved == ["m/a.py", "tests/test_a.py", "m/b.py", "tests/test_z.py"], (
    "Hint: test_z has no subject and stays where it was."
)

# %% [markdown]
# ## Check
#
# The last cell checks what this chapter says.

# %%
position = {path: i for i, path in enumerate(order)}
assert removed == [("shop/basket.py", "shop/discount.py")]
assert all(position[imported] < position[importer] for importer, imported in kept)
rank = {path: i for i, path in enumerate(found.paths)}
assert all(rank[edge.imported] < rank[edge.importer] for edge in found.kept)
assert not any("json" in edge.imported for edge in package_order.kept)
assert before["graph"] > before["names"]
assert in_sight["graph"] >= least_gain * in_sight["names"]

# %% [markdown]
# ## Further reading
#
# * [DeepSeek-Coder](https://arxiv.org/abs/2401.14196) orders the files of a repository by their
#   imports, so that a file comes after those that it needs.
# * The [CodeGemma report](https://arxiv.org/abs/2406.11409) does the same, and puts tests
#   beside what they test.
