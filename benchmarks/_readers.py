"""One reader of exported models, run by the Python of its own environment.

    ENVIRONMENT/bin/python benchmarks/_readers.py transformers QUESTION.json ANSWER.json

The question names the exported files, prompts as token ids, texts to split and an adapter
or none; the answer has greedy tokens for each prompt and ids for each text. Nothing of
codegemma_keras is imported. `benchmarks/export_readers.py` asks.
"""

import json
import os
import subprocess
import sys


def transformers(question):
    """Transformers, and PEFT where an adapter is given."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = question["folder"]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if question["adapter"]:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, question["adapter"])
    model.eval()
    tokens = []
    for prompt in question["prompts"]:
        ids = torch.tensor([prompt])
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=question["new"],
            do_sample=False,
        )
        tokens.append(out[0, len(prompt) :].tolist())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [
        tokenizer(text, add_special_tokens=False)["input_ids"]
        for text in question["texts"]
    ]
    return {"tokens": tokens, "texts": texts}


def vllm(question):
    """vLLM on a CPU; an adapter by its own LoRARequest."""
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    model = LLM(
        model=question["folder"],
        dtype="float32",
        enforce_eager=True,
        max_model_len=question["context"],
        enable_lora=bool(question["adapter"]),
        max_lora_rank=8,
        seed=0,
    )
    adapter = question["adapter"] and LoRARequest("adapter", 1, question["adapter"])
    found = model.generate(
        [{"prompt_token_ids": prompt} for prompt in question["prompts"]],
        SamplingParams(temperature=0, max_tokens=question["new"]),
        lora_request=adapter or None,
        use_tqdm=False,
    )
    tokenizer = model.get_tokenizer()
    return {
        "tokens": [list(one.outputs[0].token_ids) for one in found],
        "reasons": [one.outputs[0].stop_reason for one in found],
        "texts": [
            tokenizer.encode(text, add_special_tokens=False)
            for text in question["texts"]
        ],
    }


def mlx(question):
    """mlx-lm on MLX's CPU build, in float32."""
    import mlx.core as mx
    from mlx_lm import load
    from mlx_lm.generate import generate_step

    model, tokenizer = load(question["folder"])
    stops, tokens = set(question["stops"]), []
    for prompt in question["prompts"]:
        new = []
        steps = generate_step(mx.array(prompt), model, max_tokens=question["new"])
        for token, _ in steps:
            new.append(int(token))
            if int(token) in stops:
                break
        tokens.append(new)
    texts = [
        tokenizer.encode(text, add_special_tokens=False) for text in question["texts"]
    ]
    return {"tokens": tokens, "texts": texts}


def llama(question):
    """llama.cpp's library, by `_llama.cpp`."""
    lines = ["P " + " ".join(map(str, prompt)) for prompt in question["prompts"]]
    for prefix, suffix in question["infill"]:
        lines.append(f"I {' '.join(map(str, prefix))} | {' '.join(map(str, suffix))}")
    lines += ["T " + text.encode().hex() for text in question["texts"]]
    command = [question["program"], question["file"], question["adapter"] or "-"]
    command += [str(question["context"]), str(question["new"])]
    done = subprocess.run(
        command,
        input="\n".join(["E", *lines]),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    ends, *found = [[int(i) for i in line.split()] for line in done.stdout.splitlines()]
    prompts, infill = len(question["prompts"]), len(question["infill"])
    return {
        "ends": ends,
        "tokens": found[:prompts],
        "infill": found[prompts : prompts + infill],
        "texts": found[prompts + infill :],
    }


def main():
    reader, question, answer = sys.argv[1:]
    with open(question, encoding="utf-8") as file:
        question = json.load(file)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    found = globals()[reader](question)
    with open(answer, "w", encoding="utf-8") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main()
