"""Answers to mathematical problems, compared by what they mean.

The answer is what follows the last mark (`Answer:`, GSM8K's `####`, `The answer is`, or a
`\\boxed{}`), else the last number. `28`, `28.0`, `56/2` and `x = 28` are equal; sympy
decides. What a model wrote never reaches Python's `eval`: only digits, the four
operations, brackets, `x` and one `=` are read at all.

`number` reads one number as people write it, with its unit. Left out: sets of solutions;
answers that are formulas are compared in `formulas`.
"""

import ast
import fractions
import re
from collections.abc import Sequence

MAX_LENGTH = 60  # characters of an expression
_MARK = re.compile(
    r"(?:answer:|####|answer is:?|\\boxed(?=\{))[ \t*]*([^\n]*)", re.IGNORECASE
)
# A minus after a digit subtracts: the last number of 12-5 is 5.
_NUMBER = re.compile(r"(?:(?<![\d)])-)?\d+(?:,\d{3})*(?:\.\d+)?")
_ALLOWED = re.compile(r"[0-9x+\-*/().= ]+")


def answer_of(text: str) -> str:
    """The answer in a solution; empty if there is none."""
    found = stated(text).replace(",", "").replace("$", "").strip().rstrip(".")
    return re.sub(r"^x\s*=\s*", "", found)


def stated(text: str) -> str:
    """What follows the last mark of an answer, to the line's end; else the last number."""
    found = _MARK.findall(text) or _NUMBER.findall(text)
    return found[-1] if found else ""


def number(text: str) -> fractions.Fraction | None:
    """The first number of an answer as people write it, or None.

    Signs of money and of a thousand, units, emphasis and LaTeX around it do not count:
    `$1,234.50`, `**1234.5**`, `\\boxed{1{,}234.5}` and `1234.5 dollars` are equal. So are
    `1/2`, `\\frac{1}{2}` and `0.5`. A percentage is the number before its sign.

    Args:
        text: of one answer, such as `stated` finds; only its first 300 characters are
            read, and after an equals sign what follows the last one.
    """
    text = (
        text[:300]
        .rpartition("=")[2]
        .replace("−", "-")
        .replace("{,}", ",")
        .replace("\\!", "")
    )
    text = re.sub(r"\\[dt]?frac\{(-?\d+)\}\{(\d+)\}", r"\1/\2", text)
    text = re.sub(r"(?<=\d)[,\u202f\u00a0 ](?=\d{3}(?!\d))", "", text)
    text = re.sub(r"(?<=-)\s*[$€£]\s*(?=[\d.])", "", text)  # -$5
    found = re.search(r"-?(?:\d+(?:\.\d*)?|\.\d+)(?:\s*/\s*\d+)?", text)
    if not found:
        return None
    above, _, below = re.sub(r"\s", "", found[0]).partition("/")
    if below and int(below) == 0:
        return None
    return fractions.Fraction(above.rstrip(".")) / int(below or 1)


def value(expression: str) -> fractions.Fraction | None:
    """The exact value of an arithmetic expression, or None if it has none.

    Numbers, `+ - * /` and brackets; anything else, and division by zero, is None.
    """
    if len(expression) > MAX_LENGTH or not _ALLOWED.fullmatch(expression):
        return None
    try:
        return _value(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError):
        return None


def _value(node):
    match node:
        case ast.Constant(value=int(number) | float(number)):
            return fractions.Fraction(str(number))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.BinOp(left=left, op=operator, right=right):
            a, b = _value(left), _value(right)
            match operator:
                case ast.Add():
                    return a + b
                case ast.Sub():
                    return a - b
                case ast.Mult():
                    return a * b
                case ast.Div():
                    return a / b
    raise ValueError("no arithmetic")


def solves(answer: str, equation: str) -> bool:
    """Whether an answer makes an expression in x zero; sympy decides.

    Args:
        answer: of a model; anything.
        equation: trusted, for example `"x + 7 - 12"`.

    Raises:
        ValueError: the equation is no expression in x.
    """
    import sympy

    if not _ALLOWED.fullmatch(equation) or "=" in equation:
        raise ValueError(
            f"equation={equation!r} must be an expression in x, without =."
        )
    number = value(answer)
    if number is None:
        return False
    x = sympy.Symbol("x")
    left = sympy.sympify(equation, locals={"x": x})
    return left.subs(x, sympy.Rational(number.numerator, number.denominator)) == 0


def exact_match(answers: Sequence[str], problems: Sequence) -> dict[str, dict]:
    """Right answers by family.

    Args:
        answers: what the model wrote for each problem, whole.
        problems: objects with `family` and `equation`, as `data.maths.Problem`.

    Returns:
        `{family: {"problems", "right", "exact_match"}}`.
    """
    table: dict[str, dict] = {}
    for answer, problem in zip(answers, problems, strict=True):
        row = table.setdefault(problem.family, {"problems": 0, "right": 0})
        row["problems"] += 1
        row["right"] += solves(answer_of(answer), problem.equation)
    for row in table.values():
        row["exact_match"] = row["right"] / row["problems"]
    return table
