"""Arguments and expected values, read from the assertions of Python tests.

Nothing is executed: assertions are read as syntax trees. These forms are understood, with
literals (and arithmetic of literals) for arguments and values:

    assert f(1, [2]) == 3           assert f(1)             assert not f(1)
    assert f(1) is True             assert 3 == f(1)        assert tuple(f(1)) == (1, 2)
    assert abs(f(1) - 0.5) < 1e-6   assert math.isclose(f(1), 0.5, rel_tol=0.001)

What else a test does is skipped, and counted.
"""

import ast
import dataclasses
import operator


@dataclasses.dataclass(frozen=True)
class Case:
    """One call and what it must give."""

    arguments: tuple
    expected: object


def cases_of(tests: str, name: str) -> tuple[list[Case], int]:
    """The cases that tests hold, and how many of their assertions are not understood.

    Args:
        tests: str, Python: assertions, alone or in a function such as HumanEval's `check`.
        name: str, the function that they call.
    """
    found, skipped = [], 0
    for statement in _statements(ast.parse(tests)):
        if isinstance(statement, ast.Assert):
            if isinstance(statement.test, ast.Constant):
                continue  # HumanEval's "assert True"
            try:
                found.append(_case(statement.test, name))
            except ValueError:
                skipped += 1
        elif any(isinstance(part, ast.Assert) for part in ast.walk(statement)):
            skipped += 1
    return found, skipped


def _statements(tree):
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef):
            yield from _statements(statement)
        else:
            yield statement


def _case(test, name):
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return Case(_arguments(test.operand, name), False)
    if isinstance(test, ast.Call) and ast.unparse(test.func).endswith("isclose"):
        return Case(_arguments(test.args[0], name), float(literal(test.args[1])))
    if not isinstance(test, ast.Compare):
        return Case(_arguments(test, name), True)
    if len(test.ops) != 1:
        raise ValueError("a chain of comparisons")
    left, [right] = test.left, test.comparators
    if isinstance(test.ops[0], (ast.Lt, ast.LtE)):
        return _close(left, name)
    if not isinstance(test.ops[0], (ast.Eq, ast.Is)):
        raise ValueError("a comparison that is not one of equality")
    try:
        return Case(_arguments(left, name), literal(_bare(right)))
    except ValueError:
        return Case(_arguments(right, name), literal(_bare(left)))


def _close(node, name):
    """`abs(f(x) - y)`, compared to a small number."""
    if not (isinstance(node, ast.Call) and ast.unparse(node.func).endswith("abs")):
        raise ValueError("an order")
    [difference] = node.args
    if not (isinstance(difference, ast.BinOp) and isinstance(difference.op, ast.Sub)):
        raise ValueError("no difference")
    return Case(_arguments(difference.left, name), float(literal(difference.right)))


def _bare(node):
    """Without `tuple(...)` or `list(...)` around: both are lists here."""
    wraps = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    if wraps and node.func.id in ("tuple", "list") and len(node.args) == 1:
        return node.args[0]
    return node


def _arguments(node, name):
    node = _bare(node)
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        raise ValueError("no call")
    if node.func.id != name or node.keywords:
        raise ValueError("a call of something else")
    return tuple(literal(argument) for argument in node.args)


OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
LARGEST = 100_000  # of a repeated text or list; of an exponent, a hundredth


def literal(node):
    """The value of a literal, arithmetic of literals included.

    Raises:
        ValueError: it is something else.
    """
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError):
        pass
    kind = OPERATORS.get(type(getattr(node, "op", None)))
    if isinstance(node, ast.UnaryOp) and kind:
        parts = [literal(node.operand)]
    elif isinstance(node, ast.BinOp) and kind:
        parts = [literal(node.left), literal(node.right)]
        if kind is operator.pow and abs(parts[1]) > LARGEST // 100:
            raise ValueError("too large a power")
        if kind is operator.mul and _repeats(*parts) > LARGEST:
            raise ValueError("too long a value")
    elif isinstance(node, (ast.List, ast.Tuple)):
        items = [literal(item) for item in node.elts]
        return items if isinstance(node, ast.List) else tuple(items)
    else:
        raise ValueError(f"{ast.unparse(node)} is no literal")
    try:
        return kind(*parts)
    except (TypeError, ZeroDivisionError, OverflowError) as error:
        raise ValueError(str(error)) from None


def _repeats(a, b):
    """The length of a text or list times a number; 0 of two numbers."""
    long = [len(part) for part in (a, b) if isinstance(part, (str, list, tuple))]
    times = [part for part in (a, b) if isinstance(part, int)]
    return long[0] * times[0] if long and times else 0
