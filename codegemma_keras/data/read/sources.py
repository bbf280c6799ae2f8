"""One source of any kind, as documents: folders, archives, jsonl files.

Left out: downloading. A source is something the user already has, so that a build can
be repeated.
"""

import hashlib
import os
import pathlib

from codegemma_keras.data.document import Report
from codegemma_keras.data.read.admit import language_fault
from codegemma_keras.data.read.archives import ARCHIVES, read_archive
from codegemma_keras.data.read.folders import read_folder, walk
from codegemma_keras.data.read.rows import ROWS, read_jsonl


def read_source(source: str | os.PathLike, report: Report, **options):
    r"""Documents of one source, told by its name.

    Args:
        source: a folder, an archive, or a `.jsonl` / `.jsonl.gz` file.
        report: counts what could not be read.
        **options: of `read_folder`, `read_archive` or `read_jsonl`; `repo` is by default
            `source_name`.

    Raises:
        FileNotFoundError: there is nothing of that name.
        ValueError: it is none of these.

    Examples:
        >>> import pathlib
        >>> pathlib.Path("project").mkdir()
        >>> _ = pathlib.Path("project/a.py").write_text("x = 1\n")
        >>> [d.path for d in read_source("project", Report())]
        ['a.py']
    """
    path = pathlib.Path(source)
    options.setdefault("repo", source_name(path))
    if path.is_dir():
        return read_folder(path, report, **options)
    check_source(path)
    if path.name.lower().endswith(ARCHIVES):
        return read_archive(path, report, **options)
    return read_jsonl(path, report, **options)


def check_source(source: str | os.PathLike):
    """Raise what `read_source` would for a name that no source has."""
    path = pathlib.Path(source)
    if path.is_dir():
        return
    if not path.exists():
        raise FileNotFoundError(f"source {str(source)!r}: no such folder or file.")
    if not path.name.lower().endswith((*ARCHIVES, *ROWS)):
        raise ValueError(
            f"source {str(source)!r} is neither a folder nor a file that ends in one of "
            f"{(*ARCHIVES, *ROWS)}."
        )


def source_name(source: str | os.PathLike) -> str:
    """The repository's name: the folder's, or the archive's without its ending."""
    name = pathlib.Path(source).resolve().name
    for ending in (*ARCHIVES, *ROWS):
        if name.lower().endswith(ending):
            name = name[: -len(ending)]
            break
    # A label, not a path: bytes that are no UTF-8 may be replaced.
    name = os.fsencode(name).decode("utf-8", "replace")
    return "".join(c if c.isprintable() else "\ufffd" for c in name) or "root"


def fingerprint(source: str | os.PathLike, *, languages=None, also=None) -> dict:
    """What tells whether a source has changed: sizes and times, not contents.

    Args:
        source: as for `read_source`.
        languages, also: as for `read_folder`: other files do not count.

    Returns:
        `{"files": number, "bytes": size, "state": hash of names, sizes and times}`.
    """
    path = pathlib.Path(source)
    entries = [("", path)]
    if path.is_dir():
        entries = [
            (name, full)
            for name, full in walk(path, Report(), "")
            if not language_fault(name, languages, also)
        ]
    digest, size = hashlib.blake2b(digest_size=16), 0
    for name, full in entries:
        try:
            found = os.stat(full)
        except OSError:
            continue  # Counted when it is read.
        size += found.st_size
        line = f"{name}\0{found.st_size}\0{found.st_mtime_ns}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return {"files": len(entries), "bytes": size, "state": digest.hexdigest()}
