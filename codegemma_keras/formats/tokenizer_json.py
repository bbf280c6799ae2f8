"""`tokenizer.json`, the file of the `tokenizers` library: read, checked, rewritten, made.

What is read is BPE in either of two ways to spell bytes: every byte as a character of an
alphabet (GPT-2's, as Llama 3 and SmolLM have it), or pieces of text with `<0x0A>` for
what they cannot spell (Gemma's). Left out: other models than BPE, and training one.
Nothing here loads Keras, since workers of the data pipeline read vocabularies.
"""

import json
import re
from collections.abc import Iterator

from codegemma_keras.formats.sentencepiece_model import SPACE

FILE = "tokenizer.json"
# Pre-tokenizers of GGUF files, `tokenizer.ggml.pre`: whether each digit is a piece.
_SPLITS = {"gpt-2": False, "smollm": True, "starcoder": True, "refact": True}
_BYTE_PIECE = re.compile("<0x([0-9A-F]{2})>")
_KEEPS = ("Isolated", "Contiguous", "MergedWithPrevious", "MergedWithNext")
# What splits text and keeps all of it, and what else its settings must then say.
_SPLITTERS = {
    "ByteLevel": {"add_prefix_space": (False,)},
    "Digits": {},
    "Split": {"behavior": _KEEPS},
    "Punctuation": {"behavior": _KEEPS},
    "Metaspace": {"prepend_scheme": ("never",), "replacement": (SPACE,)},
}
_MARKS_SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}


