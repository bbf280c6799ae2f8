"""Archives, as documents: PyPI sdists, wheels, zip and tar files.

They are read in memory, member by member, and nothing is ever unpacked: no member name,
link or device can reach outside, and the limits on sizes hold before any byte is kept.
Damage costs what is damaged: what follows it is read, and what is lost is counted.
"""

import functools
import lzma
import pathlib
import posixpath
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from codegemma_keras.data.clean.licences import Licences, says_licence
from codegemma_keras.data.document import MAX_FILE_BYTES, Document, Report
from codegemma_keras.data.read.admit import (
    STEP,
    language_fault,
    name_fault,
    to_document,
)

ARCHIVES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar", ".zip", ".whl")
# An archive that unpacks to more, or to more than 200 times its size, is a bomb: source
# compresses 3 to 12 times.
MAX_ARCHIVE_BYTES = 4_000_000_000
MAX_RATIO = 200
# A small archive may unpack to so many, whatever its ratio.
ALLOWED_BYTES = 1 << 24
# Members of a tar are counted up to so many times the limit of bytes; to look further is
# what a bomb is made for.
MAX_COUNTED = 4
MAX_MEMBERS = 500_000
_MAX_LICENCE = 1 << 18
_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    EOFError,
    OSError,
    ValueError,
    zlib.error,
    RuntimeError,  # An encrypted member of a zip.
    NotImplementedError,  # A compression this Python lacks.
    lzma.LZMAError,
)


class Member(NamedTuple):
    """One entry of an archive that is no folder.

    Attributes:
        name: as it stands there.
        size: bytes, unpacked, as the archive says.
        fault: why it cannot be read, or `""`.
        read: `read(limit)` gives its bytes, or None where there are more.
    """

    name: str
    size: int
    fault: str
    read: Callable[[int], bytes | None] | None


def read_archive(
    archive,
    report: Report,
    *,
    repo: str | None = None,
    max_file_bytes: int = MAX_FILE_BYTES,
    max_archive_bytes: int = MAX_ARCHIVE_BYTES,
    languages=None,
    also=None,
) -> Iterator[Document]:
    """Files of an archive, in its order.

    One folder that holds everything, as in an sdist, is taken off the paths. A member
    whose name leaves the archive, a link, a device or a damaged member is counted and
    left out.

    Args:
        archive: path of the file.
        report, repo, max_file_bytes, languages, also: as for `read_folder`.
        max_archive_bytes: members after so many unpacked bytes are left out.
    """
    path = pathlib.Path(archive)
    repo = repo or path.name.partition(".")[0]
    try:
        allowed = max(MAX_RATIO * path.stat().st_size, ALLOWED_BYTES)
        budget = min(max_archive_bytes, allowed)
        with open(path, "rb"):
            members = _zip_members if zipfile.is_zipfile(path) else _tar_members
    except OSError as error:
        report.drop(STEP, "unreadable", f"{repo}:{path.name}", detail=str(error))
        return
    common, licences = _survey(path, members, budget)
    for member in _within(members(path), budget, report, f"{repo}:{path.name}"):
        name = member.name.removeprefix(common)
        full, size = f"{repo}:{name}", member.size
        if member.fault:
            report.drop(STEP, member.fault, full, size)
        elif reason := language_fault(name, languages, also):
            report.drop("filter", reason, full, size)
        elif size > max_file_bytes:
            report.drop(STEP, "file too large", full, size)
        else:
            try:
                data = member.read(max_file_bytes)
            except _DAMAGE as error:
                report.drop(STEP, "damaged member", full, size, detail=str(error))
                continue
            if data is None:
                report.drop(STEP, "file too large", full, size)
                continue
            licence, meta = licences.of(name), {"source": repo}
            yield from to_document(data, name, repo, licence, report, meta)


