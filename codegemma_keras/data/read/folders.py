"""Folders and git checkouts, as documents.

Links are counted and not followed, so a link loop is no loop. Files that git tracks stay,
whatever `.gitignore` says of them; git itself is not run, for the configuration of a
repository can make it run programs.
"""

import os
import pathlib
import posixpath
import re
from collections.abc import Iterator

from codegemma_keras.data.clean.licences import Licences
from codegemma_keras.data.document import (
    MAX_FILE_BYTES,
    Document,
    Report,
    require,
)
from codegemma_keras.data.read.admit import (
    STEP,
    language_fault,
    name_fault,
    to_document,
)

SKIPPED_FOLDERS = frozenset((".git", ".hg", ".svn"))
# Of a folder that a data build writes to: its output is no source.
_BUILDS = frozenset((".codegemma-build", "dataset_info.json"))


def read_folder(
    folder,
    report: Report,
    *,
    repo: str | None = None,
    max_file_bytes: int = MAX_FILE_BYTES,
    languages=None,
    also=None,
) -> Iterator[Document]:
    """Files of a folder or git checkout in the order of their paths.

    `.gitignore` files are obeyed, whether or not git ever was there; what git tracks
    stays.

    Args:
        folder: the repository's root.
        report: counts links, what is ignored, unreadable or too large.
        repo: the repository's name. Default: the folder's.
        max_file_bytes: larger files are counted and not read.
        languages: files of others are counted and not read; None reads all.
        also: `path -> bool`: files to read whatever their language.
    """
    root = pathlib.Path(folder)
    repo = repo or root.resolve().name
    entries = list(walk(root, report, repo))
    licences = Licences(
        (path, lambda full=full: _read_start(full)) for path, full in entries
    )
    for path, full in entries:
        name = f"{repo}:{path}"
        try:
            size = os.stat(full).st_size
            if reason := language_fault(path, languages, also):
                report.drop("filter", reason, name, size)
                continue
            if size > max_file_bytes:
                report.drop(STEP, "file too large", name, size)
                continue
            data = pathlib.Path(full).read_bytes()
        except OSError as error:
            report.drop(STEP, "unreadable", name, detail=error.strerror or str(error))
            continue
        licence = licences.of(path)
        yield from to_document(data, path, repo, licence, report, {"source": repo})


def walk(root: pathlib.Path, report: Report, repo: str) -> list[tuple[str, str]]:
    """`(relative path, full path)` of the regular files that count, sorted."""
    found = []
    stack = [("", (), frozenset(), False)]
    while stack:
        folder, ignores, tracked, ignored = stack.pop()
        try:
            entries = sorted(os.scandir(root / folder), key=lambda entry: entry.name)
        except OSError as error:
            report.drop(STEP, "unreadable", f"{repo}:{folder}/", detail=str(error))
            continue
        names = {entry.name for entry in entries}
        if names & _BUILDS and _is_build(root / folder, names):
            report.drop(STEP, "output of a data build", f"{repo}:{folder}/")
            continue
        if ".git" in names:
            tracked = tracked | _tracked(root / folder / ".git", folder, report, repo)
        if ".gitignore" in names:
            ignores = (*ignores, _ignore_file(root, folder, report, repo))
        for entry in entries:
            path = posixpath.join(folder, entry.name)
            kind = _kind(entry)
            if kind == "folder" and entry.name in SKIPPED_FOLDERS:
                continue
            is_ignored = ignored or _ignored(path + "/" * (kind == "folder"), ignores)
            if is_ignored and path not in tracked:
                ending = "/" if kind == "folder" else ""
                report.drop(STEP, "ignored by .gitignore", f"{repo}:{path}{ending}")
            elif kind == "folder":
                stack.append((path, ignores, tracked, is_ignored))
            elif kind:
                report.drop(STEP, kind, f"{repo}:{path}")
            elif fault := name_fault(path):
                report.drop(STEP, fault, f"{repo}:{path}", _size(entry))
            else:
                found.append((path, entry.path))
    return sorted(found)


def _kind(entry):
    """`"folder"`, `""` for a regular file, else why it is not read."""
    try:
        if entry.is_symlink():
            return "link"
        if entry.is_dir(follow_symlinks=False):
            return "folder"
        return "" if entry.is_file(follow_symlinks=False) else "no regular file"
    except OSError:
        return "unreadable"


def _size(entry):
    try:
        return entry.stat(follow_symlinks=False).st_size
    except OSError:
        return 0


def _is_build(folder, names):
    if ".codegemma-build" in names:
        return True
    return {"build.json", "data.json", "features.json"} <= names


def _read_start(path, limit=1 << 16):
    try:
        with open(path, "rb") as file:
            return file.read(limit)
    except OSError:
        return b""


# What git would say

_BAD_PATTERN = (ValueError, re.error)


def _ignore_file(root, folder, report, repo):
    """`(folder, spec)`; lines that are no pattern are counted and left out."""
    spec = require("pathspec").GitIgnoreSpec
    path = root / folder / ".gitignore"
    data = b"" if path.is_symlink() else _read_start(path)
    lines = data.decode("utf-8", "replace").splitlines()
    try:
        return folder, spec.from_lines(lines)
    except _BAD_PATTERN:
        pass
    good = []
    for number, line in enumerate(lines, 1):
        try:
            spec.from_lines([line])
            good.append(line)
        except _BAD_PATTERN:
            where = f"{repo}:{posixpath.join(folder, '.gitignore')}:{number}"
            report.count("note", "line of .gitignore that is no pattern", name=where)
    return folder, spec.from_lines(good)


def _ignored(path, ignores):
    # The deepest file that says anything wins, as in git.
    for folder, spec in reversed(ignores):
        inside = path[len(folder) + 1 :] if folder else path
        verdict = spec.check_file(inside).include
        if verdict is not None:
            return verdict
    return False


def _tracked(git: pathlib.Path, folder: str, report: Report, repo: str) -> frozenset:
    """Paths of the files that a checkout's index names, and of their folders."""
    index = require("dulwich.index")
    if git.is_file():  # A submodule or a second work tree: `gitdir: PATH`.
        place = _read_start(git).decode("utf-8", "replace").partition("gitdir:")[2]
        git = git.parent / place.strip()
    if not (git / "index").is_file():
        return frozenset()
    try:
        names = [os.fsdecode(name) for name in index.Index(os.fspath(git / "index"))]
    except Exception as error:  # dulwich raises many kinds for a damaged file.
        where = f"{repo}:{folder}/.git/index ({error})"
        report.count("note", "git index that could not be read", name=where)
        return frozenset()
    found = set()
    for name in names:
        path = posixpath.join(folder, name)
        while path and path not in found:
            found.add(path)
            path = posixpath.dirname(path)
    return frozenset(found)
