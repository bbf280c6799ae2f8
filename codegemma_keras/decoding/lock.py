"""A lock that serves callers in the order they came.

`threading.Lock` lets whoever runs next have it, so one caller in a tight loop can starve
the others. Decoding takes the lock for one chunk at a time: with this one, callers of
the same model take turns.
"""

import collections
import threading


class FairLock:
    """First come, first served; a context manager, not reentrant."""

    def __init__(self):
        self._mutex = threading.Lock()
        self._held = False
        self._waiting = collections.deque()

    def __enter__(self):
        with self._mutex:
            if not self._held:
                self._held = True
                return self
            turn = threading.Event()
            self._waiting.append(turn)
        try:
            turn.wait()
        except BaseException:  # KeyboardInterrupt: give up the place in the queue
            with self._mutex:
                given = turn.is_set()
                if not given:
                    self._waiting.remove(turn)
            if given:
                self.__exit__()
            raise
        return self

    def __exit__(self, *exception):
        with self._mutex:
            if self._waiting:
                self._waiting.popleft().set()  # handed over: never free in between
            else:
                self._held = False
