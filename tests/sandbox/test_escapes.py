"""Attempts to pass without a right answer, or to use more than was given: none succeeds.

Kinds published for evaluation harnesses: objects that equal everything, walks of frames
and of the garbage collector, patched modules, early exits, forged messages, files and
processes that outlive their owner, and plain greed.
"""

import os

import pytest

from codegemma_keras.sandbox import Limits, Pool, check, check_all

TESTS = "assert f(4) == 8\nassert f([1]) == [1, 1]\nassert not f(0)"
LIMITS = Limits(seconds=8, memory_mb=256)

CHEATS = {
    # Values that decide the comparison
    "object equal to all": "class A:\n def __eq__(s, o): return True\ndef f(x): return A()",
    "int equal to all": "class A(int):\n def __eq__(s, o): return True\ndef f(x): return A(1)",
    "str equal to all": "class A(str):\n def __eq__(s, o): return True\ndef f(x): return A()",
    "list equal to all": "class A(list):\n def __eq__(s, o): return True\ndef f(x): return A()",
    "float equal to all": "class A(float):\n def __eq__(s, o): return True\ndef f(x): return A()",
    "dict equal to all": "class A(dict):\n def __eq__(s, o): return True\ndef f(x): return A()",
    "falsy object": "class A:\n def __bool__(s): return False\ndef f(x): return A()",
    "reflected comparison": "class A:\n def __ne__(s, o): return False\n __eq__ = lambda s, o: True\ndef f(x): return A()",
    "lying class": "class A:\n @property\n def __class__(s): return int\n def __eq__(s, o): return True\ndef f(x): return A()",
    "metaclass": "class M(type):\n def __instancecheck__(c, x): return True\nclass A(metaclass=M): pass\ndef f(x): return A",
    # Leaving before the verdict
    "sys.exit": "import sys\nsys.exit(0)",
    "sys.exit in a call": "import sys\ndef f(x): sys.exit(0)",
    "os._exit": "import os\ndef f(x): os._exit(0)",
    "SystemExit": "def f(x): raise SystemExit(0)",
    "KeyboardInterrupt": "def f(x): raise KeyboardInterrupt",
    "GeneratorExit": "def f(x): raise GeneratorExit",
    "signal to itself": "import os\ndef f(x): os.kill(os.getpid(), 9)",
    "signal to the first process": "import os\ndef f(x): os.kill(1, 9); return x",
    "signal to the group": "import os\ndef f(x): os.killpg(0, 15)",
    "atexit": "import atexit, os\natexit.register(lambda: os._exit(0))\ndef f(x): raise SystemExit",
    # Saying that it passed
    "prints passed": "print('passed')\ndef f(x): print('passed'); return None",
    "writes to every descriptor": "import os\ndef f(x):\n for n in range(3, 64):\n  try: os.write(n, b'passed\\n')\n  except OSError: pass\n return 0",
    "forged answers": "import os, sys\nfor n in map(int, sys.argv[6:8]):\n for _ in range(9):\n  try: os.write(n, b'{\"ready\": true}\\n')\n  except OSError: pass\ndef f(x): pass",
    "forged results": 'import os, sys\nfor n in map(int, sys.argv[6:8]):\n for _ in range(9):\n  try: os.write(n, b\'{"result": {"opaque": "x"}, "arguments": []}\\n\')\n  except OSError: pass\ndef f(x): pass',
    "an answer without a result": 'import os, sys\nos.write(int(sys.argv[7]), b\'{"ready": 1}\\n{"arguments": []}\\n\')\ndef f(x): pass',
    "an unknown kind": 'import os, sys\nos.write(int(sys.argv[7]), b\'{"ready": 1}\\n{"result": {"eval": "8"}, "arguments": []}\\n\')\ndef f(x): pass',
    "nested without end": "import os, sys\nos.write(int(sys.argv[7]), b'[' * 60000 + b'\\n')\ndef f(x): pass",
    "no JSON": "import os, sys\nos.write(int(sys.argv[7]), b'\\xff\\x00\\n')\ndef f(x): pass",
    "no line end": "import os, sys\nos.write(int(sys.argv[7]), b'{')\nos._exit(0)",
    "raises an assertion by name": "class AssertionError(Exception): pass\ndef f(x): raise AssertionError",
    "raises the harness's own end": "class EndedError(BaseException): pass\ndef f(x): raise EndedError('passed')",
    "exception named passed": "def f(x): raise type('passed', (Exception,), {})()",
    "failure named passed": "raise type('passed', (Exception,), {})()",
    # Reaching into the harness
    "frame walk": "import sys\ndef f(x):\n frame = sys._getframe()\n while frame:\n  for name in list(frame.f_globals):\n   if 'verdict' in name or 'pack' in name: frame.f_globals[name] = lambda *a: 8\n  frame = frame.f_back\n return None",
    "collector walk": "import gc\ndef f(x):\n for o in gc.get_objects():\n  if isinstance(o, dict) and 'outcome' in o: o['outcome'] = {'result': 8}\n return None",
    "patched json": 'import json\njson.dumps = lambda *a, **k: \'{"result": 8, "arguments": []}\'\ndef f(x): return None',
    "patched builtins": "import builtins\nbuiltins.AssertionError = type('X', (BaseException,), {})\nbuiltins.len = lambda x: 8\ndef f(x): return None",
    "trace function": "import sys\nsys.settrace(lambda *a: None)\ndef f(x): return None",
    "patched modules": "import sys\nsys.modules['json'] = None\ndef f(x): return None",
    "memory of the interpreter": "def f(x):\n with open('/proc/self/mem', 'rb+') as m: m.seek(1 << 20); m.write(b'passed')",
    "memory of another process": "import os\ndef f(x):\n for p in os.listdir('/proc'):\n  if p.isdigit() and int(p) != os.getpid():\n   open(f'/proc/{p}/mem', 'rb+').write(b'x')",
    "debugger": "import ctypes\ndef f(x):\n assert ctypes.CDLL(None).ptrace(16, 1, 0, 0) == 0\n return None",
    "sitecustomize": "import os, site\ndef f(x):\n open(os.path.join(site.__file__, '..', 'sitecustomize.py'), 'w').write('')\n return None",
}

