"""^C during training: finish the step, save, and say how to go on."""

import signal
import threading

from codegemma_keras.training.progress import say

_NAMES = {signal.SIGINT: "^C", signal.SIGTERM: "SIGTERM"}


class Interrupted(KeyboardInterrupt):
    """A run was interrupted, and a checkpoint was saved.

    Attributes:
        exit_code: what a program should exit with: 130 for ^C, 143 for SIGTERM.
    """

    def __init__(self, message, signal_number=signal.SIGINT):
        super().__init__(message)
        self.exit_code = 128 + signal_number


class Wish:
    """Inside, ^C and SIGTERM are a wish that the loop reads after each step.

    A second ^C raises `KeyboardInterrupt` at once. Off the main thread, where Python
    allows no signal handlers, nothing changes.

    Attributes:
        signal: number of the signal that came, or None.
        told: the thread that says so, or None.
    """

    def __init__(self):
        self.signal = self.told = None
        self._before = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in _NAMES:
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *error):
        for number, before in self._before.items():
            signal.signal(number, before)

    def _receive(self, number, frame):
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
        # In a thread: the signal may have come while this one was writing a line, and a
        # write inside a write is an error.
        told = (
            f"{_NAMES[number]}: this step is finished and saved; ^C again stops at once"
        )
        self.told = threading.Thread(target=say, args=(told,), daemon=True)
        self.told.start()
