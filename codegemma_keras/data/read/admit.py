"""What may come in: the checks of names, sizes and bytes that every kind of source shares.

A name becomes the path line of a training example and a line of the report, so it must be
text that any terminal and any file can hold. What is refused is counted and named by the
caller; no single name or file ends a build.
"""

import io
import re
from collections.abc import Iterator

from codegemma_keras.data.document import Document, Report
from codegemma_keras.data.languages import language_of

STEP = "source"
# The longest path that Linux opens has 4,096 bytes; real ones stay below 300.
MAX_NAME = 1_000
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_LFS = b"version https://git-lfs.github.com/spec/v1\n"
_MAX_LFS = 1_024  # bytes of a pointer, by its specification


def name_fault(path: str) -> str:
    """Why a name cannot be the path of a document, or `""`."""
    if not path:
        return "no name"
    try:
        path.encode()
    except UnicodeEncodeError:
        return "name is not UTF-8"
    if _CONTROL.search(path):
        return "control character in the name"
    if len(path) > MAX_NAME:
        return "name too long"
    if path.startswith(("/", "\\")) or ".." in path.replace("\\", "/").split("/"):
        return "name leaves the source"
    if "\\" in path or path[1:2] == ":":
        return "name of another system"
    return ""


def language_fault(path: str, languages, also=None) -> str:
    """Why a file need not be read: its name says that it is of no wanted language.

    Args:
        path: of the file.
        languages: wanted ones; None wants all.
        also: `path -> bool`, wanted whatever their language; may be None.
    """
    language = language_of(path)
    if languages is None or language in languages or (also and also(path)):
        return ""
    return f"language {language or 'unknown'}"


def to_document(
    data: bytes, path: str, repo: str, licence: str, report: Report, metadata: dict
) -> Iterator[Document]:
    """The document that the bytes of a file hold; nothing if they are no text."""
    name = f"{repo}:{path}"
    if fault := name_fault(path):
        report.drop(STEP, fault, name, len(data))
        return
    if len(data) <= _MAX_LFS and data.startswith(_LFS):
        # The file's contents are on a server; the pointer is no code.
        report.drop(STEP, "Git LFS pointer", name, len(data))
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
