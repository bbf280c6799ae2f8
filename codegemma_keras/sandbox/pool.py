"""Warm sandboxes, of which each gives a fresh fork to one program after another.

To start a sandbox and an interpreter takes longer than most programs. A warm sandbox has
done so before. It never sees a program: what is forked gets the text, with processes,
files, shared memory and a network of its own that end with it (`warm.py`). The limits and
the watching are those of any other program, and a sandbox whose program did not end by
itself in time is thrown away.
"""

import collections
import contextlib
import json
import os
import pathlib
import select
import socket
import subprocess
import threading
import time

from codegemma_keras.sandbox import levels
from codegemma_keras.sandbox.execution import (
    FILES,
    INSIDE,
    PYTHON,
    Child,
    Limits,
    Result,
    children,
    descendants,
    each,
    run,
)
from codegemma_keras.sandbox.levels import (
    ENVIRONMENT,
    accepted,
    environments,
    links,
)

WARM = (pathlib.Path(__file__).parent / "warm.py").read_text("utf-8")
SPARE = 2  # free sandboxes for each worker, which clear up while others work


class Pool:
    """Warm sandboxes for many programs; a context.

    Where namespaces cannot be nested, or isolation is weaker than bubblewrap, each program
    gets a sandbox that is started for it instead: the attribute `warm` is False then.

    Args:
        workers: int, how many programs at once; default: one for each processor.
        least: the weakest of `levels.LEVELS` to accept.
        warm: False starts a sandbox for each program.
        remember: int, how many verdicts to keep. An equal program with equal tests and
            limits is not run again, unless it timed out.

    Example:
    ```python
    from codegemma_keras.sandbox import Pool, run_all

    with Pool() as pool:
        print(
            [result.output for result in run_all(["print(1)", "print(2)"], pool=pool)]
        )
    ```
    """

    def __init__(self, workers=None, *, least="bubblewrap", warm=True, remember=10_000):
        self.workers = workers or os.cpu_count()
        self.level = accepted(least)
        self._least = least
        self._free = collections.deque()
        self._kept = collections.OrderedDict()
        self._remember = remember
        self._closed = False
        self._lock = threading.Lock()
        self.warm = warm and self.level == "bubblewrap"
        if self.warm:
            # One that cannot be used says so at its first program.
            result = run("", Limits(seconds=60), least=least, pool=self)
            self.warm = result.passed

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self):
        """End the sandboxes."""
        self._closed = True
        while self._free:
            self._free.pop().close()

    @contextlib.contextmanager
    def child(self, role, stdin, limits, descriptors=(), numbers=()):
        """A `Child` in a warm sandbox; the sandbox is free again afterwards."""
        if not self.warm:
            with Child(role, stdin, self.level, limits, descriptors, numbers) as child:
                yield child
            return
        if self._closed:
            raise RuntimeError("The pool is closed.")
        sandbox = self._take()
        try:
            with Child(
                role,
                stdin,
                self.level,
                limits,
                descriptors,
                numbers,
                begin=sandbox.fork,
            ) as child:
                yield child
        finally:
            if sandbox.usable and not self._closed:
                self._free.append(sandbox)
            else:
                sandbox.close()

    def _take(self):
        """The sandbox that has been free for longest, or another one."""
        with self._lock:
            if len(self._free) > SPARE * self.workers:
                return self._free.popleft()
        return Sandbox()

    def map(self, function, arguments) -> list[Result]:
        """`function` of each argument, in order; equal arguments once.

        A program that timed out for want of a processor is tried again, alone.

        Args:
            function: one argument to a `Result`.
            arguments: hashable ones.
        """
        arguments = list(arguments)
        with self._lock:
            results = {a: self._kept[a] for a in arguments if a in self._kept}
        new = [argument for argument in arguments if argument not in results]
        found = each(function, new, self.workers)
        with self._lock:
            self._kept |= {a: r for a, r in found.items() if r.kind != "timeout"}
            while len(self._kept) > self._remember:
                self._kept.popitem(last=False)
        return [(results | found)[argument] for argument in arguments]


@contextlib.contextmanager
def pool_for(pool, workers, least):
    """`pool`, or one of its own for this context."""
    if pool is not None:
        if workers not in (None, pool.workers):
            raise ValueError(
                f"workers={workers!r} is not the pool's {pool.workers}: pass one of them."
            )
        yield pool
        return
    with Pool(workers, least=least, remember=0) as own:
        yield own


