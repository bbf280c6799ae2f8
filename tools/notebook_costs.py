"""What executions of the notebooks took: the files in benchmarks/results, and a sentence.

`notebooks.py` writes the files, and puts the sentence below a notebook's title.
"""

import json
import re

from notebook_execution import ROOT

RESULTS = ROOT / "benchmarks" / "results"
# A notebook's row of README.md, up to the minutes and after them.
ROW = re.compile(
    r"^(\| \[[^]]*\]\(notebooks/(\w+)\.ipynb\) \|.*\| )[\d.]+( \| \[Colab\])",
    re.MULTILINE,
)
LARGE_CHILD = 0.5  # GB; sandboxed programs and pip take less, and end at once


def file(mode):
    """The file of `run` or `smoke`."""
    return RESULTS / f"notebooks_{mode}.json"


def read(mode):
    """`{name: cost}` of what was executed last; other backends are `name (backend)`."""
    found = file(mode)
    return json.loads(found.read_text())["notebooks"] if found.exists() else {}


def in_table(text, costs=None):
    """README.md's text with the minutes of the last full runs in its table."""
    costs = read("run") if costs is None else costs

    def row(match):
        before, name, after = match.groups()
        return (
            f"{before}{costs[name]['minutes']:.1f}{after}"
            if name in costs
            else match[0]
        )

    return ROW.sub(row, text)


def line(name, costs=None, downloads=False):
    """What the last full run took, in words; empty if there was none.

    Args:
        name: of the notebook.
        costs: what `read` gives; default: the last full runs.
        downloads: whether the notebook fetches SmolLM2 at its first run.
    """
    cost = (read("run") if costs is None else costs).get(name)
    if cost is None:
        return ""
    device = "JAX" if cost["backend"] == "jax" else "TensorFlow"
    minutes = max(1, round(cost["minutes"]))
    child = cost.get("child_gb", 0)
    text = (
        f"This notebook takes about {minutes} minute{'s'[: minutes > 1]} on "
        f"{cost['cores']} CPU cores ({device}) and needs {cost['peak_gb']:.1f} GB of memory"
    )
    if child >= LARGE_CHILD:
        text += f", plus {child:.1f} GB for a process that it starts"
    if downloads:
        text += ". It downloads 93 MB the first time"
    return f"*{text}.*"
