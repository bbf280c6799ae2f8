"""Turns: in order, one at a time, and none lost to ^C."""

import random
import signal
import sys
import threading

import pytest

from codegemma_keras import CodeGemmaCausalLM
from codegemma_keras.decoding.lock import Queue
from tests.tiny_models import our_backbone


def take(queue, work):
    turn = queue.turn()
    with turn.over:
        turn.wait()
        work()


def test_turns_are_served_in_order():
    queue, order, arrived = Queue(), [], threading.Semaphore(0)

    def work(name):
        arrived.release()
        take(queue, lambda: order.append(name))

    threads = []

    def arrive():
        last = queue._last
        for name in range(5):
            thread = threading.Thread(target=work, args=(name,))
            thread.start()
            threads.append(thread)
            arrived.acquire()
            while queue._last is last:  # until it stands in the queue
                pass
            last = queue._last

    take(queue, arrive)
    for thread in threads:
        thread.join()
    assert order == list(range(5))


def test_a_turn_that_was_given_up_waits_for_nobody_and_lets_nobody_pass():
    """A waits while B works; A gives up; C, behind A, must still wait for B."""
    queue, order = Queue(), []
    working, done = threading.Event(), threading.Event()

    def b():
        working.set()
        done.wait()
        order.append("b")

    first = threading.Thread(target=take, args=(queue, b))
    first.start()
    working.wait()
    given_up = queue.turn()
    with given_up.over:  # as far as `wait` comes before it is interrupted
        given_up.before, queue._last = queue._last, given_up
    last = threading.Thread(target=take, args=(queue, lambda: order.append("c")))
    last.start()
    while queue._last is given_up:
        pass
    assert order == []
    done.set()
    first.join()
    last.join()
    assert order == ["b", "c"]


class Interrupts:
    """^C at random moments: a KeyboardInterrupt in the main thread."""

    def __init__(self, longest):
        self.random, self.longest = random.Random(3), longest

    def __enter__(self):
        def strike(*_):
            self.struck = True
            raise KeyboardInterrupt

        def ignored(unraisable):
            # Python drops what is raised in a callback, such as JAX's of the collector,
            # and pytest would make an error of it.
            if unraisable.exc_type is not KeyboardInterrupt:
                self.hook(unraisable)

        self.before = signal.signal(signal.SIGALRM, strike)
        self.hook, sys.unraisablehook = sys.unraisablehook, ignored
        return self

    def soon(self):
        self.struck = False
        signal.setitimer(signal.ITIMER_REAL, self.random.uniform(1e-6, self.longest))

    def off(self):
        signal.setitimer(signal.ITIMER_REAL, 0)

    def __exit__(self, *exception):
        self.off()
        signal.signal(signal.SIGALRM, self.before)
        sys.unraisablehook = self.hook


def interrupt(interrupts, call):
    """Repeat a call until it is interrupted once."""
    try:
        interrupts.soon()
        # Python drops an exception that is raised in a callback of a weak reference, for
        # example; then the call ends as if nothing had been.
        while not interrupts.struck:
            call()
    except KeyboardInterrupt:
        pass
    except SystemError:
        # CPython says so of a function in C that does not look whether it was
        # interrupted. TensorFlow raises it again `from None`, which drops the cause.
        if not interrupts.struck:
            raise
    finally:
        interrupts.off()


def test_1000_interrupts_leave_no_turn_taken():
    queue, inside, collisions, stop = Queue(), [], [], threading.Event()

    def work():
        try:
            inside.append(1)
            collisions.extend([1] * (len(inside) > 1))
        finally:
            inside.clear()

    def others():
        while not stop.is_set():
            take(queue, lambda: collisions.extend([1] * (len(inside) > 0)))

    threads = [threading.Thread(target=others, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    with Interrupts(longest=5e-4) as interrupts:
        for _ in range(1000):
            interrupt(interrupts, lambda: take(queue, work))
    stop.set()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    # Would wait for ever if a turn had been lost.
    last = threading.Thread(target=take, args=(queue, lambda: None), daemon=True)
    last.start()
    last.join(timeout=60)
    assert not last.is_alive()
    assert not collisions


def test_an_engine_answers_after_interrupts():
    engine = CodeGemmaCausalLM(our_backbone(num_layers=1)).engine
    want = engine.generate([[5, 6]], 8)
    with Interrupts(longest=5e-3) as interrupts:
        for _ in range(100):
            interrupt(interrupts, lambda: engine.generate([[5, 6]], 8))
    got = []
    thread = threading.Thread(
        target=lambda: got.append(engine.generate([[5, 6]], 8)), daemon=True
    )
    thread.start()
    thread.join(timeout=120)
    assert got == [want]


def test_exceptions_end_a_turn():
    queue = Queue()
    with pytest.raises(ZeroDivisionError):
        take(queue, lambda: 1 / 0)
    take(queue, lambda: None)
