"""Our import edges against what Python's import system resolves, on real sdists.

    python benchmarks/data_graph.py FOLDER_OF_SDISTS

The check is independent: `ast` finds the imports, and `importlib.machinery.PathFinder`
looks them up in the unpacked sdist, on a path made of the importer's own root (the first
folder above it that is no package), and of every folder above it that holds a
pyproject.toml or setup.py, with its `src` and `lib`. `from a import b` means the module
`a.b` if there is one, else `a`, on both sides. Also: whether each kept edge has the
imported file first, and how many tests stand directly beside their subject.
"""

import argparse
import ast
import functools
import importlib.machinery
import pathlib
import sys
import tarfile
import tempfile
import time
import warnings

from _data import record

from codegemma_keras.data.document import Report
from codegemma_keras.data.languages import split_name, tested_name
from codegemma_keras.data.order import imports, order
from codegemma_keras.data.read import sources

# Of a project's folder.
ROOTS = ("", "src", "lib")
SDISTS = (
    "requests flask click httpx attrs starlette toolz more_itertools networkx sympy"
)


def find_module(name, path):
    """The file that `import name` loads from a path, by the import system's own finder."""
    spec = None
    for part in name.split("."):
        # Only the last part: finders look at no more, and a namespace package would
        # ask for its parent in sys.modules.
        spec = importlib.machinery.PathFinder.find_spec(part, path)
        if spec is None:
            return None
        path = spec.submodule_search_locations
        # A namespace package's path would ask its parent in sys.modules to refresh it.
        path = getattr(path, "_path", path) or []
    return spec.origin


def expected_edges(root, files):
    edges = set()
    for path in files:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SyntaxWarning)
                tree = ast.parse((root / path).read_bytes())
        except SyntaxError:
            continue
        search, package = search_path(root, root / path)
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                modules = [(alias.name, None) for alias in node.names]
                where = search
            elif isinstance(node, ast.ImportFrom):
                base, where = node.module or "", search
                if node.level:
                    if node.level > max(1, len(package)):
                        continue
                    above = package[: max(0, len(package) - node.level + 1)]
                    base = ".".join(filter(None, (".".join(above), base)))
                    where = search[:1]
                modules = [(base, alias.name) for alias in node.names]
            else:
                continue
            for base, name in modules:
                full = f"{base}.{name}".lstrip(".")
                found = name and name != "*" and find_module(full, where)
                found = found or (base and find_module(base, where))
                if found and found.startswith(str(root)):
                    target = str(pathlib.Path(found).relative_to(root))
                    if target in files and target != path:
                        edges.add((path, target))
    return edges


@functools.cache
def projects(root):
    folders = {
        path.parent
        for name in ("pyproject.toml", "setup.py")
        for path in root.rglob(name)
    }
    return [str(f / part) for f in sorted(folders) for part in ROOTS]


def search_path(root, file):
    """`(path, package)`: where imports of a file are looked up, and its package."""
    folder, package = file.parent, []
    while (folder / "__init__.py").exists() and folder != root:
        package.insert(0, folder.name)
        folder = folder.parent
    search = [str(folder)]
    for above in [folder, *folder.parents]:
        if not above.is_relative_to(root):
            break
        if (above / "pyproject.toml").exists() or (above / "setup.py").exists():
            search += [str(above / part) for part in ROOTS]
    # Then the other projects of the repository, which are installed beside it.
    search += projects(root)
    # A relative import in a folder that is no package resolves inside that folder.
    return list(dict.fromkeys(search)), package


def beside(result):
    """`(tests directly beside their subject, tests that have one)` by name alone."""
    place = {path: i for i, path in enumerate(result.paths)}
    near = total = 0
    stems = {split_name(p)[1]: p for p in result.paths}
    for path in result.paths:
        name = tested_name(path, "python")
        if name is None or name not in stems:
            continue
        total += 1
        neighbours = result.paths[max(0, place[path] - 1) : place[path] + 2]
        near += name in {split_name(p)[1] for p in neighbours if p != path}
    return near, total


def measure(archive, top_lines):
    report = Report()
    documents = [
        d for d in sources.read_archive(archive, report) if d.language == "python"
    ]
    start = time.perf_counter()
    facts = [imports.read_facts(d.text, d.path, "python", top_lines) for d in documents]
    read = time.perf_counter() - start
    start = time.perf_counter()
    result = order.order_files(facts)
    ordered = time.perf_counter() - start
    ours = {(e.importer, e.imported) for e in order.find_edges(facts)}
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        (root,) = pathlib.Path(folder).resolve().iterdir()
        theirs = expected_edges(root, {d.path for d in documents})
    place = {path: i for i, path in enumerate(result.paths)}
    obeyed = sum(place[e.imported] < place[e.importer] for e in result.kept)
    near, total = beside(result)
    for edge in sorted(ours - theirs)[:8]:
        print("  only ours:  ", *edge)
    for edge in sorted(theirs - ours)[:8]:
        print("  only theirs:", *edge)
    return {
        "files": len(documents),
        "edges": len(ours),
        "expected": len(theirs),
        "both": len(ours & theirs),
        "kept": len(result.kept),
        "removed": len(result.removed),
        "kept_obeyed": obeyed,
        "tests_with_subject": total,
        "tests_beside": near,
        "covered_by_graph": result.covered,
        "seconds_reading_imports": round(read, 2),
        "seconds_ordering": round(ordered, 2),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sdists", type=pathlib.Path)
    parser.add_argument("--top-lines", type=int, default=imports.TOP_LINES)
    args = parser.parse_args()
    sys.dont_write_bytecode = True
    results = {}
    for name in SDISTS.split():
        (archive,) = args.sdists.glob(f"{name}-[0-9]*.tar.gz")
        print(archive.name)
        results[archive.name.removesuffix(".tar.gz")] = measure(archive, args.top_lines)
        print(" ", results[archive.name.removesuffix(".tar.gz")])
    total = {
        k: sum(r[k] for r in results.values()) for k in next(iter(results.values()))
    }
    record(
        "data_graph",
        {
            "top_lines": args.top_lines,
            "precision": round(total["both"] / total["edges"], 4),
            "recall": round(total["both"] / total["expected"], 4),
            "kept_edges_obeyed": total["kept_obeyed"] / total["kept"],
            "tests_beside_subject": round(
                total["tests_beside"] / total["tests_with_subject"], 4
            ),
            "repositories": {
                name: {
                    "precision": round(r["both"] / max(1, r["edges"]), 4),
                    "recall": round(r["both"] / max(1, r["expected"]), 4),
                    **r,
                }
                for name, r in results.items()
            },
        },
    )


if __name__ == "__main__":
    main()
