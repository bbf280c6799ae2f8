"""A program and its tests in two sandboxes, so that the verdict is out of its reach.

The tests run in one interpreter and the program in another. For each function under test,
the tests have a stand-in that sends name and arguments as JSON and gets the result back as
JSON. Only plain values cross: numbers, texts, lists, tuples, sets, dictionaries. An object
whose `==` is always true arrives as something that equals nothing. The verdict goes
through a descriptor that only the interpreter of the tests has, so nothing that the
program does in its own process (exit, print, walk frames, patch modules) can reach it.

Lists, dictionaries and sets that a function changes in place are changed for the tests,
too.
"""

import json
import os
import select
import time

from codegemma_keras.sandbox.execution import (
    SHOWN,
    Child,
    Limits,
    Result,
    all_of,
)
from codegemma_keras.sandbox.levels import accepted

MESSAGE_MB = 16  # of one call or result


def check(
    program: str,
    tests: str,
    names,
    limits: Limits = Limits(),
    *,
    helpers: str = "",
    least="bubblewrap",
) -> Result:
    """Judge functions of a program by tests that it cannot reach.

    Args:
        program: str, Python that defines the functions. Never trusted.
        tests: str, Python that calls them by name and raises if one is wrong. Trusted.
        names: the functions' names. Each takes and returns plain values.
        limits: what each of the two interpreters may use.
        helpers: str, Python that `tests` needs besides; trusted.
        least: the weakest of `levels.LEVELS` to accept.

    Returns:
        A `Result` whose `reason` is `"passed"`, `"wrong answer"` (an assertion of the
        tests, with its text), the exception of the program, `"exited early"`,
        `"timeout"`, or a limit that it exceeded.

    Example:
    ```python
    from codegemma_keras.sandbox import check

    result = check("def double(x): return 2 * x", "assert double(4) == 8", ["double"])
    print(result.reason)
    ```
    """
    level = accepted(least)
    started = time.monotonic()
    calls, answers, verdict = os.pipe(), os.pipe(), os.pipe()
    ends = {*calls, *answers, *verdict}

    def close(*descriptors):
        for descriptor in ends.intersection(descriptors):
            ends.discard(descriptor)
            os.close(descriptor)

    try:
        theirs, ours = (calls[0], answers[1]), (answers[0], calls[1], verdict[1])
        text = json.dumps([helpers, tests, list(names)])
        with Child("program", program, level, limits, theirs) as candidate:
            close(*theirs)
            size = [MESSAGE_MB << 20]
            with Child("tests", text, level, limits, ours, size) as judge:
                close(*ours)
                passed, reason = _verdict(verdict[0], limits.seconds)
                if not passed and reason in ("timeout", "exited early"):
                    reason = _how(candidate, _how(judge, reason))
                output, _ = candidate.printed()
    finally:
        close(*ends.copy())
    seconds = time.monotonic() - started
    return Result(passed, reason, output[:SHOWN], seconds, level)


def check_all(
    cases, limits: Limits = Limits(), *, least="bubblewrap", workers=None
) -> list[Result]:
    """`check` of many, some at once; those that time out are tried again, each alone.

    Args:
        cases: `(program, tests, names)` or `(program, tests, names, helpers)` each.
        limits, least: as for `check`.
        workers: how many at once; default: one for each processor.
    """
    accepted(least)

    def one(case):
        program, tests, names, *helpers = case
        return check(
            program, tests, names, limits, helpers="".join(helpers), least=least
        )

    return all_of(one, list(cases), workers)


def _verdict(descriptor, seconds):
    """`(passed, reason)` of the tests, whose interpreter alone has the other end."""
    ready, _, _ = select.select([descriptor], [], [], seconds)
    if not ready:
        return False, "timeout"
    with open(descriptor, "rb", closefd=False) as file:
        line = file.readline(1 << 20)
    if not line.endswith(b"\n"):  # the tests themselves met a limit
        return False, "exited early"
    passed, reason = json.loads(line)
    return passed, reason


def _how(child, reason):
    """The limit of the group that a child exceeded, else `reason`."""
    ended = child.wait(0.1)
    return ended if ended.startswith("too ") else reason
