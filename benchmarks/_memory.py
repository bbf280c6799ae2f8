"""The memory of a process, from the kernel's account of it (Linux).

`resource.getrusage(...).ru_maxrss` isn't used: a process begins with the peak of the one
that started it, so it can be gigabytes before a line has run.
"""

import pathlib


def resident_bytes():
    """What is resident now."""
    return _line("VmRSS")


def peak_bytes(pid="self"):
    """The most that was resident since the program of a process began."""
    return _line("VmHWM", pid)


def start_again():
    """Let the peak begin at what is resident now."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def _line(name, pid="self"):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(status.partition(name + ":")[2].split()[0]) * 1024
