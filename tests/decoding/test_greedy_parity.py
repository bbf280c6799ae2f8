"""Greedy continuations of 64 tokens, beside Transformers and KerasHub."""

import keras_hub
import numpy as np
import pytest
import torch

from codegemma_keras import CodeGemmaCausalLM
from codegemma_keras.decoding import Engine
from tests import tiny_models

PROMPTS = [[2, 5, 9], [2, 41, 7, 7, 30, 12, 3, 19], [2]]


def ours(lm):
    results = Engine(lm).generate(PROMPTS, 64)
    return [result.token_ids for result in results]


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_transformers(tmp_path, heads):
    model = tiny_models.transformers_model(num_key_value_heads=heads)
    model.save_pretrained(tmp_path)
    lm = CodeGemmaCausalLM.from_preset(str(tmp_path), preprocessor=None)
    theirs = []
    for prompt in PROMPTS:
        ids = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            max_new_tokens=64,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        theirs.append(ids[0, len(prompt) :].tolist())
    assert ours(lm) == theirs


@pytest.mark.parametrize("heads", [1, 4])
def test_keras_hub(tmp_path, heads):
    theirs = keras_hub.models.GemmaCausalLM(
        tiny_models.hub_backbone(num_key_value_heads=heads)
    )
    theirs.compile(sampler="greedy")
    theirs.backbone.save_to_preset(str(tmp_path))
    lm = CodeGemmaCausalLM.from_preset(str(tmp_path), preprocessor=None)
    for prompt, tokens in zip(PROMPTS, ours(lm), strict=True):
        width = len(prompt) + 64
        ids = np.zeros((1, width), "int32")
        ids[0, : len(prompt)] = prompt
        mask = (np.arange(width) < len(prompt))[None]
        out = theirs.generate(
            {"token_ids": ids, "padding_mask": mask}, stop_token_ids=None
        )
        assert out["token_ids"][0, len(prompt) :].tolist() == tokens
