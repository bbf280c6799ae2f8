"""Presets in every format, into and out of this package, beside both peers."""

import json
import pathlib
import subprocess
import sys

import huggingface_hub
import kagglehub
import keras
import keras_hub
import numpy as np
import pytest
import torch
import transformers

from codegemma_keras import (
    CodeGemmaBackbone,
    CodeGemmaCausalLM,
    CodeGemmaCausalLMPreprocessor,
    CodeGemmaFIMPreprocessor,
    CodeGemmaTokenizer,
    export,
    presets,
)
from codegemma_keras.formats import weights
from tests import tiny_models
from tests.small_vocabulary import small_vocabulary

# KerasHub leaves the vocabulary's file to the garbage collector.
keras_hub_opens_vocabulary = pytest.mark.filterwarnings(
    "ignore:unclosed file .*vocabulary.spm:ResourceWarning"
)
OFFICIAL = [n for n, p in presets.PRESETS.items() if p.location.startswith("kaggle")]


@pytest.fixture(scope="module")
def saved_task(tmp_path_factory):
    """A task of ours, and the folder it was saved to."""
    task = tiny_models.our_task()
    folder = tmp_path_factory.mktemp("preset")
    task.save_to_preset(folder)
    return task, folder


# Transformers


@pytest.mark.parametrize("heads", [1, 2, 4])  # multi-query, grouped, multi-head
@pytest.mark.parametrize("shard", ["5GB", "20KB"])
def test_logits_of_a_transformers_checkpoint(tmp_path, heads, shard):
    model = tiny_models.transformers_model(heads)
    model.save_pretrained(tmp_path, max_shard_size=shard)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard == "20KB")
    backbone = CodeGemmaBackbone.from_preset(str(tmp_path))
    theirs = tiny_models.transformers_logits(model)
    assert tiny_models.relative_difference(tiny_models.logits(backbone), theirs) <= 1e-5


def test_bfloat16_checkpoint(tmp_path):
    model = tiny_models.transformers_model(dtype=torch.bfloat16)
    model.save_pretrained(tmp_path)
    loaded = tiny_models.logits(CodeGemmaBackbone.from_preset(tmp_path))
    # Read anew: `.float()` would keep the rotary frequencies rounded to bfloat16.
    model = type(model).from_pretrained(tmp_path, dtype=torch.float32)
    theirs = tiny_models.transformers_logits(model)
    assert tiny_models.relative_difference(loaded, theirs) <= 1e-5


def test_a_saved_gemma_model_without_its_head(tmp_path):
    model = tiny_models.transformers_model()
    model.model.save_pretrained(tmp_path)  # names without "model."
    loaded = tiny_models.logits(CodeGemmaBackbone.from_preset(tmp_path))
    theirs = tiny_models.transformers_logits(model)
    assert tiny_models.relative_difference(loaded, theirs) <= 1e-5


CONSTANTS = {"layer_norm_epsilon": 1e-3, "rope_max_wavelength": 100.0}


