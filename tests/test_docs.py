"""Every Python example in the documentation runs.

Fenced `python` blocks of the Markdown files and of docstrings run each by itself, in an
empty folder, as a reader would paste them; `>>>` prompts in docstrings run as `doctest`
runs them, with the names of their module.
"""

import ast
import doctest
import importlib
import pathlib
import re
import textwrap

import pytest

ROOT = pathlib.Path(__file__).parent.parent
MARKDOWN = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")]
SOURCES = sorted(ROOT.glob("codegemma_keras/**/*.py"))
# Programs of the repository that nothing here runs as a whole.
PROGRAMS = [
    p
    for room in ("benchmarks", "examples", "tools", "tutorials")
    for p in ROOT.glob(f"{room}/**/*.py")
]
FENCE = re.compile(r"^(?P<indent> *)```python\n(?P<code>.*?)^ *```", re.M | re.S)


def fenced(text):
    """`(line of the first line of code, code)` of each fenced Python block."""
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start("code")) + 1
        yield line, textwrap.dedent(match["code"])


def docstrings(source):
    """`(line, text)` of each docstring of a module."""
    tree = ast.parse(source)
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, kinds) and ast.get_docstring(node, clean=False):
            yield node.body[0].lineno, node.body[0].value.value


def markdown_examples():
    for path in MARKDOWN:
        for line, code in fenced(path.read_text(encoding="utf-8")):
            yield pytest.param(path, line, code, id=f"{path.name}:{line}")


def docstring_examples():
    for path in SOURCES:
        for start, text in docstrings(path.read_text(encoding="utf-8")):
            for line, code in fenced(text):
                line += start - 1
                name = path.relative_to(ROOT).as_posix()
                yield pytest.param(path, line, code, id=f"{name}:{line}")


def prompt_examples():
    parser = doctest.DocTestParser()
    for path in SOURCES:
        for start, text in docstrings(path.read_text(encoding="utf-8")):
            name = path.relative_to(ROOT).as_posix()
            test = parser.get_doctest(text, {}, name, str(path), start - 1)
            if test.examples:
                yield pytest.param(test, id=f"{name}:{start}")


@pytest.mark.parametrize(
    ("path", "line", "code"), [*markdown_examples(), *docstring_examples()]
)
def test_fenced_example_runs(path, line, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Line numbers as in the file, so that a failure points into it.
    program = compile("\n" * (line - 1) + code, str(path), "exec")
    exec(program, {"__name__": "__main__"})


@pytest.mark.parametrize("test", [*prompt_examples()])
def test_prompt_example_prints_what_it_says(test, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # As `doctest` does: the names of the module are there.
    module = test.name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    test.globs.update(vars(importlib.import_module(module)))
    report = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    runner.run(test, out=report.append)
    assert runner.failures == 0, "".join(report)


def test_examples_are_found():
    found = {path.name for path, _, _ in (p.values for p in markdown_examples())}
    assert "README.md" in found
    assert any(docstring_examples())


def test_fences_are_found_where_they_stand():
    text = (
        "a\n\n```python\nx = 1\n```\n\n    ```python\n    if x:\n        y = 2\n    ```"
    )
    assert list(fenced(text)) == [(4, "x = 1\n"), (8, "if x:\n    y = 2\n")]
    assert not list(fenced("```text\nx = \n```\n```pythonic\n```"))


def imported_names(path):
    """`(module, name)` of each `from codegemma_keras... import ...` of a program."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and not node.level:
            if (node.module or "").split(".")[0] == "codegemma_keras":
                yield from ((node.module, alias.name) for alias in node.names)


def exists(module, name):
    if hasattr(importlib.import_module(module), name):
        return True
    try:
        importlib.import_module(f"{module}.{name}")
    except ModuleNotFoundError:
        return False
    return True


def test_programs_import_names_that_exist():
    wanted = {names for path in PROGRAMS for names in imported_names(path)}
    assert len(wanted) > 50
    assert not {names for names in wanted if not exists(*names)}


def test_the_tree_names_what_is_there_and_nothing_else():
    """One line of the tree may name several files: `fim.py chat.py    ...`."""
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    start = text.index("\n    codegemma_keras/\n") + 1
    lines = text[start : text.index("\n\n", start)].splitlines()
    package, beside = set(), set()
    for line in lines[1:]:
        names = set(re.match(r" +((?:[\w.]+(?:/|\.py) ?)*)", line)[1].split())
        (package if line.startswith("      ") else beside).update(names)
    there = {
        path.name + "/" * path.is_dir()
        for path in (ROOT / "codegemma_keras").iterdir()
        if path.suffix == ".py" or (path.is_dir() and path.name != "__pycache__")
    }
    assert package == there
    assert all(any(ROOT.glob(name.replace("NN_name", "*"))) for name in beside)
    assert beside
