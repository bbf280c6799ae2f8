"""The memory of this process, from the kernel's account of it (Linux).

`resource.getrusage(...).ru_maxrss` isn't used: a process begins with the peak of the one
that started it, so it can be gigabytes before a line has run.
"""

import pathlib


def resident_bytes():
    """What is resident now."""
    return _line("VmRSS")


def peak_bytes():
    """The most that was resident since this program began."""
    return _line("VmHWM")


def start_again():
    """Let the peak begin at what is resident now."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def _line(name):
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.partition(name + ":")[2].split()[0]) * 1024
