"""Running programs that a model wrote: shut in, with limits, and judged from outside.

    run      a program of its own: did it run to its end, and what did it print
    check    functions of a program, called and judged by tests that it cannot reach

`levels` says what stands around a program on this machine, `execution` starts and watches
it, `checking` keeps the program and its tests in two sandboxes, and `inside` is what runs
within them.

Python only. Left out: system-call filters and virtual machines.
"""

from codegemma_keras.sandbox.checking import check, check_all
from codegemma_keras.sandbox.execution import Limits, Result, run, run_all
from codegemma_keras.sandbox.levels import LEVELS, isolation

__all__ = [
    "LEVELS",
    "Limits",
    "Result",
    "check",
    "check_all",
    "isolation",
    "run",
    "run_all",
]
