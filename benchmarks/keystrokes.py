"""Replaying an editing session: a completion after every keystroke.

    KERAS_BACKEND=jax python benchmarks/keystrokes.py

A real file of 400 lines (from the standard library), the cursor in its middle, 200
keystrokes: typing, a newline, deleting, moving two lines up. After each, a
completion of 16 tokens. Ours is a session; KerasHub and Transformers are asked cold, on
every fortieth keystroke: a cold call costs the same on all. Same random weights. By
default the whole file goes in, some 3,600 tokens; `--context 1024` cuts it to that. Cold
prompts all have the same length, or KerasHub would compile for each.

Reported: median and 95th percentile, and by kind of keystroke how many prompt tokens
were computed and the share found in the cache. `--count-only` gives the latter without
a model, for 1,024 and 8,192 tokens.
"""

import types

import _models
import numpy as np
from _strokes import keystrokes, source

from codegemma_keras import (
    CodeGemmaCausalLM,
    CodeGemmaCausalLMPreprocessor,
    CodeGemmaTokenizer,
    fim,
)
from codegemma_keras.decoding.answering import cursor_limit
from codegemma_keras.decoding.cache import common_length
from codegemma_keras.decoding.request import Cursor
from codegemma_keras.decoding.session import LAYOUTS, Session

NEW = 16


def replay(session, strokes):
    """Seconds, prompt tokens and computed tokens of each stroke."""
    records = []
    for kind, prefix, suffix in strokes:
        seconds, result = _models.timed(
            lambda prefix=prefix, suffix=suffix: session.complete(
                prefix, suffix, path="argparse.py", max_new_tokens=NEW
            )
        )
        records.append((kind, seconds, result.prompt_tokens, result.computed_tokens))
    return records


def count_reuse(tokenizer, context, layout, strokes):
    """What a session computes at each stroke, from the prompts alone.

    As if no completion were accepted; exact, whatever the machine does besides.
    """
    lm = types.SimpleNamespace(
        tokenizer=tokenizer,
        preprocessor=types.SimpleNamespace(sequence_length=context),
    )
    session, last, records = Session(lm, layout), [], []
    for kind, prefix, suffix in strokes:
        cursor = Cursor(prefix, suffix, "argparse.py")
        ids, _, _ = session.prompt(cursor, cursor_limit(lm, NEW))
        common = common_length(ids, last)
        records.append((kind, len(ids), len(ids) - min(common, len(ids) - 1)))
        last = ids
    records = records[1:]  # the first is cold
    result = {}
    for kind in ("all", *sorted({r[0] for r in records})):
        chosen = [r for r in records if kind in ("all", r[0])]
        result[kind] = {
            "strokes": len(chosen),
            "median_prompt_tokens": _models.median([r[1] for r in chosen]),
            "median_computed_tokens": _models.median([r[2] for r in chosen]),
            "share_found": 1 - sum(r[2] for r in chosen) / sum(r[1] for r in chosen),
            # These need no prefill.
            "share_with_one_new_token": np.mean([r[2] == 1 for r in chosen]).item(),
        }
    return result


def cold_prompts(tokenizer, strokes, context):
    """The prompts of some strokes, cut at the front to the length of the shortest."""
    prompts = []
    for _, prefix, suffix in strokes:
        prefix, suffix, _ = fim.shrink(
            prefix, suffix, (), context - NEW - 1, tokenizer.encode, path="argparse.py"
        )
        prompts.append(tokenizer.encode(fim.render(prefix, suffix, path="argparse.py")))
    length = min(map(len, prompts))
    return [[tokenizer.start_token_id, *ids[-length:]] for ids in prompts]


def summary(records):
    """Times in milliseconds, and reuse by kind."""
    seconds = [r[1] for r in records]
    kinds = {}
    for kind in sorted({r[0] for r in records}):
        chosen = [r for r in records if r[0] == kind]
        prompt, computed = sum(r[2] for r in chosen), sum(r[3] for r in chosen)
        kinds[kind] = {
            "strokes": len(chosen),
            "median_ms": 1000 * _models.median([r[1] for r in chosen]),
            "median_computed_tokens": _models.median([r[3] for r in chosen]),
            "share_found": 1 - computed / prompt,
        }
    return {
        "median_ms": 1000 * _models.median(seconds),
        "p95_ms": 1000 * float(np.percentile(seconds, 95)),
        "share_found": 1 - sum(r[3] for r in records) / sum(r[2] for r in records),
        "by_kind": kinds,
    }


def cold_calls(report, args, found, tokenizer, strokes):
    """Every library asked cold; a row of the report after every round."""
    seconds = {name: [] for name in found}
    prompts = cold_prompts(tokenizer, strokes[:: args.cold_every], args.context)
    for number, ids in enumerate(prompts):
        for name, library in found.items():
            if number == 0:
                library.generate([ids], NEW, len(ids) + NEW)  # compiles
            taken, _ = _models.timed(library.generate, [ids], NEW, len(ids) + NEW)
            seconds[name].append(taken)
            print(name, "cold", round(taken, 3), flush=True)
        for name, values in seconds.items():
            report.put(
                f"{args.size} {args.context} {name} cold",
                strokes=len(values),
                prompt_tokens=len(ids),
                median_ms=1000 * _models.median(values),
                p95_ms=1000 * float(np.percentile(values, 95)),
            )


def main():
    parser = _models.arguments(__doc__.splitlines()[0])
    parser.add_argument("--strokes", type=int, default=200)
    parser.add_argument("--cold-every", type=int, default=40, help="0: never")
    parser.add_argument("--context", type=int, default=4096, help="tokens")
    parser.add_argument("--layouts", nargs="*", choices=LAYOUTS, default=["line"])
    parser.add_argument(
        "--count-only", action="store_true", help="no model: only what is reused"
    )
    args = parser.parse_args()
    tokenizer = CodeGemmaTokenizer.from_preset(_models.EMBEDDED)
    known, decode = tokenizer.vocabulary_size(), tokenizer.decode_bytes
    # Random weights choose tokens that the small vocabulary lacks; their text is noise
    # in any case.
    tokenizer.decode_bytes = lambda ids: decode([i % known for i in ids])
    strokes = list(keystrokes(source(), args.strokes))
    if args.count_only:
        report = _models.Report("keystroke_reuse")
        for context in (1024, 8192):
            for layout in LAYOUTS:
                found = count_reuse(tokenizer, context, layout, strokes)
                report.put(f"context {context} {layout}", by_kind=found)
        return
    report = _models.Report("keystrokes")
    found = _models.libraries(args.size, args.peers if args.cold_every else ())
    if args.cold_every:
        cold_calls(report, args, found, tokenizer, strokes)
    lm = CodeGemmaCausalLM(
        found["ours"].lm.backbone,
        CodeGemmaCausalLMPreprocessor(tokenizer, sequence_length=args.context),
    )
    for layout in args.layouts:
        # Twice: the first replay compiles whatever it needs.
        replay(lm.session(layout), strokes[:: max(1, args.strokes // 10)])
        session = lm.session(layout)
        session.warm(*strokes[0][1:], path="argparse.py", max_new_tokens=NEW)
        records = []
        for stroke in strokes:
            records += replay(session, [stroke])
            if len(records) % 20 == 0:
                section = f"{args.size} {args.context} ours {layout}"
                report.put(section, strokes=len(records), **summary(records))


if __name__ == "__main__":
    main()
