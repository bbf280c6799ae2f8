"""Build the wheel, install it in a clean environment, and use it as a user would.

    python tools/check_wheel.py

What the source tree hides and a user meets: a file left out of the wheel, a dependency
that only the developers' environment has, a path into the repository. The installed
package completes code with the embedded preset, with no network, from an empty folder,
on both backends; then TensorFlow is uninstalled and it does so again on JAX.

The clean environment is kept under `.make/` and made anew when the dependencies
change. Left out: other platforms and other versions of Python.
"""

import email
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = "codegemma_keras"
ENVIRONMENT = ROOT / ".make" / "wheel-environment"
# Package indexes refuse large files, and so do code hosts.
LARGEST_FILE = 16 * 2**20
LARGEST_WHEEL = 40 * 2**20

SOURCE = "def area(width, height):\n    return \n"


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        wheel = build(folder)
        check_contents(wheel)
        check_description(wheel)
        python = install(wheel)
        workplace = folder / "empty"
        workplace.mkdir()
        check_import(python, workplace, wheel)
        for backend in ("jax", "tensorflow"):
            check_completion(python, workplace, backend)
        run(python, "-m", "pip", "uninstall", "-qy", "tensorflow", "tensorflow-text")
        check_completion(python, workplace, "jax", without="tensorflow")
    say("the wheel works")


def build(folder):
    """Build the wheel of the working tree; its path."""
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps")
    run(*pip, "--wheel-dir", str(folder), str(ROOT))
    [wheel] = folder.glob("*.whl")
    say(f"built {wheel.name}, {wheel.stat().st_size / 2**20:.1f} MiB")
    return wheel


def pyproject():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def shared_data():
    """`{file or folder of the tree: its place in the environment}`."""
    return pyproject()["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]


def data_folder(wheel):
    """The folder of a wheel for files that belong into the environment."""
    name, version, *_ = wheel.name.split("-")
    return f"{name}-{version}.data/data"


def check_contents(wheel):
    """Every file of the package that git knows is in it, and nothing else.

    Files for the environment (Jupyter looks for its extensions there) are `shared-data`
    in pyproject.toml: their places are checked, too.
    """
    with zipfile.ZipFile(wheel) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
    listed = run("git", "-C", str(ROOT), "ls-files", PACKAGE, capture=True)
    expected = set(listed.split("\n")) - {""}
    for source, place in shared_data().items():
        inside = {name for name in expected if name.startswith(f"{source}/")}
        parts = {name.removeprefix(source) for name in inside} or {""}
        expected |= {f"{data_folder(wheel)}/{place}{part}" for part in parts}
    found = {name for name in sizes if ".dist-info/" not in name}
    require(not expected - found, f"not in the wheel: {sorted(expected - found)}")
    require(not found - expected, f"not in git: {sorted(found - expected)}")
    licences = [name for name in sizes if name.endswith("licenses/LICENSE")]
    require(licences, "the wheel has no licence")
    large = [name for name, size in sizes.items() if size > LARGEST_FILE]
    require(not large, f"over {LARGEST_FILE} bytes: {large}")
    size = wheel.stat().st_size
    require(size <= LARGEST_WHEEL, f"the wheel is larger than {LARGEST_WHEEL} bytes")


def check_description(wheel):
    """Every link of the page that a package index shows has an address."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        text = email.message_from_bytes(archive.read(name)).get_payload()
    links = re.findall(r"\]\(([^)]+)\)", text)
    require(links, "the wheel has no description")
    repository = f"{pyproject()['project']['urls']['Repository']}/blob/main/"
    named = [link for link in links if "/blob/main/" in link]
    other = [link for link in named if repository not in link and "colab" not in link]
    require(named and not other, f"links to another repository: {other}")
    relative = [link for link in links if not link.startswith("https://")]
    require(not relative, f"links that lead nowhere on a package index: {relative}")


def install(wheel):
    """Install into the clean environment; its Python."""
    python = ENVIRONMENT / "bin" / "python"
    key_file = ENVIRONMENT / "dependencies"
    key = f"{sys.version}\n{dependencies(wheel)}"
    if not key_file.exists() or key_file.read_text() != key:
        say("making a clean environment")
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        run(sys.executable, "-m", "venv", str(ENVIRONMENT))
    start = time.monotonic()
    pip = (python, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "install", "--quiet", str(wheel))  # and TensorFlow again
    # The same version may have been here with other contents.
    run(*pip, "install", "--quiet", "--no-deps", "--force-reinstall", str(wheel))
    key_file.write_text(key)
    run(*pip, "check", capture=True)
    say(f"installed in {time.monotonic() - start:.0f} s")
    return python


def dependencies(wheel):
    """A digest of what the wheel requires."""
    with zipfile.ZipFile(wheel) as archive:
        [name] = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        metadata = email.message_from_bytes(archive.read(name))
    required = "\n".join(metadata.get_all("Requires-Dist", []))
    return hashlib.sha256(required.encode()).hexdigest()


def check_import(python, workplace, wheel):
    """It is the installed package, every public name is there, the command answers."""
    program = (
        f"import {PACKAGE} as p; print(p.__file__);"
        "[getattr(p, name) for name in p.__all__]"
    )
    printed = run(python, "-c", program, cwd=workplace, capture=True, env=quiet())
    require(str(ENVIRONMENT) in printed, f"imported {printed}, not the wheel")
    codegemma = python.with_name("codegemma")
    version = run(codegemma, "--version", cwd=workplace, capture=True).strip()
    require(f"-{version}-" in wheel.name, f"{wheel.name} says it is {version}")


def check_completion(python, workplace, backend, without=None):
    """The command completes a file with the embedded preset."""
    (workplace / "shapes.py").write_text(SOURCE)
    printed = run(
        *(python.with_name("codegemma"), "complete", "shapes.py"),
        *("--line", "2", "--max-new-tokens", "16", "--json"),
        cwd=workplace,
        capture=True,
        env=quiet(KERAS_BACKEND=backend),
    )
    answer = json.loads(printed)
    require(answer["tokens"] > 0, f"no completion: {answer}")
    where = f"{backend} without {without}" if without else backend
    say(f"{where}: return {answer['completion']!r}")


def quiet(**variables):
    """No network, no chatter, and nothing of the caller's environment of Python."""
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "KERAS"))
    }
    offline = {"HF_HUB_OFFLINE": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    return {**kept, **offline, **variables}


def run(*command, cwd=None, capture=False, env=None):
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=env,
        text=True,
        stdout=subprocess.PIPE if capture else None,
        stderr=subprocess.PIPE if capture else None,
    )
    if done.returncode:
        command = " ".join(str(part) for part in command)
        sys.exit(
            f"check_wheel: exit code {done.returncode} from: {command}\n"
            f"{done.stdout or ''}{done.stderr or ''}"
        )
    return done.stdout


def require(condition, message):
    if not condition:
        sys.exit(f"check_wheel: {message}")


def say(message):
    print(f"check_wheel: {message}", flush=True)


if __name__ == "__main__":
    main()
