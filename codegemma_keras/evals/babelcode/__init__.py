"""HumanEval and MBPP in eight languages, by the method that BabelCode published.

    problem = from_humaneval(row)                 types are found from the tests' values
    text = prompt(problem, "rust")                comment and signature, for a model
    result = judge(problem, "rust", text + ...)   compiled, run, and compared outside

Types, names, comments and stops of a language follow Orlanski et al., "Measuring the
impact of programming language distribution" (2023). The generator is our own, and so is
the verdict: a program writes what its function gives, and never sees what it should.
There (and in the harness of the paper) the program compares and prints that it passed.

Left out: problems with values that languages with types lack (None beside a number,
tuples of different items); `UntranslatableError` says why.
"""

import dataclasses
import json

from codegemma_keras.evals.babelcode.problems import Problem, from_humaneval, from_mbpp
from codegemma_keras.evals.babelcode.targets import TARGETS
from codegemma_keras.evals.babelcode.types import UntranslatableError, same
from codegemma_keras.sandbox import Limits, Result, execute_all

__all__ = [
    "NAMES",
    "TARGETS",
    "Problem",
    "UntranslatableError",
    "finished",
    "from_humaneval",
    "from_mbpp",
    "judge",
    "judge_all",
    "program",
    "prompt",
    "verdict",
]
# Of tasks. C# is csharp and C++ is cpp there, as in `sandbox.LANGUAGES`.
NAMES = tuple(f"babelcode-{of}-{to}" for of in ("humaneval", "mbpp") for to in TARGETS)
GO_IMPORTS = ("fmt", "encoding/json", "os", "reflect", "strings")
GO_USUAL = ("fmt", "math", "sort", "strconv", "strings", "unicode")


def prompt(problem: Problem, language: str) -> str:
    """What a model is given: a comment and the function's first line."""
    target = TARGETS[language]
    parts = [
        target.parameter.format(name=target.variable(name), type=target.type(type_))
        for name, type_ in problem.parameters
    ]
    text = target.comment(target.described(problem.text))
    signature = target.signature.format(
        returns=target.type(problem.returns),
        name=target.function(problem.name),
        parameters=", ".join(parts),
        text=text,
    )
    if language == "python":  # its comment is in the function
        return f"{signature}\n"
    return f"{target.head}{text}{signature}\n"


def finished(completion: str, language: str) -> str:
    """A completion up to where its function ends, with what closes it."""
    target = TARGETS[language]
    places = [completion.find(stop) for stop in target.stops]
    end = min((place for place in places if place >= 0), default=len(completion))
    return completion[:end] + target.close


def program(problem: Problem, language: str, answer: str) -> str:
    """The whole program: an answer (prompt and completion) and calls for each case."""
    target = TARGETS[language]
    types = [type_ for _, type_ in problem.parameters]
    calls = "".join(
        target.call.format(
            case=number,
            name=target.function(problem.name),
            arguments=", ".join(map(target.literal, types, case.arguments)),
        )
        for number, case in enumerate(problem.cases)
    )
    after = target.after
    before = target.before
    if language == "go":
        before = _go_imports(answer)
        after = after.replace("SETS", str(problem.returns.kind == "set").lower())
    if language == "javascript":
        numbers = problem.returns.kind == "map" and problem.returns.of[0].kind
        after = after.replace("KEYS", "Number" if numbers == "integer" else "")
    return f"{before}{answer}\n{after.replace('CALLS', calls)}"


def _go_imports(answer):
    """Go refuses an import that is not used: those that the answer names."""
    wanted = [
        f'import "{name}"\n' for name in GO_USUAL if f"{name.split('/')[-1]}." in answer
    ]
    ours = [f'import answers_{n.split("/")[-1]} "{n}"\n' for n in GO_IMPORTS]
    return "package main\n\n" + "".join(wanted + ours) + "\n"


def verdict(problem: Problem, result: Result) -> tuple[str, str]:
    """Kind (one of `sandbox.KINDS`) and reason, of what a program answered."""
    given = {}
    for line in result.answers.splitlines():
        number, _, text = line.partition("\t")
        given.setdefault(number, text)
    for number, case in enumerate(problem.cases):
        text = given.get(str(number))
        if text is None:
            if result.passed:
                return "exited early", "exited early"
            return result.kind, result.reason
        if text.startswith("!"):
            return "exception", text[1:][:300]
        try:
            value = json.loads(text)
        except ValueError:
            return "exception", "an answer that is none"
        if not same(problem.returns, case.expected, value):
            arguments = ", ".join(map(repr, case.arguments))
            reason = (
                f"{problem.name}({arguments}) must be {case.expected!r}, not {text}"
            )
            return "wrong answer", reason[:300]
    return "passed", "passed"


def judge(
    problem: Problem,
    language: str,
    answer: str,
    limits: Limits | None = None,
    *,
    least="bubblewrap",
) -> Result:
    """Compile and run an answer, and compare what it gives with what it must.

    Args:
        problem: a `Problem`.
        language: one of `TARGETS`.
        answer: str, the prompt and a `finished` completion. Never trusted.
        limits: what it may use; default: the language's own.
        least: the weakest of `sandbox.LEVELS` to accept.

    Raises:
        sandbox.MissingToolchainError: the language cannot be run on this machine.
    """
    case = (problem, language, answer)
    return judge_all([case], limits, least=least, workers=1)[0]


def judge_all(
    cases, limits: Limits | None = None, *, least="bubblewrap", workers=None
) -> list[Result]:
    """`judge` of `(problem, language, answer)` each, some at once; equal ones once."""
    cases = list(cases)
    programs = [(program(*case), case[1]) for case in cases]
    results = execute_all(programs, limits, least=least, workers=workers)
    judged = []
    for (problem, _, _), result in zip(cases, results, strict=True):
        kind, reason = verdict(problem, result)
        judged.append(dataclasses.replace(result, kind=kind, reason=reason))
    return judged
