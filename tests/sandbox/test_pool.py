"""Warm sandboxes: same results as fresh ones, and nothing of a program for the next."""

import pytest

from codegemma_keras.sandbox import Limits, Pool, check, check_all, run, run_all
from codegemma_keras.sandbox import pool as pool_module

PATIENT = Limits(seconds=60)


@pytest.fixture(scope="module")
def pool():
    """One sandbox: what is given to it runs where the one before did."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool_module, "SPARE", 0)
        with Pool(1) as pool:
            assert pool.warm
            yield pool


@pytest.mark.parametrize(
    "program",
    [
        "print('hello')",
        "1 / 0",
        "def f(:",
        "import sys; sys.exit(3)",
        "import os; os._exit(0)",
        "import os; os.kill(os.getpid(), 9)",
        "b = bytearray(1 << 40)",
        "open('big', 'wb').write(bytes(1 << 25))",
        # It stays: a fresh sandbox counts processes now and then, as root may have many.
        "import os, time\nfor _ in range(60):\n if os.fork() == 0: break\ntime.sleep(9)",
        "import sys; print(sys.argv[1], sys.flags.safe_path, __name__, sys.stdin.read())",
        "import threading as t\na = t.Thread(target=print); a.start(); a.join()",
    ],
)
def test_a_program_ends_as_in_a_sandbox_of_its_own(pool, program):
    warm, fresh = run(program, PATIENT, pool=pool), run(program, PATIENT)
    assert (warm.kind, warm.reason, warm.output, warm.isolation) == (
        fresh.kind,
        fresh.reason,
        fresh.output,
        fresh.isolation,
    )


KEYS = """
import ctypes
call = ctypes.CDLL(None, use_errno=True).syscall
"""
# What a program leaves, and how the next one would see it.
LEFT = {
    "a file": ("open('/tmp/left', 'w')", "open('/tmp/left')"),
    "shared memory": ("open('/dev/shm/left', 'w')", "open('/dev/shm/left')"),
    "its own folder": ("open('left', 'w')", "open('left')"),
    "a module's state": (
        "import json; json.left = 1; import builtins; builtins.left = 1",
        "import json; (left, json.left)",
    ),
    "a process": (
        "import os, time\nif os.fork() == 0: os.setsid(); time.sleep(99)",
        "import os; assert len([p for p in os.listdir('/proc') if p.isdigit()]) > 2",
    ),
    "a key": (
        f"{KEYS}\ncall(248, b'user', b'left', b'x', 1, -4)",
        f"{KEYS}\nassert call(249, b'user', b'left', None, -4) > 0",
    ),
    "a limit": (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (9, 9))",
        "import resource; assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] == 9",
    ),
}


@pytest.mark.parametrize("leaves", LEFT)
def test_nothing_of_a_program_is_there_for_the_next(pool, leaves):
    first, then = LEFT[leaves]
    assert run(first, PATIENT, pool=pool).passed
    # Had the first not been there, the second would fail; so it must.
    assert run(f"{then}\nprint('seen')", PATIENT, pool=pool).kind == "exception"


def test_a_program_has_no_rights_and_sees_only_itself(pool):
    program = """
import ctypes, os
status = open('/proc/self/status').read()
rights = [line.split()[1] for line in status.splitlines() if line.startswith('Cap')]
# The bounding set alone is not a right.
assert set(rights[:3] + rights[4:]) == {'0' * 16}, rights
assert 'NoNewPrivs:\\t1' in status
assert ctypes.CDLL(None).unshare(0x20000) == -1
assert sorted(os.listdir('/proc/self/fd')) == ['0', '1', '2', '3']
try: open('/proc/1/mem', 'rb')
except PermissionError: pass
else: raise AssertionError
"""
    assert run(program, PATIENT, pool=pool).reason == "passed"


def test_sandboxes_are_used_again_and_spoilt_ones_are_not(monkeypatch):
    made = []
    start = pool_module.Sandbox.__init__

    def counted(sandbox):
        made.append(sandbox)
        start(sandbox)

    monkeypatch.setattr(pool_module.Sandbox, "__init__", counted)
    monkeypatch.setattr(pool_module, "SPARE", 0)
    with Pool(1) as pool:
        run_all(map("print({})".format, range(5)), PATIENT, pool=pool)
        assert len(made) == 1
        assert run("while True: pass", Limits(seconds=0.5), pool=pool).kind == "timeout"
        assert run("print(1)", PATIENT, pool=pool).passed
        made[0].close()  # as if the machine had run out of memory
        assert run("print(2)", PATIENT, pool=pool).kind == "killed"
        assert run("print(3)", PATIENT, pool=pool).passed
        assert len(made) == 2


def test_an_equal_program_is_run_once(pool):
    case = "import time\ndef f(): return time.time_ns()", "raise ValueError(f())", ["f"]
    first, second = check_all([case, case], PATIENT, pool=pool)
    assert first == second
    assert check_all([case], PATIENT, pool=pool) == [first]
    assert check(*case, PATIENT, pool=pool).reason != first.reason
    other = Limits(seconds=61)
    assert check_all([case], other, pool=pool)[0].reason != first.reason


def test_only_programs_that_starved_are_tried_again(pool, monkeypatch):
    """One that sleeps has used no processor, as one that had none to use."""
    tried = []

    def counted(*arguments, **options):
        tried.append(arguments[0])
        return run(*arguments, **options)

    monkeypatch.setattr(pool_module, "run", counted)
    busy, asleep = "while True: pass", "import time; time.sleep(60)"
    results = run_all([busy, asleep], Limits(seconds=2), pool=pool)
    assert [r.kind for r in results] == ["timeout", "timeout"]
    assert tried.count(asleep) == 2


def test_a_closed_pool_says_so():
    pool = Pool(1)
    pool.close()
    with pytest.raises(RuntimeError, match="The pool is closed"):
        run("print(1)", pool=pool)
    with pytest.raises(ValueError, match="not the pool's 1"):
        run_all([], workers=3, pool=pool)
