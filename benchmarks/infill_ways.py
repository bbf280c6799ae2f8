"""Ways to ask a model for a missing line, measured on lines of held-out packages.

    python benchmarks/infill_ways.py --preset smollm2_135m_code --lines 300

The cursor stands after the indentation of a line of code, and the line is missing. For
each way, in percent of the lines:

    exact     the line that was written is the one that is missing
    parses    the file with what was written is Python
    stops     the model stopped by itself, or a rule saw where the text ends

Text is ended and tidied as `complete(..., tidy=True)` does it, by the same functions. Some
ways show the text after the cursor before the text in front of it, so that a model that
was never taught to fill in can see both; `left_to_right` is what the package does. The
result decides the preset's `infill_mode`, and is in `results/infill_ways_PRESET.json`, or with
`--adapter` in `results/infill_ways_PRESET_adapter.json`.

Left out: middles of several lines, for which `codegemma eval` has tasks.
"""

import argparse
import ast
import importlib.util
import json
import pathlib
import random
import time

import _adapters
from _data import device

from codegemma_keras import CodeGemmaCausalLM, fim
from codegemma_keras.decoding import Request, TokenIds, answering
from codegemma_keras.decoding.postprocessing import Tidying
from codegemma_keras.decoding.stops import Stops, repeated_line, what_is_missing

RESULTS = pathlib.Path(__file__).parent / "results"
# Never trained on: `tools/smollm2_texts.py` leaves them out.
PACKAGES = "networkx rich requests h5py anyio tornado jinja2 tqdm pathspec".split()


def prefix_only(prefix, suffix, path):
    return [prefix.removesuffix(" ")]


def prefix_with_path(prefix, suffix, path):
    return fim.render(prefix, "", path=path, mode="left_to_right")


def suffix_before(prefix, suffix, path):
    return [suffix.lstrip("\n"), "\n\n\n", prefix.removesuffix(" ")]


def suffix_as_file(prefix, suffix, path):
    return fim.render(prefix, suffix, mode="left_to_right")


def left_to_right(prefix, suffix, path):
    return fim.render(prefix, suffix, path=path, mode="left_to_right")


def psm(prefix, suffix, path):
    return fim.render(prefix, suffix, path=path)


def spm(prefix, suffix, path):
    return fim.render(prefix, suffix, path=path, mode="spm")


FIM = (psm, spm)
WAYS = {
    way.__name__: way
    for way in (prefix_only, prefix_with_path, suffix_before, suffix_as_file)
    + (left_to_right, *FIM)
}


def tasks(packages, count, seed):
    """`(prefix, line, suffix, path)` of lines of code in installed packages."""
    rng, found = random.Random(seed), []
    roots = [
        pathlib.Path(importlib.util.find_spec(package).origin).parent
        for package in packages
    ]
    files = {
        root: sorted(p for p in root.rglob("*.py") if "tests" not in p.parts)
        for root in roots
    }
    while len(found) < count:
        root = roots[len(found) % len(roots)]
        path = rng.choice(files[root])
        text = path.read_text(encoding="utf-8")
        lines = text.splitlines(keepends=True)
        numbers = sorted(
            {
                node.lineno - 1
                for node in ast.walk(ast.parse(text))
                if isinstance(node, ast.stmt) and node.lineno == node.end_lineno
            }
        )
        numbers = [n for n in numbers if len(lines[n].strip()) >= 8 and n > 10]
        if not numbers:
            continue
        number = rng.choice(numbers)
        line = lines[number]
        indent = line[: len(line) - len(line.lstrip())]
        found.append(
            (
                "".join(lines[:number]) + indent,
                line.strip(),
                "\n" + "".join(lines[number + 1 :]),
                path.relative_to(root.parent).as_posix(),
            )
        )
    return found


def ask(lm, way, cases, options):
    """The texts of some tasks, and whether each stopped."""
    encode, prompts = lm.tokenizer.encode, []
    for prefix, _, suffix, path in cases:
        prefix, suffix, _ = fim.shrink(
            prefix, suffix, (), options.prompt_tokens, encode, path=path
        )
        prompts.append(
            [lm.tokenizer.start_token_id, *encode(way(prefix, suffix, path))]
        )
    limits = [options.max_new_tokens] * len(cases)
    request = Request(prompt=TokenIds([]))
    found = answering.complete_each(lm, prompts, limits, request)
    return [
        fit(way, prefix, suffix, completion)
        for (prefix, _, suffix, _), completion in zip(cases, found, strict=True)
    ]


def fit(way, prefix, suffix, completion):
    """`(text, whether it stopped)` as `complete(..., tidy=True)` has it."""
    text, until = completion.text, None
    if way not in FIM:
        text = text.removeprefix(" ") if prefix.endswith(" ") else text
        until = what_is_missing(prefix, suffix)
    stops = Stops((), until, prefix, repeated_line(suffix))
    end = stops.end(text)
    stopped = end is not None or completion.stop_reason == "stop_token"
    kept = end[0] if end else len(text) if stopped else stops.whole(text) or len(text)
    return Tidying(prefix, suffix).whole(text[:kept]), stopped


def parses(text):
    try:
        ast.parse(text)
    except (SyntaxError, ValueError):
        return False
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="smollm2_135m_code")
    parser.add_argument("--adapter", help="folder of an adapter in PEFT's format")
    parser.add_argument("--scale", type=float, default=1.0, help="of the adapter")
    parser.add_argument("--packages", nargs="*", default=PACKAGES)
    parser.add_argument("--lines", type=int, default=300)
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=WAYS)
    parser.add_argument("--prompt-tokens", type=int, default=240)
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    lm = CodeGemmaCausalLM.from_preset(options.preset)
    _adapters.use(lm, options.adapter, options.scale)
    cases = tasks(options.packages, options.lines, options.seed)
    for name in options.ways:
        start = time.perf_counter()
        counts = {"exact": 0, "parses": 0, "stops": 0}
        for first in range(0, len(cases), options.batch):
            batch = cases[first : first + options.batch]
            found = ask(lm, WAYS[name], batch, options)
            for (prefix, line, suffix, _), (text, stopped) in zip(
                batch, found, strict=True
            ):
                counts["exact"] += text.strip() == line
                counts["parses"] += parses(prefix + text + suffix)
                counts["stops"] += stopped
        row = {k: round(100 * n / len(cases), 1) for k, n in counts.items()}
        row["lines"] = len(cases)
        row["seconds"] = round(time.perf_counter() - start)
        print(name, row, flush=True)
        keep(options, name, row)


def keep(options, way, row):
    """Write one way's figures beside those of the other ways."""
    asked = {
        "preset": options.preset,
        "adapter": options.adapter and pathlib.Path(options.adapter).name,
        "packages": list(options.packages),
        "prompt_tokens": options.prompt_tokens,
        "max_new_tokens": options.max_new_tokens,
    }
    name = pathlib.Path(options.preset).name + ("_adapter" if options.adapter else "")
    file = RESULTS / f"infill_ways_{name}.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    same = all(known.get(key) == value for key, value in asked.items())
    rows = known["percent"] if same else {}
    if options.scale != 1:
        way += f", {options.scale} of the adapter"
    rows[way] = {**row, "date": time.strftime("%Y-%m-%d"), "device": device()}
    file.write_text(json.dumps({**asked, "percent": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
