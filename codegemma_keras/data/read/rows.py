"""jsonl files and rows of data sources, as documents.

Rows come with the keys of common collections (`text` or `content`, `path`, `repo_name`,
`max_stars_repo_path`, `licenses`, ...), and with languages and licences as people write
them: "C++", `["MIT"]`, `mit`.
"""

import gzip
import json
import pathlib
import zlib
from collections.abc import Iterable, Iterator

from codegemma_keras.data.clean.licences import PERMISSIVE, recognise, spdx
from codegemma_keras.data.document import Document, Report
from codegemma_keras.data.languages import LANGUAGES, family, language_of
from codegemma_keras.data.read.admit import STEP, name_fault, to_document

ROWS = (".jsonl.gz", ".jsonl")
# The longest line that is read whole; a document may have 1 MB, and JSON escapes it.
MAX_LINE = 64_000_000
_TEXT = ("text", "content")
_PATH = ("path", "file_path", "max_stars_repo_path", "max_issues_repo_path")
_REPO = ("repo", "repo_name", "repository_name", "max_stars_repo_name")
_LICENCE = (
    "licence",
    "license",
    "licenses",
    "detected_licenses",
    "max_stars_repo_licenses",
)
_LANGUAGE = ("language", "lang", "programming_language")
# Names that differ from ours by more than their case.
_ALIASES = {
    "c": "cpp",
    "c++": "cpp",
    "c#": "csharp",
    "c-sharp": "csharp",
    "bash": "shell",
    "golang": "go",
    "js": "javascript",
    "jsx": "javascript",
    "protobuf": "proto",
    "protocol buffer": "proto",
    "py": "python",
    "python3": "python",
    "restructuredtext": "rst",
    "sh": "shell",
    "ts": "typescript",
    "yml": "yaml",
}


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
    fallback = repo or path.name.partition(".jsonl")[0]
    opener = gzip.open if path.name.endswith(".gz") else open
    number = 0
    try:
        with opener(path, "rb") as file:
            while line := file.readline(MAX_LINE):
                number += 1
                name = f"{fallback}:{number}"
                if not line.endswith(b"\n") and len(line) == MAX_LINE:
                    size = len(line)
                    while more := file.readline(MAX_LINE):
                        size += len(more)
                        if more.endswith(b"\n"):
                            break
                    report.drop(STEP, "line too long", name, size)
                elif not line.isspace():
                    for row in _parse(line, name, report):
                        yield from _row(row, text_key, name, fallback, number, report)
    except (OSError, EOFError, zlib.error) as error:
        # Of a damaged file nobody can say how many lines followed.
        reason = "unreadable" if number == 0 else "rest of a damaged file"
        report.drop(
            STEP, reason, path.name, detail=f"after line {number}: {error or 'cut off'}"
        )


def _parse(line, name, report):
    """The value of a line, or nothing."""
    try:
        return [json.loads(line)]
    except (ValueError, RecursionError) as error:
        report.drop(STEP, "line is no JSON", name, len(line), detail=str(error))
        return []


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
    keys = (text_key,) if text_key else _TEXT
    text = next((row[k] for k in keys if isinstance(row.get(k), (str, bytes))), None)
    if text is None:
        report.drop(STEP, f"no text under {'/'.join(keys)}", name)
        return
    language = language_named(_get(row, _LANGUAGE))
    repo = _get(row, _REPO) or fallback
    # The Stack writes paths with a slash in front.
    path = _get(row, _PATH).lstrip("/") or _default_path(number, language)
    if fault := name_fault(repo) or name_fault(path):
        report.drop(STEP, fault, name, len(text))
        return
    licence = licence_named(next((row[k] for k in _LICENCE if row.get(k)), ""))
    meta = {"source": fallback, "row": number}
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    by_name = language_of(path)
    if language and by_name and family(language) == family(by_name):
        language = by_name  # `.tsx` has a grammar of its own.
    found = to_document(data, path, repo, licence, report, meta)
    if isinstance(text, str):  # As it is, a byte order mark included.
        found = (d.replace(text=text) for d in _lenient(found, text, path, repo, meta))
    for document in found:
        yield document.replace(licence=licence, language=language or by_name)


def _lenient(found, text, path, repo, meta):
    """A str is text, also where it has half a surrogate pair: a filter says so later."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return [Document(text, path, repo, "", "", meta)]
    return found


def _get(row, names):
    value = next((row[n] for n in names if row.get(n)), "")
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _default_path(number, language):
    extension = LANGUAGES[language].extensions[0] if language else ".txt"
    return f"{number:08d}{extension}"


def language_named(name: str) -> str:
    """The language that people call so (`"C++"`, `"C#"`, `"Shell"`), or `""`."""
    folded = name.strip().lower()
    folded = _ALIASES.get(folded, folded)
    return folded if folded in LANGUAGES else ""


def licence_named(value) -> str:
    """The SPDX identifier of a licence as a row names it: a name, or a list of names.

    Of several, all of which hold, the first that is not permissive.

    >>> licence_named(["mit"]), licence_named(["MIT", "GPL-3.0"])
    ('MIT', 'GPL-3.0-only')
    """
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        name = value.strip()
        return spdx(name) or recognise(name) or name
    try:
        found = [licence_named(entry) for entry in value]
    except TypeError:
        return str(value)
    return next((name for name in found if name not in PERMISSIVE), (*found, "")[0])
