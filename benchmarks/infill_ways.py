"""Ways to ask a left-to-right model for a missing line, measured on held-out files.

    python benchmarks/infill_ways.py --preset smollm2_135m_code --lines 100

The cursor stands after the indentation of a line of code; the line is exact if the
completion's first line equals it. Some ways show the text after the cursor before the
text in front of it, so that a model that was never taught to fill in can see both. The
result decides the preset's `infill_mode`; it is written to
`results/infill_ways_PRESET.json`.

Left out: middles of several lines, for which `codegemma evaluate` has tasks.
"""

import argparse
import ast
import importlib.util
import json
import pathlib
import random
import time

from codegemma_keras import CodeGemmaCausalLM, fim
from codegemma_keras.decoding import Request, TokenIds
from codegemma_keras.decoding import request as requests

RESULTS = pathlib.Path(__file__).parent / "results"
PROMPT_TOKENS = 224  # a quarter of it for the suffix, as `fim.shrink` has it


def prefix_only(prefix, suffix, path):
    return [prefix]


def suffix_before(prefix, suffix, path):
    return [suffix.lstrip("\n"), "\n\n\n", prefix]


def suffix_as_file(prefix, suffix, path):
    return [suffix.lstrip("\n"), fim.FILE_SEPARATOR, prefix]


def suffix_in_comment(prefix, suffix, path):
    lines = suffix.strip("\n").split("\n")
    shown = "\n".join(f"# {line}".rstrip() for line in lines)
    return [f"# {path}\n# The next lines are:\n{shown}\n\n", prefix]


def psm(prefix, suffix, path):
    return fim.render(prefix, suffix, path=path)


def spm(prefix, suffix, path):
    return fim.render(prefix, suffix, path=path, mode="spm")


WAYS = {
    way.__name__: way
    for way in (
        *(prefix_only, suffix_before, suffix_as_file, suffix_in_comment),
        *(psm, spm),
    )
}


def tasks(package, count, seed):
    """`(prefix, line, suffix, path)` of lines of code in an installed package."""
    root = pathlib.Path(importlib.util.find_spec(package).origin).parent
    rng, found = random.Random(seed), []
    paths = sorted(p for p in root.rglob("*.py") if "tests" not in p.parts)
    while len(found) < count:
        path = rng.choice(paths)
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
                f"{package}/{path.relative_to(root).as_posix()}",
            )
        )
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="smollm2_135m_code")
    parser.add_argument("--package", default="networkx", help="never trained on")
    parser.add_argument("--lines", type=int, default=100)
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=WAYS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    lm = CodeGemmaCausalLM.from_preset(options.preset)
    tokenizer = lm.tokenizer
    exact = dict.fromkeys(options.ways, 0)
    start = time.perf_counter()
    cases = tasks(options.package, options.lines, options.seed)
    for prefix, line, suffix, path in cases:
        prefix, suffix, _ = fim.shrink(
            prefix, suffix, (), PROMPT_TOKENS, tokenizer.encode
        )
        for way in options.ways:
            # A last space is left to a left-to-right model, as `fim.render` does it.
            shown = prefix if way in fim.MODES else prefix.removesuffix(" ")
            ids = tokenizer.encode(WAYS[way](shown, suffix, path))
            prompt = TokenIds([tokenizer.start_token_id, *ids])
            request = Request(prompt=prompt, max_new_tokens=40, until="line")
            found = requests.complete(lm, request).text.strip()
            exact[way] += found == line
        print(exact, flush=True)
    result = {
        "preset": options.preset,
        "package": options.package,
        "lines": options.lines,
        "prompt_tokens": PROMPT_TOKENS,
        "exact": exact,
        "seconds": round(time.perf_counter() - start),
        "date": time.strftime("%Y-%m-%d"),
        "device": "2 CPU cores, shared",
    }
    name = pathlib.Path(options.preset).name
    file = RESULTS / f"infill_ways_{name}.json"
    file.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
