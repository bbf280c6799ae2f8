"""The order of a repository's files in a training document.

    facts of all files -> edges -> units (a file and its tests) -> acyclic -> order

A test rides with what it tests: `x.py` and `test_x.py` are one unit of the graph, so the
test stands directly beside its subject and every kept edge still has the imported file
first. Units without any edge follow in the order of names.

Imports are resolved among all files of a repository; only then those go that are not
trained on, with their edges.
"""

import collections
import dataclasses
import posixpath
from collections.abc import Callable, Collection, Iterable

from codegemma_keras.data.languages import (
    family,
    is_test,
    plain_name,
    split_name,
    tested_name,
)
from codegemma_keras.data.order import graph
from codegemma_keras.data.order.facts import KINDS, Facts
from codegemma_keras.data.order.repository import Repository
from codegemma_keras.data.order.resolve import Resolvers


@dataclasses.dataclass(frozen=True)
class Order:
    """The order, and how it came about.

    Attributes:
        paths: all files, in order.
        kept: edges that the order obeys: imported first.
        removed: edges dropped to break cycles or to keep a test beside its subject.
        tests: `{test: what it tests}`.
        covered: how many of `paths`, from the start, the graph placed; the rest is in
            the order of names.
    """

    paths: tuple[str, ...]
    kept: tuple[graph.Edge, ...]
    removed: tuple[graph.Edge, ...]
    tests: dict[str, str]
    covered: int


def find_edges(files: Iterable[Facts]) -> list[graph.Edge]:
    """One `Edge` per pair of files, in the order of names."""
    repository = Repository(files)
    resolvers = Resolvers(repository)
    strength = {kind: graph.KIND_WEIGHT[kind] for kind in KINDS}
    edges = []
    for path in sorted(repository.files):
        facts = repository.files[path]
        from_test = is_test(path, facts.language)
        grouped = collections.defaultdict(list)
        for target in resolvers.find_targets(facts):
            grouped[target.path].append(target)
        for imported, targets in sorted(grouped.items()):
            edges.append(
                graph.Edge(
                    path,
                    imported,
                    max((t.kind for t in targets), key=strength.get),
                    sum(t.uses for t in targets),
                    min(t.breadth for t in targets),
                    from_test,
                )
            )
    return edges


def find_tests(files: Iterable[Facts], edges: Iterable[graph.Edge]) -> dict[str, str]:
    """`{test: subject}` by the language's naming habit.

    Of several files of that name, one that the test imports, then one whose name is the
    same with case and separators, then the nearest folder. A file that an implementation
    imports (Rust's `mod` only names it) is no test of anything, whatever its name: its
    place follows from the graph.
    """
    files = list(files)
    imported, needed = collections.defaultdict(set), set()
    for edge in edges:
        imported[edge.importer].add(edge.imported)
        if not edge.from_test and edge.kind != "child":
            needed.add(edge.imported)
    named = {
        facts.path: tested_name(facts.path, facts.language)
        for facts in files
        if facts.path not in needed
    }
    by_name = collections.defaultdict(list)
    for facts in files:
        folder, stem = split_name(facts.path)
        if stem in ("__init__", "index", "mod"):
            stem = posixpath.basename(folder)
        by_name[family(facts.language), plain_name(stem)].append((stem, facts.path))
    subjects = {}
    for facts in files:
        name = named.get(facts.path)
        if name is None:
            continue
        ending = posixpath.splitext(facts.path)[1]
        known = by_name[family(facts.language), plain_name(name)]
        candidates = [
            (
                path not in imported[facts.path],
                stem.strip("_") != name.strip("_"),
                -_shared(path, facts.path),
                posixpath.splitext(path)[1] != ending,
                path.count("/"),
                path,
            )
            for stem, path in known
            if path != facts.path
        ]
        if candidates:
            subjects[facts.path] = min(candidates)[-1]
    return {t: s for t, s in subjects.items() if _root(t, subjects) != t}


def _shared(a, b):
    """Folder names that both paths have, wherever: `core` in `core/tests/` and `core/`."""
    return len(set(a.split("/")[:-1]) & set(b.split("/")[:-1]))


def _root(path, subjects):
    """The subject at the end of a chain of tests; the least path of a loop."""
    seen = [path]
    while (path := subjects.get(path)) is not None:
        if path in seen:
            return min(seen[seen.index(path) :])
        seen.append(path)
    return seen[-1]


def order_files(
    files: Iterable[Facts],
    *,
    only: Collection[str] | None = None,
    importance: Callable[[graph.Edge], float] = graph.importance,
    tests_beside: bool = True,
) -> Order:
    r"""Order a repository.

    Args:
        files: facts of all its files; the order they come in does not matter. For
            right edges also of those that are not trained on (an empty `__init__.py`,
            build files), see `imports.tells_order`.
        only: paths to order, after the imports of all files are resolved; None: all.
        importance: which of a cycle's edges goes first: the least important.
        tests_beside: put tests next to what they test, or leave them to the graph.

    Raises:
        ValueError: two files have one path, or `only` has one that `files` has not.

    Examples:
        >>> from codegemma_keras.data.order.imports import read_facts
        >>> files = {"app.py": "import table\n", "table.py": "ROWS = 3\n"}
        >>> facts = [read_facts(text, path, "python") for path, text in files.items()]
        >>> order_files(facts).paths
        ('table.py', 'app.py')
    """
    files = sorted(files, key=lambda facts: facts.path)
    twice = [a.path for a, b in zip(files, files[1:], strict=False) if a.path == b.path]
    if twice:
        raise ValueError(f"Two files have the path {twice[0]!r}. Keep one of them.")
    edges = find_edges(files)
    if only is not None:
        only = frozenset(only)
        if missing := sorted(only.difference(facts.path for facts in files)):
            raise ValueError(
                f"{missing[0]!r} is to be ordered, but `files` has no facts of it."
            )
        files = [facts for facts in files if facts.path in only]
        edges = [e for e in edges if e.importer in only and e.imported in only]
    tests = find_tests(files, edges) if tests_beside else {}
    unit = {facts.path: _root(facts.path, tests) for facts in files}
    members = collections.defaultdict(list)
    for path, leader in unit.items():
        members[leader].append(path)
    for leader, paths in members.items():
        paths.sort(key=lambda p: (p != leader, p))
    place = {p: i for paths in members.values() for i, p in enumerate(paths)}
    outer = [e for e in edges if unit[e.importer] != unit[e.imported]]
    inner = [e for e in edges if unit[e.importer] == unit[e.imported]]
    kept, removed = graph.remove_cycles(outer, unit=unit, weight=importance)
    for edge in inner:
        obeyed = place[edge.imported] < place[edge.importer]
        (kept if obeyed else removed).append(edge)
    needs = {(unit[e.importer], unit[e.imported]) for e in kept}
    needs = {pair for pair in needs if pair[0] != pair[1]}
    linked = {leader for pair in needs for leader in pair}
    leaders = graph.linearise(linked, needs)
    rest = sorted(set(members) - linked)
    paths = [path for leader in (*leaders, *rest) for path in members[leader]]
    covered = sum(len(members[leader]) for leader in leaders)

    def by_name(edge):
        return edge.importer, edge.imported

    return Order(
        tuple(paths),
        tuple(sorted(kept, key=by_name)),
        tuple(sorted(removed, key=by_name)),
        tests,
        covered,
    )
