"""`PlainCodec`: text and control tokens to ids and back, in plain Python.

What `CodeGemmaTokenizer.encode` and `decode*` are made of, without Keras, so that workers
of the data pipeline start in a second and load neither TensorFlow nor JAX.

The codec runs a copy of the SentencePiece model in which the control pieces have the
type CONTROL, which SentencePiece never finds in text: only a `fim.Control` becomes a
control token, and every byte comes back.

Left out: everything batched or in `tf.data`; that is `tokenizer.CodeGemmaTokenizer`.
"""

import itertools
import re
from collections.abc import Iterable

import numpy as np
import sentencepiece

from codegemma_keras import chat, fim
from codegemma_keras.fim import Control
from codegemma_keras.formats import sentencepiece_model
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
_BY_BYTES = re.compile(f"[{SPACE}\ud800-\udfff]+")


class PlainCodec:
    """Parts to ids and back over a SentencePiece model; plain Python.

    Args:
        proto: a serialised SentencePiece model whose sentinels have their names.

    Raises:
        ValueError: no valid model; the vocabulary lacks a control token or a byte
            token, or changes text on the way.
    """

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
        size = model.vocab_size()
        pieces = model.id_to_piece(list(range(size)))
        ids = {piece: i for i, piece in enumerate(pieces)}
        missing = [
            str(name) for name in SPECIAL_TOKENS.values() if str(name) not in ids
        ]
        if missing:
            raise ValueError(
                f"The vocabulary of {size} pieces lacks the control tokens {missing}, so "
                "prompts would silently turn into unknown tokens. Load a CodeGemma "
                "vocabulary, or make one with "
                "`codegemma_keras.tokenizer.training.train_tokenizer`."
            )
        self.control_ids = {name: ids[str(name)] for name in SPECIAL_TOKENS.values()}
        unknown = model.unk_id()
        for i, is_control in enumerate(model.is_control(list(range(size)))):
            if is_control or i == unknown:
                self.control_ids[Control(pieces[i])] = i
        self.controls = {i: name for name, i in self.control_ids.items()}
        self._read_pieces(model, pieces)
        types = dict.fromkeys(self.controls, sentencepiece_model.CONTROL)
        types.pop(unknown)  # Never found in text as it is.
        self._model = sentencepiece.SentencePieceProcessor(
            model_proto=sentencepiece_model.rewrite(proto, types=types)
        )
        probe = " \t  x\u00a0ﬁ①\r\n\n\0  "
        if self.decode_bytes(self.encode(probe)) != probe.encode():
            raise ValueError(
                "This vocabulary normalises text, so text would not come back from its "
                "tokens. CodeGemma's has the identity normaliser, no dummy prefix, and "
                "keeps white space; see `tokenizer_training`."
            )

    def _read_pieces(self, model, pieces):
        self.bytes_of = [piece.replace(SPACE, " ").encode() for piece in pieces]
        byte_ids = {}
        for i, is_byte in enumerate(model.is_byte(list(range(len(pieces))))):
            if is_byte:
                value = int(pieces[i][3:5], 16)  # <0x0A>
                self.bytes_of[i] = bytes([value])
                byte_ids[value] = i
        for i in self.controls:
            self.bytes_of[i] = b""
        if len(byte_ids) != 256:
            raise ValueError(
                f"The vocabulary has {len(byte_ids)} of the 256 byte tokens, so some text "
                "cannot be encoded. Train it with byte_fallback."
            )
        self._byte_ids = [byte_ids[value] for value in range(256)]

    def missing_pieces(self) -> list[int]:
        """Ids before which the scores of a BPE vocabulary skip a piece.

        Its pieces were learnt one after the other, with scores 0, -1, -2 and so on.
        """
        ids = [
            i
            for i in range(self._model.vocab_size())
            if self._model.get_score(i) and i not in self.controls
        ]
        scores = [self._model.get_score(i) for i in ids]
        steps = [before - score for before, score in itertools.pairwise(scores)]
        if steps.count(1) < 0.9 * len(steps):
            return []
        return [i for i, step in zip(ids[1:], steps, strict=True) if step > 1]

    def allow_ids(self, count: int):
        """Let ids up to `count` be decoded: those beyond the pieces have no text."""
        self.bytes_of += [b""] * (count - len(self.bytes_of))

    def encode(self, parts: str | Iterable[str | Control]) -> list[int]:
        """See `CodeGemmaTokenizer.encode`."""
        if isinstance(parts, (str, bytes)) or not isinstance(parts, Iterable):
            parts = [parts]
        ids = []
        for part in parts:
            if isinstance(part, Control):
                ids.append(self._control_id(part))
            elif isinstance(part, str):
                ids += self._encode_text(part)
            else:
                raise TypeError(
                    f"A part must be text or a Control, not {type(part).__name__}"
                    f" ({part!r:.60})."
                )
        return ids

    def _control_id(self, control):
        if control not in self.control_ids:
            raise ValueError(
                f"{control!r} is no control token of this vocabulary; it has "
                f"{[str(name) for name in self.control_ids]}."
            )
        return self.control_ids[control]

    def _encode_text(self, text):
        ids, done = [], 0
        for match in _BY_BYTES.finditer(text):
            ids += self._model.encode(text[done : match.start()])
            ids += [self._byte_ids[byte] for byte in _raw_bytes(text, match)]
            done = match.end()
        return ids + self._model.encode(text[done:])

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """See `CodeGemmaTokenizer.decode_bytes`."""
        bytes_of = self.bytes_of
        return b"".join([bytes_of[i] for i in self.check(ids)])

    def decode_parts(self, ids: Iterable[int]) -> list[str | Control]:
        """See `CodeGemmaTokenizer.decode_parts`."""
        parts, run = [], []
        for i in [*self.check(ids), None]:
            control = self.controls.get(i)
            if i is not None and control is None:
                run.append(self.bytes_of[i])
                continue
            if run:
                parts.append(b"".join(run).decode("utf-8", "surrogateescape"))
                run = []
            if control is not None:
                parts.append(control)
        return parts

    def check(self, ids: Iterable[int]) -> list[int]:
        """`ids` as a list of ints in [0, V).

        Raises:
            TypeError: not whole numbers in one dimension. ValueError: out of range.
        """
        if not isinstance(ids, (list, tuple, np.ndarray)) and hasattr(ids, "__array__"):
            ids = np.asarray(ids)
        ids = ids.tolist() if isinstance(ids, np.ndarray) else ids
        if isinstance(ids, (str, bytes)) or not isinstance(ids, Iterable):
            raise TypeError(
                f"Token ids must be a list of integers, but are {ids!r:.60}. "
                "For one id write [id]."
            )
        ids = [i.item() if isinstance(i, np.integer) else i for i in ids]
        for place, i in enumerate(ids):
            if type(i) is not int:
                raise TypeError(
                    f"Token id {i!r:.60} at place {place} is {type(i).__name__}, not an "
                    "integer. Decode one row of ids at a time."
                )
            if not 0 <= i < len(self.bytes_of):
                raise ValueError(
                    f"Token id {i} at place {place} is out of range: the vocabulary has "
                    f"ids 0 to {len(self.bytes_of) - 1}. Ids from a model with a larger "
                    "vocabulary need that model's tokenizer."
                )
        return ids


def _raw_bytes(text, match):
    try:
        return match[0].encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        place = match.start() + error.start
        raise ValueError(
            f"Character {text[place]!r} at place {place} is half of a surrogate pair, so "
            "the text is no Unicode text. Decode files with encoding='utf-8' and "
            "errors='surrogateescape', which keeps bytes that are not UTF-8."
        ) from None


def with_sentinel_names(proto: bytes) -> bytes:
    """A SentencePiece model in which ids 67 to 70 have the sentinels' names.

    Models that have the names already come back as they are.
    """
    names = {}
    for place, (name, _, _) in enumerate(sentencepiece_model.pieces(proto)):
        if name == str(fim.PREFIX):
            return proto
        if name in OLD_NAMES:
            names[place] = OLD_NAMES[name]
        if len(names) == len(OLD_NAMES):
            break
    return sentencepiece_model.rewrite(proto, names=names)
