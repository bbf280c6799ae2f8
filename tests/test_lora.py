"""Adapters beside PEFT, both ways; merged equal to applied; on quantized models too."""

import copy
import json
import pickle

import keras
import keras_hub
import numpy as np
import peft
import pytest
import safetensors.numpy
import torch

from codegemma_keras import CodeGemmaBackbone, CodeGemmaCausalLM, adapters, lora
from codegemma_keras.formats import peft as peft_format
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
    for layer in adapters.layers(backbone):
        if name in layer.adapters:
            for variable in layer.adapters[name].variables:
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

    our_backbone().export_to_transformers(folder)
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
        {
            "target_modules": ["q_proj", "v_proj", "down_proj"],
            "alpha_pattern": {"q_proj|v_proj": 100},
            "trainable_token_indices": [5, 11, int(TOKEN_IDS[0, 0])],
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
        safetensors.numpy.load_file(tmp_path / folder / peft_format.WEIGHTS_FILE)
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
    lm = CodeGemmaCausalLM(our_backbone(num_layers=1))  # Keras quantizes slowly
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
    fresh = CodeGemmaCausalLM(our_backbone(num_layers=1))
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
         "lora_A.weight|layers.9.x"),
        (lambda c, t: t.update({min(t): t[min(t)][:, :-1].copy()}), "another model"),
        (lambda c, t: t.pop(min(t)), "half a pair"),
        (lambda c, t: t.clear(), "without matrices"),
        (lambda c, t: c.update(use_dora=True), "use_dora"),
        (lambda c, t: c.update(init_lora_weights="pissa"), "'pissa'"),
        (lambda c, t: c.update(init_lora_weights="olora"), "'olora'"),
        (lambda c, t: c.update(alora_invocation_tokens=[5]), "alora_invocation_tokens"),
        (lambda c, t: c.update(modules_to_save=["embed_tokens"]), "modules_to_save"),
        (lambda c, t: c.update(some_new_option=3), "some_new_option=3"),
        (lambda c, t: c.update(trainable_token_indices={"lm_head": [5]}), "lm_head"),
        (lambda c, t: c.update(trainable_token_indices=[5]), "1 trainable_token_ind"),
        (lambda c, t: t.update({"base_model.model.lm_head.lora_A.weight": t[min(t)]}),
         "rows alone"),
        (lambda c, t: t.update(
            {"base_model.model.model.embed_tokens.lora_embedding_A": t[min(t)]}),
         "rows alone"),
        (lambda c, t: c.update(peft_type="IA3"), "IA3"),
        (lambda c, t: c.update(bias="all"), "biases"),
    ],
)  # fmt: skip
def test_adapters_for_another_model_are_refused(adapted, tmp_path, change, message):
    lora.save(adapted, tmp_path)
    config = json.loads((tmp_path / peft_format.CONFIG_FILE).read_text())
    tensors = safetensors.numpy.load_file(tmp_path / peft_format.WEIGHTS_FILE)
    change(config, tensors)
    (tmp_path / peft_format.CONFIG_FILE).write_text(json.dumps(config))
    safetensors.numpy.save_file(tensors, tmp_path / peft_format.WEIGHTS_FILE)
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
    randomise(model.backbone, "style")
    with pytest.raises(ValueError, match="'style' is active and would be left out"):
        model.save_to_preset(str(tmp_path / "preset"))
    # An export is for others to serve: the adapter is in its weights.
    model.backbone.export_to_transformers(str(tmp_path / "merged"))
    loaded = CodeGemmaBackbone.from_preset(str(tmp_path / "merged"))
    expected = logits(model.backbone)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(logits(loaded) / scale, expected / scale, atol=1e-5)


def with_rows(name="style", dropout=0.0):
    """A model with a random adapter that has rows of the embedding as well."""
    lm = CodeGemmaCausalLM(our_backbone(num_layers=1))
    rows = [5, int(TOKEN_IDS[0, 0])]
    lora.add(lm, name, rank=2, dropout=dropout, token_rows=rows)
    randomise(lm.backbone, name)
    return lm


