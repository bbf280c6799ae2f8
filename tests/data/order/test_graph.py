"""Imports, resolution, cycles and the linear order, against peers and goldens."""

import ast
import pathlib
import sys

import networkx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codegemma_keras.data import languages
from codegemma_keras.data.order import graph, imports, order
from codegemma_keras.data.order.families import rust


def facts_of(files):
    return [imports.read_facts(text, path, "python") for path, text in files.items()]


def edges_of(files):
    return {(e.importer, e.imported) for e in order.find_edges(facts_of(files))}


def test_edges_of_networkx_are_those_of_ast_and_the_file_system():
    """The whole check, with `importlib` and ten sdists, is benchmarks/data_graph.py."""
    root = pathlib.Path(networkx.__file__).parent
    # Without its largest part: 160 files.
    texts = {
        f"networkx/{p.relative_to(root)}": p.read_text()
        for p in root.rglob("*.py")
        if not p.is_relative_to(root / "algorithms")
    }
    expected = set()
    for path, text in texts.items():
        package = path.split("/")[:-1]
        for node in ast.walk(ast.parse(text)):
            names = []
            if isinstance(node, ast.Import):
                names = [(a.name.split("."), None) for a in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = package[: len(package) - node.level + 1] if node.level else []
                base = base + (node.module.split(".") if node.module else [])
                names = [(base, a.name) for a in node.names]
            for base, name in names:
                tries = [[*base, name]] if name else []
                for parts in [*tries, base]:
                    stem = "/".join(parts)
                    hits = [
                        f for f in (f"{stem}/__init__.py", f"{stem}.py") if f in texts
                    ]
                    if hits:
                        expected |= {(path, hits[0])} - {(path, path)}
                        break
    assert edges_of(texts) == expected
    assert len(expected) > 200


def test_a_name_of_the_standard_library_is_not_a_file_inside_a_package():
    files = {
        "src/flask/__init__.py": "import json\nfrom .json import loads\n",
        "src/flask/json/__init__.py": "import json as _json\nimport typing\n",
        "src/flask/typing.py": "x = 1\n",
        "tests/test_json.py": "import flask.json\nimport typing\n",
    }
    assert edges_of(files) == {
        ("src/flask/__init__.py", "src/flask/json/__init__.py"),
        ("tests/test_json.py", "src/flask/json/__init__.py"),
    }


def test_the_longest_suffix_and_the_nearest_file_win():
    files = {
        "a/pkg/__init__.py": "",
        "a/pkg/util.py": "x = 1",
        "a/run.py": "from pkg import util\nfrom pkg.util import x",
        "b/pkg/__init__.py": "",
        "b/pkg/util.py": "x = 2",
        "b/run.py": "import pkg.util",
    }
    assert edges_of(files) == {
        ("a/run.py", "a/pkg/util.py"),
        ("b/run.py", "b/pkg/util.py"),
    }


def test_kinds_and_uses_of_imports():
    text = (
        "from typing import TYPE_CHECKING\nimport a\n"
        "try:\n    import b\nexcept ImportError:\n    b = None\n"
        "if TYPE_CHECKING:\n    from c import C\n"
        "def f():\n    import d as dd\n    return dd.x + dd.y + a.z\n"
    )
    facts = imports.read_facts(text, "x.py", "python")
    kinds = {entry.module: entry.kind for entry in facts.imports}
    assert kinds == {
        "typing": "module",
        "a": "module",
        "b": "guarded",
        "c": "type",
        "d": "deferred",
    }
    assert facts.uses["dd"] == 3


def test_top_lines_limits_what_is_read():
    text = "import a\n" + "\n" * 50 + "import b\n"
    assert len(imports.read_facts(text, "x.py", "python").imports) == 2
    assert len(imports.read_facts(text, "x.py", "python", top_lines=20).imports) == 1


def test_rust_use_trees():
    assert rust.expand_use("a::{b, c::{d, self}, e as f}") == [
        "a::b", "a::c::d", "a::c::self", "a::e as f",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "language", "name"),
    [
        ("tests/test_app.py", "python", "app"),
        ("app_test.py", "python", "app"),
        ("testing.py", "python", None),
        ("FooTest.java", "java", "Foo"),
        ("a.spec.ts", "typescript", "a"),
        ("b_test.go", "go", "b"),
        ("CartTests.cs", "csharp", "Cart"),
        ("contest.py", "python", None),
    ],
)
def test_names_of_tests(path, language, name):
    assert languages.tested_name(path, language) == name


# The graph


@st.composite
def edge_lists(draw):
    count = draw(st.integers(1, 9))
    pairs = st.tuples(st.integers(0, count - 1), st.integers(0, count - 1))
    edges = draw(st.lists(pairs, max_size=25, unique=True))
    uses = draw(st.lists(st.integers(0, 3), min_size=len(edges), max_size=len(edges)))
    return [
        graph.Edge(f"f{a}", f"f{b}", uses=u)
        for (a, b), u in zip(edges, uses, strict=True)
        if a != b
    ]


