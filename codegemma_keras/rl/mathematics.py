"""Whether an answer equals the right one as mathematics.

Numbers and arithmetic are compared exactly, as fractions, here. Anything else (roots,
sets, intervals, LaTeX) is `math-verify`'s, which parses text with SymPy, and SymPy's
parser evaluates: so it runs in the sandbox, in a process of its own, all answers at once.
"""

import importlib.util
import json
from collections.abc import Sequence

from codegemma_keras import sandbox
from codegemma_keras.tasks import answers

AT_ONCE = 500  # their verdicts fit in the output that a result keeps
START = 30.0  # seconds to import SymPy, on a busy machine
EACH = 2.0  # seconds an answer, on average; one alone may take three times that

PROGRAM = """
import json, logging
from math_verify import parse, verify
logging.disable(logging.CRITICAL)
for gold, text in json.loads({pairs!r}):
    try:
        right = parse(gold, parsing_timeout=20)
        print(None if not right else float(
            verify(right, parse(text, parsing_timeout=3), timeout_seconds=3)))
    except Exception:
        print(0.0)
"""


def equal(
    completions: Sequence[str], golds: Sequence[str], isolation: str = "bubblewrap"
) -> list[float]:
    """1 for each answer that equals its gold, else 0.

    Args:
        completions: what the model wrote, whole; see `tasks.answers.answer_of`.
        golds: the right answers: numbers, expressions, or LaTeX between `$`.
        isolation: the weakest of `sandbox.LEVELS` to parse in.

    Raises:
        ImportError: `math-verify` is needed and not installed.
        ValueError: a gold is no mathematics.

    Examples:
        >>> equal(["Half of it. Answer: 0.5", "Answer: 2"], ["1/2", "1/2"])
        [1.0, 0.0]
    """
    found, hard = [0.0] * len(golds), []
    for place, (completion, gold) in enumerate(zip(completions, golds, strict=True)):
        right = answers.value(gold)
        given = answers.value(answers.answer_of(completion))
        if right is not None:
            found[place] = float(given == right)
        elif completion.strip():
            hard.append(place)
    if hard:
        verdicts = _verified([(golds[p], completions[p]) for p in hard], isolation)
        for place, verdict in zip(hard, verdicts, strict=True):
            found[place] = verdict
    return found


def _verified(pairs, isolation):
    if importlib.util.find_spec("math_verify") is None:
        raise ImportError(
            f"The answer {pairs[0][0]!r} is no number, so it takes math-verify to compare "
            'it: pip install "codegemma-keras[rl]".'
        )
    found = []
    for start in range(0, len(pairs), AT_ONCE):
        found += _in_a_process(pairs[start : start + AT_ONCE], isolation)
    return found


def _in_a_process(pairs, isolation):
    """Verdicts of pairs; where all at once meet a limit, each half is tried alone."""
    program = PROGRAM.format(pairs=json.dumps(pairs))
    limits = sandbox.Limits(seconds=START + EACH * len(pairs), memory_mb=2048)
    result = sandbox.run(program, limits, least=isolation)
    lines = result.output.split()
    if not result.passed or len(lines) != len(pairs):
        if len(pairs) == 1:
            return [0.0]
        half = len(pairs) // 2
        first = _in_a_process(pairs[:half], isolation)
        return first + _in_a_process(pairs[half:], isolation)
    for line, (gold, _) in zip(lines, pairs, strict=True):
        if line == "None":
            raise ValueError(
                f"The right answer {gold!r} is no mathematics that math-verify can read. "
                "Write LaTeX between dollar signs, or a number."
            )
    return [float(line) for line in lines]
