"""The name table, tensors that stream, variables without memory."""

import json
import os
import subprocess
import sys

import gguf
import h5py
import keras
import ml_dtypes
import numpy as np
import pytest
import safetensors
import transformers

from codegemma_keras import CodeGemmaBackbone, export, presets
from codegemma_keras.formats import safetensors as our_safetensors
from codegemma_keras.formats import weights
from tests import tiny_models
from tests.tiny_models import SIZES


def test_table_names_what_keras_hub_writes(tmp_path):
    backbone = tiny_models.hub_backbone()
    table = weights.table(SIZES["num_layers"])
    assert {row.keras for row in table} == {v.path for v in backbone.weights}
    file = tmp_path / "model.weights.h5"
    backbone.save_weights(file)
    datasets = []
    with h5py.File(file) as h5:
        h5.visititems(
            lambda path, item: datasets.append(path) if hasattr(item, "shape") else None
        )
    assert {f"layers/{row.h5}/vars/0" for row in table} == set(datasets)


def test_table_names_what_transformers_and_llama_cpp_know():
    table = weights.table(SIZES["num_layers"])
    model = tiny_models.transformers_model()
    assert {row.transformers for row in table} == {
        n for n, _ in model.named_parameters()
    }
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GEMMA, SIZES["num_layers"])
    for row in table:
        suffixes = (".weight",)
        assert names.get_name(row.transformers, suffixes) == row.gguf


@pytest.mark.parametrize(
    ("layout", "shape", "theirs"),
    [
        ("same", (5,), (5,)),
        ("transposed", (24, 40), (40, 24)),
        ("heads_out", (4, 24, 8), (32, 24)),
        ("heads_in", (4, 8, 24), (24, 32)),
    ],
)
def test_layouts_invert(layout, shape, theirs):
    value = np.arange(np.prod(shape)).reshape(shape)
    matrix = weights.to_transformers(value, layout)
    assert matrix.shape == theirs == weights.transformers_shape(layout, shape)
    back = weights.from_transformers(matrix, layout, shape)
    np.testing.assert_array_equal(back, value)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("code_gemma_2b_en", 2_506_172_416), ("code_gemma_7b_en", 8_537_680_896)],
)
def test_full_size_built_without_memory(name, parameters):
    backbone = weights.build_empty(
        lambda: CodeGemmaBackbone.from_preset(name, load_weights=False)
    )
    assert backbone.count_params() == parameters == presets.PRESETS[name].parameters
    assert all(variable._value is None for variable in backbone.variables)


def test_building_empty_leaves_nothing_behind_in_keras():
    backbone = weights.build_empty(lambda: CodeGemmaBackbone(**SIZES))
    with keras.StatelessScope():  # Fills on leaving whatever Keras has listed.
        layer = keras.layers.Dense(3)
        layer.build((None, 2))
    assert layer.kernel._value is not None
    assert all(variable._value is None for variable in backbone.variables)


@pytest.mark.parametrize(
    ("policy", "dtype"),
    [
        ("float32", "float32"),
        ("bfloat16", "bfloat16"),
        ("float16", "float16"),
        ("mixed_bfloat16", "float32"),
    ],
)
@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_weights_arrive_at_the_policy(tmp_path, policy, dtype, stored):
    saved = tiny_models.our_backbone(stored)
    saved.export_to_transformers(tmp_path / "transformers")
    saved.save_to_preset(tmp_path / "keras")
    expected = {
        path: value.astype(weights.numpy_dtype(dtype)).astype("float32")
        for path, value in tiny_models.values(saved).items()
    }
    for folder in ("transformers", "keras"):
        backbone = CodeGemmaBackbone.from_preset(tmp_path / folder, dtype=policy)
        assert {v.dtype for v in backbone.weights} == {dtype}
        assert backbone.compute_dtype == keras.DTypePolicy(policy).compute_dtype
        loaded = tiny_models.values(backbone)
        for path in expected:
            np.testing.assert_array_equal(loaded[path], expected[path], err_msg=path)


def test_dropout_seeds_get_their_own_state(tmp_path):
    tiny_models.our_backbone().save_to_preset(tmp_path)
    backbone = CodeGemmaBackbone.from_preset(tmp_path, dropout=0.5)
    assert all(variable._value is not None for variable in backbone.variables)
    outputs = [np.array(backbone(tiny_models.INPUTS, training=True)) for _ in range(2)]
    assert np.abs(outputs[0] - outputs[1]).max() > 0.01


@pytest.mark.parametrize("kind", ["keras", "transformers"])
def test_stream_is_biggest_first_and_complete(tmp_path, kind):
    backbone = tiny_models.our_backbone()
    if kind == "keras":
        backbone.save_to_preset(tmp_path, max_shard_size=1e-5)
    else:
        export.transformers.update(
            export.of_backbone(backbone), tmp_path, max_shard_size=2e-5
        )
    assert len(list(tmp_path.glob("model*"))) > 2
    opened = presets.Preset(tmp_path)
    stream = opened._folder.weights(opened.backbone_config()).stream(backbone)
    sizes = {path: value.size for path, value in stream}
    assert list(sizes.values()) == sorted(sizes.values(), reverse=True)
    assert sizes == {v.path: np.prod(v.shape) for v in backbone.weights}


