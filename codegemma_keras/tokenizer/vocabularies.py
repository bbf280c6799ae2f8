"""Vocabularies of both kinds of file, behind one face that `PlainCodec` uses.

Each has the pieces, the bytes they stand for and the control tokens, and encodes text
in two ways: `encode` never finds a control token in it, `encode_raw` does.

Left out: sampling of segmentations, and offsets into the text.
"""

import functools
import itertools
import json
import re
from collections.abc import Iterable

import numpy as np
import sentencepiece

from codegemma_keras import chat, fim
from codegemma_keras.formats import sentencepiece_model, tokenizer_json
from codegemma_keras.formats.sentencepiece_model import SPACE

# Attribute of the tokenizer -> the piece; `<attribute>_id` is its id.
SPECIAL_TOKENS = {
    "pad_token": fim.PAD,
    "end_token": fim.END,
    "start_token": fim.START,
    "fim_prefix": fim.PREFIX,
    "fim_middle": fim.MIDDLE,
    "fim_suffix": fim.SUFFIX,
    "file_separator": fim.FILE_SEPARATOR,
    "start_of_turn": chat.START_OF_TURN,
    "end_of_turn": chat.END_OF_TURN,
}
# What some checkpoints still call the sentinels, ids 67 to 70.
OLD_NAMES = {
    "<unused60>": str(fim.PREFIX),
    "<unused61>": str(fim.MIDDLE),
    "<unused62>": str(fim.SUFFIX),
    "<unused63>": str(fim.FILE_SEPARATOR),
}
# What is encoded byte by byte: halves of surrogate pairs stand for bytes that are not
# UTF-8, and SentencePiece's sign for a space is a space to it.
_BYTES = re.compile("[\ud800-\udfff]+")
_BYTES_AND_SPACE = re.compile(f"[{SPACE}\ud800-\udfff]+")
# Where a whole word may be taken as a piece, the name of a byte's piece is no word.
_BYTES_AND_NAMES = re.compile(f"(?:[{SPACE}\ud800-\udfff]|<0x[0-9A-F]{{2}}>)+")


class SentencePieceVocabulary:
    """A SentencePiece model.

    It encodes with a copy of the model in which the control pieces have the type CONTROL,
    which SentencePiece never finds in text.

    Attributes:
        pieces: the name of each id.
        bytes_of: the bytes of each id; control tokens have some here, too.
        byte_ids: byte -> the id that stands for it alone.
        controls: ids of control tokens.
        by_bytes: pattern of text that must be encoded byte by byte.

    Raises:
        ValueError: no valid model.
    """

    by_bytes = _BYTES_AND_SPACE

    def __init__(self, proto: bytes):
        try:
            if not proto:
                raise RuntimeError("no bytes")
            model = sentencepiece.SentencePieceProcessor(model_proto=proto)
        except RuntimeError as error:
            raise ValueError(
                f"These {len(proto)} bytes are no valid SentencePiece model; they may be "
                "truncated. Fetch the file again."
            ) from error
        ids = list(range(model.vocab_size()))
        self.pieces = model.id_to_piece(ids)
        self.unknown = model.unk_id()
        self.controls = {
            i for i, control in enumerate(model.is_control(ids)) if control
        } | {self.unknown}
        self.controls |= _named(self.pieces)
        self.bytes_of = [piece.replace(SPACE, " ").encode() for piece in self.pieces]
        self.byte_ids = {}
        for i, is_byte in enumerate(model.is_byte(ids)):
            if is_byte:
                value = int(self.pieces[i][3:5], 16)  # <0x0A>
                self.bytes_of[i] = bytes([value])
                self.byte_ids[value] = i
        # Unknown is never found in text as it is.
        types = dict.fromkeys(
            self.controls - {self.unknown}, sentencepiece_model.CONTROL
        )
        self._raw = model
        self._plain = sentencepiece.SentencePieceProcessor(
            model_proto=sentencepiece_model.rewrite(proto, types=types)
        )

    def encode(self, text: str) -> list[int]:
        """Ids of a text, none of them a control token."""
        return self._plain.encode(text)

    def encode_raw(self, text: str) -> list[int]:
        """Ids of a text in which the name of a control token becomes the token."""
        return self._raw.encode(text)

    def missing_pieces(self) -> list[int]:
        """Ids before which the scores of a BPE vocabulary skip a piece.

        Its pieces were learnt one after the other, with scores 0, -1, -2 and so on.
        """
        ids = [
            i
            for i in range(len(self.pieces))
            if self._raw.get_score(i) and i not in self.controls
        ]
        scores = [self._raw.get_score(i) for i in ids]
        steps = [before - score for before, score in itertools.pairwise(scores)]
        if steps.count(1) < 0.9 * len(steps):
            return []
        return [i for i, step in zip(ids[1:], steps, strict=True) if step > 1]


