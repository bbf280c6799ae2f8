"""Train the adapter of `smollm2_135m_code` on the rows of `smollm2_adapter.py`.

    python tools/smollm2_train.py runs/adapter --rows runs/adapter_rows --tokens 4000000
    python tools/smollm2_train.py ... --minutes 10       # what a GPU is lent for

For a GPU, add `--batch 64 --accumulation 1 --rank 24 --save-every 500 --evaluate-every 500`:
one large part to an update, and an adapter of 14.7 MB. `--follow` begins while rows are
still being made: whenever all rows have been seen, those of new files are next.

The settings are those of `recipes.pretrain`, and so is the run: the same command goes on
where it stopped, ^C and `--minutes` save first. `OUT/adapter` is the adapter in PEFT's
format, in float16 (9.8 MB at rank 16); `smollm2_keep.py` makes it part of the preset.

Left out: full training of the base, of which no adapter of 16 MB could be made.
"""

import argparse
import itertools
import os
import pathlib
import signal
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from smollm2_adapter import load_rows, row_files
from smollm2_keep import keep

from codegemma_keras.formats import smollm2
from codegemma_keras.recipes import pretrain
from codegemma_keras.training import config as settings
from codegemma_keras.training import loop, model, order
from codegemma_keras.training.interrupt import Interrupted
from codegemma_keras.training.progress import say

HELD_OUT = 32  # rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--rows", type=pathlib.Path, required=True, help="a folder")
    parser.add_argument("--preset", default=smollm2.BASE)
    parser.add_argument(
        "--tokens", type=int, default=4_000_000, help="of the whole run"
    )
    parser.add_argument("--batch", type=int, default=8, help="rows of an update")
    parser.add_argument("--accumulation", type=int, default=2)
    parser.add_argument("--rank", type=int, help="default: the adapter's, or 16")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--adapter", help="a folder; its training continues")
    parser.add_argument("--dtype", help="of the frozen base; None: the device's")
    parser.add_argument("--log-every", type=int, default=5, help="updates")
    parser.add_argument("--save-every", type=int, default=20, help="updates")
    parser.add_argument(
        "--evaluate-every", type=int, default=60, help="updates; 0: never"
    )
    parser.add_argument(
        "--follow", action="store_true", help="take rows of files that appear later"
    )
    parser.add_argument("--minutes", type=float, help="save and end after so long")
    options = parser.parse_args()
    rows = load_rows(row_files(options.rows))
    training, held_out = rows.take(slice(HELD_OUT, None)), rows.take(slice(HELD_OUT))
    config = config_of(options, rows.targets.shape[1])
    settings.keep_settings(config, rows=rows.rows)
    steps = options.tokens // config.batch_tokens
    lm = model.load(config, pretrain.ADAPTER)
    model.compile_model(lm, config, steps)
    lm.preprocessor = None  # rows are tokens already

    def batches(start):
        if options.follow:
            return following(options, training, start)
        return order.batches_of(training, options.batch, config.seed, start)

    if options.minutes:  # As ^C would: the loop saves and ends after its step.
        timer = threading.Timer(
            options.minutes * 60, os.kill, (os.getpid(), signal.SIGINT)
        )
        timer.daemon = True
        timer.start()
    try:
        loop.run(
            lm, config, steps, batches, held_out if config.evaluate_every else None
        )
    except Interrupted as error:
        print(error)
    model.save_result(lm, config, pretrain.ADAPTER)
    folder = options.out / "adapter"
    print(f"{folder}: {keep(folder, folder) / 1e6:.1f} MB")


def following(options, rows, start):
    """Batches of the rows that are there; after each pass, of files that are new.

    Where none is new, all rows come again. A run that was stopped begins with a new pass.
    """
    seen = set(row_files(options.rows))
    for turn in itertools.count():
        seed = start + turn
        count = len(rows.targets) // options.batch
        say(f"pass {turn + 1}: {len(rows.targets)} rows")
        for number in range(count):
            yield order.batch_of(rows, number, options.batch, seed)
        found = row_files(options.rows)
        fresh = [file for file in found if file not in seen]
        rows = load_rows(fresh or found)
        seen.update(fresh)


def config_of(options, length):
    """The settings of the run, nothing left to derive."""
    config = pretrain.PretrainConfig(
        out=str(options.out),
        preset=options.preset,
        dtype=options.dtype,
        adapter=options.adapter,
        lora_rank=options.rank or (None if options.adapter else 16),
        sequence_length=length,
        batch_tokens=length * options.batch,
        accumulation=options.accumulation,
        learning_rate=options.rate,
        tokens=options.tokens,
        warmup_steps=20,
        decay=0.3,
        weight_decay=0.0,
        log_every=options.log_every,
        save_every=options.save_every,
        evaluate_every=options.evaluate_every,
    )
    return pretrain.resolved(config)


if __name__ == "__main__":
    main()
