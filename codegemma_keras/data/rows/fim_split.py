"""Where a file is cut for fill-in-the-middle, and into which kind of example.

The one place for both: `CodeGemmaFIMPreprocessor` and the data build call `example` with
the same settings, and the same text, path and seed give the same example in both.

    kind of span    what the middle is
    "character"     between two characters drawn anywhere (Bavarian et al. 2022)
    "short"         any characters, the length uniform in its logarithm
    "line"          one line or a few, whole or from within the first to the end; half
                    of the latter begin behind the indentation
    "block"         from a line to the end of the block of lines that it is in
    "syntax"        from any character to the end of a node of the syntax tree

A CRLF is never split, because an editor has no cursor there. Any part may be empty.

Left out: spans of tokens, which train much worse than spans of characters (there, section
5); and context from other files, which `examples` adds by joining the files of a repository.
"""

import dataclasses
import hashlib
import random
import re
from collections.abc import Sequence

import numpy as np

from codegemma_keras import fim
from codegemma_keras.data.document import Document, content_hash
from codegemma_keras.data.languages import parser

SPANS = ("character", "short", "line", "block", "syntax")
# Three quarters of the spans of lines are one line or less, three quarters of the others
# two, and so on: with fewer, stopping after a line is never the likeliest, and a small
# model that decodes greedily does not stop at all.
ANOTHER_LINE = 0.25


@dataclasses.dataclass(frozen=True)
class FimSettings:
    """How files become FIM examples. Defaults are those of CodeGemma's model card.

    What the shares of spans leave of 1 is cut between any two characters.

    Attributes:
        rate: share of pieces that are FIM; 0.8, and 0.9 for 2B v1.1.
        spm_share: of those, in SPM order.
        syntax_share: of those, with a suffix that starts where a node of the syntax tree
            ends ("a more syntactically natural point"). Where a language has no grammar
            here, the cut is between any two characters.
        line_share: of those, whole lines or the rest of a line, as an editor's cursor
            asks for them. Not in the paper: a small model that sees long middles only
            does not stop after a line.
        block_share: of those, from a line to the end of its block.
        short_share: of those, any characters, mostly few.
        path_share: share of all pieces that are rendered with their path. A file without a
            name is what an editor's new buffer is.
        shortest_piece: pieces of a file have a random number of tokens, from this share
            of the room in a row up to all of it. 1 makes them as long as they fit. Shorter
            pieces give more middles for the same tokens, and less context.
        spm_order: as in `fim.render`.
        seed: changes every choice.

    Examples:
        >>> FimSettings(rate=0.9, line_share=0.4).shares()["line"]
        0.4
    """

    rate: float = 0.8
    spm_share: float = 0.5
    syntax_share: float = 0.5
    line_share: float = 0.0
    block_share: float = 0.0
    short_share: float = 0.0
    path_share: float = 1.0
    shortest_piece: float = 1.0
    spm_order: str = "suffix_first"
    seed: int = 0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, float) and not 0 <= value <= 1:
                raise ValueError(f"{field.name}={value} must be between 0 and 1.")
        shares = self.shares()
        if sum(shares.values()) > 1 + 1e-9:
            listed = ", ".join(f"{kind}_share={x}" for kind, x in shares.items() if x)
            raise ValueError(
                f"{listed} are shares of the same pieces: they may add up to 1, and add "
                f"up to {sum(shares.values()):g}. Lower one."
            )
        if self.spm_order not in fim.SPM_ORDERS:
            raise ValueError(
                f"spm_order={self.spm_order!r} must be one of {fim.SPM_ORDERS}."
            )

    def shares(self) -> dict[str, float]:
        """The share of each kind of span but `"character"`, which has the rest."""
        return {
            "syntax": self.syntax_share,
            "line": self.line_share,
            "block": self.block_share,
            "short": self.short_share,
        }


@dataclasses.dataclass(frozen=True)
class Example:
    """A text as a training example.

    Attributes:
        parts: of `fim.render` or `fim.render_plain`.
        kind: `"psm"`, `"spm"` or `"plain"`.
        span: one of `SPANS`; `""` for plain text.
    """

    parts: fim.Parts
    kind: str
    span: str = ""


