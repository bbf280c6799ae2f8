"""What is written is what the model computes: adapters, quantized layers, KerasHub's LoRA.

And nothing but a whole folder is ever there.
"""

import dataclasses
import json

import keras
import numpy as np
import pytest
import torch
import transformers

from codegemma_keras import CodeGemmaBackbone, export, files, lora, presets
from tests import tiny_models


def theirs(folder):
    model = transformers.GemmaForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        return model(torch.tensor(tiny_models.TOKEN_IDS)).logits.numpy()


def ours(backbone):
    hidden = backbone({"token_ids": tiny_models.TOKEN_IDS})
    return keras.ops.convert_to_numpy(backbone.logits(hidden)).astype("float32")


def adapted(**options):
    backbone = tiny_models.our_backbone()
    lora.add(backbone, rank=2, token_rows=[5, 7], **options)
    rng = np.random.default_rng(0)
    for variable in backbone.trainable_variables:
        variable.assign(rng.normal(0, 0.2, variable.shape))
    return backbone


def test_an_active_adapter_is_in_it(tmp_path):
    backbone = adapted()
    before = ours(backbone)
    export.write(export.of_backbone(backbone), tmp_path / "active", verbose=False)
    assert tiny_models.relative_difference(theirs(tmp_path / "active"), before) <= 1e-5
    lora.merge(backbone)
    export.write(export.of_backbone(backbone), tmp_path / "merged", verbose=False)
    assert tiny_models.relative_difference(theirs(tmp_path / "merged"), before) <= 1e-5


@pytest.mark.parametrize(
    ("quantize", "tolerance"),
    [
        (lambda backbone: lora.quantize_base(backbone, "int8"), 1e-4),
        (lambda backbone: lora.quantize_base(backbone, "int4"), 1e-4),
        # Keras rounds activations, too, which no other program does.
        (lambda backbone: backbone.quantize("int8"), 0.1),
    ],
    ids=["int8 base", "int4 base", "int8"],
)
def test_integers_are_multiplied_out(tmp_path, quantize, tolerance):
    backbone = tiny_models.our_backbone()
    quantize(backbone)
    model = export.of_backbone(backbone)
    export.write(model, tmp_path / "x", quantization="float32", verbose=False)
    difference = tiny_models.relative_difference(theirs(tmp_path / "x"), ours(backbone))
    assert difference <= tolerance


def test_an_adapter_is_merged_into_a_preset_as_it_streams(tmp_path):
    backbone = adapted()
    lora.save(backbone, tmp_path / "adapter")
    expected = ours(backbone)
    lora.select(backbone, None)
    backbone.save_to_preset(tmp_path / "preset")
    opened = presets.Preset(tmp_path / "preset")
    model = export.of_preset(opened, adapter=tmp_path / "adapter")
    export.write(model, tmp_path / "folder", verbose=False)
    found = theirs(tmp_path / "folder")
    assert tiny_models.relative_difference(found, expected) <= 1e-5

    tiny_models.randomise(backbone, seed=8)
    backbone.save_to_preset(tmp_path / "other")
    model = export.of_preset(
        presets.Preset(tmp_path / "other"), adapter=tmp_path / "adapter"
    )
    with pytest.raises(ValueError, match="trained on other weights"):
        export.write(model, tmp_path / "wrong", verbose=False)
    narrow = tiny_models.our_backbone(hidden_dim=16)
    narrow.save_to_preset(tmp_path / "narrow")
    with pytest.raises(ValueError, match="is for another model"):
        export.of_preset(
            presets.Preset(tmp_path / "narrow"), adapter=tmp_path / "adapter"
        )
    left = {"adapter", "preset", "folder", "other", "narrow"}
    assert {path.name for path in tmp_path.iterdir()} == left


