"""Every reader of exported models beside Keras: tokens, vocabulary, stops.

    KERAS_BACKEND=jax python benchmarks/export_readers.py \\
        --llama PROGRAM --vllm PYTHON --mlx PYTHON

Models: random ones with one and with several key/value heads, the embedded preset, and it
with a random adapter, merged and beside it. Each is exported, and each reader (in its own
environment, by `_readers.py`) continues eight prompts greedily by 64 tokens: code,
fill-in-the-middle, a turn of chat. Where a reader differs from Keras on this backend, the
gap of the two tokens' logits is measured: rounding explains a gap near 1e-5.

Then each reader splits texts with the vocabulary it was given, and llama.cpp fills in the
middle with the sentinels that the file names, and must end as Keras does.

A reader whose program is not given is left out, and the result says so. Exit code 1 where
a reader differs by more than rounding, or in how it splits a text.
"""

import argparse
import datetime
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import keras
import numpy as np
from _data import device

from codegemma_keras import (
    CodeGemmaBackbone,
    CodeGemmaCausalLM,
    CodeGemmaCausalLMPreprocessor,
    CodeGemmaTokenizer,
    chat,
    export,
    fim,
    lora,
)
from codegemma_keras.decoding import Engine
from codegemma_keras.formats import peft

RESULTS = pathlib.Path(__file__).parent / "results"
PRESETS = "code_gemma_tiny_py", "smollm2_135m_code"
NEW = 64
# Of logits: programs sum products in another order, some of them in blocks.
ROUNDING = 1e-3
CODE = (
    "import numpy as np\n\n\ndef mean(values):\n    ",
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(",
    "for i in range(10):\n",
    "# Read a file and count its lines.\n",
)
HOLES = (
    ("def add(a, b):\n    return ", "\n\n\nprint(add(1, 2))\n"),
    ("import os\n\n\ndef size(path):\n", "    return total\n"),
    ("class Point:\n    def __init__(self, x, y):\n        self.x = ", "\n"),
)
QUESTION = [{"role": "user", "content": "Write a function that adds two numbers."}]
RANDOM = {
    "num_layers": 3,
    "hidden_dim": 128,
    "intermediate_dim": 512,
    "head_dim": 64,
}
HEADS = {"random, 1 of 4 heads": (4, 1), "random, 4 of 4 heads": (4, 4)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--llama", help="program, built from _llama.cpp")
    parser.add_argument("--vllm", help="Python of an environment that has it")
    parser.add_argument("--mlx", help="Python of an environment that has mlx-lm")
    parser.add_argument("--transformers", default=sys.executable, help="Python or ''")
    parser.add_argument("--files", type=int, default=5000, help="texts to split")
    parser.add_argument("--only", nargs="*", help="models; all by default")
    options = parser.parse_args()
    path = RESULTS / f"export_readers_{keras.config.backend()}.json"
    # Readers that are not asked keep what they said: building one takes a while.
    models = json.loads(path.read_text())["models"] if path.exists() else {}
    report = {
        "device": device(),
        "date": datetime.date.today().isoformat(),
        "backend": f"keras {keras.version()} on {keras.config.backend()}",
        "new_tokens": NEW,
        "models": models,
    }
    with tempfile.TemporaryDirectory() as folder:
        for model in make_models():
            if options.only and model["name"] not in options.only:
                continue
            found = ask_all(model, options, pathlib.Path(folder))
            models[model["name"]] = {**models.get(model["name"], {}), **found}
            print(json.dumps({model["name"]: found}), flush=True)
            path.write_text(json.dumps(report, indent=1) + "\n")
    if wrong := list(faults(report["models"])):
        sys.exit("\n".join(wrong))


def faults(models):
    """What is no rounding, one line each."""
    for model, readers in models.items():
        for reader, found in readers.items():
            if not isinstance(found, dict):
                continue
            for one in found["differences"]:
                if one["logit_gap"] is None or abs(one["logit_gap"]) > ROUNDING:
                    yield f"{model}, {reader}: {one}"
            if found.get("texts", {}).get("differ"):
                yield f"{model}, {reader}: {found['texts']}"


def make_prompts(tokenizer):
    """Eight prompts as ids, bos first."""
    parts = [[text] for text in CODE]
    parts += [fim.render(prefix, suffix, path="a.py") for prefix, suffix in HOLES]
    parts += [[part for part, _ in chat.render(QUESTION, add_generation_prompt=True)]]
    return [[tokenizer.start_token_id, *tokenizer.encode(one)] for one in parts]


def make_models():
    """Each model: its name, and whether its adapter is exported beside it."""
    tokenizer = CodeGemmaTokenizer.from_preset(PRESETS[0])
    for name, (heads, key_heads) in HEADS.items():
        keras.utils.set_random_seed(heads + key_heads)
        backbone = CodeGemmaBackbone(
            vocabulary_size=tokenizer.vocabulary_size(),
            num_query_heads=heads,
            num_key_value_heads=key_heads,
            dtype="float32",
            **RANDOM,
        )
        rng = np.random.default_rng(0)
        for variable in backbone.weights:
            variable.assign(rng.normal(0, 0.05, variable.shape))
        preprocessor = CodeGemmaCausalLMPreprocessor(tokenizer, sequence_length=512)
        yield {"name": name, "lm": CodeGemmaCausalLM(backbone, preprocessor)}
    for preset in PRESETS:
        lm = CodeGemmaCausalLM.from_preset(preset, dtype="float32")
        yield {"name": preset, "lm": lm}
        lora.add(lm, "random", rank=4, alpha=8)
        rng = np.random.default_rng(1)
        for variable in lm.trainable_variables:
            variable.assign(rng.normal(0, 0.05, variable.shape))
        yield {"name": f"{preset}, adapter merged", "lm": lm}
        yield {"name": f"{preset}, adapter beside it", "lm": lm, "beside": True}


def ask_all(model, options, work):
    """What every reader makes of one model, beside Keras."""
    tokenizer = model["lm"].preprocessor.tokenizer
    prompts = make_prompts(tokenizer)
    stops = list(tokenizer.stop_token_ids)
    lm, name = model["lm"], model["name"].replace(",", "").replace(" ", "_")
    ours = [result.token_ids for result in Engine(lm).generate(prompts, NEW)]
    folder, file, adapters = work / name, work / f"{name}.gguf", (None, None)
    if model.get("beside"):
        adapters = work / f"{name}-peft", work / f"{name}-adapter.gguf"
        lora.save(lm, adapters[0], "random")
        export.gguf.write_adapter(peft.read(adapters[0]), adapters[1])
        lora.select(lm, None)
    lm.export(folder, "transformers", verbose=False)
    lm.export(file, "gguf", verbose=False)
    if model.get("beside"):
        lora.select(lm, "random")
    plain = model["name"] in PRESETS
    holes = [[tokenizer.encode(side) for side in hole] for hole in HOLES]
    rendered = [
        [tokenizer.start_token_id, *tokenizer.encode(fim.render(*hole))]
        for hole in HOLES
    ]
    infilled = [result.token_ids for result in Engine(lm).generate(rendered, NEW)]
    question = {
        "folder": str(folder),
        "file": str(file),
        "prompts": prompts,
        "texts": read_texts(options.files, folder) if plain else [],
        "infill": holes if plain else [],
        "new": NEW,
        "stops": stops,
        "context": 512,
        "program": options.llama,
    }
    readers = {
        "transformers": (options.transformers, adapters[0]),
        "llama": (options.llama and sys.executable, adapters[1]),
        "vllm": (options.vllm, adapters[0]),
        "mlx": (options.mlx, None),
    }
    found = {"keras_tokens": sum(len(cut(one, stops)) for one in ours)}
    for reader, (python, adapter) in readers.items():
        if not python or (reader == "mlx" and model.get("beside")):
            continue
        answer = ask(reader, python, {**question, "adapter": adapter}, work)
        found[reader] = compare(lm, prompts, ours, answer["tokens"], stops)
        if question["texts"]:
            found[reader]["texts"] = compare_texts(
                tokenizer, question["texts"], answer["texts"]
            )
        if answer.get("infill"):
            found[reader]["ends"] = answer["ends"]
            found[reader]["infill"] = compare(
                lm, rendered, infilled, answer["infill"], stops
            )
    return found


def ask(reader, python, question, work):
    """Run `_readers.py` in the reader's environment."""
    paths = work / "question.json", work / "answer.json"
    paths[0].write_text(json.dumps(question, default=str))
    environment = {
        **{key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }
    program = pathlib.Path(__file__).with_name("_readers.py")
    subprocess.run(
        [python, str(program), reader, *map(str, paths)],
        check=True,
        env=environment,
        stdout=sys.stderr,
    )
    return json.loads(paths[1].read_text())


def cut(tokens, stops):
    """The tokens up to and with the first that ends a completion."""
    for place, token in enumerate(tokens):
        if token in stops:
            return tokens[: place + 1]
    return list(tokens)


def compare(lm, prompts, ours, theirs, stops):
    """How many tokens are equal, and the first difference of each prompt."""
    equal, differences = 0, []
    for prompt, mine, other in zip(prompts, ours, theirs, strict=True):
        mine, other = cut(mine, stops), cut(other, stops)
        # Programs disagree on whether they hand out the stop itself.
        if mine and mine[-1] in stops and other == mine[:-1]:
            other = mine
        if other and other[-1] in stops and mine == other[:-1]:
            mine = other
        same = first_difference(mine, other)
        equal += mine == other
        if mine != other:
            differences.append(difference(lm, prompt, mine, other, same))
    return {"equal_prompts": equal, "of": len(prompts), "differences": differences}


def first_difference(mine, other):
    """Where two rows of ids part, or the shorter one ends."""
    pairs = enumerate(zip(mine, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(mine), len(other)))


def difference(lm, prompt, mine, other, place):
    """Where two continuations part, and the gap of the logits there in Keras."""
    ids = np.array([[*prompt, *mine[:place]]], "int32")
    scores = lm({"token_ids": ids, "padding_mask": np.ones_like(ids)})
    scores = keras.ops.convert_to_numpy(scores)[0, -1]
    pair = [one[place] if place < len(one) else None for one in (mine, other)]
    gap = None
    if None not in pair:
        gap = float(scores[pair[0]] - scores[pair[1]])
    return {"at": place, "tokens": pair, "logit_gap": gap}


def read_texts(count, folder):
    """The first 2,000 characters of installed Python files.

    Texts with the name of a control token are left out: other programs make the token of
    it, and we do not.
    """
    added = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    names = [token["content"] for token in added if token["special"]]
    texts = []
    for path in sorted(pathlib.Path(np.__file__).parents[1].rglob("*.py")):
        text = path.read_text(encoding="utf-8", errors="replace")[:2000]
        if text and not any(name in text for name in names):
            texts.append(text)
        if len(texts) == count:
            break
    return texts


def compare_texts(tokenizer, texts, found):
    """How many texts a reader splits as we do, and one that it does not."""
    ours = [tokenizer.encode(text) for text in texts]
    wrong = [i for i in range(len(texts)) if ours[i] != found[i]]
    report = {"texts": len(texts), "tokens": sum(map(len, ours)), "differ": len(wrong)}
    if wrong:
        mine, other = ours[wrong[0]], found[wrong[0]]
        place = first_difference(mine, other)
        around = slice(max(0, place - 3), place + 5)
        report["first"] = {
            "ours": [repr(tokenizer.decode([i])) for i in mine[around]],
            "theirs": [repr(tokenizer.decode([i])) for i in other[around]],
        }
    return report


if __name__ == "__main__":
    main()
