"""The programs of `examples/showcase.py`, completed by a model and run in the sandbox.

    python benchmarks/showcase.py                     # smollm2_135m_code
    python benchmarks/showcase.py --preset code_gemma_tiny_py

A program passes if it runs to its end, checks included. What is completed is what an
editor would get: `complete(..., tidy=True)`, greedy.
"""

import argparse
import importlib.util
import json
import pathlib
import time

import _adapters
from _data import device

from codegemma_keras import CodeGemmaCausalLM, sandbox

HERE = pathlib.Path(__file__).parent
SHOWCASE = HERE.parent / "examples" / "showcase.py"


def prompts():
    spec = importlib.util.spec_from_file_location("showcase", SHOWCASE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return list(module.prompts())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="smollm2_135m_code")
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--adapter", help="folder of an adapter in PEFT's format")
    parser.add_argument("--scale", type=float, default=1.0, help="of the adapter")
    options = parser.parse_args()
    lm = CodeGemmaCausalLM.from_preset(options.preset)
    _adapters.use(lm, options.adapter, options.scale)
    records, start = [], time.perf_counter()
    for prefix, suffix, checks in prompts():
        middle = lm.infill(
            prefix, suffix, max_new_tokens=options.max_new_tokens, tidy=True
        )
        # The programs end at once; a busy machine may take its time to start them.
        limits = sandbox.Limits(seconds=60)
        result = sandbox.run(f"{prefix}{middle}{suffix}\n{checks}", limits)
        line = prefix[prefix.rfind("\n") + 1 :]
        records.append({"line": line, "middle": middle, "passed": result.passed})
        records[-1]["reason"] = result.reason
        print("passed" if result.passed else "FAILED", repr(line), "->", repr(middle))
    passed = sum(record["passed"] for record in records)
    print(f"{passed} of {len(records)}")
    result = {
        "preset": options.preset,
        "adapter": options.adapter and pathlib.Path(options.adapter).name,
        "scale": options.scale,
        "passed": passed,
        "of": len(records),
        "seconds": round(time.perf_counter() - start),
        "date": time.strftime("%Y-%m-%d"),
        "device": device(),
        "records": records,
    }
    name = pathlib.Path(options.preset).name + ("_adapter" if options.adapter else "")
    file = HERE / "results" / f"showcase_{name}.json"
    file.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
