"""Python source that is already on this machine: the standard library and packages.

What the embedded preset learns from, so that anyone can repeat it offline. The files pass
the same filters as those of a data build (`clean.filters`).

Left out: near duplicates, secrets and the order of a repository, which a data build sees
to, and compiled or binary files.
"""

import importlib.metadata
import importlib.util
import os
import pathlib
import sysconfig
from collections.abc import Iterator, Sequence

from codegemma_keras.data.clean import dedup, filters
from codegemma_keras.data.document import MAX_FILE_BYTES, Document, Report
from codegemma_keras.data.read.admit import STEP as READ
from codegemma_keras.data.read.admit import to_document

STDLIB = "stdlib"
STEP = "installed"
SKIPPED_FOLDERS = {"test", "tests", "testing", "idle_test", "site-packages", "_api"}


def root_of(package: str) -> pathlib.Path:
    """The folder of an installed package, or of the standard library.

    Raises:
        ValueError: the package is not installed.
    """
    if package == STDLIB:
        return pathlib.Path(sysconfig.get_path("stdlib"))
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            f"Package {package!r} is not installed, so it cannot be read as training "
            f"data. Install it (pip install {package}) or take it off the list."
        )
    return pathlib.Path(next(iter(spec.submodule_search_locations)))


def licence_of(package: str) -> tuple[str, str]:
    """`(version, licence)` of an installed package, as its metadata states them."""
    if package == STDLIB:
        return sysconfig.get_python_version(), "PSF-2.0"
    names = importlib.metadata.packages_distributions().get(package, [package])
    meta = importlib.metadata.metadata(names[0])
    licence = meta.get("License-Expression") or ""
    if not licence:
        classifiers = meta.get_all("Classifier") or []
        licences = [c for c in classifiers if c.startswith("License ::")]
        licence = licences[0].split(" :: ")[-1] if licences else meta.get("License", "")
    return meta["Version"], licence.splitlines()[0] if licence else "see the package"


def python_files(
    packages: Sequence[str], report: Report | None = None
) -> Iterator[Document]:
    """The Python files of packages that a data build would keep, without tests.

    Paths start with the package's name (not those of the standard library) and have `/`
    as separator. The order is that of `packages`, then that of the paths. Of files that
    differ in white space alone, the first is kept.

    Args:
        packages: names of installed packages, or `STDLIB`.
        report: counts what is left out and why.

    Raises:
        ValueError: a package is not installed.
    """
    report = Report() if report is None else report
    seen = set()
    documents = (d for package in packages for d in _read(package, report))
    for document in filters.filter_documents(
        documents, report, languages=("python",), licences=None
    ):
        key = dedup.exact_key(document.text)
        if key in seen:
            report.drop(STEP, "exact duplicate", document)
            continue
        seen.add(key)
        yield document


def _read(package, report):
    root = root_of(package)
    inside = "" if package == STDLIB else f"{package}/"
    files = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS]
        files += [pathlib.Path(folder, n) for n in names if n.endswith(".py")]
    for file in sorted(files):
        if file.name.startswith("test_"):
            continue
        path = inside + file.relative_to(root).as_posix()
        if file.stat().st_size > MAX_FILE_BYTES:
            report.drop(READ, "file too large", path, file.stat().st_size)
            continue
        yield from to_document(
            file.read_bytes(), path, package, "", report, {"source": package}
        )