# Programs that answer right where they get what they want; else they must not.
WANTS = {
    "write outside": "open('/etc/x', 'w')",
    "write to the root": "open('/x', 'w')",
    "write to /dev": "open('/dev/x', 'w')",
    "fill the memory file system": "open('/tmp/a', 'wb').write(bytes(1 << 24)); open('/tmp/b', 'wb').write(bytes(1 << 24))",
    "fill the shared memory": "open('/dev/shm/a', 'wb').write(bytes(1 << 24)); open('/dev/shm/b', 'wb').write(bytes(1 << 24))",
    "another user namespace": "import ctypes; assert ctypes.CDLL(None).unshare(0x10000000) == 0",
    "another user": "import os; os.setuid(0)",
    "mount": "import ctypes; assert ctypes.CDLL(None).mount(b'x', b'/tmp', b'tmpfs', 0, 0) == 0",
    "connect": "import socket; socket.create_connection(('127.0.0.1', 22), 1)",
    "resolve": "import socket; socket.getaddrinfo('example.com', 80)",
    "read passwords": "open('/etc/passwd')",
    "see the host's processes": "import os; assert sum(p.isdigit() for p in os.listdir('/proc')) > 12",
    "read the environment": "import os; assert 'SECRET_OF_THE_TEST' in os.environ",
    "raise its limits": "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "many processes": "import os, time\nfor _ in range(60):\n if os.fork() == 0: time.sleep(5); os._exit(0)\ntime.sleep(1)",
    "memory of many processes": "import os, time\nr, w = os.pipe()\nfor _ in range(8):\n if os.fork() == 0: x = bytearray(100 << 20); os.write(w, b'x'); time.sleep(9); os._exit(0)\nfor _ in range(8): os.read(r, 1)\ntime.sleep(9)",
    "time without end": "while True: pass",
    # Memory that no process shows. Where a call is refused, the program fails there.
    "System V shared memory": "import ctypes\nl = ctypes.CDLL(None); l.shmat.restype = ctypes.c_void_p\nheld = []\nfor _ in range(20):\n n = l.shmget(0, 16 << 20, 0o1666); assert n >= 0\n p = l.shmat(n, None, 0); ctypes.memset(p, 1, 16 << 20); l.shmdt(ctypes.c_void_p(p)); held.append(n)\nfor n in held: l.shmctl(n, 0, None)",
    "files in memory": "import os\nheld = [os.memfd_create('x') for _ in range(24)]\nfor n in held: os.write(n, bytes(15 << 20))",
    "shared pages that are unmapped": "import ctypes, mmap\nl = ctypes.CDLL(None); l.mmap.restype = ctypes.c_void_p\nfor _ in range(6):\n p = l.mmap(None, ctypes.c_size_t(64 << 20), 3, 0x21, -1, 0); assert p != ctypes.c_void_p(-1).value\n ctypes.memset(p, 1, 64 << 20); l.munmap(ctypes.c_void_p(p + 4096), ctypes.c_size_t((64 << 20) - 4096))",
    "shared pages of a device": "import mmap\nwith open('/dev/zero', 'r+b') as f: mmap.mmap(f.fileno(), 1 << 20)[0] = 1",
    "messages": "import ctypes; n = ctypes.CDLL(None).msgget(0, 0o1666); assert n >= 0; ctypes.CDLL(None).msgctl(n, 0, None)",
    "semaphores": "import ctypes; n = ctypes.CDLL(None).semget(0, 9999, 0o1666); assert n >= 0; ctypes.CDLL(None).semctl(n, 0, 0)",
    "rings of the kernel": "import ctypes\nassert ctypes.CDLL(None).syscall(425, 4096, bytes(120)) >= 0",
    "buffers of connections": "import socket\ns = socket.create_server(('127.0.0.1', 0)); total = 0; held = []\nwhile total < 256 << 20:\n a = socket.create_connection(s.getsockname()); held += [a, s.accept()[0]]; a.setblocking(False)\n try:\n  while True: total += a.send(bytes(1 << 16))\n except BlockingIOError: pass",
    "buffers of a size": "import socket\ntotal = 0; held = []\nwhile total < 256 << 20:\n held += socket.socketpair()\n for x in held[-2:]:\n  x.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 30); x.setblocking(False)\n  try:\n   while True: total += x.send(bytes(1 << 16))\n  except BlockingIOError: pass",
    "buffers of many processes": "import os, socket, time\nr, w = os.pipe()\nfor _ in range(14):\n if os.fork() == 0:\n  held = [x for _ in range(26) for x in socket.socketpair()]\n  for x in held:\n   x.setblocking(False)\n   try:\n    while True: x.send(bytes(1 << 16))\n   except BlockingIOError: pass\n  os.write(w, b'x'); time.sleep(9); os._exit(0)\nfor _ in range(14): os.read(r, 1)\ntime.sleep(9)",
    "files without end": "import os\nfor n in range(40_000): os.close(os.open(f'{n}', os.O_CREAT))\nwhile True: pass",
}
RIGHT = "def f(x): return x * 2"