@pytest.mark.parametrize("where", ["rope_theta", "rope_parameters"])
def test_epsilon_and_rope_base_of_a_transformers_checkpoint(tmp_path, where):
    """Transformers 5 writes `rope_parameters`; older versions wrote `rope_theta`."""
    tiny_models.transformers_model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["rope_parameters"]
    rope = {"rope_theta": 100.0}
    if where == "rope_parameters":
        rope = {where: {**rope, "rope_type": "default"}}
    config = {**config, **rope, "rms_norm_eps": 1e-3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    backbone = CodeGemmaBackbone.from_preset(tmp_path)
    model = transformers.GemmaForCausalLM.from_pretrained(tmp_path).eval()
    difference = tiny_models.relative_difference(
        tiny_models.logits(backbone), tiny_models.transformers_logits(model)
    )
    assert difference <= 1e-5
    usual = tiny_models.logits(tiny_models.our_backbone())
    assert tiny_models.relative_difference(tiny_models.logits(backbone), usual) > 0.01


def test_epsilon_and_rope_base_are_saved(tmp_path):
    backbone = tiny_models.our_backbone(**CONSTANTS)
    backbone.save_to_preset(tmp_path / "keras")
    backbone.export_to_transformers(tmp_path / "transformers")
    for folder in ("keras", "transformers"):
        loaded = CodeGemmaBackbone.from_preset(tmp_path / folder)
        config = loaded.get_config()
        assert {name: config[name] for name in CONSTANTS} == CONSTANTS
        np.testing.assert_array_equal(
            tiny_models.logits(loaded), tiny_models.logits(backbone)
        )


KERAS_HUB_ALONE = """
import sys, keras_hub
try:
    keras_hub.models.Backbone.from_preset(sys.argv[1])
except Exception as error:
    print("refused", "codegemma_keras" in str(error))
"""


@pytest.mark.parametrize("name", CONSTANTS)
def test_keras_hub_refuses_constants_that_it_does_not_have(tmp_path, name):
    """It would ignore them, and compute another network."""
    tiny_models.our_backbone(**{name: CONSTANTS[name]}).save_to_preset(tmp_path)
    # A process that has not imported this package.
    command = [sys.executable, "-c", KERAS_HUB_ALONE, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.stdout.split() == ["refused", "True"], run.stderr


def test_task_of_a_transformers_folder(tmp_path):
    task = tiny_models.our_task()
    task.export_to_transformers(tmp_path)
    loaded = CodeGemmaCausalLM.from_preset(tmp_path)
    tiny_models.assert_same_weights(loaded.backbone, task.backbone)
    assert loaded.tokenizer.proto == task.tokenizer.proto
    assert loaded.preprocessor.sequence_length == task.preprocessor.sequence_length
    config = json.loads((tmp_path / "config.json").read_text())
    config["max_position_embeddings"] = 4096
    (tmp_path / "config.json").write_text(json.dumps(config))
    preprocessor = CodeGemmaCausalLMPreprocessor.from_preset(tmp_path)
    assert preprocessor.sequence_length == 4096


def test_export_opens_in_transformers(tmp_path):
    backbone = tiny_models.our_backbone()
    backbone.export_to_transformers(tmp_path)
    model = transformers.GemmaForCausalLM.from_pretrained(tmp_path).eval()
    difference = tiny_models.relative_difference(
        tiny_models.logits(backbone), tiny_models.transformers_logits(model)
    )
    assert difference <= 1e-5


# KerasHub


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("shard", [10, 1e-5])
def test_backbone_of_keras_hub_opens_here(tmp_path, heads, shard):
    theirs = tiny_models.hub_backbone(num_key_value_heads=heads)
    theirs.save_to_preset(tmp_path, max_shard_size=shard)
    ours = CodeGemmaBackbone.from_preset(tmp_path)
    tiny_models.assert_same_weights(ours, theirs)
    difference = tiny_models.relative_difference(
        tiny_models.logits(ours), tiny_models.logits(theirs)
    )
    assert difference <= 1e-5


@pytest.mark.parametrize("shard", [10, 1e-5])
def test_backbone_of_ours_opens_in_keras_hub(tmp_path, shard):
    ours = tiny_models.our_backbone()
    ours.save_to_preset(tmp_path, max_shard_size=shard)
    theirs = keras_hub.models.Backbone.from_preset(str(tmp_path))
    assert type(theirs) is keras_hub.models.GemmaBackbone
    tiny_models.assert_same_weights(ours, theirs)


@keras_hub_opens_vocabulary
def test_task_of_ours_opens_in_keras_hub(saved_task):
    ours, folder = saved_task
    theirs = keras_hub.models.CausalLM.from_preset(str(folder))
    assert type(theirs) is keras_hub.models.GemmaCausalLM
    assert theirs.preprocessor.sequence_length == 96
    text = "def f(x):\n    return x"
    assert theirs.preprocessor.tokenizer(text).tolist() == ours.tokenizer.encode(text)
    difference = tiny_models.relative_difference(
        keras.ops.convert_to_numpy(ours(tiny_models.INPUTS))[0],
        keras.ops.convert_to_numpy(theirs(tiny_models.INPUTS))[0],
    )
    assert difference <= 1e-5


@keras_hub_opens_vocabulary
def test_task_of_keras_hub_opens_here(tmp_path):
    path = tmp_path / "vocabulary.spm"
    path.write_bytes(small_vocabulary())
    tokenizer = keras_hub.models.GemmaTokenizer(proto=str(path))
    theirs = keras_hub.models.GemmaCausalLM(
        tiny_models.hub_backbone(vocabulary_size=tokenizer.vocabulary_size()),
        keras_hub.models.GemmaCausalLMPreprocessor(tokenizer, sequence_length=33),
    )
    theirs.save_to_preset(tmp_path / "preset")
    ours = CodeGemmaCausalLM.from_preset(tmp_path / "preset")
    assert type(ours) is CodeGemmaCausalLM
    assert type(ours.preprocessor) is CodeGemmaCausalLMPreprocessor
    assert ours.preprocessor.sequence_length == 33
    tiny_models.assert_same_weights(ours.backbone, theirs.backbone)


def test_class_names_of_keras_nlp(tmp_path):
    backbone = tiny_models.our_backbone()
    backbone.save_to_preset(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace("keras_hub>", "keras_nlp>"))
    tiny_models.assert_same_weights(CodeGemmaBackbone.from_preset(tmp_path), backbone)


def test_the_table_agrees_with_keras_hub():
    theirs = keras_hub.models.GemmaBackbone.presets
    assert {name for name in theirs if name.startswith("code_gemma")} == set(OFFICIAL)
    for name in OFFICIAL:
        preset = presets.PRESETS[name]
        assert preset.location == theirs[name]["kaggle_handle"]
        assert preset.parameters == theirs[name]["metadata"]["params"]


# Ours


def test_task_round_trip(saved_task):
    task, folder = saved_task
    loaded = CodeGemmaCausalLM.from_preset(folder)
    tiny_models.assert_same_weights(loaded.backbone, task.backbone)
    assert loaded.backbone.get_config() == task.backbone.get_config()
    assert loaded.preprocessor.get_config() == task.preprocessor.get_config()
    assert loaded.tokenizer.proto == task.tokenizer.proto


def test_arguments_of_the_caller_win(saved_task):
    task, folder = saved_task
    assert CodeGemmaCausalLM.from_preset(folder, preprocessor=None).preprocessor is None
    loaded = CodeGemmaCausalLM.from_preset(folder, backbone=task.backbone)
    assert loaded.backbone is task.backbone
    preprocessor = CodeGemmaCausalLMPreprocessor.from_preset(folder, sequence_length=5)
    assert preprocessor.sequence_length == 5
    tokenizer = CodeGemmaTokenizer.from_preset(folder, sequence_length=6)
    assert tokenizer.sequence_length == 6


def test_fim_preprocessor_keeps_its_options(saved_task, tmp_path):
    task, folder = saved_task
    kept = CodeGemmaFIMPreprocessor(task.tokenizer, sequence_length=48, fim_rate=0.25)
    kept.save_to_preset(tmp_path)
    task.backbone.save_to_preset(tmp_path)
    loaded = CodeGemmaCausalLMPreprocessor.from_preset(tmp_path)
    assert type(loaded) is CodeGemmaFIMPreprocessor
    assert (loaded.fim_rate, loaded.sequence_length) == (0.25, 48)
    # A preset of another class's gives the asked class, at the same context.
    other = CodeGemmaFIMPreprocessor.from_preset(folder)
    assert (other.fim_rate, other.sequence_length) == (0.9, 96)


def test_tokenizer_alone(tmp_path):
    tokenizer = CodeGemmaTokenizer(proto=small_vocabulary())
    tokenizer.save_to_preset(tmp_path)
    loaded = CodeGemmaTokenizer.from_preset(tmp_path)
    assert loaded.proto == tokenizer.proto


@pytest.mark.parametrize("first", [10, 1e-5])
def test_saving_over_an_earlier_save(tmp_path, first):
    old, new = tiny_models.our_backbone(), tiny_models.our_backbone()
    new.weights[0].assign(np.ones(new.weights[0].shape))
    (tmp_path / "notes.weights.h5").write_text("the user's own")
    old.save_to_preset(tmp_path, max_shard_size=first)
    new.save_to_preset(tmp_path, max_shard_size=10 if first < 1 else 1e-5)
    tiny_models.assert_same_weights(CodeGemmaBackbone.from_preset(tmp_path), new)
    theirs = keras_hub.models.GemmaBackbone.from_preset(str(tmp_path))
    tiny_models.assert_same_weights(theirs, new)
    assert (tmp_path / "notes.weights.h5").exists()


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
@keras_hub_opens_vocabulary
@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_quantized_round_trip(tmp_path, mode):
    task = tiny_models.our_task()
    task.backbone.quantize(mode)
    expected = tiny_models.hidden(task.backbone)
    task.save_to_preset(tmp_path)
    loaded = CodeGemmaBackbone.from_preset(tmp_path)
    assert {v.path: v.dtype for v in loaded.weights} == {
        v.path: v.dtype for v in task.backbone.weights
    }
    np.testing.assert_array_equal(tiny_models.hidden(loaded), expected)
    theirs = keras_hub.models.GemmaCausalLM.from_preset(str(tmp_path)).backbone
    difference = tiny_models.relative_difference(tiny_models.hidden(theirs), expected)
    assert difference <= 1e-5
    around = CodeGemmaBackbone.from_preset(tmp_path, dtype="bfloat16")
    assert around.token_embedding.embeddings_scale.dtype == "bfloat16"
    assert around.token_embedding.quantization_mode == mode


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "mixed_bfloat16"])
def test_random_weights(saved_task, dtype):
    _, folder = saved_task
    backbone = CodeGemmaBackbone.from_preset(folder, load_weights=False, dtype=dtype)
    assert {v.dtype for v in backbone.weights} == {
        "bfloat16" if dtype == "bfloat16" else "float32"
    }
    for path, value in tiny_models.values(backbone).items():
        if path.endswith("scale"):
            assert not value.any(), path  # norms start as the identity
        else:
            assert 0.01 < value.std() < 1, path


