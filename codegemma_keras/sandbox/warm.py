"""What waits inside a warm sandbox: forks a fresh interpreter for each program.

Handed to the interpreter as text, like `inside.py`, whose text is its first argument. It
never sees a program: the text and the descriptors go straight to the fork.

    warm       takes jobs, one after another; ends all of a job when it is told to
    init       first process of new namespaces: mounts, gives up every right, waits
    program    one of the roles of `inside.py`

Each program has processes, files in /tmp and /dev/shm, shared memory and network
interfaces of its own, which the kernel removes when `init` ends. So nothing of a program
is there for the next one.
"""

import contextlib
import ctypes
import gc
import json
import os
import select
import signal
import socket
import struct
import sys
import types

NEWNS, NEWIPC, NEWPID, NEWNET = 0x20000, 0x8000000, 0x20000000, 0x40000000
PRIVATE, BIND, REMOUNT = 1 << 18 | 1 << 14, 1 << 12, 1 << 5 | 1 << 12
RDONLY, NOSUID, NODEV, NOEXEC = 1, 2, 4, 8
SET_DUMPABLE = 4
CLONES = {"x86_64": 56, "aarch64": 220}  # the number of the call `clone`

libc = ctypes.CDLL(None, use_errno=True)


def done(what, outcome):
    """Raise if a call of the kernel failed."""
    if outcome:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(kind, place, flags, options=""):
    kind, place = kind.encode(), place.encode()
    done("mount", libc.mount(kind, place, kind, flags, options.encode()))


def own_file_system(size, files, kept, links):
    """Fresh /proc, /tmp and /dev/shm; of /tmp, what the interpreter needs stays."""
    done("private", libc.mount(None, b"/", None, PRIVATE, None))
    held = [(place, os.open(place, os.O_PATH)) for place in kept]
    for place in ("/tmp", "/dev/shm"):
        options = f"size={size},nr_inodes={files},mode=1777"
        mount("tmpfs", place, NOSUID | NODEV, options)
    for place, descriptor in held:
        os.makedirs(place)
        source = f"/proc/self/fd/{descriptor}".encode()
        done("bind", libc.mount(source, place.encode(), None, BIND, None))
        flags = REMOUNT | RDONLY | NOSUID | NODEV
        done("read-only", libc.mount(None, place.encode(), None, flags, None))
        os.close(descriptor)
    for place, target in links:
        os.makedirs(os.path.dirname(place), exist_ok=True)
        os.symlink(target, place)
    mount("proc", "/proc", NOSUID | NODEV | NOEXEC)
    os.mkdir("/tmp/program")  # levels.HOME
    os.chdir("/tmp/program")


def give_up_rights():
    header = struct.pack("Ii", 0x20080522, 0)  # version 3, this process
    done("capset", libc.capset(header, bytes(24)))


def only(descriptors):
    """Close all descriptors but these."""
    low = 3
    for descriptor in sorted(descriptors):
        os.closerange(low, descriptor)
        low = descriptor + 1
    os.closerange(low, 256)


def begin(job, files, watch, given, run):
    """`init`; only the program returns."""
    try:
        for number, descriptor in enumerate(files):
            os.dup2(descriptor, number)
        only([watch, *given])
        own_file_system(job["size"], job["files"], job["kept"], job["links"])
        give_up_rights()
    except OSError as error:
        told(watch, f"cannot: {error}")
        os._exit(0)
    os.close(watch)
    # Nobody traces this process. The program may be traced by its own.
    libc.prctl(SET_DUMPABLE, 0, 0, 0, 0)
    program = os.fork()
    if program == 0:
        libc.prctl(SET_DUMPABLE, 1, 0, 0, 0)
        os.setsid()
        run([job["role"], *job["limits"], *given, *job["numbers"]])
        return
    only([])
    while True:
        ended, status = os.wait()
        if ended == program:
            os._exit(code_of(status))


def code_of(status):
    """What a shell would say: the exit code, or 128 and the signal."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def namespaces_of_its_own():
    """Fork into fresh namespaces: 0 in the child, its number in the parent.

    `os.fork` followed by `unshare` would take one process more, for a new namespace of
    processes begins with the next child.
    """
    flags = NEWNS | NEWIPC | NEWPID | NEWNET | signal.SIGCHLD
    pid = libc.syscall(CLONES[os.uname().machine], flags, 0, 0, 0, 0)
    if pid < 0:
        done("clone", pid)
    return pid


def ended(init, watch):
    """Wait for `init`, end it when the other end of `watch` closes, tell how it ended."""
    poll = select.poll()
    poll.register(watch, select.POLLIN)
    process = os.pidfd_open(init)
    poll.register(process, select.POLLIN)
    poll.poll()
    os.kill(init, 9)  # no harm to one that has ended
    code = code_of(os.waitpid(init, 0)[1])
    os.close(process)
    told(watch, str(code))


def told(watch, text):
    """Write to who waits, who may have gone."""
    with contextlib.suppress(OSError):
        os.write(watch, text.encode())


def warm(inside, control):
    """Take jobs until the other end of `control` closes.

    Returns in the program's own process, too, whose interpreter then ends as any other.
    """
    module = types.ModuleType("inside")
    exec(compile(inside, "inside.py", "exec"), module.__dict__)
    control = socket.socket(fileno=control)
    gc.collect()
    gc.freeze()
    while True:
        message, descriptors, *_ = socket.recv_fds(control, 1 << 16, 32)
        if not message:
            return
        job = json.loads(message)
        files, watch, given = descriptors[:3], descriptors[3], descriptors[4:]
        try:
            init = namespaces_of_its_own()
        except OSError as error:
            told(watch, f"cannot: {error}")
        else:
            if init == 0:
                control.detach()
                begin(job, files, watch, given, module.main)
                return
            told(watch, "+")
            ended(init, watch)
        for descriptor in descriptors:
            os.close(descriptor)


if __name__ == "__main__":
    warm(sys.argv[1], int(sys.argv[2]))
