"""What runs inside the sandbox, around a program or its tests.

This file is handed to the interpreter as text (`python -c`), so it imports nothing of the
package. The role and the limits are its arguments; the program comes from standard input.

    run        executes a program
    program    defines the functions of a program, and answers calls of them
    tests      executes tests, which call those functions, and reports the verdict
    build      compiles a program of any language and becomes it
"""

import builtins
import contextlib
import json
import os
import resource
import subprocess
import sys

INEXACT = 1 << 60  # larger integers travel as text


def limit(kind, value):
    """Lower a limit of this process; it stays where it is lower already."""
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def set_limits(seconds, memory, file_size, processes):
    """Limits of each process; memory 0: its address space has none."""
    # The signal of the soft limit tells that it was time; the hard one ends who ignores it.
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    if hard == resource.RLIM_INFINITY or hard > seconds + 1:
        hard = seconds + 1
    resource.setrlimit(resource.RLIMIT_CPU, (min(seconds, hard), hard))
    if memory:
        limit(resource.RLIMIT_AS, memory)
    limit(resource.RLIMIT_FSIZE, file_size)
    limit(resource.RLIMIT_NOFILE, 64)
    limit(resource.RLIMIT_NPROC, processes)
    limit(resource.RLIMIT_CORE, 0)


# Plain values as JSON and back


class EndedError(BaseException):
    """The tests cannot go on: kind and text. No `except Exception` of a test catches it."""


class Opaque:
    """A value that cannot leave the interpreter it was made in.

    Tests that compare it or ask whether it is true end there, so it decides nothing.
    """

    def __init__(self, name):
        self.name = name

    def _refuse(self, *others):
        raise EndedError("wrong answer", f"{self!r} is no plain value")

    __eq__ = __ne__ = __bool__ = __hash__ = _refuse

    def __repr__(self):
        return f"<{self.name} object>"


COLLECTIONS = {"tuple": tuple, "set": set, "frozenset": frozenset}


def pack(value):
    """A plain value as JSON's types; what is not plain becomes a mark with its name.

    Subclasses travel as what they extend, by the base's own methods: what they override
    must not decide a verdict.
    """
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        value = int.__int__(value)
        return value if abs(value) < INEXACT else {"int": hex(value)}
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, complex):
        value = complex.__complex__(value)
        return {"complex": [value.real, value.imag]}
    if isinstance(value, (bytes, bytearray)):
        return {"bytes": bytes(value).hex()}
    if isinstance(value, list):
        return [pack(item) for item in list.__iter__(value)]
    if isinstance(value, dict):
        return {"dict": [[pack(k), pack(v)] for k, v in dict.items(value)]}
    for name, kind in COLLECTIONS.items():
        if isinstance(value, kind):
            return {name: [pack(item) for item in kind.__iter__(value)]}
    return {"opaque": type(value).__name__}


def unpack(value):
    """The inverse of `pack`."""
    if isinstance(value, list):
        return [unpack(item) for item in value]
    if not isinstance(value, dict):
        return value
    [(kind, content)] = value.items()
    if kind == "int":
        return int(content, 16)
    if kind == "complex":
        return complex(*content)
    if kind == "bytes":
        return bytes.fromhex(content)
    if kind in COLLECTIONS:
        return COLLECTIONS[kind](unpack(item) for item in content)
    if kind == "dict":
        return {unpack(k): unpack(v) for k, v in content}
    return Opaque(str(content))


# The roles


def run():
    """Execute a program as `python program.py` would."""
    text = sys.stdin.read()
    sys.argv = ["program.py"]
    space = {"__name__": "__main__", "__builtins__": builtins}
    exec(compile(text, "program.py", "exec"), space)


def answer_calls(calls, answers):
    """Define a program's functions, then answer calls until there are no more."""
    calls, answers = open(calls), open(answers, "w")  # noqa: SIM115
    printed = sys.stdout

    def answer(message):
        # What it printed must be there before the answer: the verdict may follow at
        # once, and then this interpreter is ended in the midst of its work.
        with contextlib.suppress(Exception):
            printed.flush()
        print(json.dumps(message), file=answers, flush=True)

    def told(error):
        return [type(error).__name__, str(error)[:1000]]

    space = {"__name__": "program", "__builtins__": builtins}
    try:
        exec(compile(sys.stdin.read(), "program.py", "exec"), space)
    except BaseException as error:
        answer({"failed": told(error)})
        return
    answer({"ready": True})
    for line in calls:
        name, arguments, options = json.loads(line)
        arguments = [unpack(value) for value in arguments]
        options = {key: unpack(value) for key, value in options.items()}
        try:
            outcome = {"result": pack(space[name](*arguments, **options))}
        except BaseException as error:
            outcome = {"raised": told(error)}
        answer({**outcome, "arguments": [pack(value) for value in arguments]})