@pytest.fixture(scope="module", params=["warm", "fresh"])
def results(request):
    """In sandboxes that are used again, and in one for each program."""
    os.environ["SECRET_OF_THE_TEST"] = "1"
    try:
        programs = list(CHEATS.values())
        programs += [f"{want}\n{RIGHT}" for want in WANTS.values()]
        cases = [(p, TESTS, ["f"]) for p in [*programs, RIGHT]]
        with Pool(warm=request.param == "warm") as pool:
            assert pool.warm == (request.param == "warm")
            found = check_all(cases, LIMITS, pool=pool)
    finally:
        del os.environ["SECRET_OF_THE_TEST"]
    return dict(zip([*CHEATS, *WANTS, "right"], found, strict=True))


@pytest.mark.parametrize("attempt", [*CHEATS, *WANTS])
def test_no_attempt_succeeds(results, attempt):
    assert results["right"].passed
    result = results[attempt]
    assert result.isolation == "bubblewrap"
    assert not result.passed


def test_limits_of_the_whole_group_are_named(results):
    assert results["many processes"].reason == "too many processes"
    assert results["memory of many processes"].reason == "too much memory"
    assert results["time without end"].reason == "timeout"
    assert "No space left" in results["fill the memory file system"].reason


def test_memory_that_no_process_shows_is_refused(results):
    """Once 320 and 360 MB of it passed under a limit of 128."""
    refused = "PermissionError: [Errno 1] Operation not permitted"
    assert results["files in memory"].reason == refused
    assert results["buffers of connections"].reason == refused
    assert results["buffers of a size"].reason == refused
    assert results["buffers of many processes"].reason == "too much memory"
    for name in ("System V shared memory", "shared pages that are unmapped"):
        assert results[name].reason == "AssertionError"


def test_the_number_of_files_is_limited(results):
    """bubblewrap's own file systems are watched, those of warm sandboxes are bounded."""
    why = results["files without end"].reason
    assert why == "too many files" or "No space left on device" in why


def test_ordinary_shared_memory_and_event_loops_are_there():
    program = """
import asyncio, multiprocessing
asyncio.run(asyncio.sleep(0))
value = multiprocessing.Value("i", 3)
def f(x): return x * 2 if value.value == 3 else None
"""
    with Pool(1) as pool:
        for where in (pool, None):
            assert check(program, TESTS, ["f"], LIMITS, pool=where).passed
