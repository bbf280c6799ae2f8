"""int8 and int4: speed, memory, and what they cost in bits per byte.

    KERAS_BACKEND=jax python benchmarks/quantization.py

* `quality`: bits per byte of the embedded preset on packages that it was not trained on
  (see its card), for float32, bfloat16, int8 and int4.
* `speed`: mid, random weights: bytes of all variables, peak memory of a process of its
  own, and tokens a second at batch 1 after a prompt of 64.
"""

import argparse
import json
import subprocess
import sys

import _memory
import _models
import keras
from _data import package_folder

from codegemma_keras import CodeGemmaCausalLM
from codegemma_keras.evals.likelihood import bits_per_byte

KINDS = ("float32", "bfloat16", "int8", "int4")
HELD_OUT = ("requests", "rich")


def documents(size):
    """`(path, text)` of held-out files, `size` bytes and a little more."""
    found, total = [], 0
    for package in HELD_OUT:
        folder = package_folder(package)
        for path in sorted(folder.rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            if len(text) > 500 and total < size:
                found.append((f"{package}/{path.relative_to(folder)}", text))
                total += len(text)
    return found


def made(size, kind):
    """A model whose weights are of `kind`."""
    dtype = kind if kind == "bfloat16" else "float32"
    if size == "embedded":
        lm = CodeGemmaCausalLM.from_preset(_models.EMBEDDED, dtype=dtype)
    else:
        keras.utils.set_random_seed(0)
        sizes = {**_models.backbone_arguments(size), "dtype": dtype}
        lm = CodeGemmaCausalLM(_models.CodeGemmaBackbone(**sizes))
    if kind.startswith("int"):
        lm.quantize(kind)
    return lm


def variable_bytes(lm):
    sizes = {"int4": 0.5, "int8": 1, "uint8": 1, "bfloat16": 2, "float16": 2}
    return sum(
        int(keras.ops.size(v.value)) * sizes.get(v.dtype, 4) for v in lm.variables
    )


def quality(report, size):
    texts = documents(size)
    for kind in KINDS:
        lm = made("embedded", kind)
        seconds, found = _models.timed(bits_per_byte, lm, texts)
        report.put(
            "quality embedded",
            **{
                kind: {
                    **found,
                    "variable_bytes": variable_bytes(lm),
                    "seconds": seconds,
                }
            },
        )


def measure(size, kind, repeats):
    """In this process: one kind's speed and memory."""
    lm = made(size, kind)
    [prompt] = _models.random_prompts(lm.backbone, [64])
    calls = {new: lambda new=new: lm.engine.generate([prompt], new) for new in (32, 1)}
    middle = _models.medians(_models.in_turn(calls, repeats))
    return {
        "variable_bytes": variable_bytes(lm),
        "peak_bytes": _memory.peak_bytes(),
        "seconds_64_in_32_out": middle[32],
        "seconds_to_first_token": middle[1],
        "tokens_per_second": 31 / (middle[32] - middle[1]),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", nargs="*", default=["quality", "speed"])
    parser.add_argument("--size", choices=[*_models.SIZES, "embedded"], default="mid")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--bytes", type=int, default=150_000, help="of held-out text")
    parser.add_argument("--kinds", nargs="*", default=KINDS)
    parser.add_argument("--kind", help="internal")
    args = parser.parse_args()
    if args.kind:
        print(json.dumps(measure(args.size, args.kind, args.repeats)))
        return
    report = _models.Report("quantization")
    if "quality" in args.part:
        quality(report, args.bytes)
    if "speed" in args.part:
        for kind in args.kinds:
            command = [sys.executable, __file__, "--kind", kind, "--size", args.size]
            command += ["--repeats", str(args.repeats)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(done.stderr)
            found = json.loads(done.stdout.splitlines()[-1])
            report.put(f"speed {args.size}", **{kind: found})


if __name__ == "__main__":
    main()