def test_default_dtype_is_keras_own(saved_task):
    _, folder = saved_task
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("bfloat16")
    try:
        backbone = CodeGemmaBackbone.from_preset(folder)
    finally:
        keras.config.set_dtype_policy(before)
    assert {v.dtype for v in backbone.weights} == {"bfloat16"}


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_names_build_without_a_download(monkeypatch, name):
    monkeypatch.setattr(kagglehub, "model_download", pytest.fail)
    backbone = weights.build_empty(
        lambda: CodeGemmaBackbone.from_preset(
            name, load_weights=False, dtype="bfloat16"
        )
    )
    assert backbone.count_params() == presets.PRESETS[name].parameters
    assert backbone.dtype_policy.name == "bfloat16"


# Downloads, with the hubs' functions replaced by a folder


def serve(folder, log):
    """A stand-in for a hub's download function."""

    def download(handle, path):
        log.append((handle, path))
        file = pathlib.Path(folder) / path
        if not file.exists():
            response = requests_response(404)
            raise kagglehub.exceptions.KaggleApiHTTPError("404", response=response)
        return str(file)

    return download


def requests_response(status):
    """A `requests.Response` of a status."""
    import requests

    response = requests.Response()
    response.status_code = status
    return response


@pytest.mark.parametrize("name", ["code_gemma_2b_en", "kaggle://a/b/keras/c"])
def test_kaggle(monkeypatch, saved_task, name):
    task, folder = saved_task
    log = []
    monkeypatch.setattr(kagglehub, "model_download", serve(folder, log))
    loaded = CodeGemmaCausalLM.from_preset(name)
    tiny_models.assert_same_weights(loaded.backbone, task.backbone)
    handles = {handle for handle, _ in log}
    expected = presets.resolve(name).location.removeprefix("kaggle://")
    assert handles == {expected}
    # A wrong tokenizer shows before gigabytes are fetched.
    files = [path for _, path in log]
    assert files.index("assets/tokenizer/vocabulary.spm") < files.index(
        "model.weights.h5"
    )


@pytest.mark.parametrize("kind", ["keras", "transformers"])
def test_hugging_face(monkeypatch, tmp_path, saved_task, kind):
    task, folder = saved_task
    if kind == "transformers":
        model = export.of_backbone(task.backbone, task.tokenizer)
        export.transformers.update(model, tmp_path, max_shard_size=2e-4)
        folder = tmp_path

    def download(repo_id, filename):
        assert repo_id == "google/codegemma-2b"
        if not (file := folder / filename).exists():
            raise huggingface_hub.errors.EntryNotFoundError(filename)
        return str(file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    loaded = CodeGemmaCausalLM.from_preset("hf://google/codegemma-2b")
    tiny_models.assert_same_weights(loaded.backbone, task.backbone)
    assert loaded.tokenizer.proto == task.tokenizer.proto
