"""From ordered files to token sequences: FIM per file, in the context of its repository.

    files in order -> pieces that fit -> FIM -> tokens -> chunks of whole pieces

A chunk is what one row of training may hold of a repository, and one segment of it:

    <bos> path↵<prefix>..<suffix>..<middle>.. <|file_separator|> path↵... <eos>

FIM is applied to each file before the files are joined, never across a file border
(context-level FIM, Bavarian et al. 2022, section 4.3). A file longer than a row is cut
at line ends *before* FIM, so a middle and the token that ends it are never truncated.
Every random choice is drawn from a hash of the document and a seed: the result depends
neither on workers nor on order.

Left out: token-level spans (see `fim`).
"""

import dataclasses
import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence

from codegemma_keras import fim
from codegemma_keras.data.document import Document, content_hash
from codegemma_keras.data.languages import parser

SPLITS = ("character", "syntax", "line")


@dataclasses.dataclass(frozen=True)
class FimSettings:
    """How files become FIM examples. Defaults are those of CodeGemma's model card.

    Attributes:
        rate: share of pieces that are FIM; 0.8, and 0.9 for 2B v1.1.
        spm_share: of those, in SPM order.
        syntax_share: of those, split so that the suffix starts where a node of the syntax
            tree does ("a more syntactically natural point").
        line_share: of those, split as an editor's cursor asks: whole lines or the rest of
            one, and short spans (`fim.random_split`, `"lines"`); what is left of the
            shares is split at any two characters. Not in the paper: a small model that
            sees long middles only does not stop after a line.
        spm_order: as in `fim.render`.
        seed: changes every choice.
    """

    rate: float = 0.8
    spm_share: float = 0.5
    syntax_share: float = 0.5
    line_share: float = 0.0
    spm_order: str = "suffix_first"
    seed: int = 0

    def __post_init__(self):
        for name in ("rate", "spm_share", "syntax_share", "line_share"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value} must be between 0 and 1.")
        if self.syntax_share + self.line_share > 1:
            raise ValueError(
                f"syntax_share={self.syntax_share} and line_share={self.line_share} are "
                "shares of the same pieces: lower one, they may add up to 1."
            )
        if self.spm_order not in fim.SPM_ORDERS:
            raise ValueError(
                f"spm_order={self.spm_order!r} must be one of {fim.SPM_ORDERS}."
            )


@dataclasses.dataclass(frozen=True)
class Piece:
    """A file, or a part of a long one, as tokens without bos and end.

    Attributes:
        token_ids: list of int.
        kind: `"psm"`, `"spm"` or `"plain"`.
        split: one of `SPLITS`, or `""`.
    """

    token_ids: list[int]
    kind: str
    split: str = ""