class JsonVocabulary:
    """A tokenizer.json; attributes and methods as of `SentencePieceVocabulary`.

    Text is encoded without the control tokens: neither their names nor what leads to them
    is in that model. The names that this package gives a meaning are special where the file
    does not say so.
    """

    def __init__(self, proto: bytes):
        names = [str(name) for name in SPECIAL_TOKENS.values()]
        settings = tokenizer_json.read(tokenizer_json.rewrite(proto, {}, names))
        self._settings = settings = tokenizer_json.for_text(settings)
        model = settings["model"]
        self.pieces = tokenizer_json.names(settings)
        self.unknown = model["vocab"].get(model.get("unk_token"))
        self.controls = set(tokenizer_json.special_ids(settings)) | _named(self.pieces)
        self.bytes_of = tokenizer_json.bytes_of(settings)
        self.byte_ids = tokenizer_json.byte_ids(settings)
        self.by_bytes = _BYTES_AND_SPACE
        if tokenizer_json.spells_bytes(settings):
            self.by_bytes = _BYTES
        elif model.get("ignore_merges"):
            self.by_bytes = _BYTES_AND_NAMES
        self._plain = _tokenizer(tokenizer_json.without(settings, self.controls))
        self._check_added()

    def _check_added(self):
        """Refuse added tokens to which the library gives other ids than the file says.

        It numbers those that the model lacks one after the other.
        """
        known = self._settings["model"]["vocab"]
        for token in self._settings["added_tokens"]:
            name, i = token["content"], token["id"]
            if name not in known and (found := self._raw.token_to_id(name)) != i:
                raise ValueError(
                    f"tokenizer.json gives the added token {name!r:.60} the id {i}, and "
                    f"`tokenizers` reads it as {found}: ids before it are missing. Fetch "
                    "the file again."
                )

    @functools.cached_property
    def _raw(self):
        return _tokenizer(self._settings)

    def encode(self, text: str) -> list[int]:
        return self._plain.encode(text, add_special_tokens=False).ids

    def encode_raw(self, text: str) -> list[int]:
        return self._raw.encode(text, add_special_tokens=False).ids

    def missing_pieces(self) -> list[int]:
        """None: each piece stands beside its id."""
        return []


def _tokenizer(settings):
    import tokenizers  # Not needed where no such file is read.

    try:
        return tokenizers.Tokenizer.from_str(json.dumps(settings, ensure_ascii=False))
    except BaseException as error:
        # The library raises plain `Exception`, and a panic of its Rust is not even that.
        if (
            not isinstance(error, Exception)
            and type(error).__name__ != "PanicException"
        ):
            raise
        raise ValueError(
            f"tokenizer.json cannot be read by `tokenizers` ({error!s:.150}). Fetch "
            "the file again."
        ) from None


class RawProcessor:
    """A vocabulary in the methods of a `SentencePieceProcessor` that KerasHub calls."""

    def __init__(self, codec, strings=False):
        self._codec, self._strings = codec, strings

    def vocab_size(self) -> int:
        return len(self._codec.vocabulary.pieces)

    def unk_id(self) -> int:
        unknown = self._codec.vocabulary.unknown
        return -1 if unknown is None else unknown

    def IdToPiece(self, ids):  # noqa: N802 (SentencePiece's name)
        pieces = self._codec.vocabulary.pieces
        return [pieces[i] for i in ids] if isinstance(ids, list) else pieces[ids]

    def Encode(self, texts, add_bos=False, add_eos=False):  # noqa: N802
        rows = [self._codec.encode_raw(text) for text in texts]
        before = self._codec.encode([fim.START]) if add_bos else []
        after = self._codec.encode([fim.END]) if add_eos else []
        rows = [[*before, *row, *after] for row in rows]
        return [self.IdToPiece(row) for row in rows] if self._strings else rows

    def Decode(self, rows: Iterable):  # noqa: N802
        return [
            self._codec.decode_bytes(row).decode("utf-8", "replace") for row in rows
        ]


