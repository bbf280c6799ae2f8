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
import functools
import os
import pathlib
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time

from codegemma_keras.sandbox import levels
from codegemma_keras.sandbox.levels import ENVIRONMENT, accepted

SHOWN = 4_000  # characters of output that a result keeps
LOOKS = 0.05  # seconds between two looks at the group's processes and memory
# In /tmp, and in /dev/shm: an empty file takes memory that is no part of their size.
FILES = 10_000
PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
TIME_WAS_UP = 128 + signal.SIGXCPU  # exit code
TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100

# Handed to the interpreter as text: the package's folder is not in the sandbox.
INSIDE = (pathlib.Path(__file__).parent / "inside.py").read_text("utf-8")
# -s -P: nothing of the user's or of a working folder is imported. Not -I, which would
# ignore the hash seed as well.
PYTHON = [sys.executable, "-s", "-P", "-X", "utf8", "-c"]

KINDS = (
    "passed",
    "wrong answer",  # an assertion of the tests
    "exception",  # the program's own
    "syntax",  # it is no program of its language
    "timeout",
    "memory",
    "processes",
    "output",  # more than its files or one message may hold
    "killed",  # by a signal
    "exited early",  # before its end, or before the verdict
)


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one program, with all the processes that it starts, may use.

    Attributes:
        seconds: float, of the wall clock. Processor time gets the next whole second.
        memory_mb: int, MiB of address space of each process, and of memory together.
        file_mb: int, MiB of one file; in bubblewrap, of all files together.
        processes: int, at the same time.

    Examples:
        >>> run("while True: pass", Limits(seconds=1.0)).kind
        'timeout'
    """

    seconds: float = 5.0
    memory_mb: int = 512
    file_mb: int = 16
    processes: int = 16


@dataclasses.dataclass(frozen=True)
class Result:
    """How a program ended.

    Attributes:
        kind: one of `KINDS`.
        reason: the kind in words for a person: the last line of its error, for example.
        output: what it printed, the first `SHOWN` characters.
        seconds: wall clock, the start of the interpreter included.
        isolation: what it ran in, one of `LEVELS`.
        answers: what it wrote to descriptor 3; `languages.execute` alone.
        starved: it met the time limit with less than half of that on a processor. An
            honest program does so where others run beside it.

    Examples:
        >>> result = run("print(1 / 0)")
        >>> result.passed, result.kind, result.reason
        (False, 'exception', 'ZeroDivisionError: division by zero')
    """

    kind: str
    reason: str
    output: str
    seconds: float
    isolation: str
    answers: str = ""
    starved: bool = False

    @property
    def passed(self) -> bool:
        """It ran to its end; with `check`, its tests passed as well."""
        return self.kind == "passed"


def run(
    program: str, limits: Limits = Limits(), *, least="bubblewrap", pool=None
) -> Result:
    """Run a Python program.

    Args:
        program: its text. It sees the standard library and the packages of this
            interpreter, an empty folder, and no standard input.
        limits: what it may use.
        least: the weakest of `LEVELS` to accept.
        pool: a `Pool` of warm sandboxes; default: a sandbox is started.

    Raises:
        RuntimeError: this machine has only weaker isolation than `least`.
        ValueError: `least` is no level.

    Examples:
        >>> run("print(6 * 7)").output
        '42'
        >>> run("import os; os._exit(0)").kind
        'exited early'
    """
    level = accepted(least)
    sign = secrets.token_hex(16)
    text = f"{program}\n\nprint({sign!r}, flush=True)\n"
    started = time.monotonic()
    with start(pool, "run", text, level, limits) as child:
        ended = child.wait(limits.seconds)
        output, error = child.printed()
        starved = child.starved
    lines = output.rstrip().splitlines()
    if ended == "exit 0" and lines and lines[-1] == sign:
        kind, reason, output = "passed", "passed", "\n".join(lines[:-1])
    else:
        kind, reason = _failure(ended, error)
    seconds = time.monotonic() - started
    output = output[:SHOWN]
    return Result(kind, reason, output, seconds, level, starved=starved)


def _failure(ended, error):
    """Kind and reason of a program that did not run to its end."""
    if ended in STOPS:
        return STOPS[ended], ended
    if ended == "exit 0":
        return "exited early", "exited early"
    line = (error.strip().splitlines() or [""])[-1][:300]
    kind, reason = ended_by(int(ended.split()[1]), line)
    if kind != "exception":
        return kind, reason
    name = line.split(":")[0]
    syntax = name in ("SyntaxError", "IndentationError", "TabError")
    if name == "MemoryError":
        return "memory", line
    return "syntax" if syntax else "exception", line


def ended_by(code, line):
    """Kind and reason of an exit code other than 0, and of the line that tells why."""
    if code > 128:
        return "killed", line or f"killed, exit {code}"
    return ("exception", line) if line else ("exited early", f"exit code {code}")


def each(function, arguments, workers=None) -> dict:
    """Results by argument: each once, some at a time; those that starve again, alone."""
    arguments = list(dict.fromkeys(arguments))
    with concurrent.futures.ThreadPoolExecutor(workers or os.cpu_count()) as threads:
        results = dict(zip(arguments, threads.map(function, arguments), strict=True))
    for argument, result in results.items():
        if result.starved:
            results[argument] = function(argument)
    return results


# How `Child.wait` tells that a limit was exceeded, and the kind of that.
STOPS = {
    "timeout": "timeout",
    "too much memory": "memory",
    "too many processes": "processes",
    "too many files": "output",
}


def start(pool, role, stdin, level, limits, descriptors=(), numbers=()):
    """A `Child` as a context, in a warm sandbox of `pool` if there is one."""
    if pool is None:
        return Child(role, stdin, level, limits, descriptors, numbers)
    return pool.child(role, stdin, limits, descriptors, numbers)


class Fresh:
    """A process with a sandbox of its own; `pool.Fork` has the same methods."""

    def __init__(self, level, role, limits, given, numbers, files, size, folders):
        self._folder = tempfile.TemporaryDirectory()
        arguments = [role, *limits, *given, *numbers]
        child = [*PYTHON, INSIDE, *map(str, arguments)]
        stdin, stdout, stderr = files
        self._process = levels.start(
            level,
            child,
            size,
            folders,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=self._folder.name,
            env=ENVIRONMENT,
            pass_fds=given,
            start_new_session=True,
        )

    def wait(self, seconds=None) -> int | None:
        """The exit code, or None if it has not ended by then."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def group(self) -> list[int]:
        """Its processes. bubblewrap itself is one or two of them."""
        return list(descendants(self._process.pid))

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, 9)
        self._process.wait()

    def close(self):
        self.kill()
        self._folder.cleanup()


