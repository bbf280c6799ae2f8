"""Writes orders.json: the edges and the order of each small repository under repos/.

python tests/data/golden/make_orders.py

The result was read and checked by hand against the sources; the test compares with it.
"""

import json
import pathlib

from codegemma_keras.data import imports, order, sources
from codegemma_keras.data.document import Report

HERE = pathlib.Path(__file__).parent


def order_of(folder):
    documents = sources.read_folder(folder, Report())
    facts = [imports.read_facts(d.text, d.path, d.language) for d in documents]
    found = order.order_files(facts)
    return {
        "edges": sorted(
            f"{e.importer} -> {e.imported}" for e in (*found.kept, *found.removed)
        ),
        "removed": [f"{e.importer} -> {e.imported}" for e in found.removed],
        "order": list(found.paths),
    }


if __name__ == "__main__":
    orders = {p.name: order_of(p) for p in sorted((HERE / "repos").iterdir())}
    (HERE / "orders.json").write_text(json.dumps(orders, indent=1) + "\n")
