"""The code of an answer, wherever its fences stand."""

import pytest

from codegemma_keras.evals import mbpp, task
from codegemma_keras.rl import rewards
from codegemma_keras.tasks import instruct, oss_instruct
from codegemma_keras.tasks.code_blocks import blocks, code_of

CODE = "def f(x):\n    return x\n"
BODY = "    return x\n"
DOCUMENTED = 'def f(x):\n    """As it is.\n\n    ```\n    f(1)\n    ```\n    """\n'
LISTED = "   def f(x):\n       return x\n"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        # none
        (CODE, CODE),
        ("", ""),
        ("Put it between ``` marks, please.", "Put it between ``` marks, please."),
        # closed
        (f"Sure:\n```python\n{CODE}```\nDone.", CODE),
        (f"```\n{CODE}```", CODE),
        (f"```Python3\n{CODE}```", CODE),
        (f"``` python\n{CODE}```", CODE),
        (f'```python title="f.py"\n{CODE}```', CODE),
        (f"Sure: ```python\n{CODE}``` Done.", CODE),
        (f"```python\n{CODE[:-1]}```", CODE[:-1]),
        ("```x = 1``` is it.", "x = 1"),
        ("It is ```x = 1```.", "x = 1"),
        (f"```{CODE}```", CODE),
        (f"```python\n{CODE}```\n```python\nf(1)\n```", CODE),
        (f"The def is:\n```\n{CODE}```\nand:\n```\nf(1)\n```", CODE),
        # not closed
        (f"Here you are:\n```py\n{CODE}", CODE),
        (f"Here you are:\n```\n{CODE}", CODE),
        ("```python\nx = 1", "x = 1"),
        (f"```python\n{CODE}\nIt is used so:\n```python\nf(1)\n```", None),
        (f"Here:\n```python\n{CODE}```\nUsed so:\n```python\nf(1)", CODE),
        # a fence that closes what nothing opened
        (f"{CODE}```\nrest", CODE),
        (f"{CODE}``` This is it.", CODE),
        (f"{BODY}```\n{CODE}", BODY),
        (f"{CODE}```\nIt is used so:\n```python\nf(1)\n```", CODE),
        (f"{CODE}```\nIt is used so:\n```python\nf(1)", CODE),
        (f"{CODE[:-1]}```\nIt is used so:\n```\nf(1)\n```\n", CODE[:-1]),
        # another language first
        (f"```bash\npip install f\n```\n```python\n{CODE}```", CODE),
        (f"```text\n1\n```\nand\n```\n{CODE}```", CODE),
        (f"```bash\npip install f\n```\n```py\n{CODE}", CODE),
        ("```js\nf(1)\n```\n```rust\nf(2)\n```", "f(1)\n"),
        # tildes
        (f"~~~python\n{CODE}~~~\nDone.", CODE),
        (f"~~~\n{CODE}", CODE),
        (f"~~~python\n{DOCUMENTED}~~~", DOCUMENTED),
        (f"```python\n{CODE}~~~\n```", f"{CODE}~~~\n"),
        ("    f(1)[0]\n    ~~~~^~~", "    f(1)[0]\n    ~~~~^~~"),
        # nested
        (f"```python\n{DOCUMENTED}```\nDone.", DOCUMENTED),
        (f"````python\n{CODE}# ```\n```\n````", f"{CODE}# ```\n```\n"),
        (f"````markdown\nSo:\n```python\n{CODE}```\n````", CODE),
        (f"```markdown\n# f\n```python\n{CODE}```\n```", CODE),
        # indented
        (f"1. So:\n\n   ```python\n{LISTED}   ```\n2. Done.", CODE),
        (f"1. ```python\n{LISTED}   ```\n2. Done.", CODE),
        ("- So:\n\t```\n\tdef f(x):\n\t\treturn x\n\t```", "def f(x):\n\treturn x\n"),
        (f"  ```python\n{CODE}  ```", CODE.replace("    ", "  ")),
        (f"```python\n{BODY}    ```\nDone.", BODY),
        # line ends of Windows
        ("```python\r\nx = 1\r\ny = 2\r\n```\r\nDone.\r\n", "x = 1\r\ny = 2\r\n"),
        ("x = 1\r\n", "x = 1\r\n"),
        ("def f():\r\n    return 1\r\n```\r\nDone.", "def f():\r\n    return 1\r\n"),
    ],
)
def test_code_of(text, code):
    if code is None:  # ends at the next fence, sentences and all
        code = text[len("```python\n") : text.rindex("```python")]
    assert code_of(text) == code


def test_every_room_has_the_one_function():
    assert instruct.code_of is task.code_of is mbpp.code_of is code_of
    assert oss_instruct.code_of is rewards.code_of is code_of


def test_languages_choose():
    text = "```bash\nls\n```\n```sql\nSELECT 1\n```\n```python\nx\n```"
    assert code_of(text, {"sql"}) == "SELECT 1\n"
    assert code_of(text, ()) == code_of(text, {"go"}) == "ls\n"


def test_blocks():
    text = "a\n```py\nx\n```\nb ```\ny\n```js\nz"
    assert [(b.code, b.language, b.closed) for b in blocks(text)] == [
        ("x\n", "py", True),
        ("y\n", "", False),
        ("z", "js", False),
    ]
    assert [text[b.start :][:5] for b in blocks(text)] == ["```py", "```\ny", "```js"]


def test_answers_that_are_no_python():
    """A regular expression or SQL stands in the first block, of any language."""
    wrapper = "PATTERN = ANSWER"
    for text in ("```regex\n\\d+\n```", "\\d+", "```\n\\d+", "~~~\n\\d+\n~~~"):
        [program] = rewards._programs(["?"], [text], None, [wrapper])
        assert program == "PATTERN = " + repr("\\d+")


@pytest.mark.parametrize(
    ("text", "right"),
    [
        (f"```python\n{CODE}```", 1.0),
        # The text between two blocks is none.
        (f"```bash\nls\n```\nThen:\n```python\n{CODE}```", 1.0),
        ("```bash\nls\n```\nThen:\n```js\nf(1)\n```", 0.0),
        (f"```python\n{CODE}", 0.0),
        (f"```python\n{CODE}```\n```python\n{CODE}```", 0.0),
        (f"~~~python\r\n{CODE}~~~\r\n", 1.0),
    ],
)
def test_format_of_one_block(text, right):
    assert rewards.has_format(["?"], [text], tests=[["f(1)"]]) == [right]
