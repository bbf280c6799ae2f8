"""Benchmarks planted in real files, however they are written."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codegemma_keras.data.clean import decontaminate
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
    assert all(not INDEX.matches(text) for text in real_files(50))


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
    same = decontaminate.code_ngrams(text)
    np.testing.assert_array_equal(decontaminate.code_ngrams(renamed), same)
    merged = renamed.replace(names[1], names[0])
    assert not np.array_equal(decontaminate.code_ngrams(merged), same)


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
