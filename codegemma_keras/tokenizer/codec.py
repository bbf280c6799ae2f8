"""`PlainCodec`: text and control tokens to ids and back, in plain Python.

What `CodeGemmaTokenizer.encode` and `decode*` are made of, without Keras, so that workers
of the data pipeline start in a second and load neither TensorFlow nor JAX.

Only a `fim.Control` becomes a control token, and every byte comes back, whichever file
the vocabulary is of: `vocabularies` has one class for each.

Left out: everything batched or in `tf.data`; that is `tokenizer.CodeGemmaTokenizer`.
"""

from collections.abc import Iterable

import numpy as np

from codegemma_keras.fim import Control
from codegemma_keras.tokenizer import vocabularies
from codegemma_keras.tokenizer.vocabularies import SPECIAL_TOKENS


class PlainCodec:
    """Parts to ids and back over a vocabulary; plain Python.

    Args:
        proto: bytes of a vocabulary whose sentinels have their names: a SentencePiece
            model, or a tokenizer.json.

    Raises:
        ValueError: no valid file; the vocabulary lacks a control token or a byte
            token, or changes text on the way.
    """

    def __init__(self, proto: bytes):
        self.vocabulary = vocabulary = vocabularies.read(proto)
        pieces = vocabulary.pieces
        ids = {piece: i for i, piece in enumerate(pieces)}
        missing = [
            str(name) for name in SPECIAL_TOKENS.values() if str(name) not in ids
        ]
        if missing:
            raise ValueError(
                f"The vocabulary of {len(pieces)} pieces lacks the control tokens "
                f"{missing}, so prompts would silently turn into unknown tokens. Load a "
                "CodeGemma vocabulary, or make one with "
                "`codegemma_keras.tokenizer.training.train_tokenizer`."
            )
        self.control_ids = {name: ids[str(name)] for name in SPECIAL_TOKENS.values()}
        for i in sorted(vocabulary.controls):
            self.control_ids.setdefault(Control(pieces[i]), i)
        self.controls = {i: name for name, i in self.control_ids.items()}
        self.bytes_of = list(vocabulary.bytes_of)
        for i in self.controls:
            self.bytes_of[i] = b""
        if len(vocabulary.byte_ids) != 256:
            raise ValueError(
                f"The vocabulary has {len(vocabulary.byte_ids)} of the 256 byte tokens, so "
                "some text cannot be encoded. Train it with byte_fallback."
            )
        self._byte_ids = [vocabulary.byte_ids[value] for value in range(256)]
        for value, i in enumerate(self._byte_ids):
            if self.bytes_of[i] != bytes([value]):
                raise ValueError(
                    f"Id {i} of the vocabulary stands for the byte {value:#04x}, and is a "
                    f"token of its own, {pieces[i]!r:.60}. Give that token another id."
                )
        probe = " \t  x\u00a0ﬁ①\r\n\n\0  "
        if self.decode_bytes(self.encode(probe)) != probe.encode():
            raise ValueError(
                "This vocabulary normalises text, so text would not come back from its "
                "tokens. CodeGemma's has the identity normaliser, no dummy prefix, and "
                "keeps white space; see `tokenizer_training`."
            )

    def missing_pieces(self) -> list[int]:
        """Ids before which a piece seems to be missing."""
        return self.vocabulary.missing_pieces()

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

    def encode_raw(self, text: str) -> list[int]:
        """Ids of a text in which the name of a control token becomes the token."""
        return self.vocabulary.encode_raw(text)

    def _encode_text(self, text):
        ids, done, encode = [], 0, self.vocabulary.encode
        for match in self.vocabulary.by_bytes.finditer(text):
            ids += encode(text[done : match.start()])
            ids += [self._byte_ids[byte] for byte in _raw_bytes(text, match)]
            done = match.end()
        return ids + encode(text[done:])

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