def run_all(
    programs, limits: Limits = Limits(), *, least="bubblewrap", workers=None, pool=None
) -> list[Result]:
    """Run programs, some at once; those that starve are tried again, each alone.

    Args:
        programs: texts, as for `run`.
        limits, least: as for `run`.
        workers: how many at once; default: one for each processor.
        pool: a `Pool` to use; default: one for this call.

    Returns:
        A `Result` for each program, in order.

    Examples:
        >>> [result.kind for result in run_all(["print(1)", "x = ("])]
        ['passed', 'syntax']
    """
    accepted(least)
    with pool_for(pool, workers, least) as pool:

        def one(key):
            _, program, limits = key
            return run(program, limits, least=least, pool=pool)

        return pool.map(one, [("run", program, limits) for program in programs])


class Sandbox:
    """bubblewrap around an interpreter that forks (`warm.py`)."""

    def __init__(self):
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        number = str(theirs.fileno())
        self._process = levels.start(
            "bubblewrap",
            [*PYTHON, WARM, INSIDE, number],
            nests=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=ENVIRONMENT,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()
        self.usable = True
        # What lies in /tmp, a program's own /tmp would hide.
        shadowed = ("/tmp/", "/dev/shm/")
        self._kept = [p for p in environments() if p.startswith(shadowed)]
        self._links = [(a, to) for a, to in links().items() if a.startswith(shadowed)]

    def fork(self, role, limits, given, numbers, files, size):
        """Start a program; a `Fork`. One at a time."""
        ours, theirs = socket.socketpair()
        limits = [*limits[:3], limits[3] + 2]  # of this user, two processes are ours
        job = {"role": role, "limits": limits, "numbers": list(numbers)}
        job |= {"size": size << 20, "files": FILES}
        job |= {"kept": self._kept, "links": self._links}
        descriptors = [*(file.fileno() for file in files), theirs.fileno(), *given]
        message = [json.dumps(job).encode()]
        try:
            socket.send_fds(self._control, message, descriptors)
        except OSError:
            self.usable = False
        theirs.close()
        return Fork(self, ours)

    def group(self) -> list[int]:
        """The program's processes: what the fourth of ours has started."""
        pid = self._process.pid
        for _ in range(3):  # bubblewrap, its init, `warm`, `begin`
            pid = next(iter(children(pid)), None)
            if pid is None:
                return []
        return list(descendants(pid))

    def close(self):
        self.usable = False
        self._control.close()
        # With the first process of its namespace end all others.
        for pid in [*children(self._process.pid), self._process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        self._process.wait()


class Fork:
    """A program in a warm sandbox, with the methods of `execution.Fresh`.

    The sandbox writes `+` when the program's namespaces begin, and its exit code when
    they have ended. Nobody waits for the end of a program that was ended from here: the
    sandbox takes its next job when it is done.
    """

    def __init__(self, sandbox, watch):
        self._sandbox, self._watch = sandbox, watch
        self._begun, self._code = False, None

    def wait(self, seconds=None) -> int | None:
        """The exit code, or None if it has not ended by then."""
        until = None if seconds is None else time.monotonic() + seconds
        while self._code is None:
            left = None if until is None else max(0.0, until - time.monotonic())
            ready, _, _ = select.select([self._watch], [], [], left)
            if not ready:
                return None
            self._read()
        return self._code

    def _read(self):
        try:
            text = self._watch.recv(1000).decode()
        except OSError:
            text = ""
        self._begun |= text.startswith("+")
        code = text.removeprefix("+")
        if code.isdigit():
            self._code = int(code)
        elif text != "+":  # the sandbox has ended, or cannot be used
            self._sandbox.usable = False
            self._code = 137

    def group(self) -> list[int]:
        """The program's processes; before it has begun, there may be those of another."""
        if not self._begun:
            with contextlib.suppress(OSError):
                mark = self._watch.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
                self._begun = mark == b"+"
        return self._sandbox.group() if self._begun else []

    def kill(self):
        with contextlib.suppress(OSError):
            self._watch.shutdown(socket.SHUT_WR)

    def close(self):
        self.kill()
        self._watch.close()