@given(edge_lists())
@settings(max_examples=150, deadline=None)
def test_cycles_go_and_no_removed_edge_could_stay(edges):
    kept, removed = graph.remove_cycles(edges)
    assert sorted(map(str, kept + removed)) == sorted(map(str, edges))
    peer = networkx.DiGraph([(e.importer, e.imported) for e in kept])
    assert networkx.is_directed_acyclic_graph(peer)
    for edge in removed:
        # Its cycle's other edges are all at least as important.
        weight = graph.importance(edge)
        strong = networkx.DiGraph(
            (e.importer, e.imported) for e in kept if graph.importance(e) >= weight
        )
        assert networkx.has_path(strong, edge.imported, edge.importer)


def slow_linearise(nodes, needs):
    """The paper's words: all-pairs shortest paths, then the nearest unparented node."""
    peer = networkx.Graph(needs)
    peer.add_nodes_from(nodes)
    steps = dict(networkx.all_pairs_shortest_path_length(peer))
    placed = []
    while len(placed) < len(nodes):
        ready = [
            n for n in nodes if n not in placed
            and all(b in placed for a, b in needs if a == n)
        ]  # fmt: skip
        placed.append(
            min(
                ready,
                key=lambda n: (
                    min((steps[n].get(p, 10**9) for p in placed), default=10**9),
                    n,
                ),
            )
        )
    return placed


@given(edge_lists())
@settings(max_examples=150, deadline=None)
def test_linearise_equals_the_papers_words(edges):
    kept, _ = graph.remove_cycles(edges)
    nodes = sorted({n for e in edges for n in (e.importer, e.imported)} | {"zz"})
    needs = [(e.importer, e.imported) for e in kept]
    assert graph.linearise(nodes, needs) == slow_linearise(nodes, needs)


def test_linearise_names_a_cycle():
    with pytest.raises(ValueError, match=r"cycle, near \['a', 'b'\]"):
        graph.linearise(["a", "b"], [("a", "b"), ("b", "a")])


def test_an_importance_of_ones_own_decides():
    files = {
        "a.py": "import b\nb.x\nb.y\n",
        "b.py": "import a\n",
    }
    assert order.order_files(facts_of(files)).paths == ("b.py", "a.py")

    def opposite(edge):
        return -graph.importance(edge)

    found = order.order_files(facts_of(files), importance=opposite)
    assert found.paths == ("a.py", "b.py")


def test_tests_ride_with_their_subject_and_edges_hold_all_the_same():
    files = {
        "pkg/__init__.py": "from pkg.a import f\nfrom pkg.b import g\n",
        "pkg/a.py": "def f(): pass\n",
        "pkg/b.py": "from pkg.a import f\ndef g(): f()\n",
        "tests/test_a.py": "from pkg import f\nfrom pkg.b import g\n",
        "tests/test_b.py": "from pkg.b import g\n",
        "setup.py": "",
    }
    found = order.order_files(facts_of(files))
    assert found.paths == (
        "pkg/a.py",
        "tests/test_a.py",
        "pkg/b.py",
        "tests/test_b.py",
        "pkg/__init__.py",
        "setup.py",
    )
    place = {path: i for i, path in enumerate(found.paths)}
    assert all(place[e.imported] < place[e.importer] for e in found.kept)


def test_a_repository_of_one_file_and_of_none():
    assert order.order_files(facts_of({"a.py": "import a"})).paths == ("a.py",)
    assert order.order_files([]).paths == ()


def test_two_files_of_one_path_are_refused():
    facts = imports.read_facts("x = 1", "a.py", "python")
    with pytest.raises(ValueError, match=r"Two files have the path 'a\.py'"):
        order.order_files([facts, facts])


def chain(number, knot):
    """A chain of files with shortcuts; with a knot, also back, so that cycles close."""
    facts = []
    for i in range(number):
        far = (i * 7) % number
        targets = {(i - 1) % number, far if knot else min(far, i), i // 2} - {i}
        entries = tuple(imports.Import(f"m{t}") for t in sorted(targets))
        facts.append(imports.Facts(f"m{i}.py", "python", entries))
    return facts


def calls_to_order(facts):
    """Function calls, of Python and of C, that ordering takes: the same on any machine."""
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        found = order.order_files(facts)
    finally:
        sys.setprofile(None)
    place = {path: i for i, path in enumerate(found.paths)}
    assert len(place) == len(facts)
    assert all(place[e.imported] < place[e.importer] for e in found.kept)
    return calls


@pytest.mark.parametrize("knot", [False, True])
def test_twice_the_files_take_twice_the_work(knot, monkeypatch):
    """Quadratic code would take four times as much, and hours for 50,000 files.

    The search for cycles in a knot is what is not linear: its bound is.
    """
    monkeypatch.setattr(graph, "MAX_VISITS", 1_000)
    calls = [calls_to_order(chain(number, knot)) for number in (400, 800, 1600)]
    assert calls[1] < 2.4 * calls[0]
    assert calls[2] < 2.4 * calls[1]


def test_broken_files_give_what_their_sound_parts_hold():
    text = "import a\ndef broken(:\n  (((\nimport b\n\x00\n"
    facts = imports.read_facts(text, "x.py", "python")
    assert facts.imports[0].module == "a"
