"""Speculation: are the tokens the same, how many are guessed right, what is it worth?

    KERAS_BACKEND=jax python benchmarks/speculation.py --part exact accepted cost

* `exact`: 1,000 prompts of real code for the embedded preset, 32 tokens each, greedy
  and sampled: prompt lookup and a draft model (the preset's own first layers, which
  guess badly, so that most guesses are thrown away) beside plain decoding.
* `accepted`: tokens for each forward of the large model. On the keystroke replay with
  the embedded preset; and by lookup on an edit, a 60-line function written again with
  one name changed, as a model would that does it right.
* `cost`: milliseconds of a forward that verifies a draft beside those of one that
  decodes a token, mid: so many tokens a forward must give to break even. And seconds
  for the same 128 tokens with and without lookup, on random weights, whose greedy text
  repeats itself.
"""

import inspect
import re

import _models
import keystrokes
import numpy as np

from codegemma_keras import CodeGemmaBackbone, CodeGemmaCausalLM, fim
from codegemma_keras.decoding import Sampling, speculation
from codegemma_keras.decoding.loop import Rows
from codegemma_keras.decoding.sampling import Settings, Work


def first_layers(lm, number):
    """A draft model: the first layers of `lm`, the same embedding and last norm."""
    config = lm.backbone.get_config()
    for name in ("name", "trainable", "dtype"):
        config.pop(name, None)
    small = CodeGemmaBackbone(**{**config, "num_layers": number}, dtype="float32")
    values = {v.path: v.value for v in lm.backbone.variables}
    for variable in small.variables:
        variable.assign(values[variable.path])
    return CodeGemmaCausalLM(small, lm.preprocessor)


def real_prompts(lm, number, longest=120):
    """Fill-in-the-middle prompts, the cursor anywhere in a real file."""
    lines = keystrokes.source().split("\n")
    rng, prompts = np.random.default_rng(5), []
    while len(prompts) < number:
        begin = int(rng.integers(0, len(lines) - 12))
        text = "\n".join(lines[begin : begin + 12])
        cursor = int(rng.integers(0, len(text) + 1))
        ids = lm.tokenizer.encode(fim.render(text[:cursor], text[cursor:]))
        if len(ids) < longest:
            prompts.append([lm.tokenizer.start_token_id, *ids])
    return prompts


