"""A program in a process of its own, with limits, watched from outside.

A program runs under Python in an empty folder with limits of processor time, memory, file
size and processes, and a wall clock. Limits that the kernel keeps for each process are
kept for the whole group by looking at it: its processes are counted and their memory is
added up many times a second.

A program passes if it ran to its end. Exit code 0 does not say so (`sys.exit(0)` in an
answer), so a line that the program cannot foresee must be printed last. A program that
searches the memory of its own interpreter can still find that line. Where an answer is to
be judged, use `checking.check`, whose verdict the program cannot reach.
"""

import concurrent.futures
import contextlib
import dataclasses
import os
import pathlib
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable

from codegemma_keras.sandbox.levels import ENVIRONMENT, accepted, command

SHOWN = 4_000  # characters of output that a result keeps
LOOKS = 0.05  # seconds between two looks at the group's processes and memory
PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096

# Handed to the interpreter as text: the package's folder is not in the sandbox.
INSIDE = (pathlib.Path(__file__).parent / "inside.py").read_text("utf-8")


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one program, with all the processes that it starts, may use."""

    seconds: float = 5.0  # of the wall clock; processor time gets the next whole second
    memory_mb: int = 512  # of address space a process; of memory together
    file_mb: int = 16  # of one file; of all files together in bubblewrap
    processes: int = 16


@dataclasses.dataclass(frozen=True)
class Result:
    """How a program ended.

    Attributes:
        passed: it ran to its end; with `check`, its tests passed as well.
        reason: `"passed"`, `"timeout"`, `"exited early"`, `"too many processes"`,
            `"too much memory"`, or the last line of its error.
        output: what it printed, the first `SHOWN` characters.
        seconds: wall clock, the start of the interpreter included.
        isolation: what it ran in, one of `LEVELS`.
    """

    passed: bool
    reason: str
    output: str
    seconds: float
    isolation: str


def run(program: str, limits: Limits = Limits(), *, least="bubblewrap") -> Result:
    """Run a Python program.

    Args:
        program: its text. It sees the standard library and the packages of this
            interpreter, an empty folder, and no standard input.
        limits: what it may use.
        least: the weakest of `LEVELS` to accept.

    Raises:
        RuntimeError: this machine has only weaker isolation than `least`.
        ValueError: `least` is no level.
    """
    level = accepted(least)
    sign = secrets.token_hex(16)
    text = f"{program}\n\nprint({sign!r}, flush=True)\n"
    started = time.monotonic()
    with Child("run", text, level, limits) as child:
        reason = child.wait(limits.seconds)
        output, error = child.printed()
    lines = output.rstrip().splitlines()
    passed = reason == "exit 0" and bool(lines) and lines[-1] == sign
    if passed:
        output, reason = "\n".join(lines[:-1]), "passed"
    elif reason == "exit 0":
        reason = "exited early"
    elif reason.startswith("exit"):
        reason = last_line(error) or f"killed, {reason}"
    seconds = time.monotonic() - started
    return Result(passed, reason, output[:SHOWN], seconds, level)


def run_all(
    programs: Iterable[str],
    limits: Limits = Limits(),
    *,
    least="bubblewrap",
    workers=None,
) -> list[Result]:
    """Run programs, some at once; those that time out are tried again, each alone.

    Args:
        programs: texts, as for `run`.
        limits, least: as for `run`.
        workers: how many at once; default: one for each processor.
    """
    accepted(least)
    return all_of(lambda p: run(p, limits, least=least), list(programs), workers)


def all_of(function, arguments, workers=None) -> list[Result]:
    """`function` of each argument, in order; a timeout is tried again, alone.

    An honest program may exceed its time because others ran beside it.
    """
    with concurrent.futures.ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        results = list(pool.map(function, arguments))
    return [
        function(argument) if result.reason == "timeout" else result
        for argument, result in zip(arguments, results, strict=True)
    ]


def last_line(error: str) -> str:
    """The last line of a traceback, at most 300 characters; or ""."""
    return (error.strip().splitlines() or [""])[-1][:300]


class Child:
    """A Python program under a level's isolation, and what it printed; a context.

    Leaving the context ends the program and all that it started. Output goes to files: a
    program that prints without end meets its limit of file size and not our memory.

    Args:
        role: str, one of those in `inside.py`.
        stdin: str, its standard input.
        level: one of `levels.LEVELS`.
        limits: a `Limits`.
        descriptors: file descriptors that it inherits; arguments of the role.
        numbers: further arguments of the role.
    """

    def __init__(self, role, stdin, level, limits, descriptors=(), numbers=()):
        self._limits = limits
        self._stopped = None
        self._folder = tempfile.TemporaryDirectory()
        files = [tempfile.TemporaryFile() for _ in range(3)]  # noqa: SIM115
        self._in, self._out, self._err = files
        self._in.write(stdin.encode("utf-8", "surrogatepass"))
        self._in.seek(0)
        own = (
            int(limits.seconds) + 1,
            limits.memory_mb << 20,
            limits.file_mb << 20,
            limits.processes,
        )
        # -s -P: nothing of the user's or of a working folder is imported. Not -I, which
        # would ignore the hash seed as well.
        python = [sys.executable, "-s", "-P", "-X", "utf8", "-c", INSIDE, role]
        python += [str(number) for number in (*own, *descriptors, *numbers)]
        self._process = subprocess.Popen(
            command(level, python, limits.file_mb),
            stdin=self._in,
            stdout=self._out,
            stderr=self._err,
            cwd=self._folder.name,
            env=ENVIRONMENT,
            pass_fds=descriptors,
            start_new_session=True,
        )
        threading.Thread(target=self._watch, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.kill()
        for file in (self._in, self._out, self._err):
            file.close()
        self._folder.cleanup()

    def wait(self, seconds: float) -> str:
        """How it ended: `"exit N"`, `"timeout"` or the limit that it exceeded."""
        try:
            code = self._process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return self._stopped or "timeout"
        return self._stopped or f"exit {code}"

    def printed(self) -> tuple[str, str]:
        """What it wrote to its output and its error, the last of each."""
        size = self._limits.file_mb << 20
        texts = []
        for file in (self._out, self._err):
            file.seek(max(0, file.seek(0, os.SEEK_END) - size))
            texts.append(file.read(size).decode("utf-8", "replace"))
        return tuple(texts)

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, 9)
        self._process.wait()

    def _watch(self):
        """End the group when it has too many processes or too much memory.

        The kernel counts no processes for root, and memory for each process alone.
        """
        while self._process.poll() is None:
            group = list(descendants(self._process.pid))
            # bubblewrap itself is one or two of them.
            if len(group) > self._limits.processes + 3:
                self._stopped = "too many processes"
            elif sum(map(_memory, group)) > self._limits.memory_mb << 20:
                self._stopped = "too much memory"
            if self._stopped:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, 9)
                return
            time.sleep(LOOKS)


def descendants(pid: int):
    """The processes that a process started, and those that they started."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return
    for thread in threads:
        with contextlib.suppress(OSError):
            text = pathlib.Path(f"/proc/{pid}/task/{thread}/children").read_text()
            for child in map(int, text.split()):
                yield child
                yield from descendants(child)


def _memory(pid):
    """Resident bytes of a process; 0 if it has ended."""
    try:
        return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0
