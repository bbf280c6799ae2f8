"""Adapters beside PEFT, both ways; merged equal to applied; on quantized models too."""

import json

import keras
import numpy as np
import peft
import pytest
import safetensors.numpy
import torch

from codegemma_keras import CodeGemmaCausalLM, lora
from codegemma_keras.formats.transformers import save_transformers
from tests.tiny_models import (
    INPUTS,
    TOKEN_IDS,
    logits,
    our_backbone,
    our_task,
    relative_difference,
    transformers_logits,
)

# PEFT 0.21 asks Transformers 5.23 for an attribute under its old name.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)


def randomise(backbone, name, seed=1):
    """Give adapter `name` values: B starts at zero, which would hide everything."""
    generator = np.random.default_rng(seed)
    for _, layer, _ in lora._sites(backbone):
        adapters = getattr(layer, "adapter", None)
        for variable in adapters.pairs.get(name, ()) if adapters else ():
            variable.assign(generator.normal(0, 0.2, variable.shape))


@pytest.fixture
def adapted():
    backbone = our_backbone()
    lora.add(backbone, "style", rank=3, alpha=5)
    randomise(backbone, "style")
    return backbone


def test_a_new_adapter_changes_nothing_and_alone_trains():
    backbone = our_backbone()
    before = logits(backbone)
    lora.add(backbone, rank=3)
    np.testing.assert_array_equal(logits(backbone), before)
    # 7 linear layers x 3 blocks x (A, B)
    assert len(backbone.trainable_variables) == 42
    assert all("adapter" in v.path for v in backbone.trainable_variables)


def test_merged_equals_applied_and_unmerges(adapted):
    applied = logits(adapted)
    base = [v.numpy() for v in adapted.weights if "adapter" not in v.path]
    lora.merge(adapted)
    np.testing.assert_allclose(logits(adapted), applied, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="merged already"):
        lora.merge(adapted, "style")
    lora.unmerge(adapted, "style")
    np.testing.assert_allclose(logits(adapted), applied, atol=1e-5, rtol=1e-5)
    after = [v.numpy() for v in adapted.weights if "adapter" not in v.path]
    for a, b in zip(base, after, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_several_adapters_by_name(adapted):
    style = logits(adapted)
    lora.add(adapted, "other", rank=2, targets=["q_proj", "down_proj"])
    randomise(adapted, "other", seed=2)
    assert lora.names(adapted) == ["style", "other"]
    other = logits(adapted)
    assert np.abs(other - style).max() > 0.01
    assert len(adapted.trainable_variables) == 2 * 3 * 2
    lora.select(adapted, "style")
    np.testing.assert_array_equal(logits(adapted), style)
    lora.select(adapted, None)
    np.testing.assert_array_equal(logits(adapted), logits(our_backbone()))
    lora.remove(adapted, "style")
    lora.remove(adapted, "other")
    assert len(adapted.trainable_variables) == len(our_backbone().weights)


def transformers_model(folder):
    """Our base, in Transformers."""
    import transformers

    save_transformers(our_backbone(), None, folder)
    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


def test_peft_loads_what_we_save(adapted, tmp_path):
    lora.save(adapted, tmp_path / "adapter", base_model="somebody/model")
    model = transformers_model(tmp_path / "base")
    model = peft.PeftModel.from_pretrained(model, tmp_path / "adapter")
    difference = relative_difference(logits(adapted), transformers_logits(model))
    assert difference < 1e-4


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": list(lora.TARGETS)},
        {
            "target_modules": ["q_proj", "v_proj"],
            "use_rslora": True,
            "rank_pattern": {"layers.1.self_attn.q_proj": 2},
            "alpha_pattern": {"v_proj": 9},
        },
    ],
)
def test_we_load_what_peft_saves(options, tmp_path):
    torch.manual_seed(1)
    config = peft.LoraConfig(r=3, lora_alpha=7, task_type="CAUSAL_LM", **options)
    model = peft.get_peft_model(transformers_model(tmp_path / "base"), config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.2)
    model.save_pretrained(tmp_path / "adapter")
    backbone = our_backbone()
    lora.load(backbone, tmp_path / "adapter", "theirs")
    theirs = transformers_logits(model)
    assert relative_difference(logits(backbone), theirs) < 1e-4
    assert relative_difference(logits(our_backbone()), theirs) > 1e-2
    # And back: bit for bit what PEFT wrote.
    lora.save(backbone, tmp_path / "again")
    first, second = (
        safetensors.numpy.load_file(tmp_path / folder / lora.WEIGHTS_FILE)
        for folder in ("adapter", "again")
    )
    assert first.keys() == second.keys()
    for key, value in first.items():
        np.testing.assert_array_equal(value, second[key])


