"""Taking turns: callers are served in the order they came, and ^C leaves nothing locked.

`threading.Lock` lets whoever runs next have it, so one caller in a tight loop can starve
the others. Decoding takes a turn for one chunk at a time: here, callers of the same
model alternate.

A KeyboardInterrupt may strike between any two instructions of Python, so a release that
is written in Python can be lost, and with it the model: every later caller would wait for
ever. Here the only release is that of a plain lock by a `with` statement, which the
interpreter does not interrupt.

    turn = queue.turn()
    with turn.over:      # others wait for this one: released whatever happens
        turn.wait()      # for those who came before
        ...              # alone
"""

import threading


class Queue:
    """Whose turn it is; first come, first served, not reentrant."""

    def __init__(self):
        self._mutex = threading.Lock()
        self._last = None

    def turn(self) -> "Turn":
        """A turn, not in the queue yet: see the module's example."""
        return Turn(self)


class Turn:
    """One caller's place in a queue.

    Attributes:
        over: a lock that the caller holds from before its turn until after it.
        before: the turn before this one; None once this one has waited for it. A turn
            that was given up while it waited keeps it, so those behind wait for it too.
    """

    def __init__(self, queue):
        self._queue = queue
        self.over = threading.Lock()
        self.before = None

    def wait(self):
        """Stand in the queue until all earlier turns are over."""
        with self._queue._mutex:
            self.before = self._queue._last
            self._queue._last = self
        earlier = self.before
        while earlier is not None:
            with earlier.over:
                pass
            earlier = earlier.before
        self.before = None
