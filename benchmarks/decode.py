"""Single-stream decoding: ours beside KerasHub and Transformers, and the roofline.

    KERAS_BACKEND=jax python benchmarks/decode.py

Two figures, same random weights in every library, medians over repeats taken in turn:

* tokens a second at batch 1 after a short prompt, as a share of the roofline: bytes of
  weights and cache that a token must read, over the bandwidth numpy reads with;
* what a long context costs that is not used: 64 prompt tokens and 32 new ones with room
  for 8,192, over the same with room for 256. (Transformers knows no such setting.)
"""

import _models
import numpy as np


def main():
    parser = _models.arguments(__doc__.splitlines()[0])
    parser.add_argument("--no-long", action="store_true", help="skip 8,192 tokens")
    args = parser.parse_args()
    found = _models.libraries(args.size, args.peers)
    vocabulary = _models.SIZES[args.size][0]
    prompt = np.random.default_rng(1).integers(5, vocabulary, 64).tolist()

    same = {n: lib.generate([prompt], 32, 256)[0] for n, lib in found.items()}
    short = {
        n: (lambda lib=lib: lib.generate([prompt], 32, 96)) for n, lib in found.items()
    }
    one = {
        n: (lambda lib=lib: lib.generate([prompt], 1, 65)) for n, lib in found.items()
    }
    whole = _models.in_turn(short, args.repeats)
    first = _models.in_turn(one, args.repeats)

    backbone = found["ours"].lm.backbone
    weights = 4 * backbone.count_params()
    cache = found["ours"].lm.engine.cache_bytes(1, 80)
    bandwidth = _models.copy_bandwidth()
    roofline = bandwidth / (weights + cache)
    figures = {}
    for name in found:
        per_token = (_models.median(whole[name]) - _models.median(first[name])) / 31
        figures[name] = {
            "seconds_64_in_32_out": _models.median(whole[name]),
            "seconds_to_first_token": _models.median(first[name]),
            "tokens_per_second": 1 / per_token,
            "share_of_roofline": 1 / per_token / roofline,
            "same_tokens_as_ours": same[name] == same["ours"],
        }
    report = {
        "size": args.size,
        "repeats": args.repeats,
        "bytes_per_token": weights + cache,
        "bandwidth_bytes_per_second": bandwidth,
        "roofline_tokens_per_second": roofline,
        "single_stream": figures,
    }
    if not args.no_long:
        report["room_8192_over_256"] = room(found, prompt, same["ours"], args.repeats)
    _models.write("decode", report)


def room(found, prompt, tokens, repeats):
    """Seconds for the same new tokens with room for 256 and for 8,192.

    A stop token ends them, the one that comes first as late as possible: KerasHub knows
    no limit of new tokens apart from the room.
    """
    stop = max(set(tokens), key=tokens.index)
    figures = {"new_tokens": tokens.index(stop) + 1}
    for name in ("ours", "keras_hub"):
        if name not in found:
            continue
        calls = {
            str(size): (
                lambda lib=found[name], size=size: lib.until(prompt, stop, size)
            )
            for size in (256, 8192)
        }
        seconds = _models.in_turn(calls, repeats)
        medians = {size: _models.median(values) for size, values in seconds.items()}
        figures[name] = {**medians, "ratio": medians["8192"] / medians["256"]}
    return figures


if __name__ == "__main__":
    main()