def test_rows_of_the_embedding_are_the_row_and_the_logit():
    """As if the table itself had them: the reference is another model."""
    lm = with_rows()
    applied = logits(lm.backbone)
    other = our_backbone(num_layers=1)
    lora.add(other, "style", rank=2)
    randomise(other, "style", seed=1)
    table = other.token_embedding.embeddings.numpy()
    theirs = lm.backbone.token_embedding.adapters["style"]
    table[theirs.ids] = theirs.values.numpy()
    other.token_embedding.embeddings.assign(table)
    for ours, layer in zip(
        adapters.layers(other)[1:], adapters.layers(lm.backbone)[1:], strict=True
    ):
        for a, b in zip(
            ours.current_adapter.variables, layer.current_adapter.variables, strict=True
        ):
            a.assign(b.value)
    scale = np.abs(applied).max()
    np.testing.assert_allclose(logits(other), applied, atol=1e-5 * scale)
    before = lm.backbone.token_embedding.embeddings.numpy()
    lora.merge(lm)
    np.testing.assert_allclose(logits(lm.backbone), applied, atol=1e-5 * scale)
    lora.select(lm, None)
    lora.select(lm, "style")  # out of the matrices first: not twice
    np.testing.assert_allclose(logits(lm.backbone), applied, atol=1e-5 * scale)
    after = lm.backbone.token_embedding.embeddings.numpy()
    np.testing.assert_array_equal(after, before)


def test_peft_reads_our_rows(tmp_path):
    backbone = our_backbone()
    lora.add(backbone, rank=2, token_rows=[5, int(TOKEN_IDS[0, 0])])
    randomise(backbone, "default")
    lora.save(backbone, tmp_path / "adapter")
    model = transformers_model(tmp_path / "base")
    model = peft.PeftModel.from_pretrained(model, tmp_path / "adapter")
    theirs = transformers_logits(model)
    assert relative_difference(logits(backbone), theirs) < 1e-4
    config = json.loads((tmp_path / "adapter" / peft_format.CONFIG_FILE).read_text())
    assert config["base_model_name_or_path"] is not None


def test_a_token_with_twins_is_learned_through_its_row():
    """Without its row, log p of a token with n twins stays below -log(n + 1)."""
    twins = np.arange(30, 50)

    def trained(token_rows):
        backbone = our_backbone(num_layers=1)
        table = backbone.token_embedding.embeddings.numpy()
        table[twins] = table[30] + 1e-4 * np.arange(20)[:, None]
        backbone.token_embedding.embeddings.assign(table)
        found = lora.rows_with_twins(backbone, [3, 31, 4, 31])
        assert found == {31: 19}
        lm = CodeGemmaCausalLM(backbone)
        lora.add(lm, rank=4, token_rows=token_rows)
        lm.compile(optimizer=keras.optimizers.Adam(0.05))
        y = np.full_like(TOKEN_IDS, 31)
        for _ in range(40):
            logs = lm.train_on_batch(INPUTS, y, return_dict=True)
        changed = backbone.token_embedding.embeddings.numpy() != table
        assert not changed.any()  # the table itself is frozen
        return float(logs["loss"])

    assert trained([]) > np.log(20) - 0.05
    assert trained([31]) < 0.1


@pytest.mark.parametrize("way", ["keras", "weights", "deepcopy", "pickle"])
def test_files_and_copies_keep_the_adapter(way, tmp_path):
    lm = with_rows(dropout=0.1)
    expected = logits(lm.backbone)
    if way == "keras":
        lm.save(tmp_path / "m.keras")
        again = keras.saving.load_model(tmp_path / "m.keras")
    elif way == "weights":
        lm.save_weights(tmp_path / "m.weights.h5")
        again = with_rows(dropout=0.1)
        lora.select(again, None)
        for variable in again.weights:
            variable.assign(variable.value * 0)
        again.load_weights(tmp_path / "m.weights.h5")
        lora.select(again, "style")
    else:
        again = (
            copy.deepcopy(lm) if way == "deepcopy" else pickle.loads(pickle.dumps(lm))
        )
    np.testing.assert_array_equal(logits(again.backbone), expected)
    assert lora.names(again) == ["style"]
    assert len(again.trainable_variables) == len(lm.trainable_variables)
    lora.select(lm, None)
    lora.select(again, None)
    np.testing.assert_array_equal(logits(again.backbone), logits(lm.backbone))


