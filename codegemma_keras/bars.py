"""Progress of long work on stderr: bars on a terminal or in a notebook, else lines.

A log file cannot show a bar. There, a line is written at most every quarter of a minute, so
that work which takes an hour does not look as if it had stopped.
"""

import contextlib
import dataclasses
import datetime
import importlib.util
import time
from collections.abc import Callable, Iterator

# Called with the name of a stage, what is done, and how much there is in all.
Progress = Callable[[str, int, int], None]
# Seconds between two lines of a stage.
EVERY = 15.0


@contextlib.contextmanager
def shown() -> Iterator[Progress]:
    """A function that shows how far each stage is.

    Call it once before a stage begins, with what was done already, so that the time left
    can be told.

    Examples:
        >>> with shown() as progress:
        ...     for done in range(4):
        ...         progress("asking", done, 3)
    """
    from rich.console import Console

    console = Console(stderr=True)
    # Without it, rich warns in a notebook and shows nothing.
    widgets = console.is_jupyter and importlib.util.find_spec("ipywidgets")
    if console.is_terminal or widgets:
        with _bars(console) as progress:
            yield progress
    else:
        yield Lines(lambda line: print(line, file=console.file, flush=True))


@contextlib.contextmanager
def _bars(console):
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        "{task.description}",
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        "left",
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:
        known = {}

        def progress(stage, done, total):
            if stage not in known:
                known[stage] = bars.add_task(stage, total=total)
            bars.update(known[stage], completed=done, total=total)

        yield progress


@dataclasses.dataclass
class _Stage:
    began: float
    before: int  # what was done already
    said: float  # when the last line was written
    lines: int = 0
    ended: bool = False


class Lines:
    """Progress as lines of text.

    Args:
        write: takes a line.
        clock: gives seconds.

    Examples:
        >>> now = iter([0.0, 0.0, 5.0, 40.0, 80.0])
        >>> progress = Lines(print, lambda: next(now))
        >>> for done in (0, 1, 5, 10):
        ...     progress("asking", done, 10)
        asking: 5 of 10 after 0:00:40, about 0:00:40 left
        asking: 10 of 10 after 0:01:20
    """

    def __init__(
        self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ):
        self._write = write
        self._clock = clock
        self._latest = clock()
        self._stages: dict[str, _Stage] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = self._clock()
        known = self._stages.setdefault(stage, _Stage(now, done, self._latest))
        self._latest = now
        if known.ended:
            return
        known.ended = done >= total
        # A stage that was short has no line at all.
        if now - known.said < EVERY and not (known.ended and known.lines):
            return
        line = f"{stage}: {done:,} of {total:,}"
        if done > known.before:
            took = now - known.began
            line += f" after {_duration(took)}"
            if not known.ended:
                left = took * (total - done) / (done - known.before)
                line += f", about {_duration(left)} left"
        known.said, known.lines = now, known.lines + 1
        self._write(line)


def _duration(seconds):
    return str(datetime.timedelta(seconds=round(seconds)))
