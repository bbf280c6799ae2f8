"""Benchmarks planted in real files, however they are written."""

import ast
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codegemma_keras.data.clean import decontaminate, ngrams
from codegemma_keras.data.document import Document, Report
from tests.data.clean.real_files import real_files

CODE = '''def running_mean(values, width):
    """Mean of each window of the given width over the list of values, as a new list."""
    means = []
    for start in range(len(values) - width + 1):
        window = values[start : start + width]
        means.append(sum(window) / len(window))
    return means
'''
TASK = decontaminate.Task(
    "Bench/0",
    CODE.split('"""')[1],
    CODE,
    "assert candidate([1, 2, 3, 4], 2) == [1.5, 2.5, 3.5]",
)
INDEX = decontaminate.Index([TASK])


def kinds(text):
    return {m.kind for m in INDEX.matches(text)}


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c,
        lambda c: c.replace("    ", "\t").replace("values[", "values [\n   "),
        lambda c: re.sub(r"\n", "  # a note\n", re.sub(r'""".*?"""', "", c)),
        lambda c: (
            c.replace("values", "xs").replace("window", "part").replace("means", "r")
        ),
        lambda c: re.sub(r'\n    """.*?"""', "", c),
        lambda c: (
            f'TEXT = """\n{re.sub(chr(34) * 3 + ".*?" + chr(34) * 3, "", c)}\n"""'
        ),
    ],
)
def test_code_is_found_however_it_is_written(change):
    text = "\n".join(real_files(3)[:1]) + "\n\n" + change(CODE) + "\nx = 1\n"
    assert "code" in kinds(text)


def test_other_code_of_the_same_shape_is_not_found():
    other = CODE.replace("sum(window) / len(window)", "max(window) * start")
    other = other.replace("values[start : start + width]", "values[width : start]")
    other = re.sub(r'""".*?"""', "", other)
    assert kinds(other) == set()
    assert all(not INDEX.matches(text) for text in real_files(20))


def test_words_and_tests_are_found_in_prose():
    prose = (
        "Write: mean of each window, of the given width, over the list of values as a"
    )
    assert kinds(f"# {prose} new list!") == {"words"}
    assert "tests" in kinds(
        "def check():\n    assert candidate([1,2,3,4],2)==[1.5,2.5,3.5]\n"
    )
    report = Report()
    sink = []
    report.sink = sink.append
    document = Document(CODE, "a.py", "r", language="python")
    assert not list(decontaminate.decontaminate_documents([document], report, INDEX))
    assert sink[0]["reason"] == "Bench"
    assert "Bench/0 code" in sink[0]["detail"]


@settings(max_examples=60, deadline=None)
@given(st.permutations(["a", "b", "c", "d"]))
def test_renaming_is_a_bijection(names):
    """`a = b + a` and `b = a + b` are one; `a = b + b` is another."""
    table = dict(zip("abcd", names, strict=True))
    text = "a = b + a * c - d + a"
    renamed = "".join(table.get(c, c) for c in text)
    same = ngrams.code_ngrams(text)
    np.testing.assert_array_equal(ngrams.code_ngrams(renamed), same)
    merged = renamed.replace(names[1], names[0])
    assert not np.array_equal(ngrams.code_ngrams(merged), same)


def test_common_ngrams_prove_nothing():
    assert decontaminate.Index([TASK], background=[CODE, CODE]).matches(CODE) == [] or (
        {m.kind for m in decontaminate.Index([TASK], [CODE, CODE]).matches(CODE)}
        == {"tests"}
    )


def test_benchmark_files(tmp_path):
    path = tmp_path / "gsm8k_test.jsonl"
    path.write_text('{"question": "How many?", "answer": "3"}\n')
    (task,) = decontaminate.read_tasks(path)
    assert task == decontaminate.Task("gsm8k_test/0", "How many?")
    path.write_text('{"what": 1}\n')
    with pytest.raises(ValueError, match="line 1 has the keys"):
        decontaminate.read_tasks(path)


# Hints, logging, and functions of a few tokens

HINTED = """def scale(values: list[int], by: "Factor" = 2, *rest: Any) -> dict[str, int]:
    found: dict[str, int] = {}
    for value in values:
        found[value] = value * by
    if found:
        return found
    return None
"""
PLAIN = """def scale(values, by=2, *rest):
    found = {}
    for value in values:
        found[value] = value * by
    if found:
        return found
    return None
"""
STATEMENTS = [
    "print('at', value)",
    "logger.info('%s', (value, [1, 2]))",
    "logging.getLogger(__name__).debug(f'{value}')",
    "self._log.warning(\n  'a',\n  b=(1),\n)",
    "sys.stderr.write('x')",
    "warnings.warn('x', stacklevel=2)",
]


def same(one, two):
    return np.array_equal(ngrams.code_ngrams(one, 5), ngrams.code_ngrams(two, 5))


def test_type_hints_do_not_count():
    assert same(HINTED, PLAIN)
    lambdas = "def f(a=lambda x: x, *, b: int = {1: 2}) -> {1: 2}[1]: return a"
    assert same(lambdas, "def f(a=lambda x: x, *, b={1: 2}): return a")


@pytest.mark.parametrize("statement", STATEMENTS)
def test_logging_does_not_count(statement):
    lines = []
    for line in PLAIN.split("\n")[1:-1]:
        indent = line[: len(line) - len(line.lstrip())]
        lines += [indent + part for part in statement.split("\n")] + [line]
    logged = "\n".join([PLAIN.split("\n")[0], *lines]) + "\n"
    assert logged.count(statement.split("\n")[0]) == 6
    assert same(logged, PLAIN)


@pytest.mark.parametrize(
    "code",
    [
        "y = math.log(x)", "return np.log(x) + 1", "x = print(1) or 2", "a + log.info(x)",
        "write(x)", "file.write(x)", "a = {1: print}", "else: x = 1", "f(print(x))",
    ],
)  # fmt: skip
def test_code_that_looks_like_logging_counts(code):
    assert not same(f"a\n{code}\nb = c", "a\nb = c")
    assert same(f"a\n{code}\nb = c", f"a\n{code}  # note\n\nb = c\n")


def test_real_files_lose_the_hints_that_their_trees_hold():
    """The tokens are those of the file whose syntax tree was stripped."""

    class Strip(ast.NodeTransformer):
        def visit_arg(self, node):
            node.annotation = None
            return node

        def visit_FunctionDef(self, node):
            node.returns = None
            return self.generic_visit(node)

    count = 0
    for text in real_files(16):
        tree = ast.parse(text)
        plain = ast.unparse(tree)
        stripped = ast.unparse(Strip().visit(tree))
        count += plain != stripped
        assert same(plain, stripped)
    assert count >= 2


def test_a_short_function_is_told_by_its_name():
    code = 'def total(x: int, y: int):\n    """Sum of x and y."""\n    return x + y\n'
    index = decontaminate.Index([decontaminate.Task("Bench/1", code=code)])
    assert index.matches("z = 1\n\ndef total(a, b):\n    return a + b\n")
    assert index.matches("def total(x, y): return x + y\n" * 2)
    assert not index.matches("def foo(a: int, b: int) -> int:\n    return a + b\n")
    assert not index.matches("def total(a, b):\n    return a - b\n")
    # A name that everybody gives says nothing.
    task = decontaminate.Task("Bench/2", code=code.replace("total", "add"))
    assert not decontaminate.Index([task]).matches(task.code)


def test_brackets_that_never_close_take_linear_time():
    for part in ("def f(", "print(", "log.info(", ").log("):
        text = part * 10**4
        assert len(ngrams.code_ngrams(text)) >= 0
