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

from codegemma_keras.sandbox.execution import SHOWN, STOPS, Limits, Result, start
from codegemma_keras.sandbox.levels import accepted
from codegemma_keras.sandbox.pool import pool_for

MESSAGE_MB = 16  # of one call or result


def check(
    program: str,
    tests: str,
    names,
    limits: Limits = Limits(),
    *,
    helpers: str = "",
    least="bubblewrap",
    pool=None,
) -> Result:
    """Judge functions of a program by tests that it cannot reach.

    Args:
        program: str, Python that defines the functions. Never trusted.
        tests: str, Python that calls them by name and raises if one is wrong. Trusted.
        names: the functions' names. Each takes and returns plain values.
        limits: what each of the two interpreters may use.
        helpers: str, Python that `tests` needs besides; trusted.
        least: the weakest of `levels.LEVELS` to accept.
        pool: a `Pool` of warm sandboxes; default: two sandboxes are started.

    Returns:
        A `Result` whose `kind` is one of `execution.KINDS`. Its `reason` is that in
        words: the text of an assertion of the tests, the exception of the program, or a
        limit that it exceeded.

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
        with start(pool, "program", program, level, limits, theirs) as candidate:
            close(*theirs)
            size = [MESSAGE_MB << 20]
            with start(pool, "tests", text, level, limits, ours, size) as judge:
                close(*ours)
                kind, reason = _verdict(verdict[0], limits.seconds)
                if kind in ("timeout", "exited early"):
                    kind, reason = _how(candidate, *_how(judge, kind, reason))
                starved = kind == "timeout" and candidate.starved and judge.starved
                output, _ = candidate.printed()
    finally:
        close(*ends.copy())
    seconds = time.monotonic() - started
    return Result(kind, reason, output[:SHOWN], seconds, level, starved=starved)


def check_all(
    cases, limits: Limits = Limits(), *, least="bubblewrap", workers=None, pool=None
) -> list[Result]:
    """`check` of many, some at once; those that starve are tried again, each alone.

    Args:
        cases: `(program, tests, names)` or `(program, tests, names, helpers)` each. Equal
            ones are checked once.
        limits, least: as for `check`.
        workers: how many at once; default: one for each processor.
        pool: a `Pool` to use, which remembers verdicts; default: one for this call.

    Returns:
        A `Result` for each case, in order.

    Examples:
        >>> tests = "assert double(4) == 8, 'wrong for 4'"
        >>> programs = ["def double(x): return 2 * x", "def double(x): return x * x"]
        >>> results = check_all([(p, tests, ["double"]) for p in programs])
        >>> [(result.kind, result.reason) for result in results]
        [('passed', 'passed'), ('wrong answer', 'wrong answer: wrong for 4')]
    """
    accepted(least)
    with pool_for(pool, workers, least) as pool:

        def one(key):
            _, program, tests, names, helpers, limits = key
            return check(
                *(program, tests, names, limits),
                helpers=helpers,
                least=least,
                pool=pool,
            )

        def key(program, tests, names, helpers=""):
            return "check", program, tests, tuple(names), helpers, limits

        return pool.map(one, [key(*case) for case in cases])


def _verdict(descriptor, seconds):
    """`(kind, reason)` of the tests, whose interpreter alone has the other end."""
    ready, _, _ = select.select([descriptor], [], [], seconds)
    if not ready:
        return "timeout", "timeout"
    with open(descriptor, "rb", closefd=False) as file:
        line = file.readline(1 << 20)
    if not line.endswith(b"\n"):  # the tests themselves met a limit
        return "exited early", "exited early"
    kind, reason = json.loads(line)
    return kind, reason


def _how(child, kind, reason):
    """Kind and words of a limit or a signal that ended a child, else what is given."""
    ended = child.wait(0.1)
    if ended in STOPS and ended != "timeout":
        return STOPS[ended], ended
    if kind == "exited early" and ended.startswith("exit ") and int(ended[5:]) > 128:
        return "killed", f"killed, {ended}"
    return kind, reason
