"""Which licence each file of a repository is under, as SPDX expressions.

Texts are matched whole (licenseclassifier: the templates of Google's licensecheck), and
expressions are parsed by license-expression. In this order, the first that says something
counts: a file's own `SPDX-License-Identifier`, its `.license` file, REUSE.toml or
.reuse/dep5 (of which the last that matches a path); the
nearest folder above it with a licence text or a manifest (pyproject.toml, setup.cfg,
package.json, Cargo.toml, PKG-INFO, METADATA). Where a text and a manifest of one folder
say different things, both hold. A submodule ends its parent's licence.

What is not recognised is `""`, and whether that may pass is the caller's choice.
"""

import collections
import email
import functools
import json
import posixpath
import re
import tomllib
from collections.abc import Callable, Iterable

from codegemma_keras.data.document import require

PERMISSIVE = frozenset(
    (
        "0BSD",
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "BSL-1.0",
        "CC0-1.0",
        "ISC",
        "MIT",
        "MIT-0",
        "PSF-2.0",
        "Python-2.0",
        "Python-2.0.1",
        "Unlicense",
        "Zlib",
    )
)
_TEXT = re.compile(r"(?:(?:un)?licen[cs]e|copying)\b.*", re.I)
# Of several texts in one folder these are its own; others are of parts, or alternatives.
_MAIN = re.compile(r"(?:(?:un)?licen[cs]e|copying)(?:\.(?:txt|md|rst))?", re.I)
_MANIFESTS = frozenset(
    "cargo.toml metadata package.json pkg-info pyproject.toml setup.cfg".split()
)
_DEP5 = ".reuse/dep5"
_TAG = re.compile(r"SPDX-License-Identifier:[ \t]*([^\n*\"'<>]+)")
_HEAD = 4096
# Names that people write, in lower case with single spaces, and what they mean.
_NAMES = (
    (r"(?:the )?(?:expat|mit)(?: license)?(?: \(mit\))?", "MIT"),
    (
        r"(?:the )?apache(?: software)?(?: license)?,?(?: version)? ?2(?:\.0)?",
        "Apache-2.0",
    ),
    (r"asl ?2(?:\.0)?|apache-2", "Apache-2.0"),
    (
        r"(?:new|modified|3-clause|revised) bsd(?: license)?|bsd[- ]3(?:-clause)?",
        "BSD-3-Clause",
    ),
    (r"(?:simplified|2-clause) bsd(?: license)?|bsd[- ]2(?:-clause)?", "BSD-2-Clause"),
    (r"isc license(?: \(iscl\))?", "ISC"),
    (r"psf|python software foundation license", "PSF-2.0"),
    (r"boost software license 1\.0(?: \(bsl-1\.0\))?", "BSL-1.0"),
    (r"(?:the )?unlicense(?: \(unlicense\))?", "Unlicense"),
    (r"mozilla public license 2\.0(?: \(mpl 2\.0\))?|mpl ?2(?:\.0)?", "MPL-2.0"),
    (r"gnu affero general public license v3.*|agpl ?v?3", "AGPL-3.0-only"),
    (r"gnu lesser general public license v3.*|lgpl ?v?3", "LGPL-3.0-only"),
    (r"gnu lesser general public license v2.*|lgpl ?v?2.*", "LGPL-2.1-only"),
    (r"gnu general public license v3.*|gpl ?v?3", "GPL-3.0-only"),
    (r"gnu general public license v2.*|gpl ?v?2", "GPL-2.0-only"),
)
_KNOWN_NAMES = [(re.compile(pattern), name) for pattern, name in _NAMES]


def says_licence(path: str) -> bool:
    """Whether a file of that name may state a licence."""
    folder, name = posixpath.split(path)
    low = name.lower()
    return (
        _TEXT.fullmatch(name) is not None
        or low in _MANIFESTS
        or low in ("reuse.toml", ".gitmodules")
        or path.endswith(_DEP5)
        or low.endswith(".license")
        or posixpath.basename(folder) == "LICENSES"
    )


