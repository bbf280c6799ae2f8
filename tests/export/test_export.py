"""Exported models compute the same in the programs that read them, and here again."""

import gguf
import keras
import numpy as np
import pytest
import torch
import transformers

from codegemma_keras import (
    CodeGemmaBackbone,
    CodeGemmaCausalLM,
    CodeGemmaCausalLMPreprocessor,
    CodeGemmaTokenizer,
)
from tests import tiny_models
from tests.small_vocabulary import small_vocabulary, source

SIZES = {**tiny_models.SIZES, "vocabulary_size": 704, "hidden_dim": 64}
SIZES |= {"head_dim": 32, "intermediate_dim": 192}


def task(**sizes):
    """A random `CodeGemmaCausalLM` whose embedding is larger than its vocabulary."""
    tokenizer = CodeGemmaTokenizer(proto=small_vocabulary())
    tokenizer.codec.allow_ids(SIZES["vocabulary_size"])
    lm = CodeGemmaCausalLM(
        tiny_models.randomise(CodeGemmaBackbone(**{**SIZES, **sizes})),
        CodeGemmaCausalLMPreprocessor(tokenizer, sequence_length=96),
    )
    for variable in lm.backbone.weights:
        if len(variable.shape) == 1:  # so that 1 + w - 1 is w in float32
            variable.assign(variable.numpy().astype("float16"))
    return lm


@pytest.fixture(scope="module", params=[(4, 1), (4, 2), (16, 16)], ids=str)
def lm(request):
    heads, key_heads = request.param
    return task(num_query_heads=heads, num_key_value_heads=key_heads)


def logits(lm):
    ids = tiny_models.TOKEN_IDS
    inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    return keras.ops.convert_to_numpy(lm(inputs))


@pytest.mark.filterwarnings("ignore:.*Ids from .* have no text")
@pytest.mark.parametrize("format", ["transformers", "gguf"])
def test_round_trip_to_the_bit(tmp_path, lm, format):
    path = tmp_path / ("model.gguf" if format == "gguf" else "folder")
    lm.export(path, format, verbose=False)
    again = CodeGemmaCausalLM.from_preset(path)
    tiny_models.assert_same_weights(again.backbone, lm.backbone)
    np.testing.assert_array_equal(logits(again), logits(lm))
    text = source() + "\t \u00e9\U0001f469 <|fim_prefix|> \u2581   x"
    assert again.tokenizer.encode(text) == lm.tokenizer.encode(text)
    assert list(again.tokenizer(text)) == list(lm.tokenizer(text))
    assert again.preprocessor.sequence_length == 96


def test_transformers_computes_the_same(tmp_path, lm):
    lm.export(tmp_path / "folder", verbose=False)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "folder")
    assert type(model) is transformers.GemmaForCausalLM
    with torch.no_grad():
        theirs = model(torch.tensor(tiny_models.TOKEN_IDS)).logits.numpy()
    assert tiny_models.relative_difference(logits(lm), theirs) <= 1e-5


def test_the_gguf_reader_finds_every_tensor(tmp_path, lm):
    lm.export(tmp_path / "model.gguf", "gguf", verbose=False)
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    found = {tensor.name: tuple(tensor.shape) for tensor in reader.tensors}
    layers = lm.backbone.num_layers
    names = gguf.MODEL_TENSORS[gguf.MODEL_ARCH.GEMMA]
    assert len(found) == 2 + 9 * layers
    assert found["token_embd.weight"] == (64, 704)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.architecture"] == "gemma"
    assert names
