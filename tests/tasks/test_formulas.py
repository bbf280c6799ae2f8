"""Formulas: Minerva's normalisation, and equality by value."""

import pytest

from codegemma_keras.tasks import formulas


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("\\frac12", "\\frac{1}{2}"),
        ("$\\frac{1}{2}$", "0.5"),
        ("\\dfrac{3}{4}", "\\frac{3}{4}"),
        ("2\\sqrt3", "2\\sqrt{3}"),
        ("x = 5", "5"),
        ("10\\text{ cm}", "10"),
        ("10 cm", "10"),
        ("90^\\circ", "90"),
        ("\\$32,000", "32000"),
        ("(0, 1)", "(0,1)"),
        ("\\text{Evelyn}", "Evelyn"),
        ("1,000", "1000"),
        ("-\\frac{2}{3}", "\\frac{-2}{3}"),
    ],
)
def test_equal(one, other):
    assert formulas.equal(one, other)
    assert formulas.equal(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("(0,1)", "01"),
        ("\\frac{1}{2}", "\\frac{2}{1}"),
        ("5", "-5"),
        ("", ""),
        ("\\frac{1}{0}", "0"),
        ("x+1", "1+y"),
    ],
)
def test_not_equal(one, other):
    assert not formulas.equal(one, other)


def test_final_answer():
    text = (
        "So \\boxed{7}.\nFinal Answer: The final answer is $8$. I hope it is correct."
    )
    assert formulas.final_answer(text) == "$8$"
    assert formulas.final_answer("it is $\\boxed{\\frac{1}{2}}$") == "\\frac{1}{2}"
    assert formulas.final_answer("nothing") == ""
    assert formulas.boxed("\\boxed 5 $x$") == "5"


def test_a_megabyte_is_read_quickly():
    assert not formulas.equal("\\frac" * 250_000, "1")
    assert formulas.boxed("\\boxed{" * 100_000) is None