class Licences:
    """The licences of a repository, by file.

    Args:
        files: `(path, read)` of its files; those are read that `says_licence` names.
    """

    def __init__(self, files: Iterable[tuple[str, Callable[[], bytes]]]):
        self._own, self._globs = {}, []
        texts, manifests = (collections.defaultdict(dict) for _ in range(2))
        modules = []
        for path, read in sorted((f for f in files if says_licence(f[0])), key=_path):
            folder, name = posixpath.split(path)
            text = read().decode("utf-8", "replace")
            if name.lower() == "reuse.toml":
                self._globs += _reuse(folder, text)
            elif path.endswith(_DEP5):
                self._globs += _dep5(posixpath.dirname(folder), text)
            elif name == ".gitmodules":
                found = re.findall(r"^\s*path\s*=\s*(.+?)\s*$", text, re.M)
                modules += [posixpath.join(folder, module) for module in found]
            elif name.lower().endswith(".license"):
                self._own[path[: -len(".license")]] = tagged(text)
            elif name.lower() in _MANIFESTS:
                manifests[folder][name] = _manifest(name.lower(), text)
            else:
                inside = posixpath.basename(folder).lower() in ("licenses", "licences")
                folder = posixpath.dirname(folder) if inside else folder
                texts[folder][name] = recognise(text)
        # The deepest last; of one file the order stays.
        self._globs.sort(key=lambda glob: len(glob[0]))
        self._folders = dict.fromkeys(modules, "")
        for folder in {*texts, *manifests}:
            found = _both(_of_texts(texts[folder]), _first(manifests[folder]))
            if found:
                self._folders[folder] = found

    def of(self, path: str) -> str:
        """The SPDX expression that holds for a file, or `""`."""
        if own := self._own.get(path):
            return own
        for folder, pattern, licence in reversed(self._globs):
            start = f"{folder}/" if folder else ""
            if path.startswith(start) and pattern.fullmatch(path, len(start)):
                return licence
        folder = path
        while folder:
            folder = posixpath.dirname(folder)
            if folder in self._folders:
                return self._folders[folder]
        return ""


def find_licence(files: Iterable[tuple[str, Callable[[], bytes]]]) -> str:
    """The licence of a repository as a whole, from `(path, read)` of its files."""
    return Licences(files).of("x")


def recognise(text: str) -> str:
    """SPDX expression of a licence text, of several in one file, or of its tag; or `""`."""
    found = require("licenseclassifier").identify_license(text)
    names = dict.fromkeys(spdx(match.id) or match.id for match in found)
    return " AND ".join(names) or tagged(text)


def tagged(text: str) -> str:
    """The expression of the `SPDX-License-Identifier` among a file's first lines, or `""`."""
    match = _TAG.search(text[:_HEAD])
    return spdx(match[1].split("*/")[0].split("-->")[0]) if match else ""


@functools.cache
def _licensing():
    return require("license_expression").get_spdx_licensing()


@functools.lru_cache(1024)
def spdx(name: str) -> str:
    """The SPDX expression that a name or an expression means, or `""`.

    >>> (
    ...     spdx("mit"),
    ...     spdx("MIT/Apache-2.0"),
    ...     spdx("GPL-2.0"),
    ...     spdx("The Apache License 2.0"),
    ... )
    ('MIT', 'MIT OR Apache-2.0', 'GPL-2.0-only', 'Apache-2.0')
    """
    name = " ".join(name.split())
    if not 2 <= len(name) <= 200:
        return ""
    for pattern, meant in _KNOWN_NAMES:
        if pattern.fullmatch(name.lower()):
            return meant
    try:
        return str(_licensing().parse(name.replace("/", " OR "), validate=True))
    except require("license_expression").ExpressionError:
        return ""
    except require("boolean").ParseError:
        return ""


@functools.lru_cache(1024)
def allows(licences: frozenset, expression: str) -> bool:
    """Whether an expression can be met with `licences` alone.

    >>> allows(PERMISSIVE, "MIT OR GPL-3.0-only"), allows(PERMISSIVE, "MIT AND MPL-2.0")
    (True, False)
    """
    if expression in licences or not expression:
        return expression in licences
    normal = spdx(expression)
    if not normal:
        return False
    tree = _licensing().parse(normal)
    wanted = {spdx(licence) or licence for licence in licences}
    return _met(tree, wanted | licences)


def _met(tree, licences):
    if tree.isliteral:
        return str(tree) in licences
    met = [_met(part, licences) for part in tree.args]
    return (
        any(met) if tree.operator.strip() == "|" or "OR" in tree.operator else all(met)
    )


# Files that state licences


def _path(item):
    return item[0].count("/"), item[0]