def document_rng(
    document: Document, settings: FimSettings, piece: int = 0, epoch: int = 0
) -> random.Random:
    """A generator seeded by the text and path, the seed, the piece and the epoch.

    So a file is cut alike in whatever order files come and on however many workers, and
    anew in every epoch.
    """
    digest = hashlib.blake2b(digest_size=16)
    digest.update(content_hash(document.text))
    name = f"\0{document.repo}\0{document.path}\0{settings.seed}\0{piece}"
    if epoch:
        name += f"\0{epoch}"
    digest.update(name.encode("utf-8", "surrogatepass"))
    return random.Random(int.from_bytes(digest.digest(), "little"))


def example(
    text: str,
    settings: FimSettings,
    rng,
    *,
    path: str | None = None,
    language: str = "",
) -> Example:
    """One text as an example: plain, or cut at random and rendered.

    Args:
        text: a file, or a piece of one.
        settings: rates and shares.
        rng: a `random.Random` or a `numpy.random.Generator`, as of `document_rng`.
        path: of the file, or None.
        language: for cuts that follow the syntax, as in `languages.LANGUAGES`.
    """
    is_fim = rng.random() < settings.rate
    mode = "spm" if rng.random() < settings.spm_share else "psm"
    draw = rng.random()
    if settings.path_share < 1 and rng.random() >= settings.path_share:
        path = None
    if not is_fim:
        return Example(fim.render_plain(text, path), "plain")
    span = "character"
    for kind, share in settings.shares().items():
        if draw < share:
            span = kind
            break
        draw -= share
    found = syntax_split(text, language, rng) if span == "syntax" else None
    if span == "syntax" and found is None:
        span = "character"
    prefix, middle, suffix = found or random_split(text, rng, span)
    parts = fim.render(
        prefix, suffix, middle, path=path, mode=mode, spm_order=settings.spm_order
    )
    return Example(parts, mode, span)


# Spans


def random_split(text: str, rng, span: str = "character") -> tuple[str, str, str]:
    """`(prefix, middle, suffix)` of a random span.

    Args:
        text: the file.
        rng: a `random.Random` or a `numpy.random.Generator`.
        span: one of `SPANS` but `"syntax"`, which needs a language: `syntax_split`.

    Raises:
        ValueError: another kind of span.
    """
    if span == "character":
        cuts = sorted(int(rng.random() * (len(text) + 1)) for _ in range(2))
    elif span == "short":
        size = min(int((len(text) + 1) ** rng.random()), len(text))
        start = int(rng.random() * (len(text) - size + 1))
        cuts = [start, start + size]
    elif span in ("line", "block"):
        cuts = _span_of_lines(text, rng, span)
    else:
        raise ValueError(f"span={span!r} must be one of {SPANS[:-1]}.")
    return fim.split_at(text, *(_not_in_a_line_end(text, cut) for cut in cuts))


def _not_in_a_line_end(text, cut):
    return cut - (text[cut - 1 : cut + 1] == "\r\n")


def _span_of_lines(text, rng, span):
    """`[start, end]` of whole lines, or from within a line to the end of the last.

    The first line is not blank. Whole lines take their line end with them; the rest of
    a line leaves it. Half of the rests begin behind the indentation, where an editor
    puts the cursor of a new line: a cut drawn anywhere is seldom there, and the tokens
    of such a prompt differ from those of a whole line.
    """
    lines = [match.span() for match in re.finditer(r"[^\n]*\n|[^\n]+", text)]
    used = [i for i, (start, end) in enumerate(lines) if not text[start:end].isspace()]
    if not used:
        return [0, 0]
    first = last = used[int(rng.random() * len(used))]
    if span == "block":
        last = _block_end(text, lines, first)
    else:
        while last + 1 < len(lines) and rng.random() < ANOTHER_LINE:
            last += 1
    start, end = lines[first][0], lines[last][1]
    draw = rng.random()
    if draw < 0.5:
        return [start, end]
    end = start + len(text[start:end].rstrip())
    if draw < 0.75:
        return [start + _indent(text, lines[first]), end]
    line = text[start : lines[first][1]].rstrip()
    return [start + int(rng.random() * (len(line) + 1)), end]