class InGraph:
    """The same for `tf.data`: tensors in, tensors out."""

    def __init__(self, processor: RawProcessor, dtype):
        self._processor, self._dtype = processor, dtype

    def vocab_size(self):
        import tensorflow as tf

        return tf.constant(self._processor.vocab_size())

    def id_to_string(self, ids):
        """The pieces of an id, or of a tensor of ids."""
        import tensorflow as tf

        ids = np.asarray(ids)
        pieces = [self._processor.IdToPiece(int(i)) for i in ids.reshape(-1)]
        return tf.reshape(tf.constant(pieces), ids.shape)

    def string_to_id(self, piece):
        """The id of a piece, or of the unknown one."""
        import tensorflow as tf

        pieces = self._processor.IdToPiece(list(range(self._processor.vocab_size())))
        known = piece in pieces
        return tf.constant(pieces.index(piece) if known else self._processor.unk_id())

    def tokenize(self, texts):
        """Strings `[B]` -> a ragged tensor of ids."""
        import tensorflow as tf

        def encode(texts):
            rows = self._processor.Encode([text.decode() for text in texts.numpy()])
            splits = [0, *itertools.accumulate(map(len, rows))]
            return list(itertools.chain.from_iterable(rows)), splits

        flat, splits = tf.py_function(encode, [texts], [self._dtype, "int64"])
        flat.set_shape([None])
        splits.set_shape([None])
        return tf.RaggedTensor.from_row_splits(flat, splits, validate=False)

    def detokenize(self, ids):
        """A ragged tensor of ids -> strings `[B]`."""
        import tensorflow as tf

        def decode(flat, splits):
            flat, splits = flat.numpy().tolist(), splits.numpy().tolist()
            rows = [flat[a:b] for a, b in itertools.pairwise(splits)]
            texts = [text.encode() for text in self._processor.Decode(rows)]
            # A list of one text would be taken for the text itself.
            return tf.constant(texts, "string", [len(texts)])

        if not isinstance(ids, tf.RaggedTensor):
            ids = tf.convert_to_tensor(ids)
            if ids.shape.rank == 1:
                return self.detokenize(tf.RaggedTensor.from_tensor(ids[None]))[0]
            ids = tf.RaggedTensor.from_tensor(ids)
        texts = tf.py_function(decode, [ids.values, ids.row_splits], "string")
        texts.set_shape([None])
        return texts


def read(proto: bytes):
    """The vocabulary in a file's bytes, whichever kind it is.

    Raises:
        ValueError: neither kind, or damaged.
    """
    if tokenizer_json.is_json(proto):
        return JsonVocabulary(proto)
    return SentencePieceVocabulary(proto)


def with_sentinel_names(proto: bytes) -> bytes:
    """A vocabulary in which ids 67 to 70 have the sentinels' names.

    Those that have the names already come back as they are.
    """
    is_json = tokenizer_json.is_json(proto)
    if is_json:
        pieces = tokenizer_json.names(tokenizer_json.read(proto))
    else:
        pieces = (name for name, _, _ in sentencepiece_model.pieces(proto))
    names = {}
    for place, name in enumerate(pieces):
        if name == str(fim.PREFIX):
            return proto
        if name in OLD_NAMES:
            names[place] = OLD_NAMES[name]
        if len(names) == len(OLD_NAMES):
            break
    if not names and is_json:
        return proto
    rewrite = tokenizer_json.rewrite if is_json else sentencepiece_model.rewrite
    return rewrite(proto, names=names)


def _named(pieces) -> set[int]:
    """Ids of the pieces that this package gives a meaning."""
    names = {str(name) for name in SPECIAL_TOKENS.values()}
    return {i for i, piece in enumerate(pieces) if piece in names}
