"""Exports of a random model of full size: seconds, peak memory, size of the files.

    python tools/make_checkpoint.py runs/random-2b
    python benchmarks/export_full_size.py runs/random-2b --work runs

Each export runs in a process of its own, whose peak of resident memory is set against its
largest file. The vocabulary is the embedded preset's: its rows are padded.
"""

import argparse
import datetime
import json
import pathlib
import shutil
import subprocess
import sys
import time

import _memory
from _data import device

RESULTS = pathlib.Path(__file__).parent / "results" / "export_full_size.json"
EXPORTS = (("transformers", "bfloat16"), ("gguf", "BF16"), ("gguf", "Q8_0"))
EXPORTS += (("gguf", "Q4_0"), ("gguf", "Q4_K"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("preset", help="folder that tools/make_checkpoint.py wrote")
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("runs"))
    parser.add_argument("--one", nargs=3, help="format, type and path: export once")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(export_once(options.preset, *options.one)))
        return
    report = {
        "device": device(),
        "date": datetime.date.today().isoformat(),
        "model": pathlib.Path(options.preset).name,
        "exports": {},
    }
    for format, kind in EXPORTS:
        out = options.work / f"export-{format}-{kind}"
        out = out.with_suffix(".gguf") if format == "gguf" else out
        command = [sys.executable, __file__, options.preset]
        command += ["--one", format, kind, str(out)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        files = [out] if out.is_file() else list(out.rglob("*"))
        largest = max(file.stat().st_size for file in files)
        found["gigabytes"] = sum(file.stat().st_size for file in files) / 1e9
        found["largest_file_gigabytes"] = largest / 1e9
        found["peak_of_largest_file"] = found["peak_gigabytes"] / largest * 1e9
        report["exports"][f"{format} {kind}"] = found
        print(format, kind, found, flush=True)
        shutil.rmtree(out) if out.is_dir() else out.unlink()
        RESULTS.write_text(json.dumps(report, indent=1) + "\n")


def export_once(preset, format, kind, out):
    """Export, and say what it took."""
    from codegemma_keras import CodeGemmaTokenizer, export, presets

    tokenizer = CodeGemmaTokenizer.from_preset("code_gemma_tiny_py")
    before = _memory.peak_bytes()
    start = time.perf_counter()
    model = export.of_preset(presets.Preset(preset), tokenizer)
    export.write(model, out, format, kind, verbose=False)
    peak = _memory.peak_bytes()
    return {
        "seconds": time.perf_counter() - start,
        "processor_seconds": time.process_time(),
        "peak_gigabytes": peak / 1e9,
        "of_which_libraries": before / 1e9,
    }


if __name__ == "__main__":
    main()
