"""Useful tokens a second, packed against padded, over the files of real repositories.

    KERAS_BACKEND=tensorflow python benchmarks/train_packing.py SDIST.tar.gz ... \\
        --vocabulary vocabulary.spm

Every Python file of the archives is tokenized, with a SentencePiece file such as Gemma's
own, or with the embedded preset's 8,192 pieces (which make more and shorter tokens). Padded:
a file a row, cut to 2,048 tokens, as KerasHub's preprocessor gives it. Packed: the same
tokens by `data.packing`. Both train the embedded model; a token is useful if it is a
target with weight. Times are medians, the ways taken in turn.

"In pieces" leaves nothing cut off: a long file makes several full rows. Nobody calls
`fit` so, but it is the best that padding could do. How full rows of other lengths would
be is counted, not timed.
"""

import argparse
import pathlib
import statistics
import tarfile
import time

import keras
import numpy as np
from _data import record

from codegemma_keras import CodeGemmaCausalLM
from codegemma_keras.batches import pack
from codegemma_keras.losses import NextTokenLoss
from codegemma_keras.tokenizer.codec import PlainCodec

BOS, EOS = 2, 1
LENGTH = 2048
ROWS = 2  # a batch


def documents(archive, codec):
    """Token ids of every Python file of an archive, bos first and eos last."""
    with tarfile.open(archive) as tar:
        for member in tar:
            if not (member.isfile() and member.name.endswith(".py")):
                continue
            text = tar.extractfile(member).read().decode("utf-8", "replace")
            if text.strip():
                yield [BOS, *codec.encode(text), EOS]


def pieces(ids):
    """A document in pieces of at most T + 1 ids: the last of each is a target only."""
    for start in range(0, len(ids) - 1, LENGTH):
        yield ids[start : start + LENGTH + 1]


def padded_fill(documents, length):
    """Share of targets in rows of `length` tokens that hold one document each."""
    return statistics.mean(min(len(ids) - 1, length) / length for ids in documents)


def padded(rows):
    return pack(rows, LENGTH, rows=[[row] for row in range(len(rows))])


def packed(rows):
    return pack(rows, LENGTH)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archives", nargs="+", type=pathlib.Path)
    parser.add_argument("--vocabulary", type=pathlib.Path)
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args()
    lm = CodeGemmaCausalLM.from_preset("code_gemma_tiny_py", dtype="float32")
    codec = lm.tokenizer
    if args.vocabulary:
        codec = PlainCodec(args.vocabulary.read_bytes())
    lm.preprocessor = None
    size = lm.backbone.vocabulary_size
    by_archive = {a.name: list(documents(a, codec)) for a in args.archives}
    # Which ids they are makes no difference to the time.
    found = [[i % size for i in ids] for files in by_archive.values() for ids in files]
    cut = [ids[: LENGTH + 1] for ids in found]
    whole = [piece for ids in found for piece in pieces(ids)]
    ways = {
        "packed": packed(cut),
        "padded": padded(cut),
        "packed_in_pieces": packed(whole),
        "padded_in_pieces": padded(whole),
    }
    lm.compile(
        keras.optimizers.SGD(0.0),
        loss=NextTokenLoss(),
        weighted_metrics=[],
        jit_compile=keras.backend.backend() == "jax",
    )
    figures = speeds(lm, ways, args.repeats)
    lengths = [len(ids) for ids in found]
    record(
        f"train_packing_{keras.backend.backend()}",
        {
            "vocabulary": "the file given" if args.vocabulary else "code_gemma_tiny_py",
            "files": len(found),
            "padded_useful_share_by_archive": {
                name: padded_fill(files, LENGTH) for name, files in by_archive.items()
            },
            "padded_useful_share_by_length_of_row": {
                length: padded_fill(found, length)
                for length in (1024, 2048, 4096, 8192)
            },
            "tokens_of_a_file": {
                "median": statistics.median(lengths),
                "mean": statistics.mean(lengths),
                "above_a_row": sum(n > LENGTH + 1 for n in lengths),
            },
            "rows_of_a_batch": ROWS,
            "tokens_of_a_row": LENGTH,
            "model": "code_gemma_tiny_py, float32",
            **figures,
            "packed_over_padded": figures["packed"]["useful_tokens_per_second"]
            / figures["padded"]["useful_tokens_per_second"],
            "in_pieces": figures["packed_in_pieces"]["useful_tokens_per_second"]
            / figures["padded_in_pieces"]["useful_tokens_per_second"],
        },
    )


def speeds(lm, ways, repeats):
    """Figures of each way: rows, share of useful tokens, tokens a second."""
    rng = np.random.default_rng(0)
    times = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, (x, y, weight) in ways.items():
            chosen = rng.choice(len(y), ROWS, replace=False)
            batch = {key: value[chosen] for key, value in x.items()}
            began = time.perf_counter()
            lm.train_on_batch(batch, y[chosen], sample_weight=weight[chosen])
            if repeat:  # the first compiles
                times[name].append(time.perf_counter() - began)
    figures = {}
    for name, (_, y, weight) in ways.items():
        useful = float(weight.sum()) / weight.size  # over all rows, not those drawn
        seconds = statistics.median(times[name])
        figures[name] = {
            "rows": len(y),
            "useful_share": useful,
            "seconds_per_step": seconds,
            "useful_tokens_per_second": useful * ROWS * LENGTH / seconds,
        }
    return figures


if __name__ == "__main__":
    main()
