"""The calls of the kernel that fail in bubblewrap: a filter for `bwrap --seccomp`.

What a program holds in memory is counted by the pages that its processes show, and by the
size of its file systems (`execution`). Some calls keep memory that neither shows: System
V's shared memory and messages, files in memory without a file system, shared pages that no
process has mapped any more, rings of the kernel. Programs of the eight languages need none
of them. Keys are refused as well, since they belong to a user and outlive a program.

Each refused call fails with EPERM, as in the usual containers.
"""

import contextlib
import os
import struct

# By machine: the name that a filter knows it by, the number of `mmap`, and the numbers of
# the refused calls (asm/unistd_64.h of x86, asm-generic/unistd.h of others).
NUMBERS = {
    "x86_64": (
        0xC000003E,
        9,
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
        222,
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
# Places in what a filter sees of a call; the low half of the fourth argument.
CALL, MACHINE, FOURTH = 0, 4, 16 + 3 * 8
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
    name, mmap, calls = NUMBERS[machine]
    # Two numbers of each step: how many to skip where a comparison holds, where not.
    # Calls of another machine's programs (32 bits) have other numbers: all are refused.
    steps = [(LOAD, 0, 0, MACHINE), (EQUAL, 1, 0, name), REFUSE, (LOAD, 0, 0, CALL)]
    for number in calls.values():
        steps += [(EQUAL, 0, 1, number), REFUSE]
    steps += [(AT_LEAST, 0, 1, OTHER_NUMBERS), REFUSE]
    # Shared pages without a file stay when they are unmapped in part, and none shows them.
    steps += [
        (EQUAL, 0, 4, mmap),
        (LOAD, 0, 0, FOURTH),
        (AND, 0, 0, SHARED_ANONYMOUS),
        (EQUAL, 0, 1, SHARED_ANONYMOUS),
        REFUSE,
        ALLOW,
    ]
    return b"".join(struct.pack("HBBI", *step) for step in steps)


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
