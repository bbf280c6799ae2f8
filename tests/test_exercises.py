"""The exercises of the course: unsolved they fail with a hint, solved they pass.

Each exercise runs with only those cells of its chapter that it needs, so that no model
is loaded: whole chapters are what `tools/notebooks.py smoke` executes.
"""

import ast
import pathlib
import re
import symtable

import matplotlib
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
TUTORIALS = ROOT / "tutorials"
GAP = "    return None  # your lines\n"
CHAPTERS = [
    path.stem
    for path in sorted(TUTORIALS.glob("[0-9][0-9]_*.py"))
    if 'tags=["exercise"]' in path.read_text("utf-8")
]


def cells(path):
    """`(is an exercise, source)` of each code cell."""
    for cell in re.split(r"(?m)^(?=# %%)", path.read_text("utf-8")):
        head, _, source = cell.partition("\n")
        if head.startswith("# %%") and "[markdown]" not in head:
            yield 'tags=["exercise"]' in head, source


def exercises(stem):
    """`(cells before it, unsolved, solved)` of each exercise."""
    chapter = list(cells(TUTORIALS / f"{stem}.py"))
    solved = [
        s for is_one, s in cells(TUTORIALS / "solutions" / f"{stem}.py") if is_one
    ]
    unsolved = [i for i, (is_one, _) in enumerate(chapter) if is_one]
    assert len(solved) == len(unsolved), f"{stem}: each exercise needs its solution"
    for i, solution in zip(unsolved, solved, strict=True):
        before = [source for is_one, source in chapter[:i] if not is_one]
        yield before, chapter[i][1], solution


ALL = [
    pytest.param(*parts, id=f"{stem}-{number}")
    for stem in CHAPTERS
    for number, parts in enumerate(exercises(stem), 1)
]


def defined(node):
    """Names that a statement defines at the top level."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {(a.asname or a.name).split(".")[0] for a in node.names}
    stored = (ast.Store, ast.Del)
    return {
        n.id
        for n in ast.walk(node)
        if isinstance(n, ast.Name) and isinstance(n.ctx, stored)
    }


def used(node):
    """Global names that a statement reads, inside its functions too."""
    top = symtable.symtable(ast.unparse(node), "cell", "exec")
    names = {s.get_name() for s in top.get_symbols() if s.is_referenced()}
    tables = top.get_children()
    while tables:
        table = tables.pop()
        tables += table.get_children()
        names |= {
            s.get_name()
            for s in table.get_symbols()
            if s.is_global() and s.is_referenced()
        }
    return names


def needed(before, exercise):
    """The statements of earlier cells that an exercise needs, in order."""
    wanted, own = set(), set()
    for node in ast.parse(exercise).body:
        wanted |= used(node) - own
        own |= defined(node)
    kept = []
    statements = [node for source in before for node in ast.parse(source).body]
    for node in reversed(statements):
        if defined(node) & wanted:
            kept.append(node)
            wanted = (wanted - defined(node)) | used(node)
    return ast.Module(kept[::-1], type_ignores=[])


def run(before, exercise):
    """Execute an exercise with what it needs."""
    matplotlib.use("agg")
    names = {"__name__": "exercise"}
    module = ast.fix_missing_locations(needed(before, exercise))
    exec(compile(module, "chapter", "exec"), names)
    exec(compile(exercise, "exercise", "exec"), names)


@pytest.mark.parametrize(("before", "unsolved", "solved"), ALL)
def test_unsolved_fails_with_a_hint(before, unsolved, solved):
    with pytest.raises(AssertionError, match=r"Hint: "):
        run(before, unsolved)


@pytest.mark.parametrize(("before", "unsolved", "solved"), ALL)
def test_solution_passes(before, unsolved, solved):
    run(before, solved)


@pytest.mark.parametrize(("before", "unsolved", "solved"), ALL)
def test_solution_fills_the_gap_and_keeps_the_checks(before, unsolved, solved):
    assert unsolved.count(GAP) == 1
    head, _, checks = unsolved.partition(GAP)
    assert solved.strip().startswith(head.strip())
    assert solved.strip().endswith(checks.strip())


@pytest.mark.parametrize("stem", CHAPTERS)
def test_every_check_has_a_hint(stem):
    for _, unsolved, _ in exercises(stem):
        checks = [n for n in ast.walk(ast.parse(unsolved)) if isinstance(n, ast.Assert)]
        assert checks
        for check in checks:
            text = "".join(
                n.value
                for n in ast.walk(check.msg)
                if isinstance(n, ast.Constant) and isinstance(n.value, str)
            )
            assert text.startswith("Hint: "), ast.unparse(check)


@pytest.mark.parametrize("stem", CHAPTERS)
def test_chapter_has_two_or_three_exercises(stem):
    assert len(list(exercises(stem))) in (2, 3)
