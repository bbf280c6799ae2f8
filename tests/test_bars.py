"""Progress in a log, where no bar can be seen."""

import subprocess
import sys

import pytest

from codegemma_keras import bars


class Clock:
    """Seconds that pass when we say so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def lines():
    return []


@pytest.fixture
def progress(lines, clock):
    return bars.Lines(lines.append, clock)


def test_a_long_stage_has_a_line_now_and_then(progress, lines, clock):
    progress("asking", 0, 1200)
    for second in range(1, 121):
        clock.now = float(second)
        progress("asking", 10 * second, 1200)
    assert len(lines) == 8  # one each 15 seconds, and the last of them ends it
    assert lines[1] == "asking: 300 of 1,200 after 0:00:30, about 0:01:30 left"
    assert lines[-1] == "asking: 1,200 of 1,200 after 0:02:00"
    clock.now = 200.0
    progress("asking", 1200, 1200)
    assert len(lines) == 8  # it ends once


def test_a_short_stage_has_none(progress, lines, clock):
    for done in range(11):
        clock.now += 1
        progress("reading", done, 10)
    assert lines == []


def test_what_was_done_before_does_not_count_as_speed(progress, lines, clock):
    progress("asking", 900, 1000)
    clock.now = 20.0
    progress("asking", 920, 1000)
    assert lines == ["asking: 920 of 1,000 after 0:00:20, about 0:01:20 left"]


def test_a_stage_whose_first_news_come_late_has_a_line_at_once(progress, lines, clock):
    clock.now = 600.0
    progress("loading", 1, 4)
    assert lines == ["loading: 1 of 4"]
    clock.now = 700.0
    progress("judging", 0, 4)
    assert lines[1:] == ["judging: 0 of 4"]


def test_nothing_to_do_is_no_error(progress, lines, clock):
    clock.now = 100.0
    progress("asking", 0, 0)
    assert lines == ["asking: 0 of 0"]


def test_a_pipe_gets_lines_and_a_terminal_bars():
    program = """if True:
        import sys
        from codegemma_keras import bars
        bars.EVERY = 0.0
        with bars.shown() as progress:
            for done in range(3):
                progress("asking", done, 2)
    """
    run = [sys.executable, "-c", program]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert done.stderr.splitlines()[0] == "asking: 0 of 2"
    assert done.stderr.splitlines()[-1].startswith("asking: 2 of 2 after 0:00:0")
    # rich takes a pipe for a terminal if it is told so.
    env = {"FORCE_COLOR": "1", "TTY_COMPATIBLE": "1"}
    shown = subprocess.run(run, capture_output=True, text=True, check=True, env=env)
    assert "\u2501" in shown.stderr  # a bar
