"""Which program the cells of a notebook make."""

import pytest

from codegemma_keras.jupyter.cells import understood


def around(prefix, suffix="", path="a.py", **more):
    return understood(
        {"prefix": prefix, "suffix": suffix, "path": path, **more}
    ).around()


def test_cells_stand_apart_by_an_empty_line():
    cells = {"above": ["import os", "a = 1"], "below": ["b = 2"]}
    assert around("x = ", " + 1\n", **cells) == (
        "import os\n\na = 1\n\nx = ",
        " + 1\n\n\nb = 2",
    )


def test_magics_of_other_cells_are_comments():
    above = ["%matplotlib inline\nx = (1\n     % y)\n    !ls it's", "%%time\nf(x)"]
    prefix, _ = around("", above=above)
    assert prefix == (
        "# %matplotlib inline\nx = (1\n     % y)\n#     !ls it's\n\n# %%time\nf(x)\n\n"
    )


def test_magics_of_the_cell_are_comments_but_not_in_the_line_of_the_cursor():
    assert around("!pip install [x\n%time f(", ")\n%who\n") == (
        "# !pip install [x\n%time f(",
        ")\n# %who\n",
    )


@pytest.mark.parametrize("magic", ["%%bash", "%%html", "%%writefile a.txt", "%%ai me"])
def test_cells_in_another_language_are_left_out(magic):
    cell = f"\n{magic}\necho 'it\n"
    assert around("x", above=["a", cell], below=[cell]) == ("a\n\nx", "")
    assert around(cell) is None


def test_other_languages_have_no_magics():
    cells = {"above": ["%%bash\n!x"], "path": "a.jl"}
    assert around("!y\n", **cells) == ("%%bash\n!x\n\n!y\n", "")
    assert around("%%bash\n", path=None) == ("%%bash\n", "")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ([], "must be a JSON object"),
        ({}, "`prefix` is missing"),
        ({"prefix": "x", "max_tokens": 0}, "max_tokens"),
        ({"prefix": "x", "preset": "/etc"}, "preset"),
    ],
)
def test_what_is_wrong_is_said(body, said):
    with pytest.raises(ValueError, match=said):
        understood(body)