def _alphabet() -> dict[int, str]:
    """The character of each byte in GPT-2's vocabulary: itself where it is visible."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in visible]
    alphabet = {byte: chr(byte) for byte in visible}
    return alphabet | {byte: chr(256 + i) for i, byte in enumerate(others)}


ALPHABET = _alphabet()
_BYTE_OF = {character: byte for byte, character in ALPHABET.items()}


def is_json(proto: bytes) -> bool:
    """Whether the bytes of a vocabulary are JSON: a SentencePiece model begins with \\n."""
    return proto[:64].lstrip(b" \t\r\n\xef\xbb\xbf").startswith(b"{")


def read(proto: bytes) -> dict:
    """The settings in a tokenizer.json.

    Raises:
        ValueError: damaged, or no BPE, or one whose ids or pieces are not what they say.
    """
    try:
        settings = json.loads(proto)
        model = settings["model"]
        pieces = model["vocab"]
        added = settings.get("added_tokens") or []
        good = (
            model.get("type", "BPE") == "BPE"
            and isinstance(pieces, dict)
            and all(type(token["content"]) is str for token in added)
            and isinstance(model.get("unk_token"), str | None)
        )
        ids = [*pieces.values(), *(token["id"] for token in added)] if good else []
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error!s:.100}"
        raise ValueError(
            f"These {len(proto)} bytes are no valid {FILE} ({reason}); they may be "
            "truncated. Fetch the file again."
        ) from None
    if not good:
        raise ValueError(
            f"{FILE} holds a model of type {model.get('type')!r:.60}, its vocabulary a "
            f"{type(pieces).__name__} and its unknown piece {model.get('unk_token')!r:.60}. "
            "BPE is read, whose vocabulary is an object and whose pieces have names."
        )
    for i in ids:
        if type(i) is not int or i < 0:
            raise ValueError(f"{FILE} has the id {i!r:.60}; ids are 0 and above.")
    if not ids or max(ids) >= 2 * len(ids):
        raise ValueError(
            f"{FILE} has {len(ids)} pieces and ids up to {max(ids or [0])}."
        )
    _check_ids(pieces, added)
    return settings


def _check_ids(pieces, added):
    """Refuse an id with two names, and a name with two ids."""
    known = {i: piece for piece, i in pieces.items()}
    if len(known) != len(pieces):
        twice = next(p for p, i in pieces.items() if known[i] != p)
        raise ValueError(
            f"{FILE} gives the id {pieces[twice]} to {twice!r:.60} and to "
            f"{known[pieces[twice]]!r:.60}. Fetch the file again."
        )
    for token in added:
        name, i = token["content"], token["id"]
        if pieces.get(name, i) != i or known.get(i, name) != name:
            raise ValueError(
                f"{FILE} gives the id {i} to the added token {name!r:.60}, and its model "
                f"has {known.get(i)!r:.60} there. They are of two vocabularies: fetch the "
                "file again."
            )


def for_text(settings: dict) -> dict:
    """The settings without what would change text, after a check of the rest.

    Left out are cutting, padding, tokens put around a text, spaces taken off around added
    tokens, and merges that are skipped by chance.

    Raises:
        ValueError: a step that loses or changes text, or a spelling that is not read.
    """
    _check_steps(settings)
    model = dict(settings["model"], dropout=None)
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise ValueError(
                f"{FILE} has {name}={model[name]!r:.60}; BPE without it is read, as of "
                "Gemma and of GPT-2."
            )
    spelt = spells_bytes(settings)
    if not spelt and not model.get("byte_fallback"):
        raise ValueError(
            f"{FILE} has byte_fallback={model.get('byte_fallback')!r:.60}, so text that no "
            "piece spells would be lost. Set it to true."
        )
    added = [
        dict(token, lstrip=False, rstrip=False)
        for token in settings.get("added_tokens") or ()
    ]
    for token in added:
        name = token["content"]
        if (
            spelt
            and name in model["vocab"]
            and all(c in _BYTE_OF for c in name)
            and bytes(_BYTE_OF[c] for c in name) != name.encode()
        ):
            raise ValueError(
                f"{FILE} has {name!r:.60} as an added token and as a piece that spells "
                "other bytes, so text would not come back. Fetch the file again."
            )
    return settings | {
        "model": model,
        "added_tokens": added,
        "truncation": None,
        "padding": None,
        "post_processor": None,
    }


def _check_steps(settings):
    """Refuse normalizers and pre-tokenizers that may change or lose text."""
    for step in _steps(settings.get("normalizer"), "normalizers"):
        if {name: step.get(name) for name in _MARKS_SPACES} != _MARKS_SPACES:
            raise ValueError(
                f"{FILE} normalises text ({_shown(step)}), so it would not come back from "
                f"its tokens. Only Replace of a space by {SPACE!r} is read."
            )
    splitters = _steps(settings.get("pre_tokenizer"), "pretokenizers")
    for step in splitters:
        options = _SPLITTERS.get(step.get("type"))
        if options is None or any(step.get(n) not in v for n, v in options.items()):
            raise ValueError(
                f"{FILE} splits text by {_shown(step)}, by which some of it may be lost. "
                f"Known are {', '.join(_SPLITTERS)}, if they keep all characters and add "
                "none."
            )
    if spells_bytes(settings) and "ByteLevel" not in [s["type"] for s in splitters]:
        raise ValueError(
            f"{FILE} has the decoder ByteLevel and no such pre_tokenizer, so text would "
            "not come back from its tokens. Fetch the file again."
        )


def _steps(step, several) -> list[dict]:
    """The steps of a normalizer or pre-tokenizer, those of a sequence one by one."""
    if step is None:
        return []
    steps = step.get(several) if isinstance(step, dict) else None
    if steps is None or step.get("type") != "Sequence":
        steps = [step]
    if not isinstance(steps, list) or not all(isinstance(s, dict) for s in steps):
        raise ValueError(f"{FILE} has the step {step!r:.60}, which is none.")
    return steps


def _shown(step):
    return json.dumps(step, ensure_ascii=False)[:100]


def without(settings: dict, ids: set[int]) -> dict:
    """The settings of a tokenizer that finds none of some pieces in text.

    Their names leave the model, too, and merges that lead to them: a model may take a whole
    word that is a piece (`ignore_merges`), and would take the name of a control token.

    Args:
        settings: of `for_text`.
        ids: of control tokens.
    """
    model, added = settings["model"], settings["added_tokens"]
    pieces = dict(model["vocab"])
    pieces |= {token["content"]: token["id"] for token in added}
    kept = {piece: i for piece, i in pieces.items() if i not in ids}
    hidden = {piece for piece, i in pieces.items() if i in ids}
    if not spells_bytes(settings):  # "<0x0A>" in text is no line end.
        hidden |= {f"<0x{byte:02X}>" for byte in range(256)}
    merges = []
    for first, second in pairs(settings):
        if not hidden & {first, second, first + second}:
            merges.append([first, second])
    return settings | {
        "model": model | {"vocab": kept, "merges": merges, "unk_token": None},
        "added_tokens": [token for token in added if token["id"] not in ids],
    }


def pairs(settings: dict) -> Iterator[tuple[str, str]]:
    """The two pieces of each merge, most important first.

    Raises:
        ValueError: a merge is something else.
    """
    for merge in settings["model"].get("merges") or ():
        parts = merge.split(" ") if type(merge) is str else merge
        if not isinstance(parts, list) or [type(part) for part in parts] != [str, str]:
            raise ValueError(
                f"{FILE} has the merge {merge!r:.60}; it must be two pieces."
            )
        yield parts[0], parts[1]


def names(settings: dict) -> list[str]:
    """The piece of each id; an id that has none gets an empty one."""
    ids = {i: piece for piece, i in settings["model"]["vocab"].items()}
    ids |= {
        token["id"]: token["content"] for token in settings.get("added_tokens") or ()
    }
    return [ids.get(i, "") for i in range(max(ids) + 1)]


def special_ids(settings: dict) -> list[int]:
    """Ids of the tokens that the file marks as special, and of the unknown piece."""
    added = settings.get("added_tokens") or ()
    found = [token["id"] for token in added if token.get("special")]
    unknown = settings["model"]["vocab"].get(settings["model"].get("unk_token"))
    return found if unknown is None or unknown in found else [*found, unknown]


def spells_bytes(settings: dict) -> bool:
    """Whether pieces are spelt in the alphabet of bytes."""
    return '"ByteLevel"' in json.dumps(
        [settings.get("pre_tokenizer"), settings.get("decoder")]
    )


def bytes_of(settings: dict) -> list[bytes]:
    """The bytes of each id; special and added tokens stand for their own names."""
    added = {token["id"] for token in settings.get("added_tokens") or ()}
    if spells_bytes(settings):

        def spelt(i, piece):
            known = i not in added and all(c in _BYTE_OF for c in piece)
            return bytes(_BYTE_OF[c] for c in piece) if known else piece.encode()
    else:

        def spelt(i, piece):
            if i not in added and (match := _BYTE_PIECE.fullmatch(piece)):
                return bytes([int(match[1], 16)])
            return piece.replace(SPACE, " ").encode()

    return [spelt(i, piece) for i, piece in enumerate(names(settings))]


def byte_ids(settings: dict) -> dict[int, int]:
    """Byte -> the id that stands for it alone."""
    pieces = settings["model"]["vocab"]
    spelt = {byte: f"<0x{byte:02X}>" for byte in range(256)}
    if spells_bytes(settings):
        spelt = ALPHABET
    return {byte: pieces[name] for byte, name in spelt.items() if name in pieces}


def rewrite(proto: bytes, names: dict[int, str], special=()) -> bytes:
    """The file with other names for some ids.

    Args:
        proto: bytes of a tokenizer.json.
        names: id -> its new name.
        special: names that become special tokens, if they are there.
    """
    settings = read(proto)
    vocabulary = settings["model"]["vocab"]
    settings["model"]["vocab"] = {
        names.get(i, piece): i for piece, i in vocabulary.items()
    }
    added = settings.setdefault("added_tokens", [])
    for token in added:
        token["content"] = names.get(token["id"], token["content"])
        token["special"] = bool(token.get("special")) or token["content"] in special
    known = {token["content"] for token in added}
    for name in special:
        i = settings["model"]["vocab"].get(name)
        if i is not None and name not in known:
            added.append(_added(name, i))
    added.sort(key=lambda token: token["id"])
    return json.dumps(settings, ensure_ascii=False).encode()


def make(tokens: list[str], merges: list[str], special: list[int], split: str) -> bytes:
    """A tokenizer.json of byte-level BPE, from the fields of a GGUF file.

    Bytes that no token stands for get one of their own, with ids after the others, so
    that every text can be encoded.

    Args:
        tokens: the piece of each id.
        merges: two pieces and a space between, most important first.
        special: ids of control tokens.
        split: the name of the pre-tokenizer, `tokenizer.ggml.pre`.

    Raises:
        ValueError: another pre-tokenizer; merges of pieces that are not there.
    """
    if split not in _SPLITS:
        raise ValueError(
            f"The pre-tokenizer {split!r:.60} is not known; known are "
            f"{', '.join(_SPLITS)}."
        )
    vocabulary = {piece: i for i, piece in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise ValueError("The vocabulary has a token twice.")
    for character in missing_bytes(vocabulary):
        vocabulary[character] = len(vocabulary)
    pairs = [merge.split(" ") for merge in merges]
    for pair in pairs:
        if len(pair) != 2 or any(p not in vocabulary for p in (*pair, "".join(pair))):
            raise ValueError(f"The merge {' '.join(pair)!r:.60} is damaged.")
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    digits = {"type": "Digits", "individual_digits": True}
    steps = [*([digits] if _SPLITS[split] else []), {**level, "use_regex": True}]
    settings = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(tokens[i], i) for i in sorted(special)],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": None,
        "decoder": {**level, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": pairs,
        },
    }
    return json.dumps(settings, ensure_ascii=False).encode()


def missing_bytes(pieces) -> list[str]:
    """Characters of the bytes that no piece stands for alone."""
    return [character for character in ALPHABET.values() if character not in pieces]


def _added(name, i):
    return {
        "id": i,
        "content": name,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