def document_rng(document: Document, settings: FimSettings, piece: int = 0):
    """A `random.Random` of the document's text and path, the seed and the piece."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(content_hash(document.text))
    name = f"\0{document.repo}\0{document.path}\0{settings.seed}\0{piece}"
    digest.update(name.encode("utf-8", "surrogatepass"))
    return random.Random(int.from_bytes(digest.digest(), "little"))


def syntax_split(text: str, language: str, rng) -> tuple[str, str, str] | None:
    """A split whose suffix starts at the end of a node of the syntax tree.

    The middle starts at a uniformly drawn character, as in `fim.random_split`. It ends
    where one of the nodes around that character ends, drawn among them: the rest of the
    expression, statement, block or function. That is what a programmer is about to
    write at that place.

    Returns:
        `(prefix, middle, suffix)`, or None without a grammar or such a node.
    """
    parse = parser(language)
    if parse is None or not text:
        return None
    data = text.encode("utf-8", "surrogatepass")
    root = parse.parse(data).root_node
    for _ in range(8):  # The end of a file has nothing after it: draw again.
        start = int(rng.random() * len(text))
        start -= text[start - 1 : start + 1] == "\r\n"
        offset = len(text[:start].encode("utf-8", "surrogatepass"))
        if ends := _node_ends(root, offset):
            end = ends[int(rng.random() * len(ends))]
            end = start + len(data[offset:end].decode("utf-8", "surrogatepass"))
            end -= text[end - 1 : end + 1] == "\r\n"
            return fim.split_at(text, start, max(start, end))
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


def render_piece(
    document: Document, text: str, settings: FimSettings, piece: int = 0
) -> tuple[fim.Parts, str, str]:
    """One piece as parts.

    Returns:
        `(parts, kind, split)` as in `Piece`.
    """
    rng = document_rng(document, settings, piece)
    is_fim = rng.random() < settings.rate
    mode = "spm" if rng.random() < settings.spm_share else "psm"
    share = rng.random()
    if not is_fim:
        return fim.render_plain(text, document.path), "plain", ""
    by_syntax = share < settings.syntax_share
    by_line = not by_syntax and share < settings.syntax_share + settings.line_share
    found = syntax_split(text, document.language, rng) if by_syntax else None
    split = "syntax" if found else "line" if by_line else "character"
    lengths = "lines" if by_line else "uniform"
    prefix, middle, suffix = found or fim.random_split(text, rng, lengths)
    parts = fim.render(
        prefix,
        suffix,
        middle,
        path=document.path,
        mode=mode,
        spm_order=settings.spm_order,
    )
    return parts, mode, split


def encode_document(
    document: Document,
    encode: Callable[[fim.Parts], Sequence[int]],
    settings: FimSettings,
    limit: int,
) -> Iterator[Piece]:
    """The pieces of a document, each of at most `limit` tokens.

    Args:
        document: a file.
        encode: `tokenizer.encode`.
        settings: of FIM.
        limit: tokens of a piece.

    Raises:
        ValueError: the path and the sentinels alone fill `limit`.
    """
    overhead = len(encode(fim.render("", "", "", path=document.path)))
    if overhead + 8 > limit:
        raise ValueError(
            f"A row of {limit + 2} tokens cannot hold {document.path!r:.80} and text. "
            "Make rows longer."
        )
    number, waiting, density = 0, [document.text], None
    while waiting:
        text = waiting.pop()
        if density is None and len(text) > 4 * limit:
            # Too long, in all likelihood: a look at its start saves encoding it twice.
            density = len(encode([text[: 2 * limit]])) / (2 * limit)
        # Where the estimate is wrong by less, cutting would make two short pieces of one.
        if density is None or len(text) * density < 1.1 * limit:
            parts, kind, split = render_piece(document, text, settings, number)
            token_ids = list(encode(parts))
            density = len(token_ids) / max(1, len(text))
            if len(token_ids) <= limit:
                yield Piece(token_ids, kind, split)
                number += 1
                continue
        place = int(0.95 * (limit - overhead) / density)
        first, rest = cut(text, min(max(place, 1), len(text) - 1))
        waiting += [rest, first]


def cut(text: str, place: int) -> tuple[str, str]:
    """Cut near `place` characters: after a line end in the second half before it, else there.

    Both parts are not empty; a CRLF stays whole.
    """
    place = min(max(place, 1), len(text) - 1)
    newline = text.rfind("\n", place // 2, place)
    if newline >= 0:
        place = newline + 1
    elif text[place - 1 : place + 1] == "\r\n":
        place += 1 if place + 1 < len(text) else -1
    place = min(max(place, 1), len(text) - 1)
    return text[:place], text[place:]


@dataclasses.dataclass(frozen=True)
class Chunk:
    """One segment: whole pieces of one repository, bos first, eos last.

    Attributes:
        token_ids: list of int.
        paths: of the pieces.
        kinds: `kind` or `kind/split` of each piece.
    """

    token_ids: list[int]
    paths: tuple[str, ...]
    kinds: tuple[str, ...]


def chunk_repository(
    documents: Iterable[Document],
    codec,
    settings: FimSettings,
    length: int,
) -> Iterator[Chunk]:
    """The segments of a repository, in order, each of at most `length` tokens.

    Pieces follow each other while they fit; a repository that fits in one row is one
    segment.

    Args:
        documents: of one repository, in order.
        codec: has `encode(parts)`.
        settings: of FIM.
        length: tokens of a row.
    """
    (bos,), (eos,) = codec.encode([fim.START]), codec.encode([fim.END])
    (separator,) = codec.encode([fim.FILE_SEPARATOR])
    ids, paths, kinds = [], [], []
    for document in documents:
        for piece in encode_document(document, codec.encode, settings, length - 2):
            # bos or separator before each piece, eos at the end.
            if ids and len(ids) + 2 + len(piece.token_ids) > length:
                yield Chunk([*ids, eos], tuple(paths), tuple(kinds))
                ids, paths, kinds = [], [], []
            ids += [separator if ids else bos, *piece.token_ids]
            paths.append(document.path)
            kinds.append("/".join(filter(None, (piece.kind, piece.split))))
    if ids:
        yield Chunk([*ids, eos], tuple(paths), tuple(kinds))


# Back again


def read_segment(parts: Iterable[str | fim.Control], spm_order: str = "suffix_first"):
    """`(path, text)` of the pieces of a segment, the inverse of `chunk_repository`.

    Args:
        parts: `tokenizer.decode_parts` of one segment.
        spm_order: as it was rendered; `"bavarian"` cannot be read back from tokens.
    """
    piece = []
    for part in [*parts, fim.END]:
        if part in (fim.START, fim.PAD):
            continue
        if part not in (fim.FILE_SEPARATOR, fim.END):
            piece.append(part)
            continue
        if piece and any(isinstance(p, fim.Control) for p in piece):
            # A middle may be empty: its end says that it is one.
            found = fim.parse([*piece, fim.END], spm_order)
            yield found.path, found.prefix + (found.middle or "") + found.suffix
        elif piece:
            path, _, text = "".join(piece).partition("\n")
            yield path, text
        piece = []