def _of_texts(found):
    """Of the texts in one folder, `{name: licence}`: what holds for it."""
    main = [licence for name, licence in found.items() if _MAIN.fullmatch(name)]
    if any(main):
        return _join(main, "AND")
    # LICENSE-MIT beside LICENSE-APACHE are alternatives; COPYING.LESSER is more.
    choice = all(re.match(r"licen[cs]e[-_]", name, re.I) for name in found)
    return _join(found.values(), "OR" if choice else "AND")


def _join(licences, operator):
    known = [licence for licence in dict.fromkeys(licences) if licence]
    if len(known) < 2:
        return "".join(known)
    return f" {operator} ".join(f"({k})" if " " in k else k for k in known)


def _first(found):
    return next((found[name] for name in sorted(found) if found[name]), "")


def _both(text, manifest):
    """What holds if a text and a manifest say so: a choice may have one text of two."""
    if not text or not manifest or text == manifest:
        return text or manifest
    names = [
        set(re.findall(r"[\w.+-]+", e)) - {"AND", "OR", "WITH"}
        for e in (text, manifest)
    ]
    families = [
        {re.sub(r"-(?:only|or-later)$", "", n) for n in found} for found in names
    ]
    if families[0] <= families[1]:
        return manifest
    return _join((manifest, text), "AND")


def _manifest(name, text):
    try:
        if name == "package.json":
            return _package_json(json.loads(text))
        if name.endswith(".toml"):
            return _toml(tomllib.loads(text))
    except (ValueError, AttributeError, TypeError, RecursionError):
        return ""
    if name == "setup.cfg":
        match = re.search(r"^license\s*=\s*(.+)$", text, re.M)
        return spdx(match[1]) if match else ""
    head = text.partition("\n\n")[0]
    fields = re.findall(r"^License(?:-Expression)?: *(.+)$", head, re.M)
    return next(filter(None, map(spdx, fields)), "") or _classified(head.split("\n"))


def _package_json(found):
    licence = found.get("license") or found.get("licenses") or ""
    entries = licence if isinstance(licence, list) else [licence]
    names = [e.get("type", "") if isinstance(e, dict) else str(e) for e in entries]
    return _join(map(spdx, names), "OR")


def _toml(found):
    project = found.get("project") or found.get("tool", {}).get("poetry") or {}
    licence = project.get("license") or found.get("package", {}).get("license") or ""
    if isinstance(licence, dict):  # `{text = "MIT"}` or `{file = "LICENSE"}`
        licence = licence.get("text", "")
    found = spdx(licence) if isinstance(licence, str) else ""
    return found or _classified(project.get("classifiers", ()))


def _classified(lines):
    """The licence of trove classifiers."""
    found = [
        line.rpartition("License :: ")[2] for line in lines if "License :: " in line
    ]
    return _join((spdx(name.rpartition(" :: ")[2]) for name in found), "AND")


def _reuse(folder, text):
    """`(folder, pattern, licence)` of the annotations in a REUSE.toml."""
    try:
        entries = tomllib.loads(text).get("annotations", [])
    except ValueError:
        return []
    found = []
    for entry in entries:
        paths = entry.get("path", [])
        licence = entry.get("SPDX-License-Identifier", "")
        licences = licence if isinstance(licence, list) else [licence]
        joined = _join(map(spdx, licences), "AND")
        for path in [paths] if isinstance(paths, str) else paths:
            found.append((folder, _glob(path, r"[^/]*"), joined))
    return found


def _dep5(folder, text):
    """The same of the stanzas in a .reuse/dep5, the older form; its `*` crosses folders."""
    found = []
    for stanza in re.split(r"\n[ \t]*\n", text):
        fields = email.message_from_string(stanza.strip())
        licence = spdx((fields.get("License") or "").partition("\n")[0])
        for path in (fields.get("Files") or "").split():
            found.append((folder, _glob(path, ".*"), licence))
    return found


def _glob(pattern, star):
    """A pattern of paths; `**` means any path, `*` what `star` does."""
    parts = re.split(r"(\\.|\*\*/?|\*|\?)", pattern)
    meaning = {"**": ".*", "**/": "(?:.*/)?", "*": star, "?": "[^/]"}
    return re.compile(
        "".join(meaning.get(p) or re.escape(p.removeprefix("\\")) for p in parts), re.S
    )
