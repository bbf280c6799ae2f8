"""From ordered files to token sequences: FIM per file, in the context of its repository.

    files in order -> pieces that fit -> FIM (`fim_split`) -> tokens -> segments

A segment is what one row of training may hold of a repository (see `batches`):

    <bos> path↵<prefix>..<suffix>..<middle>.. <|file_separator|> path↵... <eos>

FIM is applied to each file before the files are joined, never across a file border
(context-level FIM, Bavarian et al. 2022, section 4.3). A file longer than a row is cut
at line ends *before* FIM, so a middle and the token that ends it are never truncated.
Every random choice is drawn from a hash of the document and a seed: the result depends
neither on workers nor on order.
"""

import dataclasses
import random
from collections.abc import Callable, Iterable, Iterator, Sequence

from codegemma_keras import fim
from codegemma_keras.batches import PackedBatch, pack, plan_rows
from codegemma_keras.data.document import Document
from codegemma_keras.data.rows.fim_split import FimSettings, document_rng, example

# Tokens of text that must fit beside the path and the sentinels.
LEAST_ROOM = 8


@dataclasses.dataclass(frozen=True)
class Piece:
    """A file, or a part of a long one, as tokens without bos and end.

    Attributes:
        token_ids: list of int.
        kind: `"psm"`, `"spm"` or `"plain"`.
        span: one of `fim_split.SPANS`, or `""`.
    """

    token_ids: list[int]
    kind: str
    span: str = ""


def encode_document(
    document: Document,
    encode: Callable[[fim.Parts], Sequence[int]],
    settings: FimSettings,
    limit: int,
    epoch: int = 0,
) -> Iterator[Piece]:
    """The pieces of a document in order, each of at most `limit` tokens.

    Args:
        document: a file; one with an empty path is rendered without.
        encode: `tokenizer.encode`.
        settings: of FIM.
        limit: tokens of a piece.
        epoch: other numbers give other cuts for fill-in-the-middle.

    Raises:
        ValueError: the path and the sentinels leave no room for text.
    """
    path = document.path or None
    if not fits(path, encode, limit):
        raise ValueError(
            f"A row of {limit + 1} tokens cannot hold {document.path!r:.80} and text. "
            "Make rows longer."
        )
    overhead = _overhead(path, encode)
    number, rest, density = 0, document.text, None  # density: tokens a character
    while rest or not number:
        target = _target(document, settings, limit, overhead, number)
        if density is None and len(rest) > 4 * limit:
            # Too long, in all likelihood: a look at its start saves encoding it twice.
            density = len(encode([rest[: 2 * limit]])) / (2 * limit)
        text = rest
        # Where the estimate is wrong by less, cutting would make two short pieces of one.
        if density and overhead + len(rest) * density > 1.1 * target:
            text = _first(rest, target - overhead, density)
        while True:
            rng = document_rng(document, settings, number, epoch)
            made = example(text, settings, rng, path=path, language=document.language)
            token_ids = list(encode(made.parts))
            density = max(1, len(token_ids) - overhead) / max(1, len(text))
            if len(token_ids) <= target:
                break
            text = _first(text, target - overhead, density)
        yield Piece(token_ids, made.kind, made.span)
        number, rest = number + 1, rest[len(text) :]


def _first(text, room, density):
    """The start of a text, as much as fills a room of tokens by estimate; never all."""
    place = int(0.95 * room / density)
    return cut(text, min(max(place, 1), len(text) - 1))[0]


def fits(path: str | None, encode, limit: int) -> bool:
    """Whether a piece of `limit` tokens has room for text beside its path."""
    return _overhead(path, encode) + LEAST_ROOM <= limit


def _overhead(path, encode):
    return len(encode(fim.render("", "", "", path=path)))


def _target(document, settings, limit, overhead, number):
    """Tokens of the document's piece `number`; at most `limit`."""
    if settings.shortest_piece >= 1:
        return limit
    # A generator of its own: the other choices stay as they are.
    draw = document_rng(document, settings, -1 - number).random()
    share = settings.shortest_piece + draw * (1 - settings.shortest_piece)
    return max(overhead + LEAST_ROOM, int(share * limit))


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
        kinds: `kind` or `kind/span` of each piece.
    """

    token_ids: list[int]
    paths: tuple[str, ...]
    kinds: tuple[str, ...]


def chunk_repository(
    documents: Iterable[Document],
    codec,
    settings: FimSettings,
    length: int,
    *,
    join: bool = True,
) -> Iterator[Chunk]:
    """The segments of a repository, in order, each of at most `length + 1` tokens.

    The last token of a segment is only a target, so a segment takes at most `length`
    places of a row. Pieces follow each other while they fit; a repository that fits in
    one row is one segment.

    Args:
        documents: of one repository, in order.
        codec: has `encode(parts)`.
        settings: of FIM.
        length: T, places of a row.
        join: False makes each piece a segment of its own.
    """
    (bos,), (eos,) = codec.encode([fim.START]), codec.encode([fim.END])
    (separator,) = codec.encode([fim.FILE_SEPARATOR])
    ids, paths, kinds = [], [], []
    for document in documents:
        for piece in encode_document(document, codec.encode, settings, length - 1):
            # bos or separator before each piece, eos at the end.
            if ids and (not join or len(ids) + 1 + len(piece.token_ids) > length):
                yield Chunk([*ids, eos], tuple(paths), tuple(kinds))
                ids, paths, kinds = [], [], []
            ids += [separator if ids else bos, *piece.token_ids]
            paths.append(document.path)
            kinds.append("/".join(filter(None, (piece.kind, piece.span))))
    if ids:
        yield Chunk([*ids, eos], tuple(paths), tuple(kinds))


def packed_files(
    documents: Iterable[Document],
    codec,
    settings: FimSettings,
    length: int,
    tokens: int,
) -> PackedBatch:
    """Packed rows of about `tokens` places, each piece of a file a segment of its own.

    Rows in memory, for small runs; `data.build` makes those of a corpus.

    Args:
        documents: read as far as they are needed.
        codec: has `encode(parts)`.
        settings: of FIM; its seed also shuffles the rows.
        length: T, places of a row.
        tokens: places of all rows together, padding included.
    """
    segments, total = [], 0
    for document in documents:
        for chunk in chunk_repository([document], codec, settings, length, join=False):
            segments.append(chunk.token_ids)
            total += len(chunk.token_ids) - 1
        if total > tokens:
            break
    rows = plan_rows([len(segment) - 1 for segment in segments], length)
    random.Random(settings.seed).shuffle(rows)
    return pack(segments, length, rows=rows)


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
