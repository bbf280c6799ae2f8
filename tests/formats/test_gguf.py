"""GGUF files: every type gives the numbers that it stores; damage is refused."""

import random
import struct
import tracemalloc

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
from codegemma_keras.formats.gguf import read_header
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


def write(
    path, backbone, kind="F32", arch="gemma", leave_out=(), change=None, add=None
):
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
    if not add:
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
    if add:
        add(writer)
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
def test_damaged_headers(tmp_path, backbone):
    """300 headers with lengths, names and types overwritten: an error each, or right.

    Nothing is allocated by what a header claims: the file has half a megabyte, and its
    fields and tensors' entries take less.
    """
    path = tmp_path / "model.gguf"
    write(path, backbone, "Q4_0")
    whole = path.read_bytes()
    header = whole.index(b"token_embd.weight") + 1500
    expected = tiny_models.values(CodeGemmaBackbone.from_preset(path))
    largest = 0
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
        largest = max(largest, memory_of_header(path))
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
    assert largest < 2**21


def memory_of_header(path):
    """Most bytes that reading a header takes, what the file holds included."""
    tracemalloc.start()
    try:
        read_header(path)
    except ValueError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return peak


def field(name, kind, *values):
    """One field of a header; each value as (struct's letter, number)."""
    data = struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", kind)
    return data + b"".join(struct.pack(f"<{code}", value) for code, value in values)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        # Numbers of one byte, of which a list has 8 and more for each.
        ([field("a", 9, ("I", 0), ("Q", 114_000_000))], "2,097,152 are read in all"),
        # Texts without a character: each has 8 bytes.
        ([field("a", 9, ("I", 8), ("Q", 14_000_000))], "2,097,152 are read in all"),
        (
            [
                field(f"a{i}", 9, ("I", 0), ("Q", 2**20)) + bytes(2**20)
                for i in range(3)
            ],
            "2,097,152 are read in all",
        ),
        ([field("a", 8, ("Q", 2**27))], "may have 128 MB"),
        ([b""] * 70_000, "70000 fields; 65,536"),
    ],
)
def test_a_header_without_bound(tmp_path, fields, message):
    """The file is as large as it claims, but holes take no room on the disk."""
    path = tmp_path / "model.gguf"
    with open(path, "wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, 0, len(fields)) + b"".join(fields))
        file.truncate(2**27 + 1000)
    with pytest.raises(ValueError, match=message):
        read_header(path)
    assert memory_of_header(path) < 2**25


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (
            lambda w: w.add_float32("gemma.rope.scale_linear", 4.0),
            "rope.scale_linear=4",
        ),
        (lambda w: w.add_float32("gemma.rope.scale_linear", 1.0), None),
        (lambda w: w.add_rope_scaling_factor(2.0), "rope.scaling.factor=2.0"),
        (lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.YARN), "type='yarn'"),
        (lambda w: w.add_attn_logit_softcapping(50.0), "softcapping=50.0"),
        (lambda w: w.add_final_logit_softcapping(30.0), "softcapping=30.0"),
        (lambda w: w.add_uint16("split.count", 3), "is one of 3 parts"),
        (lambda w: w.add_add_space_prefix(True), "asks for a space before"),
    ],
)
def test_options_that_the_network_has_not(tmp_path, backbone, add, message):
    path = tmp_path / "model.gguf"
    write(path, backbone, add=add)
    if message is None:
        CodeGemmaTokenizer.from_preset(path)
        CodeGemmaBackbone.from_preset(path, load_weights=False)
        return
    with pytest.raises(ValueError, match=message):
        CodeGemmaCausalLM.from_preset(path)


@pytest.mark.parametrize("kind", ["I8", "I32", "Q8_1"])
def test_a_head_of_a_type_that_is_not_read(tmp_path, backbone, kind):
    number = gguf.GGMLQuantizationType[kind]
    block, nbytes = gguf.GGML_QUANT_SIZES[number]

    def add(writer):
        data = np.zeros((700, 256 // block * nbytes), "uint8")
        writer.add_tensor("output.weight", data, raw_dtype=number)

    path = tmp_path / "model.gguf"
    write(path, backbone, add=add)
    with pytest.raises(ValueError, match=rf"output\.weight \({kind}\) differs"):
        CodeGemmaBackbone.from_preset(path)
