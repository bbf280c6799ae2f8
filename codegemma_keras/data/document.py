"""What flows through the pipeline, and the count of what does not.

A step is a function `Iterator[Document] -> Iterator[Document]` that takes a `Report` and
calls `report.drop` for every document it does not pass on. Nothing disappears uncounted.

Left out: a scheduler and a base class of steps. Plain generators compose by calling.
"""

import dataclasses
import hashlib
import importlib
import json
import re
from collections.abc import Iterable, Iterator

# A source file beyond 1 MB is data: a table, or generated.
MAX_FILE_BYTES = 1_000_000
# Names kept per reason in the summary; the full list is streamed to `Report.sink`.
EXAMPLES = 5


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
    r"""One file of one repository.

    Attributes:
        text: str, the contents.
        path: str, with `/`, relative to the repository.
        repo: str, name of the repository; files of one repository are packed together.
        licence: str, SPDX identifier where known, else `""`.
        language: str as in `languages.LANGUAGES`, or `""`.
        metadata: dict of JSON values; where the file came from.

    Examples:
        >>> Document("import os\n", "tools/a.py", repo="mine").key
        ('mine', 'tools/a.py')
    """

    text: str
    path: str
    repo: str = ""
    licence: str = ""
    language: str = ""
    metadata: dict = dataclasses.field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str]:
        """`(repo, path)`: the order in which everything is decided."""
        return self.repo, self.path

    def replace(self, **changes) -> "Document":
        return dataclasses.replace(self, **changes)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, line: str | bytes) -> "Document":
        return cls(**json.loads(line))


def content_hash(text: str) -> bytes:
    """16 bytes of BLAKE2b over the text; every random choice derives from it."""
    return hashlib.blake2b(
        text.encode("utf-8", "surrogatepass"), digest_size=16
    ).digest()


# Control characters, marks that turn the direction of writing, halves of surrogate pairs.
_UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
MAX_SHOWN = 400  # characters of a name in a report


def printable(text: str, limit: int = MAX_SHOWN) -> str:
    """A name as any file and any terminal can hold it: escaped, and cut in its middle.

    >>> printable("a\\nb\\x1b[2J")
    'a\\\\nb\\\\x1b[2J'
    """
    if len(text) > limit:
        text = f"{text[: limit // 2]}...{text[-limit // 2 :]}"
    return _UNPRINTABLE.sub(lambda match: ascii(match[0])[1:-1], text)


def text_bytes(text: str) -> int:
    """Size in bytes as UTF-8."""
    return len(text.encode("utf-8", "surrogatepass"))


class Report:
    """Counts under `(step, reason)`, in documents and bytes, with a few names each.

    Merging is commutative, so workers may finish in any order.

    Args:
        sink: called with one dict per dropped document, for a full list; may be None.

    Examples:
        >>> report = Report()
        >>> report.drop("filter", "too large", "a.py", size=2_000_000)
        >>> report.counts
        {('filter', 'too large'): [1, 2000000]}
    """

    def __init__(self, sink=None):
        self.counts: dict[tuple[str, str], list[int]] = {}
        self.examples: dict[tuple[str, str], list[str]] = {}
        self.sink = sink

    def drop(
        self, step: str, reason: str, name, size: int = 0, detail: str = "", **fields
    ):
        """Count one document that goes no further.

        Args:
            step: the step's name.
            reason: why, a few words; the key of the count.
            name: a `Document`, or a str such as a path.
            size: bytes; taken from a `Document`.
            detail: what a reader would want to know of this one.
            **fields: JSON values for the sink's entry, such as the duplicate's similarity.
        """
        if isinstance(name, Document):
            size = size or text_bytes(name.text)
            name = f"{name.repo}:{name.path}"
        name = printable(str(name))
        self.count(step, reason, size=size, name=name)
        if self.sink:
            entry = {"step": step, "reason": reason, "name": name, "bytes": size}
            self.sink(entry | ({"detail": detail} if detail else {}) | fields)

    def count(self, step: str, reason: str, number=1, size=0, name: str = ""):
        """Count something that happened and dropped nothing, such as a replacement."""
        key = step, reason
        entry = self.counts.setdefault(key, [0, 0])
        entry[0] += number
        entry[1] += size
        if name:
            self._add_examples(key, [printable(name)])

    def _add_examples(self, key, names):
        # The smallest names, so that the order of arrival does not matter.
        kept = sorted({*self.examples.get(key, ()), *names})
        self.examples[key] = kept[:EXAMPLES]

    def merge(self, other: "Report") -> "Report":
        for key, (number, size) in other.counts.items():
            self.count(*key, number=number, size=size)
            self._add_examples(key, other.examples.get(key, ()))
        return self

    def number(self, step: str, reason: str) -> int:
        return self.counts.get((step, reason), (0, 0))[0]

    def to_json(self) -> list[dict]:
        return [
            {
                "step": step,
                "reason": reason,
                "documents": number,
                "bytes": size,
                "examples": self.examples.get((step, reason), []),
            }
            for (step, reason), (number, size) in sorted(self.counts.items())
        ]

    @classmethod
    def from_json(cls, rows: Iterable[dict]) -> "Report":
        report = cls()
        for row in rows:
            key = row["step"], row["reason"]
            report.counts[key] = [row["documents"], row["bytes"]]
            report.examples[key] = list(row["examples"])
        return report


def watch(
    documents: Iterable[Document], report: Report, step: str
) -> Iterator[Document]:
    """Pass documents on and count them as `(step, "in")`."""
    for document in documents:
        report.count(step, "in", size=text_bytes(document.text))
        yield document


def require(module: str, extra: str = "data"):
    """Import a library of an extra, or say how to get it.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{module} is needed here and not installed ({error}). "
            f'Run: pip install "codegemma-keras[{extra}]"'
        ) from error
