"""Folders, git checkouts, archives, jsonl files and TFDS sources, as documents.

Archives are read in memory, member by member, and nothing is ever unpacked: no member
name, link or device can reach outside, and the caps on sizes hold before any byte is
kept. Links in folders are not followed. What cannot be read is counted and named.

Left out: downloading. A source is something the user already has, so that a build can
be repeated.
"""

import functools
import gzip
import io
import json
import lzma
import os
import pathlib
import posixpath
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator

from codegemma_keras.data.clean.licences import find_licence, says_licence
from codegemma_keras.data.document import Document, Report, require
from codegemma_keras.data.languages import language_of

STEP = "source"
# A source file beyond 1 MB is data: a table, or generated.
MAX_FILE_BYTES = 1_000_000
# An archive that unpacks to more, or to more than 200 times its size, is a bomb: source
# compresses 3 to 12 times.
MAX_ARCHIVE_BYTES = 4_000_000_000
MAX_RATIO = 200
MAX_MEMBERS = 500_000
SKIPPED_FOLDERS = frozenset((".git", ".hg", ".svn"))
ARCHIVES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar", ".zip", ".whl")


def read_source(source: str | os.PathLike, report: Report, **options):
    """Documents of one source, told by its name.

    Args:
        source: a folder, an archive, or a `.jsonl` / `.jsonl.gz` file.
        report: counts what could not be read.
        **options: of `read_folder`, `read_archive` or `read_jsonl`.

    Raises:
        FileNotFoundError: there is nothing of that name.
        ValueError: it is none of these.
    """
    path = pathlib.Path(source)
    name = path.name.lower()
    if path.is_dir():
        return read_folder(path, report, **options)
    if not path.exists():
        raise FileNotFoundError(f"source {str(source)!r}: no such folder or file.")
    if name.endswith(ARCHIVES):
        return read_archive(path, report, **options)
    if name.endswith((".jsonl", ".jsonl.gz")):
        return read_jsonl(path, report, **options)
    raise ValueError(
        f"source {str(source)!r} is neither a folder nor a file that ends in one of "
        f"{(*ARCHIVES, '.jsonl', '.jsonl.gz')}."
    )


def source_name(source: str | os.PathLike) -> str:
    """The repository's name: the folder's, or the archive's without its ending."""
    name = pathlib.Path(source).resolve().name
    for ending in (*ARCHIVES, ".jsonl.gz", ".jsonl"):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name


def _unwanted(path, languages):
    """Why a file need not be read: its name says that it is of no wanted language."""
    language = language_of(path)
    if languages is None or language in languages:
        return ""
    return f"language {language or 'unknown'}"


# Folders


def read_folder(
    folder,
    report: Report,
    *,
    repo=None,
    max_file_bytes: int = MAX_FILE_BYTES,
    languages=None,
) -> Iterator[Document]:
    """Files of a folder or git checkout in the order of their paths.

    `.gitignore` files are obeyed, whether or not git ever was there; links are counted
    and not followed, so a link loop is no loop.

    Args:
        folder: the repository's root.
        report: counts links, what is ignored, unreadable or too large.
        repo: the repository's name. Default: the folder's.
        max_file_bytes: larger files are counted and not read.
        languages: files of others are counted and not read; None reads all.
    """
    root = pathlib.Path(folder)
    repo = repo or source_name(root)
    entries = list(_walk(root, report, repo))
    licence = find_licence(
        (path, lambda full=full: _read_start(full)) for path, full in entries
    )
    for path, full in entries:
        name = f"{repo}:{path}"
        try:
            size = os.stat(full).st_size
            if reason := _unwanted(path, languages):
                report.drop("filter", reason, name, size)
                continue
            if size > max_file_bytes:
                report.drop(STEP, "file too large", name, size)
                continue
            data = pathlib.Path(full).read_bytes()
        except OSError as error:
            report.drop(STEP, "unreadable", name, detail=error.strerror or str(error))
            continue
        yield from to_document(data, path, repo, licence, report, {"source": repo})