def test_settings_of_generation_and_config(tmp_path):
    lm = tiny_models.our_task()
    lm.export(
        tmp_path / "x-it", card="# Mine\n\nTrained.", licence="MIT", verbose=False
    )
    read = {p.name: p for p in (tmp_path / "x-it").iterdir()}
    generation = json.loads(read["generation_config.json"].read_text())
    assert generation["eos_token_id"] == [1, 2, 67, 68, 69, 70, 107]
    loaded = transformers.GenerationConfig.from_pretrained(tmp_path / "x-it")
    assert loaded.eos_token_id == [1, 2, 67, 68, 69, 70, 107]
    config = transformers.AutoConfig.from_pretrained(tmp_path / "x-it")
    assert config.architectures == ["GemmaForCausalLM"]
    assert config.max_position_embeddings == 96
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (2, 1, 0)
    card = read["README.md"].read_text()
    assert "Licence: MIT" in card
    assert card.rstrip().endswith("# Mine\n\nTrained.")


def test_ollama(tmp_path):
    lm = tiny_models.our_task()
    with pytest.raises(ValueError, match="packs 32 at a time"):
        lm.export(tmp_path / "mine", "ollama", "Q8_0", verbose=False)
    assert not list(tmp_path.iterdir())
    lm.export(tmp_path / "mine", "ollama", "BF16", verbose=False)
    text = (tmp_path / "mine" / "Modelfile").read_text()
    assert text.startswith("FROM ./codegemma.BF16.gguf\n")
    assert "{{- if .Suffix }}<|fim_prefix|>{{ .Prompt }}<|fim_suffix|>" in text
    assert text.count("PARAMETER stop ") == 7
    assert "<start_of_turn>" not in text
    assert "<start_of_turn>user" in export.ollama.template(chat=True)
    again = CodeGemmaBackbone.from_preset(tmp_path / "mine" / "codegemma.BF16.gguf")
    assert again.num_layers == 3


def test_nothing_is_overwritten_and_nothing_is_half_there(tmp_path, monkeypatch):
    backbone = tiny_models.our_backbone()
    model = export.of_backbone(backbone)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not overwritten"):
        export.write(model, tmp_path / "mine", verbose=False)

    def stopped():
        yield from list(model.stream())[:5]
        raise KeyboardInterrupt

    broken = dataclasses.replace(model, stream=stopped)
    with pytest.raises(KeyboardInterrupt):
        export.write(broken, tmp_path / "new", verbose=False)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]

    monkeypatch.setattr(files, "free_bytes", lambda path: 1000)
    with pytest.raises(OSError, match=r"needs 0\.00 GB.*Make room"):
        export.write(model, tmp_path / "new", verbose=False)
    with pytest.raises(ValueError, match=r"quantization='Q8_0': a Transformers folder"):
        export.write(model, tmp_path / "new", quantization="Q8_0", verbose=False)
    with pytest.raises(ValueError, match="format='onnx': there are"):
        export.write(model, tmp_path / "new", "onnx", verbose=False)
    with pytest.raises(ValueError, match="has no value for"):
        list(export.Model(model.config).tensors())


def test_shards_are_filled_in_any_order(tmp_path):
    backbone = tiny_models.our_backbone()
    model = export.of_backbone(backbone)
    values = dict(model.stream())
    backwards = dataclasses.replace(model, stream=lambda: reversed(values.items()))
    export.write(backwards, tmp_path / "folder", max_shard_size=2e-5, verbose=False)
    assert len(list((tmp_path / "folder").glob("*.safetensors"))) > 2
    loaded = CodeGemmaBackbone.from_preset(tmp_path / "folder")
    tiny_models.assert_same_weights(loaded, backbone)


def test_the_active_adapter_alone(tmp_path):
    lm = tiny_models.our_task()
    with pytest.raises(ValueError, match=r"Active is None of \[\]"):
        lm.export(tmp_path / "peft", "peft")
    lora.add(lm, "style", rank=2)
    with pytest.raises(ValueError, match="no other options"):
        lm.export(tmp_path / "peft", "peft", "Q8_0")
    assert not list(tmp_path.iterdir())
    lm.export(tmp_path / "peft", "peft")
    lora.save(lm, tmp_path / "saved")
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        saved = (tmp_path / "saved" / file).read_bytes()
        assert (tmp_path / "peft" / file).read_bytes() == saved
