"""GGUF files: every type, the fields that llama.cpp and Ollama go by, adapters."""

import dataclasses

import gguf
import libgguf
import numpy as np
import pytest

from codegemma_keras import CodeGemmaBackbone, CodeGemmaTokenizer, export, fim, lora
from codegemma_keras.export import quantization
from codegemma_keras.formats import peft, weights
from tests import tiny_models
from tests.formats.test_tokenizer_json import byte_level
from tests.small_vocabulary import small_vocabulary, source

# Rows of a K-quant are blocks of 256 numbers; those of 192 are not.
SIZES = {
    "vocabulary_size": 700,
    "num_layers": 1,
    "num_query_heads": 4,
    "num_key_value_heads": 2,
    "hidden_dim": 256,
    "intermediate_dim": 384,
    "head_dim": 64,
}


@pytest.fixture(scope="module")
def backbone():
    return tiny_models.randomise(CodeGemmaBackbone(**SIZES))


@pytest.fixture(scope="module")
def model(backbone):
    return export.of_backbone(backbone, CodeGemmaTokenizer(proto=small_vocabulary()))


def written(model, path, kind=None):
    export.gguf.write(model, path, kind)
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    return fields, {tensor.name: tensor for tensor in reader.tensors}


@pytest.mark.parametrize("kind", quantization.TYPES)
def test_every_type(tmp_path, model, backbone, kind):
    """The bytes are those of the libraries' whole matrices; they load as what they hold."""
    path = tmp_path / "model.gguf"
    fields, tensors = written(model, path, kind)
    head = {"Q8_0": "Q8_0"}.get(kind, "Q6_K" if kind.endswith("_K") else "Q8_0")
    head = kind if kind in quantization.PLAIN else head
    narrow = {"Q6_K": "Q8_0", "Q5_K": "Q5_1", "Q4_K": "Q5_0"}.get(kind, kind)
    values = tiny_models.values(backbone)
    loaded = tiny_models.values(CodeGemmaBackbone.from_preset(path, dtype="float32"))
    for row in weights.table(1):
        value = weights.to_transformers(values[row.keras], row.layout)
        value = np.ascontiguousarray(value + (value.ndim == 1))
        name = {1: "F32"}.get(value.ndim, head if row.axes == "VD" else kind)
        name = narrow if value.shape[-1] == 192 else name
        assert tensors[row.gguf].tensor_type.name == name
        number = gguf.GGMLQuantizationType[name]
        whole = libgguf if name.endswith("_K") else gguf
        quantize = whole.quantize_rows if whole is libgguf else whole.quantize
        data = np.ascontiguousarray(quantize(value, number))
        assert tensors[row.gguf].data.tobytes() == data.tobytes()
        stored = gguf.dequantize(data, number).reshape(value.shape)
        stored = weights.from_transformers(
            stored - (value.ndim == 1), row.layout, values[row.keras].shape
        )
        np.testing.assert_array_equal(loaded[row.keras], stored, err_msg=row.gguf)
    names = {"F32": "ALL_F32", "Q4_K": "MOSTLY_Q4_K_S", "Q5_K": "MOSTLY_Q5_K_S"}
    name = names.get(kind, f"MOSTLY_{kind}")
    assert fields["general.file_type"] == gguf.LlamaFileType[name]


def test_the_fields_that_programs_go_by(tmp_path, model):
    fields, tensors = written(model, tmp_path / "model.gguf")
    ids = {
        key.removeprefix("tokenizer.ggml.").removesuffix("_token_id"): value
        for key, value in fields.items()
        if key.endswith("_token_id")
    }
    roles = {"fim_pre": 67, "fim_suf": 69, "fim_mid": 68, "eot": 70, "unknown": 3}
    assert ids == {"bos": 2, "eos": 1, "padding": 0, **roles}
    assert fields["gemma.attention.head_count_kv"] == 2
    assert fields["gemma.rope.freq_base"] == 10_000.0
    tokens = fields["tokenizer.ggml.tokens"]
    kinds = fields["tokenizer.ggml.token_type"]
    assert [kinds[i] for i in (0, 1, 2, 3, 67, 70, 107)] == [3, 3, 3, 2, 3, 3, 3]
    # llama.cpp looks for runs of spaces before it marks spaces.
    assert kinds[tokens.index("  ")] == 4
    assert "<start_of_turn>" in fields["tokenizer.chat_template"]
    assert len(tensors) == 11