def _block_end(text, lines, first):
    """The last line of the block that begins at line `first`.

    A block ends before a line that is indented less, and at a blank line, unless the
    next line is indented more than the first. At the left margin it is one statement
    with its body.
    """
    depth = _indent(text, lines[first])
    last, blank = first, False
    for number in range(first + 1, len(lines)):
        found = _indent(text, lines[number])
        if found is None:
            blank = True
            continue
        if found < depth or (found == depth and (blank or not depth)):
            break
        last, blank = number, False
    return last


def _indent(text, line):
    """Characters of white space before a line's text; None if the line is blank."""
    content = text[slice(*line)]
    stripped = content.lstrip()
    return len(content) - len(stripped) if stripped else None


def syntax_split(text: str, language: str, rng) -> tuple[str, str, str] | None:
    """A split whose suffix starts at the end of a node of the syntax tree.

    The middle starts at a uniformly drawn character. It ends where one of the nodes
    around that character ends, drawn among them: the rest of the expression, statement,
    block or function. That is what a programmer is about to write at that place.

    Returns:
        `(prefix, middle, suffix)`, or None without a grammar or such a node.
    """
    parse = parser(language)
    if parse is None or not text:
        return None
    data = text.encode("utf-8", "surrogatepass")
    root = parse.parse(data).root_node
    for _ in range(8):  # The end of a file has nothing after it: draw again.
        start = _not_in_a_line_end(text, int(rng.random() * len(text)))
        offset = len(text[:start].encode("utf-8", "surrogatepass"))
        if ends := _node_ends(root, offset):
            end = ends[int(rng.random() * len(ends))]
            end = start + len(data[offset:end].decode("utf-8", "surrogatepass"))
            return fim.split_at(text, start, max(start, _not_in_a_line_end(text, end)))
    return None


def _node_ends(root, offset):
    """Where the nodes around a byte end, innermost first; between nodes, the next one."""
    node = root.descendant_for_byte_range(offset, offset)
    ends = []
    while node is not None and node.parent is not None:
        if node.is_named and node.end_byte > offset and not node.is_error:
            ends.append(node.end_byte)
        node = node.parent
    ends = ends or [n.end_byte for n in root.named_children if n.end_byte > offset][:1]
    return list(dict.fromkeys(ends))


# Weights


def target_weights(
    ids: Sequence[int],
    control_ids: dict[fim.Control, int],
    middle_weight: float = 1.0,
    rest_weight: float = 1.0,
) -> np.ndarray:
    """The weight of each id of a segment as a target of the loss.

    Args:
        ids: a segment: files with `FILE_SEPARATOR` between them, bos first, eos last.
        control_ids: as `PlainCodec.control_ids`.
        middle_weight: of a middle and of the token that ends it, by which a model learns
            to stop. Other targets keep their weight, so 2 makes a middle count twice. In
            SPM order `"bavarian"` the prefix stands behind `<middle>` and counts, too.
        rest_weight: of the path, the prefix and the suffix of a file with a middle.

    Returns:
        float32 `[len(ids)]`; 1 in files without a middle.
    """
    ids = np.asarray(ids)
    weights = np.ones(len(ids), np.float32)
    ends = {control_ids[name] for name in (fim.FILE_SEPARATOR, fim.END)}
    borders = [i for i, token in enumerate(ids.tolist()) if token in ends]
    start = 0
    for border in [*borders, len(ids) - 1]:
        found = np.flatnonzero(ids[start : border + 1] == control_ids[fim.MIDDLE])
        if len(found):
            middle = start + int(found[0]) + 1
            weights[start:middle] = rest_weight
            weights[middle : border + 1] = middle_weight
        start = border + 1
    return weights
