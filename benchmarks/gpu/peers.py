"""The same work by Transformers and KerasHub, for `run.sh`.

As each is used: Transformers with a static cache under `torch.compile` for decoding, and
for training with SDPA, bfloat16 autocast, gradient checkpointing and PEFT's LoRA; KerasHub
with its own `generate`, whose batches are padded to the whole context of the call.
"""

import functools
import warnings

from measure import peak, seconds_of

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def gemma(run, dtype):
    """Transformers' network of the same shape, on the GPU, where there is one."""
    import torch
    import transformers

    sizes = run.sizes
    config = transformers.GemmaConfig(
        vocab_size=sizes["vocabulary_size"],
        num_hidden_layers=sizes["num_layers"],
        num_attention_heads=sizes["num_query_heads"],
        num_key_value_heads=sizes["num_key_value_heads"],
        hidden_size=sizes["hidden_dim"],
        intermediate_size=sizes["intermediate_dim"] // 2,
        head_dim=sizes["head_dim"],
        max_position_embeddings=8192,
        attn_implementation="sdpa",
    )
    where = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(where):
        return transformers.GemmaForCausalLM(config).to(getattr(torch, dtype))


def transformers_decode(run):
    """Tokens a second, greedy, with a static cache."""
    import torch

    model = gemma(run, "bfloat16").eval()
    for rows in (1, 32, 8):
        top = run.sizes["vocabulary_size"]
        ids = torch.randint(3, top, (rows, 130), device=model.device)

        def generate(new, ids=ids):
            with torch.no_grad():
                model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=new,
                    min_new_tokens=new,
                    do_sample=False,
                    pad_token_id=0,
                    cache_implementation="static",
                )
            if model.device.type == "cuda":
                torch.cuda.synchronize()

        def measure(generate=generate, rows=rows):
            taken = [seconds_of(functools.partial(generate, new)) for new in (57, 2)]
            return {"tokens_per_second": rows * 55 / (taken[0] - taken[1])}

        run.tried("decode", f"transformers, bfloat16, {rows} rows", measure)


def transformers_train(run):
    """A step of Transformers, with PEFT for LoRA."""
    for recipe in ("lora", "full"):
        for length, rows in ((2048, 4), (8192, 1)):
            length = run.scaled(length)
            for remat in ("none", "block"):
                line = (
                    f"transformers, {recipe}, {rows} x {length} tokens, remat {remat}"
                )
                measure = functools.partial(_step, run, recipe, length, rows, remat)
                run.tried("train", line, measure)


def _step(run, recipe, length, rows, remat):
    import torch

    from codegemma_keras.training import hardware

    model = gemma(run, "float32" if recipe == "full" else "bfloat16")
    model.config.use_cache = False
    if recipe == "lora":
        import peft

        settings = peft.LoraConfig(r=16, lora_alpha=32, target_modules=list(TARGETS))
        model = peft.get_peft_model(model, settings)
        model.enable_input_require_grads()
    if remat == "block":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    fused = model.device.type == "cuda"
    optimizer = torch.optim.AdamW(parameters, 1e-5, fused=fused)
    shape = (rows, length)
    ids = torch.randint(3, run.sizes["vocabulary_size"], shape, device=model.device)

    def step():
        with torch.autocast(model.device.type, torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    taken = seconds_of(step)
    trained = sum(p.numel() for p in parameters)
    flops = hardware.flops_per_token(
        run.sizes, length, trained if recipe == "lora" else 0
    )
    tokens = rows * length / taken
    return {
        "seconds": taken,
        "tokens_per_second": tokens,
        "share_of_peak": tokens * flops / peak(run),
    }


def keras_hub_decode(run):
    """Tokens a second of KerasHub's own `generate`, with room for 256 tokens."""
    import keras_hub
    import numpy as np

    backbone = keras_hub.models.GemmaBackbone(**run.sizes, dtype="bfloat16")
    lm = keras_hub.models.GemmaCausalLM(backbone=backbone, preprocessor=None)
    lm.compile(sampler="greedy")
    rng = np.random.default_rng(0)
    for rows in (1, 32, 8):

        def generate(prompt, rows=rows):
            ids = np.zeros((rows, 256), "int32")
            ids[:, :prompt] = rng.integers(3, run.sizes["vocabulary_size"], prompt)
            mask = np.zeros((rows, 256), "bool")
            mask[:, :prompt] = True
            inputs = {"token_ids": ids, "padding_mask": mask}
            out = lm.generate(inputs, stop_token_ids=None)["token_ids"]
            np.asarray(out)

        def measure(generate=generate, rows=rows):
            taken = [seconds_of(functools.partial(generate, n)) for n in (64, 255)]
            return {"tokens_per_second": rows * 191 / (taken[0] - taken[1])}

        run.tried("decode", f"keras_hub, bfloat16, {rows} rows", measure)
