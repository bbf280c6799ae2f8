"""Installed packages and wheels as archives that `smollm2_texts.py` can read.

    pip download --no-deps --only-binary :all: -d runs/wheels attrs click ...
    python tools/tiny_sources.py runs/sources --wheels runs/wheels/*.whl --installed

In a wheel, and where it is installed, the licence stands in a `*.dist-info` folder beside
the package, so that no file has it above itself. An archive that is made here holds the
Python files of one distribution, with its METADATA and its licence texts at the top.
Nothing of a package is imported or built.
"""

import argparse
import importlib.metadata
import pathlib
import re
import sys
import zipfile

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from smollm2_texts import held_out

# This project, and a later version of a package that is held out.
LEFT_OUT = ("codegemma_keras", "codegemma-keras", "httpx2")
_INFO = re.compile(r"[^/]+\.dist-info/(?:.*/)?([^/]+)")
_LICENCE = re.compile(r"(?:metadata|(?:un)?licen[cs]e.*|copying.*)", re.I)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--wheels", type=pathlib.Path, nargs="*", default=[])
    parser.add_argument("--installed", action="store_true", help="all distributions")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for wheel in options.wheels:
        name = "-".join(wheel.name.split("-")[:2])
        with zipfile.ZipFile(wheel) as archive:
            files = {m: archive.getinfo(m) for m in archive.namelist()}
            keep(options.out, name, files, archive.read)
    if options.installed:
        for found in importlib.metadata.distributions():
            name = f"{found.name.replace('-', '_').lower()}-{found.version}"
            files = {str(file): file for file in found.files or ()}
            keep(options.out, name, files, lambda file: file.locate().read_bytes())


def keep(folder, name, files, read):
    """Write `folder/name.zip`, if it is not there and may be trained on."""
    target = folder / f"{name}.zip"
    if target.exists() or held_out(target) or name.startswith(LEFT_OUT):
        return
    chosen = {}
    for path, file in sorted(files.items()):
        if match := _INFO.fullmatch(path):
            if _LICENCE.fullmatch(match[1]):
                chosen.setdefault(match[1], file)
        elif path.endswith(".py") and not path.startswith(("..", "/")):
            chosen[path] = file
    unfinished = target.with_suffix(".tmp")
    with zipfile.ZipFile(
        unfinished, "w", zipfile.ZIP_DEFLATED, compresslevel=1
    ) as made:
        for path, file in chosen.items():
            try:
                made.writestr(path, read(file))
            except FileNotFoundError:  # Recorded, and not there.
                continue
    unfinished.rename(target)


if __name__ == "__main__":
    main()