def test_bad_requests(tmp_path, model, backbone):
    path = tmp_path / "model.gguf"
    with pytest.raises(ValueError, match=r"'Q4_K_M': written are F32.*llama-quantize"):
        export.write(model, path, "gguf", "Q4_K_M", verbose=False)
    with pytest.raises(ValueError, match=r"ends with \.gguf"):
        export.write(model, tmp_path / "model", "gguf", verbose=False)
    with pytest.raises(ValueError, match="its vocabulary; one is missing"):
        export.write(export.of_backbone(backbone), path, "gguf", verbose=False)
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="not overwritten"):
        export.write(model, path, "gguf", verbose=False)
    assert path.read_bytes() == b"mine"
    assert list(tmp_path.iterdir()) == [path]


def test_adapters(tmp_path, model):
    backbone = tiny_models.randomise(CodeGemmaBackbone(**SIZES))
    lora.add(backbone, rank=3, alpha=12, targets=["q_proj", "down_proj"])
    tiny_models.randomise(backbone)
    lora.save(backbone, tmp_path / "peft")
    adapter = peft.read(tmp_path / "peft")
    export.gguf.write_adapter(adapter, tmp_path / "adapter.gguf")
    reader = gguf.GGUFReader(tmp_path / "adapter.gguf")
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.type"] == "adapter"
    assert fields["adapter.type"] == "lora"
    assert fields["adapter.lora.alpha"] == 12
    found = {t.name: t.data for t in reader.tensors}
    a, b = adapter.pairs["model.layers.0.mlp.down_proj"]
    np.testing.assert_array_equal(found["blk.0.ffn_down.weight.lora_a"], a)
    np.testing.assert_array_equal(found["blk.0.ffn_down.weight.lora_b"], b)
    assert len(found) == 4

    adapter.scales["model.layers.0.mlp.down_proj"] = 1.0
    with pytest.raises(ValueError, match=r"several values of alpha.*--adapter FOLDER"):
        export.gguf.write_adapter(adapter, tmp_path / "other.gguf")
    adapter.rows = [67], np.zeros((1, 256), "float32")
    with pytest.raises(ValueError, match=r"rows of the embedding.*--adapter FOLDER"):
        export.gguf.write_adapter(adapter, tmp_path / "other.gguf")


def test_values_too_large_for_float16(tmp_path, backbone, model):
    path = tmp_path / "model.gguf"
    row = weights.table(1)[0].keras
    big = np.full((700, 256), 7e4, "float32")

    def stream():
        yield from ((p, big if p == row else v) for p, v in model.stream())

    changed = dataclasses.replace(model, stream=stream)
    with pytest.raises(ValueError, match="larger than float16 holds"):
        export.write(changed, path, "gguf", "F16", verbose=False)
    assert not list(tmp_path.iterdir())


def test_byte_level_bpe(tmp_path):
    """A tokenizer.json becomes GGUF's own fields, and the same ids come back."""
    tokenizer = CodeGemmaTokenizer(proto=byte_level())
    rows = tokenizer.vocabulary_size() + 3
    tokenizer.codec.allow_ids(rows)
    backbone = tiny_models.our_backbone(vocabulary_size=rows)
    fields, _ = written(
        export.of_backbone(backbone, tokenizer), tmp_path / "model.gguf"
    )
    assert fields["tokenizer.ggml.model"] == "gpt2"
    assert fields["tokenizer.ggml.pre"] == "smollm"
    assert fields["tokenizer.ggml.eot_token_id"] == tokenizer.file_separator_id
    again = CodeGemmaTokenizer.from_preset(tmp_path / "model.gguf")
    text = source()[:3000] + " é\U0001f469\t 2026 <|fim_prefix|>"
    assert again.encode(text) == tokenizer.encode(text)
    parts = fim.render("def f(", "):\n", path="a.py")
    assert again.encode(parts) == tokenizer.encode(parts)
