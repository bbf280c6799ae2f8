"""Running programs that a model wrote: shut in, with limits, and judged from outside.

    run      a program of its own: did it run to its end, and what did it print
    check    functions of a program, called and judged by tests that it cannot reach
    execute  a program in one of eight languages: compiled, run, its answers read

    Pool     warm sandboxes for many programs

`levels` says what stands around a program on this machine, `execution` starts and watches
it, `filters` names the calls of the kernel that fail, `checking` keeps the program and its
tests in two sandboxes, and `inside` is what runs within them. `languages` has the compilers
and runtimes.

Left out: virtual machines, and a count of what pipes hold, which the kernel bounds for each
user (64 MB, /proc/sys/fs/pipe-user-pages-soft).
"""

from codegemma_keras.sandbox.checking import check, check_all
from codegemma_keras.sandbox.execution import KINDS, Limits, Result, run
from codegemma_keras.sandbox.languages import (
    LANGUAGES,
    MissingToolchainError,
    execute,
    execute_all,
)
from codegemma_keras.sandbox.levels import LEVELS, isolation
from codegemma_keras.sandbox.pool import Pool, run_all

__all__ = [
    "KINDS",
    "LANGUAGES",
    "LEVELS",
    "Limits",
    "MissingToolchainError",
    "Pool",
    "Result",
    "check",
    "check_all",
    "execute",
    "execute_all",
    "isolation",
    "run",
    "run_all",
]
