"""Answers to mathematical problems, compared by what they mean.

The answer is what follows the last `Answer:` (or GSM8K's `####`), else the last number.
`28`, `28.0`, `56/2` and `x = 28` are equal; sympy decides. What a model wrote never
reaches Python's `eval`: only digits, the four operations, brackets, `x` and one `=` are
read at all.

Left out: units, sets of solutions, LaTeX.
"""

import ast
import fractions
import re
from collections.abc import Sequence

MAX_LENGTH = 60  # characters of an expression
_MARK = re.compile(r"(?:Answer:|####)[ \t]*([^\n]*)")
_NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?")
_ALLOWED = re.compile(r"[0-9x+\-*/().= ]+")


def answer_of(text: str) -> str:
    """The answer in a solution; empty if there is none."""
    if marked := _MARK.findall(text):
        found = marked[-1]
    else:
        numbers = _NUMBER.findall(text)
        found = numbers[-1] if numbers else ""
    found = found.replace(",", "").replace("$", "").strip().rstrip(".")
    return re.sub(r"^x\s*=\s*", "", found)


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
