"""Magics in a real IPython shell, and how a completion shows itself."""

import pytest
from IPython.core.interactiveshell import InteractiveShell

from codegemma_keras.decoding import Completion
from codegemma_keras.notebook import Magics


class Model:
    """Remembers what it was asked."""

    def session(self):
        return self

    def complete(self, prefix, suffix, **options):
        self.asked = (prefix, suffix, options)
        return Completion("sum(values)", "line", [1, 2], 9, prefix, suffix)


@pytest.fixture
def shell():
    shell = InteractiveShell()
    shell.run_line_magic("load_ext", "codegemma_keras.notebook")
    model = Model()
    shell.find_cell_magic("infill").__self__.use(model)
    shell.model = model
    return shell


def test_a_cell_is_completed_at_the_cursor(shell):
    shell.run_cell("A = 1", store_history=True)
    cell = "%%infill max_new_tokens=9\ndef f(v):\n    return <cursor> / len(v)\n"
    result = shell.run_cell(cell, store_history=True).result
    prefix, suffix, options = shell.model.asked
    assert prefix == "def f(v):\n    return "
    assert suffix == " / len(v)\n"
    assert options["max_new_tokens"] == 9
    assert options["until"] == "block"
    assert options["context"] == [("cell_1.py", "A = 1")]
    assert result.text == "sum(values)"


def test_without_a_cursor_the_end_is_completed(shell):
    shell.run_cell_magic("infill", "", "x =\n")
    assert shell.model.asked[:2] == ("x =", "")


@pytest.mark.parametrize(
    ("line", "cell", "said"),
    [
        ("untill=line", "x", "Did you mean until="),
        ("temperature=1", "x", "no option"),
        ("", "<cursor> <cursor>", "more than one"),
    ],
)
def test_faults_are_said(line, cell, said):
    with pytest.raises(ValueError, match=said):
        Magics(None).infill(line, cell)


def test_a_completion_shows_itself_and_no_html_of_its_own():
    shown = Completion(
        "<b>x</b>", "line", [1], 3, "a = '<i>'\n", "\n</pre>"
    )._repr_html_()
    assert "<mark>&lt;b&gt;x&lt;/b&gt;</mark>" in shown
    assert "<i>" not in shown
    assert shown.count("</pre>") == 1
