"""What executions of the notebooks took: the files in benchmarks/results, and a sentence.

`notebooks.py` writes the files, and puts the sentence below a notebook's title.
"""

import json

from notebook_execution import ROOT

RESULTS = ROOT / "benchmarks" / "results"


def file(mode):
    """The file of `run` or `smoke`."""
    return RESULTS / f"notebooks_{mode}.json"


def read(mode):
    """`{name: cost}` of what was executed last; other backends are `name (backend)`."""
    found = file(mode)
    return json.loads(found.read_text())["notebooks"] if found.exists() else {}


def line(name, costs=None):
    """What the last full run took, in words; empty if there was none."""
    cost = (read("run") if costs is None else costs).get(name)
    if cost is None:
        return ""
    device = "JAX" if cost["backend"] == "jax" else "TensorFlow"
    minutes = max(1, round(cost["minutes"]))
    return (
        f"*This notebook runs offline in about {minutes} minute{'s'[: minutes > 1]} on "
        f"{cost['cores']} CPU cores ({device}) and needs {cost['peak_gb']:.1f} GB of "
        "memory.*"
    )
