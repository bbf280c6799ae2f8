"""Secrets and personal data: find them, then drop the file or put a placeholder there.

Four finders, each a module: private keys (here), what has the shape of a secret
(`shapes`: gitleaks' and detect-secrets' rules), what is given to a name that sounds
secret (`assigned`), and addresses of people (`personal`).

A placeholder is typed (`<EMAIL>`), so a model learns that something stood there.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator

from codegemma_keras.data.clean.assigned import find_assigned
from codegemma_keras.data.clean.personal import find_personal
from codegemma_keras.data.clean.shapes import find_shapes
from codegemma_keras.data.document import Document, Report

STEP = "secrets"
PLACEHOLDERS = {
    "private key": "<PRIVATE_KEY>",
    "secret": "<SECRET>",
    "password": "<PASSWORD>",
    "email": "<EMAIL>",
    "ip address": "<IP_ADDRESS>",
    "phone number": "<PHONE_NUMBER>",
}
ADDRESSES = ("email", "ip address", "phone number")
# Lines of base64 between the marks and nothing else: as they stand in a file of keys, or
# longer ones with what a programming language puts around a line of a string.
_BEGIN = r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----"
_END = r"-----END (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----"
_FIELD = r"(?:Proc-Type|DEK-Info|Version|Comment): [^\n\\]{1,100}"
_AROUND = r"(?:[\s\"'`+\\;,.()#*/|>-]|\\[nr]|(?<=[\s\"'])b(?=[\"'])){0,80}?"
_PRIVATE_KEY = re.compile(
    rf"{_BEGIN}(?:\s*\n(?:[ \t]*(?:{_FIELD}|[A-Za-z0-9+/=]*)[ \t]*\n)++[ \t]*{_END}"
    rf"|(?:{_AROUND}(?:{_FIELD}|[A-Za-z0-9+/]{{16,}}={{0,2}}|=[A-Za-z0-9+/]{{4}}))++"
    rf"(?:{_AROUND}[A-Za-z0-9+/]{{0,15}}={{0,2}}{_AROUND}{_END})?)"
)


@dataclasses.dataclass(frozen=True, order=True)
class Finding:
    """A span of characters `[start, end)` of a text, and its kind."""

    start: int
    end: int
    kind: str


def find(text: str) -> list[Finding]:
    """Secrets and addresses of a text, in order, not overlapping."""
    found = [Finding(start, end, "secret") for start, end in find_shapes(text)]
    found += [Finding(*each) for each in find_assigned(text)]
    found += [Finding(*each) for each in find_personal(text)]
    if "PRIVATE KEY" in text:
        keys = _PRIVATE_KEY.finditer(text)
        found += [Finding(*match.span(), "private key") for match in keys]
    return _disjoint(found)


def _disjoint(found):
    """Longer spans win over what overlaps them.

    What only looks like an address has begun in a secret: `w0rd@host` of a URL's password.
    """
    kept, end = [], 0
    for finding in sorted(found, key=lambda f: (f.start, -f.end)):
        if finding.start >= end:
            kept.append(finding)
            end = finding.end
        elif finding.end > end and finding.kind not in ADDRESSES:
            last = kept.pop()
            kept.append(Finding(last.start, finding.end, last.kind))
            end = finding.end
    return kept


def replace(text: str, findings: Iterable[Finding]) -> str:
    """The text with a typed placeholder for each finding.

    >>> replace("by a@b.org", find("by a@b.org"))
    'by <EMAIL>'
    """
    parts, place = [], 0
    for finding in findings:
        parts += [text[place : finding.start], PLACEHOLDERS[finding.kind]]
        place = finding.end
    return "".join(parts) + text[place:]


def clean_documents(
    documents: Iterable[Document], report: Report, *, mode: str = "replace"
) -> Iterator[Document]:
    """Replace secrets and addresses, or drop the files that hold any.

    Args:
        documents: any.
        report: counts each kind replaced, or each file dropped.
        mode: `"replace"`, `"drop"` (secrets drop the file; addresses are replaced), or
            `"keep"`.

    Raises:
        ValueError: another mode.
    """
    if mode not in ("replace", "drop", "keep"):
        raise ValueError(f"secrets mode {mode!r} must be replace, drop or keep.")
    for document in documents:
        findings = [] if mode == "keep" else find(document.text)
        if not findings:
            yield document
            continue
        hard = [f.kind for f in findings if f.kind not in ADDRESSES]
        if mode == "drop" and hard:
            report.drop(STEP, hard[0], document)
            continue
        name = f"{document.repo}:{document.path}"
        for finding in findings:
            report.count(STEP, f"{finding.kind} replaced", name=name)
        yield document.replace(text=replace(document.text, findings))