def test_a_merged_model_is_saved_as_a_whole_one(tmp_path):
    """It opens here and in KerasHub; so does a model whose adapter is not active."""
    lm = with_rows()
    applied = logits(lm.backbone)
    lora.select(lm, None)
    base = logits(lm.backbone)
    lm.save_to_preset(tmp_path / "base")
    lora.select(lm, "style")
    lora.merge(lm)
    lm.save_to_preset(tmp_path / "merged")
    for folder, expected in (("base", base), ("merged", applied)):
        for cls in (CodeGemmaBackbone, keras_hub.models.GemmaBackbone):
            loaded = cls.from_preset(str(tmp_path / folder))
            assert relative_difference(logits(loaded), expected) < 1e-5
    assert np.abs(base - applied).max() > 0.01


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_a_quantized_base_computes_the_same_after_saving(mode, tmp_path):
    backbone = our_backbone(num_layers=1)
    lora.quantize_base(backbone, mode)
    backbone.save_to_preset(tmp_path)
    loaded = CodeGemmaBackbone.from_preset(tmp_path)
    np.testing.assert_array_equal(logits(loaded), logits(backbone))
    lora.add(backbone, rank=2)  # an adapter trained on integers goes onto floats
    lora.save(backbone, tmp_path / "adapter")
    lora.load(our_backbone(num_layers=1), tmp_path / "adapter")


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8"])
def test_an_adapter_is_used_as_it_was_trained_and_merged_where_that_is_exact(
    adapted, kind, tmp_path
):
    lora.save(adapted, tmp_path)
    loaded, used = (our_backbone(dtype=kind.replace("int8", "float32")) for _ in "12")
    for backbone, load in ((loaded, lora.load), (used, lora.use)):
        if kind == "int8":
            lora.quantize_base(backbone, kind)
        load(backbone, tmp_path)
    assert used.adapters["default"].merged == (kind == "float32")
    limit = 1e-5 if kind == "float32" else 0
    assert relative_difference(logits(used), logits(loaded)) <= limit


def test_an_adapter_of_other_weights_is_refused(adapted, tmp_path):
    lora.save(adapted, tmp_path)
    lora.load(our_backbone(dtype="bfloat16"), tmp_path)  # the same weights, rounded
    other = our_backbone()
    for variable in other.weights:
        noise = np.random.default_rng(0).normal(0, 0.01, variable.shape)
        variable.assign(variable.numpy() + noise)
    with pytest.raises(ValueError, match=r"other weights .* check_base=False"):
        lora.load(other, tmp_path)
    lora.load(other, tmp_path, check_base=False)


def test_a_change_of_adapter_reaches_programs_that_are_compiled():
    lm = with_rows()
    y = np.roll(TOKEN_IDS, -1, 1)
    lm.compile()
    engine, first = lm.engine, lm.test_on_batch(INPUTS, y)
    lora.select(lm.backbone, None)  # of the backbone: the model itself is not told
    assert lm.engine is not engine
    assert abs(float(lm.test_on_batch(INPUTS, y)[0]) - float(first[0])) > 1e-3
    version = lm.backbone.version
    lora.merge(lm, "style")
    assert lm.backbone.version > version


def test_other_adapters_of_keras_cannot_stand_beside():
    backbone = our_backbone(num_layers=1)
    backbone.enable_lora(2)
    with pytest.raises(ValueError, match="enable_lora"):
        lora.add(backbone)
    with pytest.raises(ValueError, match=r"lora\.remove"):
        with_rows().backbone.enable_lora(2)
