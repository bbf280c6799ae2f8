"""Problems in arithmetic, algebra and words, with worked steps and one right answer.

Each family is a function of a random generator. The steps are those a child writes down:
digits from the right, with what is carried or borrowed, so that a small model needs
single digits only and the answer follows from what it wrote. `equation` states the same
problem for sympy (an expression in x that is zero at the answer), so every problem can be
checked by an algebra system that knows nothing of the steps; `evals.maths` does.

Left out: decimals, negative answers, and problems from benchmarks (GSM8K and MATH come
through `tensorflow_datasets`).
"""

import dataclasses
import hashlib
import re
from collections.abc import Callable, Sequence

import numpy as np

NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gil", "Hana", "Ida", "Jon")
THINGS = ("apples", "books", "cards", "coins", "eggs", "keys", "nuts", "pens", "shells")


@dataclasses.dataclass(frozen=True)
class Problem:
    """One problem.

    Attributes:
        family: its key in `FAMILIES`.
        question: str.
        steps: the worked solution, without the answer's line.
        answer: int.
        equation: an expression in x for sympy that is zero at the answer.
    """

    family: str
    question: str
    steps: str
    answer: int
    equation: str

    def messages(self) -> list[dict[str, str]]:
        """As a conversation of one round; the answer's line is last."""
        return [
            {"role": "user", "content": self.question},
            {"role": "model", "content": f"{self.steps}\nAnswer: {self.answer}"},
        ]


def generate(family: str, rng: np.random.Generator) -> Problem:
    """A problem of a family.

    Raises:
        ValueError: there is no such family.
    """
    if family not in FAMILIES:
        raise ValueError(f"family={family!r} must be one of {sorted(FAMILIES)}.")
    question, steps, answer, equation = FAMILIES[family](rng)
    return Problem(family, question, steps, answer, equation)


def problems(
    families: Sequence[str], count: int, seed: int = 0, *, held_out: bool = False
) -> list[Problem]:
    """Distinct problems, the families in turn.

    Args:
        families: keys of `FAMILIES`.
        count: how many; fewer if a family has no more.
        seed: decides which.
        held_out: those for evaluation instead of those for training: a fifth, see
            `is_held_out`. No family trains on numbers that another is evaluated on.

    Raises:
        ValueError: no family, or one that is not there.
    """
    if not families:
        raise ValueError(f"families={families!r}: name some of {sorted(FAMILIES)}.")
    rng = np.random.default_rng((seed, held_out))
    found, seen = [], set()
    for number in range(count * 50):
        if len(found) == count:
            break
        problem = generate(families[number % len(families)], rng)
        if problem.question in seen or is_held_out(problem) != held_out:
            continue
        seen.add(problem.question)
        found.append(problem)
    return found


def is_held_out(problem: Problem, share: float = 0.2) -> bool:
    """Whether a problem's numbers are for evaluation; decided by them alone.

    The numbers of the equation and of the answer, in any order: 28 + 30, 58 - 28 and
    x - 30 = 28 are held out together, or none of them is.
    """
    numbers = [int(n) for n in re.findall(r"\d+", problem.equation)]
    key = " ".join(map(str, sorted([*numbers, problem.answer])))
    digest = hashlib.blake2b(key.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") < share * 2**32


# Worked steps


def add_steps(a: int, b: int) -> str:
    """Column addition from the right: `7+5=12`, then `3+4+1=8` with the 1 carried."""
    lines, carry = [], 0
    for place in range(max(len(str(a)), len(str(b)))):
        x, y = a // 10**place % 10, b // 10**place % 10
        total = x + y + carry
        lines.append(f"{x}+{y}{'+1' if carry else ''}={total}")
        carry = total // 10
    return "\n".join(lines)


def subtract_steps(a: int, b: int) -> str:
    """Column subtraction of b from a >= b: `12-7=5`, then `3-1-1=1` with the 1 borrowed."""
    lines, borrow = [], 0
    for place in range(len(str(a))):
        x, y = a // 10**place % 10, b // 10**place % 10
        lent = 10 * (x < y + borrow)
        lines.append(f"{x + lent}-{y}{'-1' if borrow else ''}={x + lent - y - borrow}")
        borrow = int(lent > 0)
    return "\n".join(lines)


# Families: rng -> (question, steps, answer, equation)


def _two(rng, least=10, most=49):
    return (int(n) for n in rng.integers(least, most + 1, 2))


def _sum(rng):
    a, b = _two(rng)
    return (
        f"What is {a} + {b}?",
        f"{a}+{b}\n{add_steps(a, b)}",
        a + b,
        f"{a} + {b} - x",
    )


def _difference(rng):
    b, answer = _two(rng)
    a = b + answer
    steps = f"{a}-{b}\n{subtract_steps(a, b)}"
    return f"What is {a} - {b}?", steps, answer, f"{a} - {b} - x"


def _plus_equation(rng):
    a, answer = _two(rng)
    b = a + answer
    steps = f"x = {b}-{a}\n{subtract_steps(b, a)}"
    return f"Solve x + {a} = {b}.", steps, answer, f"x + {a} - {b}"


def _minus_equation(rng):
    a, b = _two(rng)
    steps = f"x = {b}+{a}\n{add_steps(b, a)}"
    return f"Solve x - {a} = {b}.", steps, a + b, f"x - {a} - {b}"


def _gain(rng):
    a, b = _two(rng)
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    words = (
        f"{name} has {a} {thing} and gets {b} more. How many {thing} does {name} have?"
    )
    return words, f"{a}+{b}\n{add_steps(a, b)}", a + b, f"{a} + {b} - x"


def _loss(rng):
    b, answer = _two(rng)
    a = b + answer
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    words = f"{name} has {a} {thing} and gives {b} away. How many {thing} are left?"
    return words, f"{a}-{b}\n{subtract_steps(a, b)}", answer, f"{a} - {b} - x"


def _product(rng):
    a, b = _two(rng, 2, 30)
    return f"What is {a} * {b}?", f"{a}*{b}", a * b, f"{a} * {b} - x"


def _two_step_equation(rng):
    a, answer = _two(rng, 2, 9)
    b = int(rng.integers(1, 30))
    c = a * answer + b
    steps = f"{a}*x = {c}-{b}\n{subtract_steps(c, b)}\n{a}*x = {c - b}\nx = {answer}"
    return f"Solve {a} * x + {b} = {c}.", steps, answer, f"{a} * x + {b} - {c}"


def _long_sum(rng):
    a, b = _two(rng, 1000, 4999)
    return (
        f"What is {a} + {b}?",
        f"{a}+{b}\n{add_steps(a, b)}",
        a + b,
        f"{a} + {b} - x",
    )


FAMILIES: dict[str, Callable] = {
    "sum": _sum,
    "difference": _difference,
    "x + a = b": _plus_equation,
    "x - a = b": _minus_equation,
    "words: gain": _gain,
    "words: loss": _loss,
    "product": _product,
    "a * x + b = c": _two_step_equation,
    "long sum": _long_sum,
}