def exact(report, lm, number, new=32, rows=8):
    """How many of the prompts give other tokens than plain decoding."""
    prompts = real_prompts(lm, number)
    small = first_layers(lm, max(1, lm.backbone.num_layers // 2))
    for sampling in (Sampling(), Sampling(temperature=0.8, top_p=0.95)):
        done, differ = 0, {"lookup": 0, "draft model": 0}
        forwards = {"lookup": 0, "draft model": 0}
        tokens = 0
        for begin in range(0, number, rows):
            batch = prompts[begin : begin + rows]
            how = {"sampling": sampling, "seeds": range(begin, begin + len(batch))}
            plain, plain_rows = run_of(lm, batch, new, **how)
            for name, speculate in (("lookup", True), ("draft model", small)):
                guessed, rows_ = run_of(lm, batch, new, speculate=speculate, **how)
                pairs = zip(plain_rows, rows_, strict=True)
                differ[name] += sum(a.tokens != b.tokens for a, b in pairs)
                forwards[name] += guessed.forwards
            done += len(batch)
            tokens += plain.forwards
            if begin // rows % 10 == 9 or done == number:
                kind = "greedy" if sampling.greedy else "sampled"
                report.put(
                    f"exact {kind}",
                    prompts=done,
                    new_tokens_each=new,
                    prompts_that_differ=differ,
                    forwards_plain=tokens,
                    forwards_speculating=forwards,
                )


def run_of(lm, prompts, new, **how):
    """The `Generation` at its end, and its rows."""
    generation, rows = lm.engine.start(prompts, new, **how)
    while generation.running:
        generation.advance()
    return generation, rows


def accepted(report, lm, strokes):
    """Tokens a forward, in the replay and in the edit."""
    found = {}
    for name, speculate in (("lookup", True), ("draft model", first_layers(lm, 2))):
        new = forwards = 0
        for _, prefix, suffix in strokes:
            ids = lm.tokenizer.encode(
                fim.render(prefix[-1500:], suffix[:500], path="argparse.py")
            )
            prompt = [lm.tokenizer.start_token_id, *ids]
            run, [row] = run_of(
                lm,
                [prompt],
                keystrokes.NEW,
                stop_token_ids=lm.tokenizer.stop_token_ids,
                speculate=speculate,
            )
            new += len(row.tokens) - 1  # the first comes from the prefill
            forwards += run.forwards
        found[name] = new / max(forwards, 1)
    report.put("accepted keystrokes", strokes=len(strokes), tokens_per_forward=found)

    before = inspect.getsource(inspect.Signature._bind).split("\n")[:60]
    before = "\n".join(before) + "\n"
    after = re.sub(r"\bparam\b", "parameter", before)
    encode = lm.tokenizer.encode
    prompt, answer = encode(before), encode(after)
    report.put(
        "accepted edit",
        lines=before.count("\n"),
        tokens=len(answer),
        tokens_per_forward={"lookup": followed(prompt, answer)},
    )


def followed(prompt, answer):
    """Tokens a forward by lookup, if the model writes `answer` after `prompt`."""
    size = len(prompt) + len(answer)
    history = np.zeros((1, size), "int32")
    history[0] = prompt + answer
    at, forwards = len(prompt), 0
    while at < size:
        newest = np.array([at - 1], "int32")
        draft = np.asarray(
            speculation.lookup_draft(history, newest, speculation.LOOKUP_WIDTH)
        )
        right = 0
        wanted = history[0, at : at + speculation.LOOKUP_WIDTH]
        while right < len(wanted) and draft[0, right] == wanted[right]:
            right += 1
        at += right + 1
        forwards += 1
    return len(answer) / forwards


def cost(report, size, repeats):
    """What verifying costs, and seconds with and without."""
    lm = CodeGemmaCausalLM(_models.make_backbone(size))
    engine = lm.engine
    [prompt] = _models.random_prompts(lm.backbone, [64])
    plain = lambda: run_of(lm, [prompt], 128)  # noqa: E731
    guessed = lambda: run_of(lm, [prompt], 128, speculate=True)  # noqa: E731
    runs = {"plain": plain(), "lookup": guessed()}

    def array(value, dtype="int32"):
        return np.array([value], dtype)

    def visit(drafter, count):
        """`count` forwards at least, whatever is accepted."""
        _, cache = engine.empty(1, 128)
        rows = Rows(
            array(300), array(64), array(1), array(1 + count), array(False, "bool"),
            array(0, "uint32"), np.full((1, 16), -1, "int32"), Settings.of([Sampling()]),
        )  # fmt: skip
        if drafter is None:
            result = engine.decode(Work(), rows, np.int32(count), cache)
        else:
            history = np.zeros((1, 128), "int32")
            result = engine.speculate(
                Work(), drafter, rows, np.int32(count), history, cache
            )
        np.asarray(result[0])

    calls = {
        "token": lambda: visit(None, 1),
        "draft verified": lambda: visit(speculation.Lookup(), 1),
        "128 tokens": plain,
        "128 tokens by lookup": guessed,
    }

    def write(seconds):
        middle = _models.medians(seconds)
        report.put(
            f"cost {size}",
            seconds=middle,
            repeats=len(seconds["token"]),
            same_tokens=runs["plain"][1][0].tokens == runs["lookup"][1][0].tokens,
            tokens_per_forward=127 / runs["lookup"][0].forwards,
            break_even_tokens_per_forward=middle["draft verified"] / middle["token"],
            times_faster=middle["128 tokens"] / middle["128 tokens by lookup"],
        )

    _models.in_turn(calls, repeats, write)


def main():
    parser = _models.arguments(__doc__.splitlines()[0])
    parser.add_argument("--part", nargs="*", default=["exact", "accepted", "cost"])
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--strokes", type=int, default=200)
    args = parser.parse_args()
    report = _models.Report("speculation")
    lm = CodeGemmaCausalLM.from_preset(_models.EMBEDDED, dtype="float32")
    if "accepted" in args.part:
        strokes = list(keystrokes.keystrokes(keystrokes.source(), args.strokes))
        accepted(report, lm, strokes)
    if "exact" in args.part:
        exact(report, lm, args.prompts)
    if "cost" in args.part:
        cost(report, args.size, args.repeats)


if __name__ == "__main__":
    main()