def _within(members, budget, report, archive):
    """Members up to the budget, and why the others are not read; damage is counted."""
    seen = count = 0
    while True:
        try:
            member = next(members)
        except StopIteration:
            return
        except _DAMAGE as error:
            # How many members followed is written behind the damage only.
            detail = f"after {count} members: {error or type(error).__name__}"
            report.drop(STEP, "rest of a damaged archive", archive, detail=detail)
            return
        count, seen = count + 1, seen + member.size
        if seen > budget:
            member = member._replace(fault=member.fault or "archive too large")
        elif count > MAX_MEMBERS:
            member = member._replace(
                fault=member.fault or "archive of too many members"
            )
        yield member
        if seen > MAX_COUNTED * budget and members.__name__ == _tar_members.__name__:
            detail = f"after {seen:,} bytes; how many members follow was not counted"
            report.drop(STEP, "rest of an archive too large", archive, detail=detail)
            return


# Tar


class _Header(tarfile.TarInfo):
    """A header of a tar; what is none is skipped up to the next, and kept in mind.

    Plain `tarfile` takes a damaged header for the end of the archive.
    """

    @classmethod
    def fromtarfile(cls, tar):
        if getattr(tar, "inside", False):  # The second header of a long name.
            return super().fromtarfile(tar)
        start = tar.fileobj.tell()
        while True:
            tar.inside = True
            try:
                return super().fromtarfile(tar)
            except (tarfile.EOFHeaderError, tarfile.EmptyHeaderError):
                if getattr(tar, "damage", None):
                    raise tarfile.ReadError(
                        f"no header from byte {start} to the end"
                    ) from None
                raise
            except tarfile.HeaderError:
                tar.damage = start
            finally:
                tar.inside = False


def _tar_members(path) -> Iterator[Member]:
    with tarfile.open(path, "r|*", tarinfo=_Header, errors="surrogateescape") as tar:
        while (found := tar.next()) is not None:
            if (start := getattr(tar, "damage", None)) is not None:
                tar.damage = None
                yield Member(
                    f"bytes from {start}", found.offset - start, "damaged header", None
                )
            if found.isdir():
                continue
            # Its dots and doubled slashes; a name that leaves is judged as it stands.
            name = posixpath.normpath(found.name) if found.name else ""
            leaves = name_fault(found.name) == "name leaves the source"
            name = found.name if leaves else name
            fault = name_fault(name) or ("" if found.isfile() else "link or device")

            def read(limit, found=found):
                file = tar.extractfile(found)
                return None if found.size > limit else file.read(limit + 1)

            yield Member(name, max(found.size, 0), fault, read)
            tar.members.clear()  # Else all headers of the archive stay in memory.


# Zip


def _zip_members(path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.is_dir():
                continue

            def read(limit, info=info):
                # The header's size may lie; what is read is counted.
                with archive.open(info) as file:
                    data = file.read(limit + 1)
                return None if len(data) > limit else data

            regular = (info.external_attr >> 16) & 0o170000 in (0, 0o100000)
            fault = name_fault(info.filename) or ("" if regular else "link or device")
            yield Member(info.filename, info.file_size, fault, read)


# Both


def _survey(path, members, budget):
    """`(common, licences)`: the one folder that holds everything, and the licences."""
    tops, texts, seen = set(), [], 0
    try:
        for member in members(path):
            if member.fault == "damaged header":
                continue
            if (seen := seen + member.size) > budget:
                break
            top, slash, _ = member.name.partition("/")
            tops.add(top + slash if slash else "")
            if (
                member.fault
                or member.size >= _MAX_LICENCE
                or member.name.count("/") > 3
            ):
                continue
            if says_licence(member.name):
                text = member.read(_MAX_LICENCE) or b""
                texts.append((member.name, functools.partial(bytes, text)))
    except _DAMAGE:
        pass  # Counted when the files themselves are read.
    common = tops.pop() if len(tops) == 1 else ""
    return common, Licences((name[len(common) :], text) for name, text in texts)
