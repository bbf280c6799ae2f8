"""The peak memory of a running notebook: of its kernel, and of the largest child.

`resource.getrusage(...).ru_maxrss` can't say it: a process begins with the peak of the one
that started it, so a kernel begins with its parent's, and a child with the kernel's. The
processes are looked at from outside instead, five times a second.

Left out: what a child takes between two looks.
"""

import contextlib
import pathlib
import threading

import psutil

SECONDS = 0.2
GB = 2**30


class Peaks:
    """Peaks so far, in GB.

    Attributes:
        kernel: of the kernel. On Linux it's exact; elsewhere it's the largest one seen.
        child: of the largest process that it started, or that one of those started.
    """

    def __init__(self, pid):
        self._process = psutil.Process(pid)
        self.kernel = self.child = 0.0

    def look(self):
        with contextlib.suppress(psutil.Error):  # it may end at any time
            self.kernel = max(self.kernel, _peak(self._process))
            own = self._process.cmdline()
            for child in self._process.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    # Between fork and exec, a child has the memory of its parent.
                    if child.cmdline() != own:
                        self.child = max(self.child, child.memory_info().rss / GB)


def _peak(process):
    """The peak of the program that the process runs now, GB."""
    with contextlib.suppress(OSError):
        status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
        if "VmHWM:" in status:
            return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / GB
    return process.memory_info().rss / GB


@contextlib.contextmanager
def watched(pid):
    """`Peaks` of a process, which are complete when the `with` block has ended."""
    peaks, stop = Peaks(pid), threading.Event()

    def work():
        while not stop.wait(SECONDS):
            peaks.look()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        stop.set()
        thread.join()
        peaks.look()
