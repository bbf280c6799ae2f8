"""The calls of the kernel that fail in bubblewrap: a filter for `bwrap --seccomp`.

What a program holds in memory is counted by the pages that its processes show, and by the
size of its file systems (`execution`). Some calls keep memory that neither shows: System
V's shared memory and messages, files in memory without a file system, shared pages that no
process has mapped any more, rings of the kernel, sockets. Programs of the eight languages
need none of them. Connected pairs are left, which event loops and Rust's processes take,
with buffers of their usual size; the watcher counts those. Keys are refused as well, since
they belong to a user and outlive a program.

Each refused call fails with EPERM, as in the usual containers.
"""

import contextlib
import os
import struct

# By machine: the name that a filter knows it by, the numbers of the calls whose arguments
# decide, and those of the refused calls (asm/unistd_64.h of x86, asm-generic/unistd.h of
# others).
NUMBERS = {
    "x86_64": (
        0xC000003E,
        {"mmap": 9, "socket": 41, "socketpair": 53, "setsockopt": 54},
        {
            "shmget": 29,
            "semget": 64,
            "msgget": 68,
            "add_key": 248,
            "request_key": 249,
            "keyctl": 250,
            "vmsplice": 278,
            "perf_event_open": 298,
            "memfd_create": 319,
            "bpf": 321,
            "userfaultfd": 323,
            "io_uring_setup": 425,
            "memfd_secret": 447,
        },
    ),
    "aarch64": (
        0xC00000B7,
        {"mmap": 222, "socket": 198, "socketpair": 199, "setsockopt": 208},
        {
            "shmget": 194,
            "semget": 190,
            "msgget": 186,
            "add_key": 217,
            "request_key": 218,
            "keyctl": 219,
            "vmsplice": 75,
            "perf_event_open": 241,
            "memfd_create": 279,
            "bpf": 280,
            "userfaultfd": 282,
            "io_uring_setup": 425,
            "memfd_secret": 447,
        },
    ),
}
# Steps of a filter: what each does, as the kernel numbers it.
LOAD, EQUAL, AT_LEAST, AND, ANSWER = 0x20, 0x15, 0x35, 0x54, 0x06
REFUSE = (ANSWER, 0, 0, 0x50000 | 1)  # with EPERM
ALLOW = (ANSWER, 0, 0, 0x7FFF0000)
# Places in what a filter sees of a call; of an argument, the low half.
CALL, MACHINE = 0, 4
FIRST, SECOND, THIRD, FOURTH = range(16, 16 + 4 * 8, 8)
WHOLE = 0xFFFFFFFF
UNIX, NETLINK = 1, 16  # families of sockets; the latter lists the network's interfaces
# Kinds of sockets: streams and sequences of packets have numbers that are alike in these
# bits, datagrams, whose buffers outlive their sender, have another.
CONNECTED, KIND = 1, 0xB
# SO_SNDBUF, SO_RCVBUF, and the same for who has a right to more.
BUFFERS = (7, 8, 32, 33)
SHARED_ANONYMOUS = 0x01 | 0x20  # of the flags of `mmap`
OTHER_NUMBERS = (
    1 << 30
)  # x86_64 knows its calls by a second set of numbers from here on


def program(machine: str) -> bytes:
    """The filter of a machine.

    Raises:
        OSError: it is none of `NUMBERS`.
    """
    if machine not in NUMBERS:
        raise OSError(
            f"There is no filter of system calls for the machine {machine!r}, only for "
            f"{', '.join(NUMBERS)}, so bubblewrap cannot keep the limit of memory here."
        )
    name, decided, calls = NUMBERS[machine]
    # Two numbers of each step: how many to skip where a comparison holds, where not.
    # Calls of another machine's programs (32 bits) have other numbers: all are refused.
    steps = [(LOAD, 0, 0, MACHINE), (EQUAL, 1, 0, name), REFUSE, (LOAD, 0, 0, CALL)]
    for number in calls.values():
        steps += [(EQUAL, 0, 1, number), REFUSE]
    steps += [(AT_LEAST, 0, 1, OTHER_NUMBERS), REFUSE]
    pair = ((FIRST, WHOLE, UNIX), (SECOND, KIND, CONNECTED))
    steps += _only(decided["socket"], (FIRST, WHOLE, NETLINK))
    steps += _only(decided["socketpair"], *pair)
    steps += _not(decided["setsockopt"], THIRD, WHOLE, BUFFERS)
    # Shared pages without a file stay when they are unmapped in part, and none shows them.
    steps += _not(decided["mmap"], FOURTH, SHARED_ANONYMOUS, [SHARED_ANONYMOUS])
    steps += [ALLOW]
    return b"".join(struct.pack("HBBI", *step) for step in steps)


def _only(call, *arguments):
    """Steps that refuse a call but with these `(place, bits, value)`."""
    steps = []
    for place, bits, value in arguments:
        steps += [(LOAD, 0, 0, place), (AND, 0, 0, bits), (EQUAL, 1, 0, value), REFUSE]
    return [(EQUAL, 0, len(steps) + 1, call), *steps, ALLOW]


def _not(call, place, bits, values):
    """Steps that refuse a call with one of these values."""
    steps = [(LOAD, 0, 0, place), (AND, 0, 0, bits)]
    for value in values:
        steps += [(EQUAL, 0, 1, value), REFUSE]
    return [(EQUAL, 0, len(steps) + 1, call), *steps, ALLOW]


@contextlib.contextmanager
def opened():
    """A descriptor from which one `bwrap --seccomp` reads the filter; a context."""
    text = program(os.uname().machine)
    reading, writing = os.pipe()
    try:
        os.write(writing, text)  # much less than a pipe holds
        os.close(writing)
        yield reading
    finally:
        os.close(reading)
