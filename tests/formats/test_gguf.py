"""GGUF files: every type gives the numbers that it stores; damage is refused."""

import random

import gguf
import keras
import libgguf
import numpy as np
import pytest
import torch
import transformers

from codegemma_keras import (
    CodeGemmaBackbone,
    CodeGemmaCausalLM,
    CodeGemmaTokenizer,
    fim,
)
from codegemma_keras.formats import sentencepiece_model, weights
from tests import tiny_models
from tests.small_vocabulary import small_vocabulary, source

# Rows of a K-quant are blocks of 256 numbers.
SIZES = {
    "vocabulary_size": 700,
    "num_layers": 1,
    "num_query_heads": 4,
    "num_key_value_heads": 2,
    "hidden_dim": 256,
    "intermediate_dim": 1024,
    "head_dim": 64,
    "layer_norm_epsilon": 1e-5,
    "rope_max_wavelength": 5000.0,
}
TYPES = "F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q4_K Q5_K Q6_K".split()


def write(path, backbone, kind="F32", arch="gemma", leave_out=(), change=None):
    """Write a GGUF file as llama.cpp's converter does; the dequantised tensors."""
    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(backbone.num_layers)
    writer.add_context_length(4096)
    writer.add_embedding_length(backbone.hidden_dim)
    writer.add_feed_forward_length(backbone.intermediate_dim // 2)
    writer.add_head_count(backbone.num_query_heads)
    writer.add_head_count_kv(backbone.num_key_value_heads)
    writer.add_layer_norm_rms_eps(backbone.layer_norm_epsilon)
    writer.add_rope_freq_base(backbone.rope_max_wavelength)
    writer.add_key_length(backbone.head_dim)
    writer.add_value_length(backbone.head_dim)
    pieces = list(sentencepiece_model.pieces(small_vocabulary()))
    control = {str(name) for name in fim.STOP}
    types = [3 if name in control else kind for name, _, kind in pieces]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([name for name, _, _ in pieces])
    writer.add_token_scores([score for _, score, _ in pieces])
    writer.add_token_types(types)
    for name, i in (("bos", 2), ("eos", 1), ("unk", 3), ("pad", 0)):
        getattr(writer, f"add_{name}_token_id")(i)
    writer.add_add_space_prefix(False)
    stored = {}
    values = tiny_models.values(backbone)
    for row in weights.table(backbone.num_layers):
        value = np.ascontiguousarray(
            weights.to_transformers(values[row.keras], row.layout)
        )
        if change:
            value = change(row.gguf, value)
        kind_of = "F32" if value.ndim == 1 else kind
        value = value + 1 if value.ndim == 1 else value
        number = gguf.GGMLQuantizationType[kind_of]
        if kind_of.endswith("_K"):  # The Python package writes no K-quants.
            data = libgguf.quantize_rows(value.astype("float32"), number)
        else:
            data = gguf.quantize(value, number)
        stored[row.keras] = weights.from_transformers(
            gguf.dequantize(data, number).reshape(value.shape) - (value.ndim == 1),
            row.layout,
            values[row.keras].shape,
        )
        if row.gguf not in leave_out:
            writer.add_tensor(row.gguf, data, raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return stored


@pytest.fixture(scope="module")
def backbone():
    return tiny_models.randomise(CodeGemmaBackbone(**SIZES))


@pytest.mark.parametrize("kind", TYPES)
def test_every_type(tmp_path, backbone, kind):
    path = tmp_path / "model.gguf"
    stored = write(path, backbone, kind)
    loaded = CodeGemmaBackbone.from_preset(path)
    config = loaded.get_config()
    assert {name: config[name] for name in SIZES} == SIZES
    values = tiny_models.values(loaded)
    assert values.keys() == stored.keys()
    for name, value in stored.items():
        np.testing.assert_array_equal(values[name], value, err_msg=name)
    dtype = {"F32": "float32", "F16": "float16"}.get(kind, "bfloat16")
    auto = CodeGemmaBackbone.from_preset(path, dtype="auto")
    assert {v.dtype for v in auto.weights} == {dtype}


def test_logits_are_those_of_transformers(tmp_path, backbone):
    """The same file, read by Transformers and computed by its Gemma."""
    write(tmp_path / "model.gguf", backbone)
    loaded = CodeGemmaBackbone.from_preset(tmp_path / "model.gguf")
    backbone.export_to_transformers(tmp_path / "folder")
    model = transformers.GemmaForCausalLM.from_pretrained(tmp_path / "folder").eval()
    with torch.no_grad():
        theirs = model(torch.tensor(tiny_models.TOKEN_IDS)).logits.numpy()
    hidden = loaded({"token_ids": tiny_models.TOKEN_IDS})
    ours = keras.ops.convert_to_numpy(loaded.logits(hidden))
    assert tiny_models.relative_difference(ours, theirs) <= 1e-5


def test_task_and_tokenizer(tmp_path, backbone):
    path = tmp_path / "model.gguf"
    write(path, backbone, "Q8_0")
    task = CodeGemmaCausalLM.from_preset(path)
    assert task.preprocessor.sequence_length == 4096
    original = CodeGemmaTokenizer(proto=small_vocabulary())
    text = source() + "\t \u00e9\U0001f469 <|fim_prefix|> \u2581"
    assert task.tokenizer.encode(text) == original.encode(text)
    parts = fim.render("def f(", "):\n", path="a.py")
    assert task.tokenizer.encode(parts) == original.encode(parts)
    raw = "".join(parts)
    assert list(task.tokenizer(raw)) == list(original(raw))
    # Saved in another format it is the same model.
    task.save_to_preset(tmp_path / "saved")
    again = CodeGemmaCausalLM.from_preset(tmp_path / "saved")
    tiny_models.assert_same_weights(again.backbone, task.backbone)
    assert again.tokenizer.proto == task.tokenizer.proto


def test_another_architecture(tmp_path, backbone):
    write(tmp_path / "model.gguf", backbone, arch="llama")
    for cls in (CodeGemmaBackbone, CodeGemmaTokenizer, CodeGemmaCausalLM):
        with pytest.raises(ValueError, match="architecture 'llama'"):
            cls.from_preset(tmp_path / "model.gguf")


def test_missing_tensor_and_nan(tmp_path, backbone):
    path = tmp_path / "model.gguf"
    write(path, backbone, leave_out=("blk.0.ffn_up.weight",))
    with pytest.raises(ValueError, match=r"Missing 1 tensor: blk\.0\.ffn_up"):
        CodeGemmaBackbone.from_preset(path)
    write(path, backbone, change=lambda name, value: value + np.nan)
    with pytest.raises(ValueError, match="holds NaN or infinity"):
        CodeGemmaBackbone.from_preset(path)


def test_no_such_file(tmp_path):
    with pytest.raises(ValueError, match="existing folder or GGUF file"):
        CodeGemmaBackbone.from_preset(tmp_path / "model.gguf")


@pytest.mark.filterwarnings("ignore:.*Ids from .* have no text")
def test_damaged_headers(tmp_path, backbone, monkeypatch):
    """300 headers with lengths, names and types overwritten: an error each, or right.

    Nothing is allocated by what a header claims: the file has two megabytes.
    """
    path = tmp_path / "model.gguf"
    write(path, backbone, "Q4_0")
    whole = path.read_bytes()
    header = whole.index(b"token_embd.weight") + 1500
    expected = tiny_models.values(CodeGemmaBackbone.from_preset(path))
    real = np.empty
    largest = [0]

    def empty(shape, *args, **kwargs):
        largest[0] = max(largest[0], int(np.prod(shape)))
        return real(shape, *args, **kwargs)

    monkeypatch.setattr(np, "empty", empty)
    loaded = 0
    for seed in range(300):
        rng = random.Random(seed)
        data = bytearray(whole)
        # Half of them where the sizes and the tensors' entries are.
        place = rng.choice(
            [rng.randrange(header), rng.randrange(header - 2500, header)]
        )
        kind = rng.randrange(4)
        if kind == 0:
            data[place : place + 8] = b"\xff" * 8
        elif kind == 1:
            data = data[:place]
        elif kind == 2:
            data[place] = rng.randrange(256)
        else:
            data[place:place] = rng.randbytes(3)
        path.write_bytes(data)
        task = refused = None
        try:
            task = CodeGemmaCausalLM.from_preset(path)
        except (ValueError, OSError) as error:
            refused = str(error)
        if refused is not None:
            assert "model.gguf" in refused
            continue
        loaded += 1
        values = tiny_models.values(task.backbone)
        assert {name: v.shape for name, v in values.items()} == {
            name: v.shape for name, v in expected.items()
        }
    assert loaded < 200
    assert largest[0] < 2**24
