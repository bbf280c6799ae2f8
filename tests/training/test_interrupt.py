"""The wish to stop, wherever the signal finds the program."""

import io
import os
import signal
import sys

import pytest

from codegemma_keras.training.interrupt import Wish


class Interrupting(io.RawIOBase):
    """A file whose first write is interrupted by ^C."""

    def __init__(self):
        self.content = b""

    def writable(self):
        return True

    def write(self, data):
        if not self.content:
            os.kill(os.getpid(), signal.SIGINT)
        self.content += bytes(data)
        return len(data)


def test_a_signal_within_a_line_of_output_is_a_wish(monkeypatch):
    """It ended the run with `reentrant call`, exit code 2 and no checkpoint."""
    raw = Interrupting()
    out = io.TextIOWrapper(io.BufferedWriter(raw), write_through=True)
    monkeypatch.setattr(sys, "stdout", out)
    with Wish() as wish:
        print("step 2, loss 1.0", flush=True)
        wish.told.join()
        assert wish.signal == signal.SIGINT
    assert raw.content.decode().splitlines() == [
        "step 2, loss 1.0",
        "^C: this step is finished and saved; ^C again stops at once",
    ]


def test_a_second_one_stops_at_once(capsys):
    with Wish():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
