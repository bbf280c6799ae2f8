"""A SentencePiece vocabulary as other programs read it: ids, tokenizer.json, turns.

`tokenizer_json` gives what the `tokenizers` library (Transformers, vLLM, TGI, MLX) needs
to split text as SentencePiece does. Control pieces are "special" there, so that
`skip_special_tokens` drops them. Pieces that SentencePiece finds in text before it merges
(USER_DEFINED: runs of spaces and newlines) are added tokens of the normalised text.

Left out: unigram models, which Gemma does not use.
"""

import functools
import json
from collections.abc import Iterator

from codegemma_keras import chat, fim
from codegemma_keras.formats import sentencepiece_model, tokenizer_json
from codegemma_keras.formats.sentencepiece_model import (
    BYTE,
    CONTROL,
    NORMAL,
    SPACE,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
)

CONTROLS = tuple(
    str(name)
    for name in (
        *(fim.PAD, fim.END, fim.START, fim.PREFIX, fim.MIDDLE, fim.SUFFIX),
        *(fim.FILE_SEPARATOR, chat.START_OF_TURN, chat.END_OF_TURN),
    )
)


def read(proto: bytes):
    """The vocabulary in a tokenizer's `proto`, whichever kind of file it is of."""
    if tokenizer_json.is_json(proto):
        return JsonVocabulary(proto)
    return Vocabulary(proto)


class JsonVocabulary:
    """The same of a tokenizer.json, which other programs read as it is."""

    unknown = None

    def __init__(self, proto: bytes):
        self.proto = proto
        self._settings = tokenizer_json.read(proto)
        self.names = tokenizer_json.names(self._settings)
        self.ids = {name: i for i, name in enumerate(self.names)}
        self.added_tokens = self._settings.get("added_tokens") or []

    def id(self, control) -> int:
        return self.ids[str(control)]

    @property
    def stops(self) -> list[int]:
        return sorted(self.id(name) for name in fim.STOP)

    def gguf(self, rows: int) -> dict:
        """The vocabulary as fields below `tokenizer.ggml`: byte-level BPE.

        Raises:
            ValueError: it is of another kind, which GGUF files of Gemma do not hold.
        """
        steps = json.dumps(self._settings.get("pre_tokenizer"))
        if not tokenizer_json.spells_bytes(self._settings) or '"Split"' in steps:
            raise ValueError(
                "This tokenizer.json is no plain byte-level BPE, and GGUF has no field "
                "that says how it cuts text. Export it with format='transformers'."
            )
        special = set(tokenizer_json.special_ids(self._settings))
        special |= {self.id(name) for name in CONTROLS}
        added = {token["id"] for token in self.added_tokens}
        kinds = [
            CONTROL if i in special else USER_DEFINED if i in added else NORMAL
            for i in range(len(self.names))
        ]
        merges = self._settings["model"]["merges"]
        tokens, kinds = padded([name or None for name in self.names], kinds, rows)
        return {
            "model": "gpt2",
            "pre": "smollm" if '"Digits"' in steps else "gpt-2",
            "tokens": tokens,
            "token_type": kinds,
            "merges": [m if isinstance(m, str) else " ".join(m) for m in merges],
        }


def padded(tokens, kinds, rows):
    """Names and kinds for all rows of the embedding; ids without a piece get a name."""
    count = max(rows, len(tokens))
    tokens = [*tokens, *[None] * (count - len(tokens))]
    kinds = [*kinds, *[UNUSED] * (count - len(kinds))]
    return (
        [f"[PAD{i}]" if name is None else name for i, name in enumerate(tokens)],
        [UNUSED if t is None else k for t, k in zip(tokens, kinds, strict=True)],
    )


class Vocabulary:
    """The pieces of a tokenizer and what other programs must know of them.

    Args:
        proto: a SentencePiece model whose sentinels have their names.
    """

    def __init__(self, proto: bytes):
        self.proto = proto
        pieces = list(sentencepiece_model.pieces(proto))
        # Control pieces are USER_DEFINED in the file; `codec.PlainCodec` says why.
        self.pieces = [
            (name, score, CONTROL if name in CONTROLS else kind)
            for name, score, kind in pieces
        ]
        self.ids = {name: i for i, (name, _, _) in enumerate(pieces)}
        self.unknown = next(name for name, _, kind in self.pieces if kind == UNKNOWN)

    def id(self, control) -> int:
        """Id of a control token."""
        return self.ids[str(control)]

    @property
    def stops(self) -> list[int]:
        """Ids that end a completion, as in our own decoding."""
        return sorted(self.id(name) for name in fim.STOP)

    @functools.cached_property
    def added_tokens(self) -> list[dict]:
        """Pieces that are found in text before any merge, as `tokenizers` writes them."""
        return [
            {
                "id": i,
                "content": name,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                # Spaces are `SPACE` in the normalised text alone.
                "normalized": SPACE in name,
                "special": kind != USER_DEFINED,
            }
            for i, (name, _, kind) in enumerate(self.pieces)
            if kind in (CONTROL, UNKNOWN, USER_DEFINED)
        ]

    def tokenizer_json(self) -> dict:
        """The vocabulary in the format of the `tokenizers` library."""
        start = str(fim.START)
        bos = {"SpecialToken": {"id": start, "type_id": 0}}

        def sequence(name):
            return {"Sequence": {"id": name, "type_id": 0}}

        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": self.added_tokens,
            "normalizer": {
                "type": "Replace",
                "pattern": {"String": " "},
                "content": SPACE,
            },
            "pre_tokenizer": None,
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [bos, sequence("A")],
                "pair": [bos, sequence("A"), bos, sequence("B")],
                "special_tokens": {
                    start: {"id": start, "ids": [self.ids[start]], "tokens": [start]}
                },
            },
            "decoder": {
                "type": "Sequence",
                "decoders": [
                    {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                    {"type": "ByteFallback"},
                    {"type": "Fuse"},
                ],
            },
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": self.unknown,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": True,
                "byte_fallback": True,
                "ignore_merges": False,
                "vocab": self.ids,
                "merges": [list(pair) for pair in self.merges()],
            },
        }

    def gguf(self, rows: int) -> dict:
        """The vocabulary as fields below `tokenizer.ggml`.

        Args:
            rows: of the embedding, which may be more than the pieces.
        """
        # Found in text before its spaces become `SPACE`.
        names = [
            name.replace(SPACE, " ") if kind == USER_DEFINED else name
            for name, _, kind in self.pieces
        ]
        tokens, kinds = padded(names, [kind for _, _, kind in self.pieces], rows)
        scores = [score for _, score, _ in self.pieces]
        return {
            "model": "llama",
            "pre": "default",
            "tokens": tokens,
            "token_type": kinds,
            "scores": scores + [0.0] * (len(tokens) - len(scores)),
        }

    def merges(self) -> Iterator[tuple[str, str]]:
        """Pairs of pieces that make a piece, the best first.

        SentencePiece merges what makes the piece of the highest score; `tokenizers` what
        stands first in this list. So every pair of a piece is in it.
        """
        known = {
            name
            for name, _, kind in self.pieces
            if kind not in (CONTROL, UNKNOWN, BYTE, USER_DEFINED)
        }
        by_score = sorted(self.pieces, key=lambda piece: -piece[1])
        for name, _, _ in by_score:
            if name not in known:
                continue
            for place in range(1, len(name)):
                left, right = name[:place], name[place:]
                if left in known and right in known:
                    yield left, right
