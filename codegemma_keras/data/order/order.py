"""The order of a repository's files in a training document.

    facts of all files -> edges -> units (a file and its tests) -> acyclic -> order

A test rides with what it tests: `x.py` and `test_x.py` are one unit of the graph, so the
test stands directly beside its subject and every kept edge still has the imported file
first. Units without any edge follow in the order of names.
"""

import collections
import dataclasses
import posixpath
from collections.abc import Callable, Iterable

from codegemma_keras.data.languages import family, split_name, tested_name
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
        is_test = tested_name(path, facts.language) is not None
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
                    is_test,
                )
            )
    return edges


def find_tests(files: Iterable[Facts], edges: Iterable[graph.Edge]) -> dict[str, str]:
    """`{test: subject}` by the language's naming habit.

    Of several files of that name, one that the test imports, then the nearest folder.
    """
    files = list(files)
    by_name = collections.defaultdict(list)
    for facts in files:
        folder, stem = split_name(facts.path)
        group = family(facts.language)
        names = {stem}
        if stem in ("__init__", "index", "mod"):
            names = {posixpath.basename(folder)}
        for name in names:
            by_name[group, name].append(facts.path)
            if group == "python" and name.startswith("_"):
                by_name[group, name.strip("_")].append(facts.path)
    imported = collections.defaultdict(set)
    for edge in edges:
        imported[edge.importer].add(edge.imported)
    subjects = {}
    for facts in files:
        name = tested_name(facts.path, facts.language)
        if name is None:
            continue
        known = by_name[family(facts.language), name]
        candidates = [p for p in known if p != facts.path]
        if candidates:
            subjects[facts.path] = min(
                candidates,
                key=lambda p: (
                    p not in imported[facts.path],
                    -_shared(p, facts.path),
                    posixpath.splitext(p)[1] != posixpath.splitext(facts.path)[1],
                    p.count("/"),
                    p,
                ),
            )
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
    importance: Callable[[graph.Edge], float] = graph.importance,
    tests_beside: bool = True,
) -> Order:
    """Order a repository.

    Args:
        files: facts of all its files; the order they come in does not matter.
        importance: which of a cycle's edges goes first: the least important.
        tests_beside: put tests next to what they test, or leave them to the graph.

    Raises:
        ValueError: two files have one path.
    """
    files = sorted(files, key=lambda facts: facts.path)
    twice = [a.path for a, b in zip(files, files[1:], strict=False) if a.path == b.path]
    if twice:
        raise ValueError(f"Two files have the path {twice[0]!r}. Keep one of them.")
    edges = find_edges(files)
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