def fit(lm, steps=6):
    lm.compile(optimizer=keras.optimizers.Adam(0.02))
    y = np.roll(TOKEN_IDS, -1, 1)
    data = dict(x=INPUTS, y=y, sample_weight=(y != 0).astype("float32"))
    return [float(lm.train_on_batch(**data, return_dict=True)["loss"])] + [
        float(lm.train_on_batch(**data, return_dict=True)["loss"])
        for _ in range(steps - 1)
    ]


@pytest.mark.parametrize("mode", [None, "int8", "int4"])
def test_trains_the_adapter_only_and_survives_saving(mode, tmp_path):
    lm = CodeGemmaCausalLM(our_backbone())
    if mode:
        lora.quantize_base(lm, mode)
    lora.add(lm, rank=4, dropout=0.1 if mode is None else 0.0)
    base = {v.path: v.numpy() for v in lm.weights if "adapter" not in v.path}
    losses = fit(lm)
    assert losses[-1] < losses[0] - 0.05
    for variable in lm.weights:
        if "adapter" not in variable.path:
            np.testing.assert_array_equal(variable.numpy(), base[variable.path])
    trained = logits(lm.backbone)
    lora.save(lm, tmp_path)
    fresh = CodeGemmaCausalLM(our_backbone())
    if mode:
        lora.quantize_base(fresh, mode)
    lora.load(fresh, tmp_path)
    np.testing.assert_allclose(logits(fresh.backbone), trained, atol=1e-6)
    if mode:
        with pytest.raises(ValueError, match="quantized to " + mode):
            lora.merge(lm)


def test_dropout_is_for_training_only():
    backbone = our_backbone()
    lora.add(backbone, rank=3, dropout=0.5)
    randomise(backbone, "default")
    still = logits(backbone)
    np.testing.assert_array_equal(logits(backbone), still)
    noisy = keras.ops.convert_to_numpy(backbone(INPUTS, training=True))
    calm = keras.ops.convert_to_numpy(backbone(INPUTS, training=False))
    assert np.abs(noisy - calm).max() > 0.01


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c, t: t.update({"base_model.model.model.layers.9.x": t.pop(min(t))}),
         "no such linear layer"),
        (lambda c, t: t.update({min(t): t[min(t)][:, :-1].copy()}), "another model"),
        (lambda c, t: t.pop(min(t)), "half a pair"),
        (lambda c, t: t.clear(), "without matrices"),
        (lambda c, t: c.update(use_dora=True), "use_dora"),
        (lambda c, t: c.update(peft_type="IA3"), "IA3"),
        (lambda c, t: c.update(bias="all"), "biases"),
    ],
)  # fmt: skip
def test_adapters_for_another_model_are_refused(adapted, tmp_path, change, message):
    lora.save(adapted, tmp_path)
    config = json.loads((tmp_path / lora.CONFIG_FILE).read_text())
    tensors = safetensors.numpy.load_file(tmp_path / lora.WEIGHTS_FILE)
    change(config, tensors)
    (tmp_path / lora.CONFIG_FILE).write_text(json.dumps(config))
    safetensors.numpy.save_file(tensors, tmp_path / lora.WEIGHTS_FILE)
    backbone = our_backbone()
    with pytest.raises(ValueError, match=message):
        lora.load(backbone, tmp_path)
    assert lora.names(backbone) == []  # nothing was added
    assert all(v.trainable for v in backbone.weights)


def test_bad_arguments(adapted, tmp_path):
    with pytest.raises(ValueError, match="already"):
        lora.add(adapted, "style")
    with pytest.raises(ValueError, match="rank=0"):
        lora.add(adapted, "new", rank=0)
    with pytest.raises(ValueError, match="embed_tokens"):
        lora.add(adapted, "new", targets=["embed_tokens"])
    with pytest.raises(ValueError, match="no adapter 'new'"):
        lora.select(adapted, "new")
    with pytest.raises(FileNotFoundError, match="PEFT"):
        lora.load(adapted, tmp_path)


def test_saving_the_model_does_not_lose_an_active_adapter(tmp_path):
    model = our_task()
    lora.add(model, "style", rank=2)
    for save in (model.save_to_preset, model.backbone.export_to_transformers):
        with pytest.raises(ValueError, match="'style' is active and would be left out"):
            save(str(tmp_path / "out"))
    lora.merge(model)
    model.backbone.export_to_transformers(str(tmp_path / "merged"))
