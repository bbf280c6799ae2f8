"""Meshes: the same losses on eight simulated devices as on one, everything split."""

import json
import math
import os
import pathlib
import subprocess
import sys
import types

import keras
import numpy as np
import pytest

from codegemma_keras import CodeGemmaBackbone, lora, platforms, sharding
from tests.tiny_models import our_backbone

ROOT = pathlib.Path(__file__).parent.parent
HEADS = {"num_query_heads": 8, "num_key_value_heads": 1}
# key/value heads, mesh, LoRA, rematerialisation
CASES = (
    (1, "data=8", False, "none"),
    (1, "data=2,model=4", False, "block"),
    (1, "fsdp=2,model=4", True, "none"),
    (1, "fsdp=8", False, "none"),
    (8, "model=8", False, "none"),
    (8, "fsdp=2,model=4", False, "attention"),
)


@pytest.fixture(scope="module")
def results():
    """What tests/mesh_program.py found; eight devices want a process of their own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.mesh_program", json.dumps(CASES)],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_losses_equal_one_device(results):
    for found in results["trained"]:
        assert found["mesh"] == pytest.approx(found["alone"], abs=1e-4), found["case"]
        assert found["alone"][-1] < found["alone"][0] - 0.01  # it did learn


def test_gradients_are_cut_where_weights_are_split(results):
    """Of seven matrices in each of two blocks, and of the embedding's lookup."""
    assert results["cut"] == {"fsdp=8": 15, "data=8": 0}


def test_options_of_the_compiler_reach_it_and_change_no_loss(results):
    """Training on TPUs needs one; a CPU has others."""
    losses, refused = results["with_options"]
    alone = next(
        f["alone"] for f in results["trained"] if f["case"][:3] == [1, "fsdp=8", False]
    )
    assert losses == pytest.approx(alone[:2], abs=1e-4)
    assert "no_such_option" in refused


def test_a_profile_with_a_mesh_trains_by_fit(results):
    found = results["profile"]
    assert found["fsdp=8"] == pytest.approx(found["null"], abs=1e-4)
    assert found["null"][-1] < found["null"][0]


def test_large_variables_and_their_slots_are_split(results):
    for found in results["trained"]:
        heads, mesh = found["case"][:2]
        sizes = sharding.parse_mesh(mesh)
        split = sizes.get("fsdp", 1) * sizes.get("model", 1)
        for row in found["layout"]:
            if math.prod(row["shape"]) < 200 or split == 1:
                continue  # scales of norms; plain data parallelism keeps all whole
            few = "key" in row["path"] or "value" in row["path"]
            adapter = "adapter" in row["path"]
            # One key/value head and the small adapters use one axis, all others both.
            one_axis = sizes.get("fsdp", split)
            wanted = one_axis if adapter or (few and heads == 1) else split
            assert row["parts"] == wanted, (found["case"], row)


def test_slots_lie_as_their_variables(results):
    for found in results["trained"]:
        rows = {row["path"]: row for row in found["layout"]}
        kernel = "decoder_block_1/ffw_linear/kernel"
        slots = [
            r
            for p, r in rows.items()
            if p.endswith(kernel.replace("/", "_") + "_momentum")
        ]
        if found["case"][2]:  # LoRA: the kernels are frozen
            assert not slots
        else:
            (slot,) = slots
            assert slot["shard"] == rows[kernel]["shard"]


def test_a_preset_loads_onto_a_mesh(results):
    one, mesh = results["loaded"]
    assert mesh["loss"] == pytest.approx(one["loss"], abs=1e-4)
    assert mesh["text"] == one["text"]
    table = next(r for r in mesh["layout"] if r["path"].endswith("embeddings"))
    assert table["parts"] == 8


@pytest.mark.parametrize(
    ("mesh", "named"),
    [
        ("data", "data=2,model=4"),
        ("data=2;model=4", "2;model=4"),
        ("data=0", "'0'"),
        ("data=-1", "'-1'"),
        ("tensor=4", "'tensor'"),
        ("data=2,data=4", "twice"),
        ("data=2,fsdp=4", "both split the batch"),
        ("", "''"),
    ],
)
def test_malformed_meshes(mesh, named):
    with pytest.raises(ValueError, match=named):
        sharding.parse_mesh(mesh)


def test_mesh_order_and_spaces_do_not_matter():
    parsed = sharding.parse_mesh(" model=4, data=2 ")
    assert list(parsed.items()) == [("data", 2), ("model", 4)]


def test_rows_must_be_divided():
    sharding.check_rows(6, "data=2,model=4")
    sharding.check_rows(7, None)
    with pytest.raises(ValueError, match=r"fsdp=4 .* 6 rows"):
        sharding.check_rows(6, "fsdp=4")


def test_no_mesh_is_no_scope():
    with sharding.use(None, HEADS), sharding.use("", HEADS):
        pass


def test_refusals_of_the_backend():
    if keras.backend.backend() != "jax":
        with pytest.raises(RuntimeError, match="KERAS_BACKEND=jax"):
            sharding.use("data=2", HEADS)
        return
    with pytest.raises(ValueError, match=r"model=3 does not divide the 8 query heads"):
        sharding.use("model=3", HEADS)
    with pytest.raises(ValueError, match=r"wants 64 devices and there are \d"):
        sharding.use("data=64", HEADS)


def test_config_of_presets():
    assert sharding.config_of("code_gemma_7b_en")["num_key_value_heads"] == 16
    assert sharding.config_of("code_gemma_tiny_py")["num_key_value_heads"] == 1


def test_the_layout_map_covers_every_matrix():
    """Adapters too; where the heads are not divided, keys are split along D."""
    mesh = keras.distribution.DeviceMesh((1, 2), ("batch", "model"), ["cpu:0", "cpu:1"])
    backbone = our_backbone(num_layers=1)
    lora.add(backbone, rank=2)
    for heads, key_axes in ((1, (None, "batch", None)), (2, ("model", "batch", None))):
        layout = CodeGemmaBackbone.get_layout_map(mesh, num_key_value_heads=heads)
        for variable in backbone.weights:
            found = layout[variable.path]
            if len(variable.shape) > 1:
                assert len(found.axes) == len(variable.shape), variable.path
                assert set(found.axes) & {"model", "batch"}, variable.path
            if "key/kernel" in variable.path:
                assert found.axes == key_axes
    with pytest.raises(ValueError, match=r"axes \['batch', 'model'\], not 'tensor'"):
        CodeGemmaBackbone.get_layout_map(mesh, "tensor")


@pytest.mark.parametrize(
    ("axes", "platform", "has"),
    [
        (("fsdp",), "tpu", True),
        (("fsdp", "model"), "tpu", True),
        (("data", "model"), "tpu", False),
        (("fsdp",), "cpu", False),
        (("fsdp",), "gpu", False),
    ],
)
def test_only_weights_split_over_tpus_need_an_option(axes, platform, has):
    devices = np.array([types.SimpleNamespace(platform=platform)])
    mesh = types.SimpleNamespace(
        axis_names=axes, backend_mesh=types.SimpleNamespace(devices=devices)
    )
    found = platforms.compiler_options(types.SimpleNamespace(device_mesh=mesh))
    assert bool(found) == (has and keras.backend.backend() == "jax")
    assert platforms.compiler_options(None) == {}
