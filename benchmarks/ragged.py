"""A ragged batch: prompts of 32, 64, 96 and 480 tokens, 128 new tokens each.

    KERAS_BACKEND=jax python benchmarks/ragged.py

Same random weights in every library; KerasHub starts the batch at its shortest prompt,
Transformers pads to the longest. Medians over repeats taken in turn. A row stops at
nothing, so all do 512 new tokens.
"""

import _models
import numpy as np

LENGTHS = (32, 64, 96, 480)


def main():
    parser = _models.arguments(__doc__.splitlines()[0])
    parser.add_argument("--new", type=int, default=128)
    args = parser.parse_args()
    found = _models.libraries(args.size, args.peers)
    rng = np.random.default_rng(1)
    vocabulary = _models.SIZES[args.size][0]
    prompts = [rng.integers(5, vocabulary, n).tolist() for n in LENGTHS]
    context = max(LENGTHS) + args.new
    calls = {
        name: (lambda lib=lib: lib.generate(prompts, args.new, context))
        for name, lib in found.items()
    }
    seconds = _models.in_turn(calls, args.repeats)
    medians = {name: _models.median(values) for name, values in seconds.items()}
    _models.write(
        "ragged",
        {
            "size": args.size,
            "repeats": args.repeats,
            "lengths": LENGTHS,
            "new_tokens": args.new,
            "seconds": medians,
            "tokens_per_second": {
                name: args.new * len(LENGTHS) / value for name, value in medians.items()
            },
            "ours_times_faster": {
                name: value / medians["ours"] for name, value in medians.items()
            },
        },
    )


if __name__ == "__main__":
    main()
