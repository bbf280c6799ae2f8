"""What an adapter costs elsewhere: bits per byte of code, of English and of chat answers.

    KERAS_BACKEND=tensorflow python benchmarks/adapter_bits.py \\
        codegemma_keras/assets/smollm2_135m_code

An adapter that learnt to fill in may have lost what the model could do before. Measured
with and without it, on text that it was not trained on:

    code      files of networkx, from their beginning
    english   the questions of GSM8K's test set, and descriptions of installed packages
    chat      worked answers to those questions, in the model's chat format

Text is cut into pieces of 256 tokens, each without the one before it.
"""

import argparse
import datetime
import importlib.metadata
import json
import math
import pathlib
import re

import _adapters
import networkx
from _data import RESULTS, device

from codegemma_keras import CodeGemmaCausalLM
from codegemma_keras.evals import gsm8k
from codegemma_keras.evals.data import Data
from codegemma_keras.evals.likelihood import bits_per_byte
from codegemma_keras.preprocessor import CodeGemmaChatPreprocessor

ROW = 256  # tokens
ENGLISH = "networkx rich requests httpx2 anyio jinja2 tqdm pathspec h5py".split()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("adapter", help="folder of an adapter in PEFT's format")
    parser.add_argument("--preset", default="smollm2_135m")
    parser.add_argument("--files", type=int, default=6)
    parser.add_argument("--answers", type=int, default=30)
    parser.add_argument("--scale", type=float, default=1.0, help="of the adapter")
    options = parser.parse_args()
    lm = CodeGemmaCausalLM.from_preset(options.preset, dtype="float32")
    kinds = {"code": code(options.files), "english": english(options.answers)}
    asked = conversations(lm, options.answers)
    without = measure(lm, kinds, asked)
    _adapters.use(lm, options.adapter, options.scale)
    with_adapter = measure(lm, kinds, asked)
    found = {
        kind: {
            "without": round(before, 4),
            "with": round(with_adapter[kind], 4),
            "change_percent": round(100 * (with_adapter[kind] / before - 1), 2),
        }
        for kind, before in without.items()
    }
    asked = {
        "preset": options.preset,
        "adapter": pathlib.Path(options.adapter).name,
        "files": options.files,
        "answers": options.answers,
    }
    file = RESULTS / "adapter_bits.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    same = all(known.get(key) == value for key, value in asked.items())
    scales = known["bits_per_byte_by_scale"] if same else {}
    found |= {"date": datetime.date.today().isoformat(), "device": device()}
    report = {**asked, "bits_per_byte_by_scale": {**scales, str(options.scale): found}}
    print(json.dumps(report, indent=1))
    file.write_text(json.dumps(report, indent=1) + "\n")


def measure(lm, kinds, asked):
    found = {
        kind: bits_per_byte(lm, documents, length=ROW)["bits_per_byte"]
        for kind, documents in kinds.items()
    }
    return {**found, "chat": answers_bits(lm, asked)}


def code(files):
    folder = pathlib.Path(networkx.__file__).parent
    found = sorted(folder.glob("algorithms/*.py"))[:files]
    return [(p.name, p.read_text(encoding="utf-8")[:3000]) for p in found]


def english(count):
    """Questions, and descriptions of packages as their authors wrote them."""
    found = [("question.md", problem["question"]) for problem in problems(count)]
    for package in ENGLISH:
        text = importlib.metadata.metadata(package).get_payload()
        found.append((f"{package}/README.md", text[:3000]))
    return found


def conversations(lm, count):
    """`(ids, weights of answers)` of questions and their worked answers."""
    preprocessor = CodeGemmaChatPreprocessor(lm.tokenizer, 2 * ROW)
    rows = []
    for problem in problems(count):
        # Without the calculator's part and the last line, which is the number alone.
        answer = re.sub("<<.*?>>", "", problem["answer"]).partition("\n####")[0]
        messages = [
            {"role": "user", "content": problem["question"]},
            {"role": "model", "content": answer},
        ]
        rows.append(preprocessor.row(messages))
    return rows


def problems(count):
    """The first problems of GSM8K's test set."""
    return Data().rows(gsm8k.SOURCE)[:count]


def answers_bits(lm, rows):
    """Bits for each byte of the answers."""
    scores = lm.log_probabilities([ids for ids, _ in rows], batch_size=8)
    nats = size = 0
    for (ids, weights), values in zip(rows, scores, strict=True):
        answer = [token for token, weight in zip(ids, weights, strict=True) if weight]
        nats -= sum(v for v, weight in zip(values, weights, strict=True) if weight)
        size += len(lm.tokenizer.decode_bytes(answer))
    return float(nats) / math.log(2) / size


if __name__ == "__main__":
    main()