def build(compiled, answers):
    """Compile a program, say so, and become it, with its answers at descriptor 3."""
    job = json.loads(sys.stdin.read())
    for name, text in job["files"].items():
        with open(name, "w", encoding="utf-8") as file:
            file.write(text)
    variables = {**os.environ, "HOME": os.getcwd(), **job["environment"]}
    # Not with our standard input: it is the source. No code of the program runs yet.
    done = subprocess.run(
        job["compile"], stdin=subprocess.DEVNULL, stdout=sys.stderr, env=variables
    )
    if done.returncode:
        # As a shell would say it, where a signal ended the compiler.
        sys.exit(1 if done.returncode > 0 else 128 - done.returncode)
    os.write(compiled, b"compiled")
    os.close(compiled)
    os.dup2(answers, 3)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.execve(job["run"][0], job["run"], variables)


class RaisedError(Exception):
    """An exception of the program that is none of Python's own."""


SYNTAX = {name: "syntax" for name in ("SyntaxError", "IndentationError", "TabError")}
EARLY = ("exited early", "exited early")
NO_ANSWER = EndedError("exception", "an answer that is none")


def kind_of(told, kinds=()):
    """Kind of failure and its text, of an exception's name and message."""
    name, text = map(str, told)
    kind = {"MemoryError": "memory", **dict(kinds)}.get(name, "exception")
    return kind, f"{name}: {text}" if text else name


class StandIns:
    """Functions for the tests, each of which asks the program's interpreter."""

    def __init__(self, answers, calls, size):
        self._answers, self._calls = open(answers, "rb"), open(calls, "w")  # noqa: SIM115
        self._size = size
        message = self._read()
        if "failed" in message:
            raise EndedError(*kind_of(message["failed"], SYNTAX))

    def _read(self):
        line = self._answers.readline(self._size)
        if not line.endswith(b"\n"):
            raise EndedError(*(("output", "too much output") if line else EARLY))
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            raise NO_ANSWER
        return message

    def function(self, name):
        def stand_in(*arguments, **options):
            options = {key: pack(value) for key, value in options.items()}
            call = [name, [pack(value) for value in arguments], options]
            try:
                print(json.dumps(call), file=self._calls, flush=True)
            except BrokenPipeError:
                raise EndedError(*EARLY) from None
            message = self._read()
            try:
                raised = self._outcome(message, arguments)
            except (ValueError, TypeError, LookupError, RecursionError):
                raise NO_ANSWER from None
            if isinstance(raised, RaisedByProgram):
                raise raised.error
            return raised

        stand_in.__name__ = name
        return stand_in

    def _outcome(self, message, arguments):
        for mine, packed in zip(arguments, message["arguments"], strict=False):
            theirs = unpack(packed)
            if type(mine) is not type(theirs):
                continue
            if isinstance(mine, list):
                mine[:] = theirs
            elif isinstance(mine, (dict, set)):
                mine.clear()
                mine.update(theirs)
        if "raised" in message:
            return RaisedByProgram(message["raised"])
        return unpack(message["result"])


class RaisedByProgram:
    """An exception of the program, as one that tests can expect by its name."""

    def __init__(self, told):
        kind, text = map(str, told)
        found = getattr(builtins, kind, None)
        usual = isinstance(found, type) and issubclass(found, Exception)
        try:
            # Not AssertionError: a wrong answer is for the tests to state.
            self.error = (found if usual and kind != "AssertionError" else RaisedError)(
                text
            )
        except Exception:
            self.error = RaisedError(text)
        self.error.told = kind_of(told)


def judge(answers, calls, verdict, size):
    """Execute tests and write the verdict: `[kind, reason]` as one line of JSON."""
    helpers, tests, names = json.loads(sys.stdin.read())
    told = _failure_of(answers, calls, size, helpers, tests, names)
    with open(verdict, "w") as file:
        # Two values, because the reason may hold text that the program chose.
        print(json.dumps(told or ["passed", "passed"]), file=file)


def _failure_of(answers, calls, size, helpers, tests, names):
    """Kind and reason of the tests' failure; None if they pass."""
    try:
        stand_ins = StandIns(answers, calls, size)
        space = {"__name__": "tests", "__builtins__": builtins}
        exec(compile(helpers, "helpers.py", "exec"), space)
        space.update((name, stand_ins.function(name)) for name in names)
        exec(compile(tests, "tests.py", "exec"), space)
    except EndedError as end:
        kind, text = end.args
        return kind, f"{kind}: {text}" if kind == "wrong answer" else text
    except BaseException as error:
        if told := getattr(error, "told", None):
            return told
        if isinstance(error, AssertionError):
            return "wrong answer", ": ".join(filter(None, ["wrong answer", str(error)]))
        return kind_of([type(error).__name__, str(error)])
    return None


ROLES = {"run": run, "program": answer_calls, "tests": judge, "build": build}


def main(arguments):
    """Take on a role: `[role, seconds, memory, file size, processes, *its own]`."""
    role, *numbers = map(str, arguments)
    sys.argv = ["-c", role, *numbers]
    numbers = [int(number) for number in numbers]
    set_limits(*numbers[:4])
    ROLES[role](*numbers[4:])


if __name__ == "__main__":
    main(sys.argv[1:])
