"""Single-stream decoding: ours beside KerasHub and Transformers, and the roofline.

    KERAS_BACKEND=jax python benchmarks/decode.py --size mid
    KERAS_BACKEND=jax python benchmarks/decode.py --size embedded
    KERAS_BACKEND=jax python benchmarks/decode.py --part room

Same weights in every library, medians over repeats taken in turn:

* `stream`: tokens a second at batch 1 after a prompt of 64, as a share of the roofline:
  bytes of weights and cache that a token must read, over the bandwidth measured in the
  same run;
* `parts`: where the time of a token goes, ours: each program of the engine by itself,
  and within a step the network, the logits, and the choice with its log-probability;
* `room`: what a long context costs that is not used: 64 prompt tokens and 32 new ones
  with room for 8,192, over the same with room for 256. (Transformers knows no such
  setting. KerasHub computes all 8,192 positions; it is asked once.)
"""

import os

import _models
import numpy as np
from keras import ops

from codegemma_keras.decoding import Sampling
from codegemma_keras.decoding.compilation import compile_program
from codegemma_keras.decoding.loop import Rows
from codegemma_keras.decoding.sampling import Settings, Work, log_probability

NEW = 32
PROMPT = 64


def stream(report, section, found, repeats):
    backbone = found["ours"].lm.backbone
    [prompt] = _models.random_prompts(backbone, [PROMPT])
    calls, tokens = {}, {}
    for name, library in found.items():
        tokens[name] = library.generate([prompt], NEW, PROMPT + NEW)[0]
        for new in (NEW, 1):
            calls[name, new] = lambda library=library, new=new: library.generate(
                [prompt], new, PROMPT + new
            )
    weights = 4 * backbone.count_params()
    cache = found["ours"].lm.engine.cache_bytes(1, PROMPT + NEW // 2)
    bandwidth = _models.bandwidth()
    roofline = bandwidth / (weights + cache)
    processor = {}

    def write(seconds):
        middle = _models.medians(seconds)
        figures = {}
        for name in found:
            per_token = (middle[name, NEW] - middle[name, 1]) / (NEW - 1)
            figures[name] = {
                "seconds_64_in_32_out": middle[name, NEW],
                "processor_seconds_64_in_32_out": _models.median(processor[name, NEW]),
                "seconds_to_first_token": middle[name, 1],
                "tokens_per_second": 1 / per_token,
                "share_of_roofline": 1 / per_token / roofline,
                "same_tokens_as_ours": tokens[name] == tokens["ours"],
            }
        report.put(
            section,
            repeats=len(seconds["ours", NEW]),
            load_average=os.getloadavg()[0],
            bytes_per_token=weights + cache,
            bandwidth_bytes_per_second=bandwidth,
            roofline_tokens_per_second=roofline,
            libraries=figures,
        )

    _models.in_turn(calls, repeats, write, processor)


def parts(report, section, lm, repeats):
    """Milliseconds of the engine's programs, and of the parts of one step."""
    engine, backbone = lm.engine, lm.backbone

    def array(value, dtype="int32"):
        return np.array([value], dtype)

    def rows():
        return Rows(
            array(300), array(PROMPT), array(1), array(99), array(False, "bool"),
            array(0, "uint32"), np.full((1, 16), -1, "int32"), Settings.of([Sampling()]),
        )  # fmt: skip

    def decode(count):
        _, cache = engine.empty(1, 128)
        result = engine.decode(Work(), rows(), np.int32(count), cache)
        np.asarray(result[0])

    def prefill(width):
        hidden, cache = engine.empty(1, 128)
        ids = np.full((1, width), 300, "int32")
        hidden, _ = engine.prefill(ids, np.int32(0), array(width), hidden, cache)
        ops.convert_to_numpy(hidden)

    def looped(step):
        """`step` NEW times in a compiled loop over a hidden state `[1, D]`."""

        def run(hidden):
            def body(i, hidden):
                return i + 1, hidden + 1e-6 * step(hidden)

            start = ops.cast(ops.sum(hidden) * 0, "int32")
            return ops.while_loop(lambda i, _: i < NEW, body, (start, hidden))[1]

        program = compile_program(lm, run)
        return lambda: np.asarray(program(np.ones((1, backbone.hidden_dim), "float32")))

    def logits(hidden):
        return ops.max(backbone.logits(hidden), axis=-1, keepdims=True)

    def choice(hidden):
        # Logits that cost nothing, so that the rest of the step shows.
        made = (
            ops.arange(backbone.vocabulary_size, dtype="float32")[None] * hidden[0, 0]
        )
        token = ops.cast(ops.argmax(made, axis=-1), "int32")
        return log_probability(made, token)[:, None]

    calls = {
        "decode of 32": lambda: decode(NEW),
        "decode of 1": lambda: decode(1),
        **{f"prefill of {w}": lambda w=w: prefill(w) for w in (8, 32, 128)},
        "32 logits": looped(logits),
        "32 choices": looped(choice),
    }

    def write(seconds):
        ms = {name: 1000 * value for name, value in _models.medians(seconds).items()}
        step = (ms["decode of 32"] - ms["decode of 1"]) / (NEW - 1)
        report.put(
            section,
            milliseconds=ms,
            milliseconds_of_a_step={
                "all": step,
                "logits": ms["32 logits"] / NEW,
                "argmax and log-probability": ms["32 choices"] / NEW,
            },
        )

    _models.in_turn(calls, repeats, write)


def room(report, section, found, repeats):
    """Seconds for the same new tokens with room for 256 and for 8,192.

    A stop token ends them, the one that comes first as late as possible: KerasHub knows
    no limit of new tokens apart from the room.
    """
    new = stop = 0
    # Random weights often repeat one token, so the prompt with the most tokens is taken.
    for candidate in _models.random_prompts(found["ours"].lm.backbone, [PROMPT] * 10):
        tokens = found["ours"].generate([candidate], NEW, 256)[0]
        last = max(set(tokens), key=tokens.index)
        if tokens.index(last) + 1 > new:
            new, stop, prompt = tokens.index(last) + 1, last, candidate
    report.put(section, new_tokens=new)
    for name in ("ours", "keras_hub"):
        if name not in found:
            continue
        calls = {
            str(size): (
                lambda lib=found[name], size=size: lib.until(prompt, stop, size)
            )
            for size in (256, 8192)
        }
        times = repeats if name == "ours" else 1
        middle = _models.medians(_models.in_turn(calls, times))
        ratio = middle["8192"] / middle["256"]
        report.put(section, **{name: {**middle, "ratio": ratio, "repeats": times}})


def main():
    parser = _models.arguments(__doc__.splitlines()[0])
    parser.add_argument("--part", nargs="*", default=["stream", "parts"])
    args = parser.parse_args()
    report = _models.Report("decode")
    found = _models.libraries(args.size, args.peers)
    if "stream" in args.part:
        stream(report, f"stream {args.size}", found, args.repeats)
    if "parts" in args.part:
        parts(report, f"parts {args.size}", found["ours"].lm, args.repeats)
    if "room" in args.part:
        room(report, f"room {args.size}", found, args.repeats)


if __name__ == "__main__":
    main()
