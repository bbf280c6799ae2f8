"""What each type of GGUF costs in quality: bits per byte, greedy tokens, megabytes.

    KERAS_BACKEND=jax python benchmarks/export_types.py --files 12
    KERAS_BACKEND=jax python benchmarks/export_types.py --preset smollm2_135m --files 3

A preset, by default the embedded one, is exported as each type and read back in float32,
so the numbers are those that llama.cpp's types hold, without its arithmetic. Bits per byte
are of files of a package that the preset has not seen, in rows of 512 tokens; agreement
is of 64 greedy tokens of eight prompts with the preset itself, up to the first difference.

The results are written after each type. A run with the same preset and files goes on where
an earlier one was interrupted; `--again` begins afresh.

`--llama-quantize PROGRAM` also compares the bytes of K types with llama.cpp's own.
"""

import argparse
import datetime
import json
import pathlib
import subprocess
import tempfile

import keras
import networkx
from _data import device
from export_readers import NEW, cut, first_difference, make_prompts

from codegemma_keras import CodeGemmaCausalLM
from codegemma_keras.decoding import Engine
from codegemma_keras.evals.likelihood import bits_per_byte
from codegemma_keras.export import quantization

RESULTS = pathlib.Path(__file__).parent / "results"
PRESET = "code_gemma_tiny_py"
ROW = 512  # tokens: the context of that preset


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default=PRESET)
    parser.add_argument("--files", type=int, default=12)
    parser.add_argument("--llama-quantize", help="program")
    parser.add_argument("--again", action="store_true", help="measure all types anew")
    options = parser.parse_args()
    name = "export_types"
    if options.preset != PRESET:
        name += f"_{pathlib.Path(options.preset).name}"
    path = RESULTS / f"{name}.json"
    lm = CodeGemmaCausalLM.from_preset(options.preset, dtype="float32")
    documents = read_documents(options.files)
    report = {
        "device": device(),
        "date": datetime.date.today().isoformat(),
        "backend": f"keras {keras.version()} on {keras.config.backend()}",
        "preset": options.preset,
        "documents": [path for path, _ in documents],
    }
    known = json.loads(path.read_text()) if path.exists() and not options.again else {}
    same = all(known.get(k) == report[k] for k in ("preset", "documents", "backend"))
    report |= {"types": known["types"] if same else {}}
    missing = [kind for kind in quantization.TYPES if kind not in report["types"]]
    if options.llama_quantize:  # K types that were not compared are measured anew
        key = "differs_from_llama_quantize"
        known = [k for k in quantization.K_BLOCKS if k not in missing]
        missing += [kind for kind in known if key not in report["types"][kind]]
    prompts, stops = make_prompts(lm.tokenizer), lm.tokenizer.stop_token_ids
    reference = greedy(lm, prompts, stops) if missing else []
    for kind in missing:
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / f"{kind}.gguf"
            lm.export(file, "gguf", kind, verbose=False)
            read = CodeGemmaCausalLM.from_preset(file, dtype="float32")
            found = greedy(read, prompts, stops)
            equal = sum(
                first_difference(a, b) for a, b in zip(reference, found, strict=True)
            )
            score = bits_per_byte(read, documents, length=ROW)["bits_per_byte"]
            line = {
                "megabytes": file.stat().st_size / 1e6,
                "bits_per_byte": score,
                "greedy_agreement": equal / sum(map(len, reference)),
            }
            if options.llama_quantize and kind in quantization.K_BLOCKS:
                line["differs_from_llama_quantize"] = differing(
                    lm, file, kind, options.llama_quantize
                )
        print(kind, line, flush=True)
        report["types"][kind] = line
        path.write_text(json.dumps(report, indent=1) + "\n")


def greedy(lm, prompts, stops):
    return [cut(r.token_ids, stops) for r in Engine(lm).generate(prompts, NEW)]


def read_documents(count):
    """Files of networkx, the larger ones first: `(path, text)`."""
    root = pathlib.Path(networkx.__file__).parent
    paths = [p for p in root.rglob("*.py") if "tests" not in p.parts]
    paths = sorted(paths, key=lambda path: (-path.stat().st_size, path))[:count]
    return [
        (str(path.relative_to(root.parent)), path.read_text(encoding="utf-8")[:20_000])
        for path in paths
    ]


def differing(lm, file, kind, program):
    """Tensors of which llama.cpp's own program makes other bytes: `name: share`."""
    import gguf

    plain, theirs = (file.with_name(name) for name in ("F32.gguf", "theirs.gguf"))
    lm.export(plain, "gguf", "F32", verbose=False)
    subprocess.run(
        [program, "--pure", plain, theirs, kind],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    ours = {t.name: t for t in gguf.GGUFReader(file).tensors}
    found = {}
    for tensor in gguf.GGUFReader(theirs).tensors:
        mine = ours[tensor.name]
        if mine.tensor_type == tensor.tensor_type:
            share = float((mine.data != tensor.data).mean())
            if share:
                found[tensor.name] = share
    return found


if __name__ == "__main__":
    main()