def in_memory():
    """A file without a name, in memory where the system can."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("output"), "w+b")
    return tempfile.TemporaryFile()


class Child:
    """A program under a level's isolation, and what it printed; a context.

    Leaving the context ends the program and all that it started. Output goes to files: a
    program that prints without end meets its limit of file size and not our memory.

    Args:
        role: str, one of those in `inside.py`.
        stdin: str, its standard input.
        level: one of `levels.LEVELS`.
        limits: a `Limits`.
        descriptors: file descriptors that it inherits; arguments of the role.
        numbers: further arguments of the role.
        folders: what it sees of the file system besides the interpreter's.
        begin: what starts the process; default: `Fresh`.
    """

    def __init__(
        self,
        role,
        stdin,
        level,
        limits,
        descriptors=(),
        numbers=(),
        folders=(),
        begin=None,
    ):
        self.limits = limits
        self.starved = False
        self._shut_in = level == "bubblewrap"
        self._stopped = None
        self._ended = threading.Event()
        self._files = [in_memory() for _ in range(3)]
        self._files[0].write(stdin.encode("utf-8", "surrogatepass"))
        self._files[0].seek(0)
        # Other runtimes reserve address space by the gigabyte and start threads, which
        # count as processes; `_watch` counts what they use.
        other = role == "build"
        own = (
            int(limits.seconds) + 1,
            0 if other else limits.memory_mb << 20,
            limits.file_mb << 20,
            limits.processes + (256 if other else 0),
        )
        given = (role, own, descriptors, numbers, self._files, limits.file_mb)
        self._process = begin(*given) if begin else Fresh(level, *given, folders)
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._ended.set()
        self._watcher.join()
        self._process.close()
        for file in self._files:
            file.close()

    def wait(self, seconds: float) -> str:
        """How it ended: `"exit N"` or one of `STOPS`."""
        code = self._process.wait(seconds)
        if code is None and not self._stopped:
            used = sum(map(_processor_seconds, self._process.group()))
            self.starved = used < self.limits.seconds / 2
            return "timeout"
        if code is not None and code < 0:
            # A child of ours that a signal ended; one in a sandbox says so as a shell does.
            code = 128 - code
        if code == TIME_WAS_UP:
            return self._stopped or "timeout"
        return self._stopped or f"exit {code}"

    def printed(self) -> tuple[str, str]:
        """What it wrote to its output and its error, the last of each."""
        size = self.limits.file_mb << 20
        texts = []
        for file in self._files[1:]:
            # Not `seek`, which moves the place where the program writes.
            length = os.fstat(file.fileno()).st_size
            data = os.pread(file.fileno(), size, max(0, length - size))
            texts.append(data.decode("utf-8", "replace"))
        return tuple(texts)

    def _watch(self):
        """End the group when it has too many processes, files or too much memory.

        The kernel counts no processes for root, and memory for each process alone.
        bubblewrap cannot limit the number of files.
        """
        while not self._ended.wait(LOOKS):
            group = self._process.group()
            if len(group) > self.limits.processes + 3:
                self._stopped = "too many processes"
            elif _memory(group) > self.limits.memory_mb << 20:
                self._stopped = "too much memory"
            elif self._shut_in and max(map(_files, group), default=0) > FILES:
                self._stopped = "too many files"
            if self._stopped:
                self._process.kill()
                return


def descendants(pid: int):
    """The processes that a process started, and those that they started."""
    for child in children(pid):
        yield child
        yield from descendants(child)


def children(pid: int) -> list[int]:
    """The processes that a process started."""
    found = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            path = pathlib.Path(f"/proc/{pid}/task/{thread}/children")
            found += map(int, path.read_text().split())
    return found


def _memory(group):
    """Bytes that processes hold: resident ones, and the most that their sockets may."""
    sockets = len(_sockets(group))
    # Twice: what it sent, and what one sent to it that has been closed since.
    return sum(map(_resident, group)) + (sockets and sockets * 2 * _buffer())


@functools.cache
def _buffer():
    """Bytes that the kernel keeps of what a socket has sent; see `filters`."""
    return int(pathlib.Path("/proc/sys/net/core/wmem_default").read_text())


def _sockets(group):
    """The sockets of processes, each once."""
    found = set()
    for pid in group:
        # A file may be closed, and a process end, while we look.
        with contextlib.suppress(OSError):
            for number in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    found.add(os.readlink(f"/proc/{pid}/fd/{number}"))
    return {name for name in found if name.startswith("socket:")}


def _resident(pid):
    """Resident bytes of a process; 0 if it has ended."""
    try:
        return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


def _files(pid):
    """The files in a process's own /tmp or /dev/shm, the larger number; 0 if it has ended.

    bubblewrap's first process sees our folders, which are not counted.
    """
    most = 0
    for place in ("/tmp", "/dev/shm"):
        with contextlib.suppress(OSError):
            theirs = f"/proc/{pid}/root{place}"
            if os.stat(theirs).st_dev != os.stat(place).st_dev:
                about = os.statvfs(theirs)
                most = max(most, about.f_files - about.f_ffree)
    return most


def _processor_seconds(pid):
    """Processor time that a process has used; 0 if it has ended."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return sum(map(int, fields[11:15])) / TICKS  # its own and its ended children's
    except (OSError, IndexError, ValueError):
        return 0
