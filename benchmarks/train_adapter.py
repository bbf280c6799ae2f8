"""Tokens a second of training an adapter, beside PyTorch with PEFT.

    python benchmarks/train_adapter.py

The network has the sizes of SmolLM2-135M, and its weights are random, which does not
change the speed. An adapter of rank 16 on all linear layers is trained on rows of 512
tokens with AdamW, the frozen base computes in bfloat16. Ours is `recipes.pretrain`'s
model on each backend; theirs is Transformers' Llama with PEFT. `quarter` has a weight on a
quarter of the targets only, as answers and middles are, and leaves the others out. Each way
is a process of its own, one after the other. A first step compiles, then `STEPS` are timed;
the best is reported, since other work on the machine only takes time away.
"""

import json
import os
import subprocess
import sys
import time

from _data import record

BATCH, LENGTH, RANK, STEPS = 4, 512, 16, 3
SIZES = {
    "vocabulary_size": 49_152,
    "num_layers": 30,
    "num_query_heads": 9,
    "num_key_value_heads": 3,
    "hidden_dim": 576,
    "intermediate_dim": 2 * 1536,
    "head_dim": 64,
}
BACKENDS = {
    "tensorflow": "tensorflow",
    "tensorflow quarter": "tensorflow",
    "jax": "jax",
}
WAYS = (*BACKENDS, "peft")


def ours(quarter):
    """One step of our model, as `recipes.pretrain` builds it."""
    import numpy as np

    from codegemma_keras import CodeGemmaBackbone, CodeGemmaCausalLM
    from codegemma_keras.recipes import pretrain
    from codegemma_keras.training import model

    config = pretrain.PretrainConfig(
        out="unused",
        preset="code_gemma_tiny_py",
        lora_rank=RANK,
        dtype="mixed_bfloat16",
        sequence_length=LENGTH,
        batch_tokens=BATCH * LENGTH,
    )
    config = pretrain.resolved(config)
    lm = CodeGemmaCausalLM(CodeGemmaBackbone(**SIZES, dtype=config.dtype))
    model.add_adapter(lm, config, pretrain.ADAPTER)
    model.compile_model(lm, config, 100)
    rng = np.random.default_rng(0)
    ids = rng.integers(0, SIZES["vocabulary_size"], (BATCH, LENGTH + 1)).astype("int32")
    mask = np.ones((BATCH, LENGTH), "int32")
    x = {"token_ids": ids[:, :-1], "padding_mask": mask}
    weights = mask.astype("float32")
    if quarter:
        weights *= np.arange(LENGTH) >= 3 * LENGTH // 4
    return lambda: lm.train_on_batch(x, ids[:, 1:], weights)


def theirs():
    """One step of Transformers' Llama with PEFT."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=SIZES["vocabulary_size"],
        hidden_size=SIZES["hidden_dim"],
        intermediate_size=SIZES["intermediate_dim"] // 2,
        num_hidden_layers=SIZES["num_layers"],
        num_attention_heads=SIZES["num_query_heads"],
        num_key_value_heads=SIZES["num_key_value_heads"],
        tie_word_embeddings=True,
    )
    lm = LlamaForCausalLM(config).to(torch.bfloat16)
    lm = get_peft_model(lm, LoraConfig(r=RANK, target_modules="all-linear"))
    trained = [p for p in lm.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, 1e-3)
    ids = torch.randint(0, SIZES["vocabulary_size"], (BATCH, LENGTH))

    def step():
        loss = lm(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss)

    return step


def measure(way):
    """Print what one way takes, in this process."""
    step = theirs() if way == "peft" else ours(quarter="quarter" in way)
    begin = time.perf_counter()
    step()
    first, seconds = time.perf_counter() - begin, []
    for _ in range(STEPS):
        begin = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begin)
    print(
        json.dumps(
            {
                "first_step_seconds": round(first, 1),
                "step_seconds": [round(s, 2) for s in seconds],
                "tokens_per_second": round(BATCH * LENGTH / min(seconds)),
            }
        )
    )


def main():
    if len(sys.argv) > 1:
        return measure(sys.argv[1])
    found = {}
    for way in WAYS:
        backend = BACKENDS.get(way, "jax")
        done = subprocess.run(
            [sys.executable, __file__, way],
            env={**os.environ, "KERAS_BACKEND": backend},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        found[way] = json.loads(done.stdout.splitlines()[-1])
        print(way, found[way], flush=True)
    setting = {"rows": BATCH, "tokens_of_a_row": LENGTH, "rank": RANK}
    record("train_adapter", {**setting, "ways": found})


if __name__ == "__main__":
    main()