@pytest.mark.parametrize("kind", ["keras", "transformers"])
def test_a_model_that_does_not_fit_is_neither_built_nor_read(
    tmp_path, monkeypatch, kind
):
    backbone = tiny_models.our_backbone()
    if kind == "keras":
        backbone.save_to_preset(tmp_path)
    else:
        backbone.export_to_transformers(tmp_path)
    monkeypatch.setattr(weights.Tensor, "read", pytest.fail)
    monkeypatch.setattr(weights, "build_empty", pytest.fail)
    with pytest.raises(ValueError, match="has shape"):
        CodeGemmaBackbone.from_preset(tmp_path, hidden_dim=16)


def test_file_of_keras_2_13(tmp_path):
    backbone = tiny_models.our_backbone()
    backbone.save_to_preset(tmp_path)
    with h5py.File(tmp_path / "model.weights.h5", "a") as h5:
        h5.move("layers", "_layer_checkpoint_dependencies")
    tiny_models.assert_same_weights(CodeGemmaBackbone.from_preset(tmp_path), backbone)


def test_links_out_of_a_file_are_not_followed(tmp_path):
    tiny_models.our_backbone().save_to_preset(tmp_path)
    group = "layers/rms_normalization/vars"
    os.rename(tmp_path / "model.weights.h5", tmp_path / "elsewhere.h5")
    with (
        h5py.File(tmp_path / "elsewhere.h5") as source,
        h5py.File(tmp_path / "model.weights.h5", "w") as h5,
    ):
        source.copy("layers", h5)
        del h5[group]["0"]
        h5[group]["0"] = h5py.ExternalLink("elsewhere.h5", f"{group}/0")
    with pytest.raises(ValueError, match=r"Missing 1 tensor: rms_normalization/0"):
        CodeGemmaBackbone.from_preset(tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_written_safetensors_are_read_by_the_library(tmp_path, dtype):
    values = {
        "a": np.arange(6.0).reshape(2, 3),
        "b.weight": np.array([0.1, 70.0]),
        "c": np.arange(4.0).reshape(2, 2).T,
    }
    shapes = {name: value.shape for name, value in values.items()}
    path = tmp_path / "x.safetensors"
    with our_safetensors.Writer(path, shapes, dtype) as file:
        for name in reversed(values):
            file.put(name, values[name])
    numpy_dtype = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    with safetensors.safe_open(path, "np") as file:
        for name, value in values.items():
            tensor = file.get_tensor(name)
            assert tensor.dtype == numpy_dtype
            np.testing.assert_array_equal(tensor, value.astype(numpy_dtype))


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_export_opens_in_transformers(tmp_path, heads):
    backbone = tiny_models.our_backbone(num_key_value_heads=heads)
    model = export.of_backbone(backbone)
    export.transformers.update(model, tmp_path, max_shard_size=3e-5)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    for name in set(index["weight_map"].values()):
        assert (tmp_path / name).stat().st_size < 3e-5 * 1e9 + 4096  # and its header
    model = transformers.GemmaForCausalLM.from_pretrained(tmp_path)
    ours, theirs = tiny_models.logits(backbone), tiny_models.transformers_logits(model)
    assert tiny_models.relative_difference(ours, theirs) <= 1e-5


def test_export_merges_lora(tmp_path):
    backbone = tiny_models.our_backbone()
    plain = tiny_models.logits(backbone)
    backbone.enable_lora(2)
    for variable in backbone.trainable_variables:
        variable.assign(np.full(variable.shape, 0.1))
    adapted = tiny_models.logits(backbone)
    assert tiny_models.relative_difference(adapted, plain) > 0.01
    backbone.export_to_transformers(tmp_path / "transformers")
    backbone.save_to_preset(tmp_path / "keras")
    for folder in ("transformers", "keras"):
        loaded = CodeGemmaBackbone.from_preset(tmp_path / folder)
        merged = tiny_models.logits(loaded)
        assert tiny_models.relative_difference(merged, adapted) <= 1e-5


SHARDED = """
import keras, sys
from codegemma_keras import CodeGemmaBackbone
from tests import tiny_models
from jax.sharding import PartitionSpec

mesh = keras.distribution.DeviceMesh((1, 4), ("batch", "model"))
layout = keras.distribution.LayoutMap(mesh)
layout["token_embedding/embeddings"] = (None, "model")
layout["decoder_block.*ffw_gating.*kernel"] = (None, "model")
layout["decoder_block.*attention.*query.*kernel"] = ("model", None, None)
for folder in sys.argv[1:]:
    with keras.distribution.ModelParallel(layout_map=layout).scope():
        backbone = CodeGemmaBackbone.from_preset(folder)
    sharding = {v.path: v.value.sharding for v in backbone.weights}
    assert sharding["token_embedding/embeddings"].spec == PartitionSpec(None, "model")
    assert sharding["decoder_block_1/ffw_gating/kernel"].spec == PartitionSpec(None, "model")
    assert len(sharding["final_normalization/scale"].device_set) == 4
    query = backbone.transformer_layers[2].attention.query_dense.kernel
    assert {s.data.shape for s in query.value.addressable_shards} == {(1, 24, 8)}
    tiny_models.assert_same_weights(backbone, tiny_models.our_backbone())
print("sharded")
"""


def test_each_device_gets_its_shard(tmp_path):
    backbone = tiny_models.our_backbone()
    folders = [str(tmp_path / kind) for kind in ("keras", "transformers")]
    backbone.save_to_preset(folders[0])
    backbone.export_to_transformers(folders[1])
    # A process of its own, as the number of devices is fixed when JAX starts.
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "PYTHONPATH": os.getcwd(),
    }
    result = subprocess.run(
        [sys.executable, "-c", SHARDED, *folders],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.stdout.splitlines()[-1:] == ["sharded"], result.stderr
