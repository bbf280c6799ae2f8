"""A step of one token on a CPU: products as Keras writes them, and as XLA reads them fast.

    KERAS_BACKEND=jax python benchmarks/one_token.py
    KERAS_BACKEND=tensorflow python benchmarks/one_token.py --preset smollm2_135m_code

On some processors, XLA reads the kernel of a product with one token at half of the memory's
speed if it has more inputs than outputs, and so it does the table of the logits if that is
transposed first. `layers.Linear` multiplies such kernels in parts, and
`layers.ReversibleEmbedding` does not transpose. Both forms decode the same prompt here, in
the same process and in turn; the tokens are compared. Medians of several calls.

Left out: several rows at once, which are multiplied as Keras writes it.
"""

import argparse
import contextlib
import statistics

import _models
import keras
from _data import record

from codegemma_keras import CodeGemmaCausalLM, layers

FORMS = ("as Keras writes them", "in parts, not transposed")
PROMPT, NEW = 64, 32


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", default="mid", help="random weights; or --preset")
    parser.add_argument("--preset")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    if options.preset:
        lm = CodeGemmaCausalLM.from_preset(options.preset, dtype="float32")
        backbone = lm.backbone
    else:
        backbone = _models.make_backbone(options.size)
    [prompt] = _models.random_prompts(backbone, [PROMPT])
    weights = 4 * backbone.count_params()
    calls, tokens = {}, {}
    for form in FORMS:
        with written(form):
            model = _models.Ours(backbone)  # with programs of its own
            tokens[form] = model.generate([prompt], NEW + 1, PROMPT + NEW + 1)
            model.generate([prompt], 1, PROMPT + 1)
        for new in (NEW + 1, 1):
            calls[form, new] = lambda model=model, new=new: model.generate(
                [prompt], new, PROMPT + new
            )
    seconds = _models.in_turn(calls, options.repeats)
    middle = {call: statistics.median(values) for call, values in seconds.items()}
    step = {form: (middle[form, NEW + 1] - middle[form, 1]) / NEW for form in FORMS}
    name = options.preset or options.size
    record(
        f"one_token_{name}_{keras.config.backend()}",
        {
            "weights_gb": weights / 1e9,
            "bandwidth_gb_per_second": _models.bandwidth() / 1e9,
            "ms_per_token": {form: 1000 * step[form] for form in FORMS},
            "gb_per_second": {form: weights / step[form] / 1e9 for form in FORMS},
            "times_faster": step[FORMS[0]] / step[FORMS[1]],
            "same_tokens": tokens[FORMS[0]] == tokens[FORMS[1]],
            "repeats": options.repeats,
        },
    )


@contextlib.contextmanager
def written(form):
    """Programs that are traced inside have one of the `FORMS`."""
    real = layers._one_on_cpu, layers.ReversibleEmbedding._logits
    if form == FORMS[0]:
        layers._one_on_cpu = lambda x, batch_shape: False
        layers.ReversibleEmbedding._logits = lambda layer, x: (
            keras.layers.ReversibleEmbedding.call(layer, x, reverse=True)
        )
    try:
        yield
    finally:
        layers._one_on_cpu, layers.ReversibleEmbedding._logits = real


if __name__ == "__main__":
    main()
