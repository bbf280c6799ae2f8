"""Memory that was freed, given back to the system.

The C library keeps what several threads freed, in pieces between what is still used. In a
server that never ends this looks like a leak. After four editors had typed for six minutes, it
was 150 MiB of 1,700 (benchmarks/serve_abuse.py).
"""

import ctypes
import functools


def give_back() -> None:
    """Let the C library return free memory. glibc has a call for that, others have none."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@functools.cache
def _malloc_trim():
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # not glibc; Windows has no CDLL(None)
        return None