def _walk(root, report, repo):
    """`(relative path, full path)` of regular files, sorted, ignored ones left out."""
    pathspec = require("pathspec")
    stack = [("", ())]
    found = []
    while stack:
        folder, ignores = stack.pop()
        try:
            entries = sorted(os.scandir(root / folder), key=lambda entry: entry.name)
        except OSError as error:
            report.drop(
                STEP, "unreadable", f"{repo}:{folder}", detail=str(error.strerror)
            )
            continue
        ignore = next((e for e in entries if e.name == ".gitignore"), None)
        if ignore is not None and ignore.is_file(follow_symlinks=False):
            lines = _read_start(ignore.path).decode("utf-8", "replace").splitlines()
            spec = pathspec.GitIgnoreSpec.from_lines(lines)
            ignores = (*ignores, (folder, spec))
        for entry in entries:
            path = posixpath.join(folder, entry.name)
            try:
                path.encode()
            except UnicodeEncodeError:
                report.drop(STEP, "name is not UTF-8", f"{repo}:{path!a}")
                continue
            if entry.is_symlink():
                report.drop(STEP, "link", f"{repo}:{path}")
                continue
            is_folder = entry.is_dir(follow_symlinks=False)
            if is_folder and entry.name in SKIPPED_FOLDERS:
                continue
            if _ignored(path + "/" * is_folder, ignores):
                report.drop(STEP, "ignored by .gitignore", f"{repo}:{path}")
            elif is_folder:
                stack.append((path, ignores))
            elif entry.is_file(follow_symlinks=False):
                found.append((path, entry.path))
            else:
                report.drop(STEP, "no regular file", f"{repo}:{path}")
    return sorted(found)


def _ignored(path, ignores):
    # The deepest file that says anything wins, as in git.
    for folder, spec in reversed(ignores):
        inside = path[len(folder) + 1 :] if folder else path
        verdict = spec.check_file(inside).include
        if verdict is not None:
            return verdict
    return False


def _read_start(path, limit=1 << 16):
    try:
        with open(path, "rb") as file:
            return file.read(limit)
    except OSError:
        return b""


# Archives


def read_archive(
    archive,
    report: Report,
    *,
    repo=None,
    max_file_bytes: int = MAX_FILE_BYTES,
    max_archive_bytes: int = MAX_ARCHIVE_BYTES,
    languages=None,
) -> Iterator[Document]:
    """Files of a PyPI sdist, a wheel, a zip or a tar, in the order of the archive.

    One folder that holds everything, as in an sdist, is taken off the paths. A member
    whose name leaves the archive, a link or a device is counted and left out. A corrupt
    archive gives the files before the damage.

    Args:
        archive: path of the file.
        report, repo, max_file_bytes, languages: as for `read_folder`.
        max_archive_bytes: after so many unpacked bytes the rest is left out.
    """
    path = pathlib.Path(archive)
    repo = repo or source_name(path)
    budget = min(max_archive_bytes, max(MAX_RATIO * path.stat().st_size, 1 << 24))
    opener = _zip_members if zipfile.is_zipfile(path) else _tar_members
    common, licence = _survey(path, opener, budget)
    seen = 0
    members = opener(path)
    while True:
        try:
            name, size, kind, read = next(members)
            if (seen := seen + size) > budget:
                report.drop(STEP, "archive too large", f"{repo}:{name}", size)
                return
            if kind:
                report.drop(STEP, kind, f"{repo}:{name}", size)
                continue
            if reason := _unwanted(name, languages):
                report.drop("filter", reason, f"{repo}:{name[len(common) :]}", size)
                continue
            if size > max_file_bytes:
                report.drop(STEP, "file too large", f"{repo}:{name}", size)
                continue
            data = read(max_file_bytes)
        except StopIteration:
            return
        except _DAMAGE as error:
            report.drop(
                STEP, "corrupt archive", f"{repo}:{path.name}", detail=str(error)
            )
            return
        if data is None:
            report.drop(STEP, "file too large", f"{repo}:{name}", size)
            continue
        meta = {"source": repo}
        yield from to_document(data, name[len(common) :], repo, licence, report, meta)


_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    EOFError,
    OSError,
    zlib.error,
    RuntimeError,  # An encrypted member of a zip.
    NotImplementedError,  # A compression this Python lacks.
    lzma.LZMAError,
)


def _leaves(name):
    return name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/")


def _kind(name, is_file):
    if _leaves(name) or "\\" in name or (len(name) > 1 and name[1] == ":"):
        return "name leaves the archive"
    return "" if is_file else "link or device"


def _tar_members(path):
    """`(name, size, why not or "", read)` of everything but folders."""
    with tarfile.open(path, "r|*", errors="surrogateescape") as tar:
        for count, member in enumerate(tar):
            if count >= MAX_MEMBERS:
                raise tarfile.ReadError(f"more than {MAX_MEMBERS} members")
            if member.isdir():
                continue

            def read(limit, member=member):
                file = tar.extractfile(member)
                return None if member.size > limit else file.read(limit + 1)

            name = posixpath.normpath(member.name) if member.name else ""
            name = name if not _leaves(member.name) else member.name
            yield name, max(member.size, 0), _kind(name, member.isfile()), read


