"""The file of a SentencePiece model, as far as this package changes it: its pieces.

The file is a protobuf message: one field per piece, in the order of ids, then the
settings of the trainer and the normaliser, which are copied as they are. Read and
written here by hand, since SentencePiece's generated module does not load beside older
versions of protobuf, nor beside another library's copy of the same message.

    message ModelProto { repeated SentencePiece pieces = 1; ... }
    message SentencePiece { string piece = 1; float score = 2; Type type = 3; }
"""

import struct
from collections.abc import Iterable, Iterator, Mapping

SPACE = "▁"  # U+2581, how pieces spell a space
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5  # wire types

Piece = tuple[str, float, int]


def pieces(proto: bytes) -> Iterator[Piece]:
    """Each piece as `(name, score, type)`, in the order of ids.

    Raises:
        ValueError: not a SentencePiece model, or a truncated one.
    """
    for _, _, piece in _spans(proto):
        yield piece


def bytes_of(proto: bytes) -> list[bytes]:
    """The bytes of each id; control pieces stand for their names here."""
    return [
        bytes([int(name[3:5], 16)])
        if kind == BYTE
        else name.replace(SPACE, " ").encode()
        for name, _, kind in pieces(proto)
    ]


def misplaced_merge(
    proto: bytes, merges: Iterable[tuple[str, str]]
) -> tuple[str, str] | str | None:
    """The first of `merges` that the model makes at another time, if there is one.

    The model joins the two pieces of which the whole has the highest score. So merges of
    ordinary pieces fall in score, and each piece that two others spell has one.

    Args:
        proto: a BPE model.
        merges: those of another file with the same pieces, most important first.

    Returns:
        The merge; or the name of a piece that has none; or None.
    """
    scores = {name: score for name, score, kind in pieces(proto) if kind == NORMAL}
    made, last = set(), float("inf")
    for first, second in merges:
        score = scores.get(first + second)
        if score is None:
            continue
        if score > last:
            return first, second
        made.add(first + second)
        last = score
    for name in scores.keys() - made:
        if any(name[:i] in scores and name[i:] in scores for i in range(1, len(name))):
            return name
    return None


def rewrite(
    proto: bytes,
    names: Mapping[int, str] | None = None,
    types: Mapping[int, int] | None = None,
) -> bytes:
    """The model with other names and types for the pieces of some ids."""
    names, types = names or {}, types or {}
    last = max([*names, *types], default=-1)
    out, done = [], 0
    for place, (start, end, (name, score, kind)) in enumerate(_spans(proto)):
        if place > last:
            break
        if place in names or place in types:
            piece = names.get(place, name), score, types.get(place, kind)
            out += [proto[done:start], _piece_field(piece)]
            done = end
    return b"".join([*out, proto[done:]])


def replace(proto: bytes, new: Iterable[Piece]) -> bytes:
    """The model with all its pieces exchanged for `new`, its settings kept."""
    out, done = [_piece_field(piece) for piece in new], 0
    for start, end, _ in _spans(proto):
        out.append(proto[done:start])
        done = end
    return b"".join([*out, proto[done:]])


def make(pieces: Iterable[Piece], ids: Mapping[str, int]) -> bytes:
    """A BPE model of these pieces, with the settings of Gemma's.

    Byte fallback, the identity normaliser, no dummy prefix, white space kept.

    Args:
        pieces: in the order of ids.
        ids: of "unknown", "bos", "eos" and "padding"; -1 where there is none.
    """
    trainer = {3: 2, 35: 1}  # model_type BPE, byte_fallback
    names = ("unknown", "bos", "eos", "padding")
    trainer |= {40 + i: ids[name] for i, name in enumerate(names)}
    trainer = b"".join(
        _key(number, _VARINT) + _varint(value % 2**64)
        for number, value in trainer.items()
    )
    normalizer = _key(1, _LENGTH) + _varint(8) + b"identity"
    # add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces
    for number, value in ((3, 0), (4, 0), (5, 1)):
        normalizer += _key(number, _VARINT) + _varint(value)
    settings = b""
    for number, message in ((2, trainer), (3, normalizer)):
        settings += _key(number, _LENGTH) + _varint(len(message)) + message
    return b"".join([*map(_piece_field, pieces), settings])


def with_added_tokens(proto: bytes, added: Mapping[int, str], file: str) -> bytes:
    """The model with tokens that a folder lists beside it.

    New ones become control pieces, which text never is encoded to. A placeholder such
    as `<unused60>` takes the listed name.

    Args:
        proto: the model.
        added: id -> token.
        file: of the list, for messages.

    Raises:
        ValueError: an id is another piece in the model, or ids are left out.
    """
    own = list(pieces(proto))
    names, new = {}, []
    for i, token in sorted(added.items()):
        if i == len(own) + len(new):
            new.append((token, 0.0, CONTROL))
        elif i > len(own):
            raise ValueError(
                f"{file} has a token of id {i}, and none of id {len(own) + len(new)}."
            )
        elif not _same(own[i], token):
            if not own[i][0].startswith("<unused"):
                raise ValueError(
                    f"{file} says that id {i} is {token!r:.60}; in the SentencePiece "
                    f"model it is {own[i][0]!r:.60}. They are of two vocabularies."
                )
            names[i] = token
    proto = rewrite(proto, names=names)
    return replace(proto, [*pieces(proto), *new]) if new else proto


def _same(piece, token):
    name, _, kind = piece
    if kind == BYTE:  # The real vocabulary lists the tab as itself.
        return token in (name, chr(int(name[3:5], 16)))
    return token.replace(" ", SPACE) == name


def _piece_field(piece):
    name, score, kind = piece
    name = name.encode()
    message = _key(1, _LENGTH) + _varint(len(name)) + name
    message += _key(2, _FIXED32) + struct.pack("<f", score)
    message += _key(3, _VARINT) + _varint(kind)
    return _key(1, _LENGTH) + _varint(len(message)) + message


def _spans(proto):
    """Each piece as `(start, end, piece)`: its field is `proto[start:end]`."""
    try:
        for number, value, start, end in _fields(proto):
            if number == 1:
                piece = {field: value for field, value, _, _ in _fields(value)}
                (score,) = struct.unpack("<f", piece.get(2, bytes(4)))
                yield start, end, (piece[1].decode(), score, piece.get(3, NORMAL))
    except (AttributeError, IndexError, KeyError, TypeError, struct.error) as error:
        raise ValueError(
            f"These {len(proto)} bytes are no valid SentencePiece model; they may be "
            "truncated. Fetch the file again."
        ) from error


def _fields(message):
    """Each field of a message as `(number, value, start, end)`."""
    place = 0
    while place < len(message):
        start = place
        key, place = _read_varint(message, place)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, place = _read_varint(message, place)
        else:
            if wire == _LENGTH:
                size, place = _read_varint(message, place)
            else:
                size = {_FIXED64: 8, _FIXED32: 4}[wire]
            if place + size > len(message):
                raise IndexError(place + size)
            value = message[place : place + size]
            place += size
        yield number, value, start, place


def _read_varint(message, place):
    value = shift = 0
    while shift < 70:  # A varint has at most ten bytes.
        byte = message[place]
        place += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, place
    raise IndexError(place)


def _varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _key(number, wire):
    return _varint(number << 3 | wire)
