"""The dependency graph of a repository: important edges, no cycles, an order.

    imports -> edges with importance -> acyclic -> linear order

The paper drops unimportant edges until no cycle is left, takes all-pairs shortest paths,
and places next the file without unplaced imports that is nearest to what is placed, ties
in the order of names. Both steps are done here in a form that scales, with equal results
(the tests compare):

* Instead of removing the least important edge of some cycle again and again, edges are
  *added* from the most important down, each unless it would close a cycle. Every cycle
  thus loses its least important edge, and no edge is lost that could have stayed.
  A topological order is kept up to date as edges come (Pearce and Kelly 2006).
* Distances to the placed files are updated outwards from each file as it is placed:
  the minimum over all pairs, without the table of n * n numbers.

Left out: networkx, which the tests compare with; 50,000 files take seconds here.
"""

import collections
import dataclasses
import heapq
import math
import posixpath
from collections.abc import Callable, Hashable, Iterable, Mapping

# How much an import says about which file should be read first.
KIND_WEIGHT = {
    "module": 1.0,
    "guarded": 0.7,
    # An import inside a function is there because it would close a cycle, or is rare.
    "deferred": 0.3,
    "child": 0.2,
    "type": 0.1,
}
# `pkg/a.py` importing from `pkg/__init__.py`, which in turn collects from `a`.
FROM_OWN_PACKAGE = 0.25
# Files visited in search of cycles, after which edges that oppose the order so far are
# dropped unsearched: some 10 s for 50,000 files in one knot.
MAX_VISITS = 3_000_000
_COLLECTORS = ("__init__", "index", "mod", "lib")


@dataclasses.dataclass(frozen=True)
class Edge:
    """`importer` needs `imported`, by one or several statements.

    Attributes:
        importer, imported: paths.
        kind: of the strongest statement, see `facts.KINDS`.
        uses: mentions of what was imported, in the importer.
        breadth: files that the narrowest of the statements means.
        from_test: whether the importer is a test.
    """

    importer: str
    imported: str
    kind: str = "module"
    uses: int = 0
    breadth: int = 1
    from_test: bool = False


def importance(edge: Edge) -> float:
    """How much it matters that `imported` comes first. The default; any function will do.

        kind * (1 + log2(1 + uses)) / sqrt(breadth) * 0.25 if own package

    `kind` is `KIND_WEIGHT`; `uses` counts mentions of the imported names, with
    diminishing returns; a statement that means several files (a Go package) is shared
    among them; a file that imports from the `__init__`, `index`, `mod` or `lib` of a
    folder it lies in mostly imports back what that one collects.
    """
    folder, name = posixpath.split(edge.imported)
    own = posixpath.splitext(name)[0] in _COLLECTORS and (
        edge.importer.startswith(f"{folder}/" if folder else "")
    )
    return (
        KIND_WEIGHT[edge.kind]
        * (1 + math.log2(1 + edge.uses))
        / math.sqrt(edge.breadth)
        * (FROM_OWN_PACKAGE if own else 1)
    )


class _Acyclic:
    """A directed graph that refuses edges that would close a cycle.

    Invariant: `rank[a] < rank[b]` for every edge a -> b. After `MAX_VISITS` it refuses
    any edge against the ranks, so that no graph takes more than seconds.
    """

    def __init__(self, nodes):
        self.visits = 0
        self.rank = {node: i for i, node in enumerate(nodes)}
        self.after = {node: set() for node in self.rank}
        self.before = {node: set() for node in self.rank}

    def add(self, a, b) -> bool:
        """Add a -> b and return True, or return False if that would close a cycle."""
        if a == b:
            return False
        if b in self.after[a]:
            return True
        low, high = self.rank[b], self.rank[a]
        if low < high:
            if self.visits > MAX_VISITS:
                return False
            forward = self._reach(b, self.after, lambda rank: rank <= high)
            if a in forward:
                return False
            backward = self._reach(a, self.before, lambda rank: rank >= low)
            nodes = sorted(backward, key=self.rank.get) + sorted(
                forward, key=self.rank.get
            )
            for node, rank in zip(
                nodes, sorted(self.rank[n] for n in nodes), strict=True
            ):
                self.rank[node] = rank
        self.after[a].add(b)
        self.before[b].add(a)
        return True

    def _reach(self, start, neighbours, inside):
        seen, stack = {start}, [start]
        while stack:
            for node in neighbours[stack.pop()]:
                if node not in seen and inside(self.rank[node]):
                    seen.add(node)
                    stack.append(node)
        self.visits += len(seen)
        return seen


