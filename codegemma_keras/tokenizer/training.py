"""Make a small tokenizer with CodeGemma's special ids from any text.

SentencePiece BPE with what CodeGemma's vocabulary has: byte fallback, split digits, the
identity normaliser, no dummy prefix, white space kept; pad 0, eos 1, bos 2, unk 3,
sentinels 67 to 70, turn marks 106 and 107, runs of newlines and of spaces as pieces of
their own. The same texts always give the same bytes.

Left out: the unigram model, and byte-identical rebuilding of the official vocabulary
(Google has not published what it was trained on).
"""

import io
import random
from collections.abc import Iterable, Iterator

import sentencepiece

from codegemma_keras import chat, fim
from codegemma_keras.formats.sentencepiece_model import SPACE

# Runs of one character that are one piece. Code is indented, and an indent of 24 spaces
# should not take six tokens; longer runs are made of these.
RUNS = {"\n": range(1, 13), " ": range(2, 32), "\t": range(2, 9)}


def symbols() -> list[str]:
    """Pieces of fixed ids, from id 4 on, in order."""
    names = ["<mask>", "<2mass>", "[@BOS@]"]  # as the official vocabulary begins
    names += [f"<unused{i}>" for i in range(60)]
    names += [fim.PREFIX, fim.MIDDLE, fim.SUFFIX, fim.FILE_SEPARATOR]
    names += [f"<unused{i}>" for i in range(64, 99)]
    names += [chat.START_OF_TURN, chat.END_OF_TURN]
    for character, lengths in RUNS.items():
        names += [character.replace(" ", SPACE) * length for length in lengths]
    return [str(name) for name in names]


def train_tokenizer(
    texts: Iterable[str],
    vocabulary_size: int,
    *,
    max_lines: int = 1_000_000,
    seed: int = 0,
) -> bytes:
    """Train a vocabulary and return it as a SentencePiece model.

    Args:
        texts: files, read once, in a stream.
        vocabulary_size: V, all special, byte and run pieces included.
        max_lines: a uniform sample of so many lines is learnt from; memory grows with
            it, about 100 bytes a line.
        seed: of the sample.

    Returns:
        Bytes for `CodeGemmaTokenizer(proto=...)`.

    Raises:
        ValueError: a size too small for the fixed pieces or too large for the text.
    """
    fixed = 4 + len(symbols()) + 256
    if vocabulary_size <= fixed:
        raise ValueError(
            f"vocabulary_size={vocabulary_size} leaves no room beside the {fixed} "
            "special, run and byte pieces. Ask for more."
        )
    sample = _sample(_lines(texts), max_lines, random.Random(seed))
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sample),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocabulary_size,
            pad_id=0,
            eos_id=1,
            bos_id=2,
            unk_id=3,
            pad_piece="<pad>",
            eos_piece="<eos>",
            bos_piece="<bos>",
            unk_piece="<unk>",
            user_defined_symbols=symbols(),
            byte_fallback=True,
            split_digits=True,
            # `self.`, `():` and the like may be pieces: 9 % more text a token on Python.
            split_by_unicode_script=False,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            character_coverage=0.9995,  # rarer characters: byte tokens
            max_sentence_length=1 << 16,
            num_threads=2,  # written into the file, so no argument
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(
            f"SentencePiece could not train {vocabulary_size} pieces on {len(sample)} "
            f"lines: {error}. Give more text or ask for fewer pieces."
        ) from None
    return model.getvalue()


def _lines(texts) -> Iterator[str]:
    for text in texts:
        for line in text.replace(SPACE, "").split("\n"):
            if line and "\0" not in line:  # SentencePiece ends a line at a NUL.
                yield line.encode("utf-8", "ignore").decode()


def _sample(lines, count, rng) -> list[str]:
    """Uniform sample of a stream, in its order of arrival where all fit."""
    kept = []
    for seen, line in enumerate(lines):
        if seen < count:
            kept.append(line)
        elif (place := rng.randrange(seen + 1)) < count:
            kept[place] = line
    return kept