def _zip_members(path):
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
        if len(infos) > MAX_MEMBERS:
            raise zipfile.BadZipFile(f"more than {MAX_MEMBERS} members")
        for info in infos:
            if info.is_dir():
                continue

            def read(limit, info=info):
                # The header's size may lie; what is read is counted.
                with archive.open(info) as file:
                    data = file.read(limit + 1)
                return None if len(data) > limit else data

            mode = info.external_attr >> 16
            regular = mode & 0o170000 in (0, 0o100000)
            yield info.filename, info.file_size, _kind(info.filename, regular), read


def _survey(path, opener, budget):
    """`(common, licence)`: the one folder that holds everything, and the licence."""
    tops, texts, seen = set(), [], 0
    try:
        for name, size, kind, read in opener(path):
            if (seen := seen + size) > budget:
                break
            top, slash, inside = name.partition("/")
            tops.add(top + slash if slash else "")
            if not kind and size < 1 << 18 and name.count("/") <= 3:
                for known in (name, inside):
                    if says_licence(known):
                        texts.append(
                            (known, functools.partial(bytes, read(1 << 18) or b""))
                        )
                        break
    except _DAMAGE:
        pass  # Counted when the files themselves are read.
    common = tops.pop() if len(tops) == 1 else ""
    return common, find_licence(sorted(texts, key=lambda item: item[0]))


# Rows


def read_jsonl(
    path, report: Report, *, repo=None, text_key=None, **_options
) -> Iterator[Document]:
    """Lines `{"text" or "content": ..., "path", "repo", "licence", ...}`.

    Args:
        path: `.jsonl` or `.jsonl.gz`.
        report: counts lines that are no such object.
        repo: used where a line names none. Default: the file's name.
        text_key: the key of the text. Default: `text`, else `content`.
    """
    path = pathlib.Path(path)
    fallback = repo or source_name(path)
    opener = gzip.open if path.name.endswith(".gz") else open
    with opener(path, "rb") as file:
        number = 0
        while True:
            try:
                line = file.readline()
            except (OSError, EOFError, zlib.error) as error:
                report.drop(STEP, "corrupt archive", str(path.name), detail=str(error))
                return
            if not line:
                return
            number += 1
            if line.isspace():
                continue
            name = f"{fallback}:{number}"
            try:
                row = json.loads(line)
            except ValueError as error:
                report.drop(STEP, "line is no JSON", name, len(line), detail=str(error))
                continue
            yield from _row(row, text_key, name, fallback, number, report)


def read_rows(rows: Iterable, report: Report, *, repo: str, text_key=None):
    """Documents of a TFDS data source (`builder.as_data_source()`) or any mappings.

    Text may be str or bytes.
    """
    for number, row in enumerate(rows, 1):
        yield from _row(row, text_key, f"{repo}:{number}", repo, number, report)


def _row(row, text_key, name, fallback, number, report):
    if not isinstance(row, dict):
        report.drop(STEP, "line is no object", name)
        return
    keys = (text_key,) if text_key else ("text", "content")
    text = next((row[k] for k in keys if isinstance(row.get(k), (str, bytes))), None)
    if text is None:
        report.drop(STEP, f"no text under {'/'.join(keys)}", name)
        return

    def get(*names):
        value = next((row[n] for n in names if row.get(n)), "")
        return (
            value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
        )

    repo = get("repo", "repo_name", "max_stars_repo_name") or fallback
    path = get("path", "file_path", "max_stars_repo_path") or f"{number:08d}.txt"
    licence = get("licence", "license")
    meta = {"source": fallback, "row": number}
    if isinstance(text, bytes):
        yield from to_document(text, path, repo, licence, report, meta)
    else:
        language = get("language").lower() or language_of(path)
        yield Document(text, path, repo, licence, language, meta)


def to_document(data: bytes, path, repo, licence, report, metadata):
    """Decode bytes as UTF-8, or by a byte order mark; yields nothing if that fails."""
    name = f"{repo}:{path}"
    if "\n" in path or "\r" in path:
        report.drop(STEP, "line break in the name", ascii(name), len(data))
        return
    try:
        text = decode(data)
    except UnicodeDecodeError:
        reason = "binary" if b"\0" in data[:8192] else "encoding"
        report.drop("filter", reason, name, len(data))
        return
    yield Document(text, path, repo, licence, language_of(path), metadata)


def decode(data: bytes) -> str:
    """UTF-8, with or without a mark; UTF-16 and UTF-32 with one.

    Raises:
        UnicodeDecodeError: it is none of these.
    """
    for mark, encoding in (
        (b"\xef\xbb\xbf", "utf-8-sig"),
        (b"\xff\xfe\0\0", "utf-32"),
        (b"\xff\xfe", "utf-16"),
        (b"\xfe\xff", "utf-16"),
    ):
        if data.startswith(mark):
            return io.TextIOWrapper(io.BytesIO(data), encoding, newline="").read()
    return data.decode()
