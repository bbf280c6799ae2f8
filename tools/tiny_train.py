"""Train all weights of a small preset on the rows of `smollm2_adapter.py`.

    KERAS_BACKEND=tensorflow python tools/tiny_train.py runs/tiny5 --rows runs/rows5 \\
        --tokens 20000000 --rate 0.0015 --decay 0 --minutes 60
    KERAS_BACKEND=tensorflow python tools/tiny_train.py runs/tiny6 --rows runs/rows6 \\
        --preset runs/tiny5/preset --tokens 5000000 --rate 0.0015 --decay 1

The settings are those of `recipes.pretrain`, and so is the run: the same command goes on
where it stopped, and ^C and `--minutes` save first. `OUT/preset` is written then, too, so
that another phase can go on from a phase that was stopped. Rows are read in an order of
the seed, each once at most.

Left out: rows of `data build`, which `recipes.pretrain --data` reads.
"""

import argparse
import os
import pathlib
import signal
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from smollm2_adapter import load_rows, row_files

from codegemma_keras.recipes import pretrain
from codegemma_keras.training import config as settings
from codegemma_keras.training import loop, model, order
from codegemma_keras.training.interrupt import Interrupted
from codegemma_keras.training.progress import say

HELD_OUT = 32  # rows


def main():
    options = parsed()
    rows = load_rows(row_files(options.rows))
    training, held_out = rows.take(slice(HELD_OUT, None)), rows.take(slice(HELD_OUT))
    config = config_of(options, rows.targets.shape[1])
    settings.keep_settings(config, rows=rows.rows)
    steps = options.tokens // config.batch_tokens
    if (most := training.rows // options.batch) < steps:
        say(f"{most:,} updates: the rows have fewer than {options.tokens:,} tokens")
        steps = most
    lm = model.load(config, pretrain.ADAPTER)
    model.compile_model(lm, config, steps)
    lm.preprocessor, preprocessor = None, lm.preprocessor  # rows are tokens already
    if options.minutes:  # As ^C would: the loop saves and ends after its step.
        timer = threading.Timer(
            options.minutes * 60, os.kill, (os.getpid(), signal.SIGINT)
        )
        timer.daemon = True
        timer.start()
    try:
        loop.run(
            lm,
            config,
            steps,
            lambda start: order.batches_of(
                training, options.batch, options.seed, start
            ),
            held_out if config.evaluate_every else None,
        )
    except Interrupted as error:
        print(error)
    lm.preprocessor = preprocessor
    model.save_and_say(lm, config, pretrain.ADAPTER)


def parsed(arguments=None):
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--rows", type=pathlib.Path, required=True, help="a folder")
    parser.add_argument("--preset", default="code_gemma_tiny_py")
    parser.add_argument(
        "--tokens",
        type=int,
        required=True,
        help="of the run, which sees each row once at most",
    )
    parser.add_argument("--batch", type=int, default=4, help="rows of an update")
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--warmup", type=int, default=48, help="updates")
    parser.add_argument("--decay", type=float, default=0.5, help="share of the updates")
    parser.add_argument("--seed", type=int, default=0, help="of the order of rows")
    parser.add_argument("--dtype", default="mixed_bfloat16")
    parser.add_argument("--log-every", type=int, default=20, help="updates")
    parser.add_argument("--save-every", type=int, default=200, help="updates")
    parser.add_argument(
        "--evaluate-every", type=int, default=1000, help="updates; 0: never"
    )
    parser.add_argument("--minutes", type=float, help="save and end after so long")
    return parser.parse_args(arguments)


def config_of(options, length):
    """The settings of the run, nothing left to derive."""
    config = pretrain.PretrainConfig(
        out=str(options.out),
        preset=options.preset,
        dtype=options.dtype,
        lora_rank=0,
        sequence_length=length,
        batch_tokens=length * options.batch,
        learning_rate=options.rate,
        tokens=options.tokens,
        warmup_steps=options.warmup,
        decay=options.decay,
        seed=options.seed,
        log_every=options.log_every,
        save_every=options.save_every,
        evaluate_every=options.evaluate_every,
    )
    return pretrain.resolved(config)


if __name__ == "__main__":
    main()
