"""What an installation of this package would move on Colab and Kaggle.

    python tools/platforms.py                   every list, all that notebooks install
    python tools/platforms.py colab-gpu --extra data

Those machines come with hundreds of packages that belong together: JAX with its CUDA
plugin, IPython with the notebook's front end. An installation that moves one of them
breaks the session, often without a word. Here uv resolves the wheel in a folder that
claims to hold what `tools/platforms/*.txt` records of those machines, installs nothing,
and reports what it would change. Exit code 1 where anything that is there cannot stay.

Left out: whether the recorded packages agree with each other.
"""

import argparse
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
LISTS = ROOT / "tools" / "platforms"
TUTORIALS = ROOT / "tutorials"
# What else a reader of a notebook may install.
EXTRAS = ("", "notebooks", "train")
# In the line of a tutorial's parameters cell; `notebooks.py` puts it into the install cell.
ASKED = re.compile(r'^# %% tags=\["parameters"\].* extras="([\w ]+)"', re.MULTILINE)
# The install cell asks for these as they are, where they are there: a resolver prefers
# the newest KerasHub, where there is none, to the Keras that is there.
HELD = ("ipykernel", "ipython", "jax", "keras", "numpy", "tensorflow", "torch")


def extras():
    """What to check: `EXTRAS`, and what each tutorial's install cell asks for."""
    found = set(EXTRAS)
    for file in TUTORIALS.glob("[0-9][0-9]_*.py"):
        for names in ASKED.findall(file.read_text(encoding="utf-8")):
            found.add(",".join(["notebooks", *names.split()]))
    return sorted(found)


def read(path):
    """`(version of Python, {package: version})` of a recorded list."""
    lines = path.read_text(encoding="utf-8").splitlines()
    pairs = dict(line.lstrip("# ").split("==") for line in lines if "==" in line)
    return pairs.pop("python"), pairs


def pretend(folder, packages):
    """Metadata that says that these packages are installed in the folder."""
    for name, version in packages.items():
        info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        (info / "METADATA").write_text(text, encoding="utf-8")
        (info / "INSTALLER").write_text("pip\n", encoding="utf-8")
        (info / "RECORD").write_text("", encoding="utf-8")


def plan(folder, version, *requirements):
    """What an installation into that folder would change: `(removed, added)`, each
    `{package: version}`.

    Raises:
        RuntimeError: there is no solution; the resolver's words.
    """
    command = [
        *(sys.executable, "-m", "uv", "pip", "install", "--dry-run"),
        *("--target", str(folder), "--python-version", version),
        *("--python-platform", "x86_64-manylinux_2_35", "--system-certs"),
        # Of our own: a home may be read-only.
        *("--cache-dir", str(ROOT / ".make" / "uv"), "--color", "never"),
        *requirements,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    changes = {"-": {}, "+": {}}
    for sign, name, at in re.findall(
        r"^ ([-+]) ([\w.-]+)(?:==(\S+))?", done.stderr, re.M
    ):
        changes[sign][name] = at
    return changes["-"], changes["+"]


def build(folder):
    """The wheel of the working tree."""
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps")
    subprocess.run(
        [*pip, "--wheel-dir", str(folder), str(ROOT)],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    [wheel] = folder.glob("*.whl")
    return wheel


def check(name, extra, wheel, folder):
    """Print what one installation would do; whether all that is there can stay."""
    version, packages = read(LISTS / f"{name}.txt")
    pretend(folder, packages)
    asked = f"codegemma-keras[{extra}]" if extra else "codegemma-keras"
    held = [f"{p}=={packages[p]}" for p in HELD if p in packages]
    try:
        removed, added = plan(folder, version, f"{asked} @ {wheel.as_uri()}", *held)
    except RuntimeError as error:
        print(f"{name}, {asked}: no solution\n{error}", flush=True)
        return False
    new = sorted(set(added) - set(removed) - {"codegemma-keras"})
    print(f"{name}, {asked}: {len(removed)} moved, {len(new)} added", flush=True)
    for package, old in sorted(removed.items()):
        print(f"  {package} {old} -> {added.get(package, 'removed')}")
    print(f"  added: {', '.join(new) or 'none'}", flush=True)
    return not removed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = sorted(path.stem for path in LISTS.glob("*.txt"))
    parser.add_argument("lists", nargs="*", help=f"default: {known}")
    parser.add_argument("--extra", action="append", help="default: all of `extras`")
    options = parser.parse_args()
    good = True
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        wheel = build(folder)
        for name in options.lists or known:
            for extra in options.extra or extras():
                place = folder / f"{name}-{extra}"
                place.mkdir()
                good &= check(name, extra, wheel, place)
    raise SystemExit(not good)


if __name__ == "__main__":
    main()
