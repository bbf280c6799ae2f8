"""A Llama as CodeGemma's network: exact as a Gemma, and close to the Llama."""

import keras
import numpy as np
import pytest
import torch
import transformers

from codegemma_keras import CodeGemmaBackbone
from codegemma_keras.formats import hub, llama, weights
from tests import small_llama

IDS = np.random.default_rng(0).integers(0, 500, (2, 21))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("llama") / "tiny.gguf"
    small_llama.write(path)
    return llama.File(hub.Files("tiny", str(path)))


def peer(cls, config_cls, values, **options):
    """A model of Transformers with these weights; its logits."""
    s = small_llama.SIZES
    config = config_cls(
        vocab_size=len(small_llama.tokens()),
        num_hidden_layers=s["layers"],
        num_attention_heads=s["heads"],
        num_key_value_heads=s["kv_heads"],
        hidden_size=s["width"],
        intermediate_size=s["ffn"],
        head_dim=s["head"],
        rms_norm_eps=small_llama.EPSILON,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": small_llama.BASE,
        },
        tie_word_embeddings=True,
        **options,
    )
    model = cls(config).eval()
    state = {name: torch.tensor(value) for name, value in values.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}
    with torch.no_grad():
        return model(torch.tensor(IDS)).logits.numpy()


def our_logits(file):
    config = file.backbone_config()
    backbone = weights.build_empty(lambda: CodeGemmaBackbone(**config))
    weights.fill(backbone, file.weights(config).stream(backbone))
    mask = np.ones_like(IDS)
    hidden = backbone({"token_ids": IDS, "padding_mask": mask})
    return keras.ops.convert_to_numpy(backbone.logits(hidden))


def test_a_pre_tokenizer_that_is_no_name(file, monkeypatch):
    monkeypatch.setitem(file._fields, "tokenizer.ggml.pre", ["x"])
    with pytest.raises(ValueError, match=r"tokenizer\.ggml\.pre of tiny is \['x'\]"):
        file.tokenizer_config()


def test_logits(file):
    """Equal to Transformers' Gemma of the same numbers; the Llama's but for gelu."""
    ours, config = our_logits(file), file.backbone_config()
    readers = file.gemma_tensors(config)
    gemma = peer(
        transformers.GemmaForCausalLM,
        transformers.GemmaConfig,
        {name: read() for name, read in readers.items()},
        hidden_activation="gelu_pytorch_tanh",
    )
    np.testing.assert_allclose(ours, gemma, atol=1e-4)
    names = {row.gguf: row.transformers for row in weights.table(config["num_layers"])}
    values = small_llama.tensors()
    of_llama = {names[f"{name}.weight"]: value for name, value in values.items()}
    original = peer(transformers.LlamaForCausalLM, transformers.LlamaConfig, of_llama)
    difference = np.abs(ours - original)
    assert difference.max() < 0.03 * np.abs(original).max()
    assert difference.mean() < 0.02 * original.std()


def test_gelu_is_near_enough():
    """What the re-expression is off by, per element: 0.02 of the gate's own scale."""
    x = np.linspace(-8, 8, 4001)
    silu = x / (1 + np.exp(-x))
    gate = x / llama.GELU
    inner = np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)
    ours = 0.5 * gate * (1 + np.tanh(inner)) * llama.GELU
    assert 0.03 < np.abs(ours - silu).max() < 0.036  # times 1.702, which `up` took


def test_rows_of_query_and_key():
    value = np.arange(48 * 5.0).reshape(48, 5)
    there = small_llama.interleaved(value)
    assert not np.array_equal(there, value)
    np.testing.assert_array_equal(llama.in_halves(there, 8), value)


def test_what_a_llama_may_not_have(tmp_path):
    for i, (options, message) in enumerate(
        [
            ({"leave_out": ("blk.1.ffn_up",)}, "blk.1.ffn_up"),
            ({"change": lambda n, v: v[:, :-1] if "attn_q" in n else v}, "attn_q"),
            ({"pre": "llama-bpe"}, "pre-tokenizer 'llama-bpe' is not known"),
        ]
    ):
        small_llama.write(tmp_path / f"{i}.gguf", **options)
        file = llama.File(hub.Files("it", str(tmp_path / f"{i}.gguf")))
        with pytest.raises(ValueError, match=message):
            (file.gemma_tensors(file.backbone_config()), file.tokenizer_config())


def test_a_llama_that_nobody_asked_for_is_refused(tmp_path):
    small_llama.write(tmp_path / "tiny.gguf")
    with pytest.raises(ValueError, match="architecture 'llama'"):
        CodeGemmaBackbone.from_preset(tmp_path / "tiny.gguf")
