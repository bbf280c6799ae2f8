"""A ragged batch: prompts of 32, 64, 96 and 480 tokens, 128 new tokens each.

    KERAS_BACKEND=jax python benchmarks/ragged.py

Same random weights in every library; KerasHub starts the batch at its shortest prompt,
Transformers pads to the longest. Medians over repeats taken in turn. A row stops at
nothing, so all do 512 new tokens.
"""

import os

import _models

LENGTHS = (32, 64, 96, 480)


def main():
    parser = _models.arguments(__doc__.splitlines()[0])
    parser.add_argument("--new", type=int, default=128)
    args = parser.parse_args()
    report = _models.Report("ragged")
    found = _models.libraries(args.size, args.peers)
    prompts = _models.random_prompts(found["ours"].lm.backbone, LENGTHS)
    context = max(LENGTHS) + args.new
    calls = {
        name: (lambda lib=lib: lib.generate(prompts, args.new, context))
        for name, lib in found.items()
    }

    processor = {}

    def write(seconds):
        middle = _models.medians(seconds)
        new = args.new * len(LENGTHS)
        report.put(
            args.size,
            lengths=LENGTHS,
            new_tokens=args.new,
            seconds=seconds,
            processor_seconds=_models.medians(processor),
            load_average=os.getloadavg()[0],
            median_seconds=middle,
            tokens_per_second={name: new / value for name, value in middle.items()},
            ours_times_faster={
                name: value / middle["ours"] for name, value in middle.items()
            },
        )

    _models.in_turn(calls, args.repeats, write, processor)


if __name__ == "__main__":
    main()