def remove_cycles(
    edges: Iterable[Edge],
    *,
    unit: Mapping[str, Hashable] | None = None,
    weight: Callable[[Edge], float] = importance,
) -> tuple[list[Edge], list[Edge]]:
    """Drop the least important edge of every cycle.

    Args:
        edges: of the files.
        unit: `{path: unit}` of files that stay together and count as one node.
        weight: importance of an edge; ties by names. Any edge of an implementation is
            more important than any edge of a test.

    Returns:
        `(kept, removed)`. Adding any removed edge to the kept ones closes a cycle
        (unless `MAX_VISITS` was reached). Edges inside a unit are in neither.
    """
    unit = unit or {}
    ordered = sorted(
        edges, key=lambda e: (e.from_test, -weight(e), e.importer, e.imported)
    )
    ends = [
        (unit.get(e.imported, e.imported), unit.get(e.importer, e.importer))
        for e in ordered
    ]
    graph = _Acyclic(_postorder(ends))
    kept, removed = [], []
    for edge, (first, second) in zip(ordered, ends, strict=True):
        if first != second:
            (kept if graph.add(first, second) else removed).append(edge)
    return kept, removed


def _postorder(ends):
    """Nodes so that `first` comes before `second` for all pairs but those of cycles.

    Only a start that spares `_Acyclic` work; what is kept does not depend on it.
    """
    firsts = collections.defaultdict(list)
    for first, second in ends:
        firsts[second].append(first)
        firsts[first]
    done, order = set(), []
    for root in sorted(firsts):
        stack = [(root, iter(firsts[root]))] if root not in done else []
        done.add(root)
        while stack:
            node, rest = stack[-1]
            child = next((n for n in rest if n not in done), None)
            if child is None:
                order.append(node)
                stack.pop()
            else:
                done.add(child)
                stack.append((child, iter(firsts[child])))
    return order


def linearise(nodes: Iterable[str], needs: Iterable[tuple[str, str]]) -> list[str]:
    """The paper's order: what a file imports comes before it.

    Next is, of the files whose imports are all placed, the one with the fewest steps
    (along imports in either direction) to a placed file; ties in the order of names.

    Args:
        nodes: names.
        needs: `(importer, imported)`, without cycles; both in `nodes`.

    Returns:
        All nodes.

    Raises:
        ValueError: there is a cycle.
    """
    nodes = sorted(nodes)
    waiting = dict.fromkeys(nodes, 0)
    importers = collections.defaultdict(set)
    around = collections.defaultdict(set)
    for importer, imported in needs:
        if importer not in importers[imported]:
            importers[imported].add(importer)
            waiting[importer] += 1
        around[importer].add(imported)
        around[imported].add(importer)
    distance = dict.fromkeys(nodes, math.inf)
    ready = [(math.inf, node) for node in nodes if not waiting[node]]
    heapq.heapify(ready)
    placed = {}
    while ready:
        steps, node = heapq.heappop(ready)
        if node in placed or steps > distance[node]:
            continue  # Since found nearer; that entry is in the heap, too.
        placed[node] = True
        for importer in importers[node]:
            waiting[importer] -= 1
        for near in _spread(node, around, distance):
            if not waiting[near] and near not in placed:
                heapq.heappush(ready, (distance[near], near))
    if len(placed) < len(nodes):
        stuck = [node for node in nodes if node not in placed][:3]
        raise ValueError(
            f"The edges have a cycle, near {stuck}. Call remove_cycles first."
        )
    return list(placed)


def _spread(start, around, distance):
    """Lower the distances around a newly placed node; yields what may be ready now."""
    distance[start] = 0
    queue = collections.deque([start])
    changed = set(around[start])
    while queue:
        node = queue.popleft()
        for near in around[node]:
            if distance[node] + 1 < distance[near]:
                distance[near] = distance[node] + 1
                changed.add(near)
                queue.append(near)
    return sorted(changed)
