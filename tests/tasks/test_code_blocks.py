"""The code of an answer, wherever its marks stand."""

import pytest

from codegemma_keras.evals.task import code_of

CODE = "def f(x):\n    return x\n"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (CODE, CODE),
        (f"Sure:\n```python\n{CODE}```\nDone.", CODE),
        (f"```\n{CODE}```", CODE),
        (f"Here you are:\n```py\n{CODE}", CODE),  # not closed
        (f"Here you are:\n```\n{CODE}", CODE),
        (f"{CODE}```\nrest", CODE),  # closed, and opened by nothing
        (f"    return x\n```\n{CODE}", "    return x\n"),
        (f"{CODE}```\nIt is used so:\n```python\nf(1)\n```", CODE),
        (f"{CODE}```\nIt is used so:\n```python\nf(1)", CODE),
        (f"The def is:\n```\n{CODE}```\nand:\n```\nf(1)\n```", CODE),
        ("", ""),
    ],
)
def test_code_of(text, code):
    assert code_of(text) == code
