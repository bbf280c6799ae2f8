"""What goes wrong when loading ends in one error that says what to do.

Hubs are not reached: their download functions raise what they really raise.
"""

import json
import re
import types

import h5py
import huggingface_hub
import kagglehub
import keras_hub
import numpy as np
import pytest
import requests
import safetensors.numpy
from huggingface_hub import errors as hf_errors
from kagglehub import exceptions as kaggle_errors

from codegemma_keras import (
    CodeGemmaBackbone,
    CodeGemmaCausalLM,
    CodeGemmaCausalLMPreprocessor,
    CodeGemmaTokenizer,
    export,
    presets,
)
from tests import tiny_models
from tests.small_vocabulary import small_vocabulary


def fails(kind, *texts, cls=CodeGemmaBackbone, **kwargs):
    """`cls.from_preset(**kwargs)` raises `kind`, saying every text, and nothing else."""
    with pytest.raises(kind) as caught:
        cls.from_preset(**kwargs)
    message = str(caught.value)
    for text in texts:
        assert text in message, message
    # No traceback of a library above it.
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    assert "Traceback" not in message
    assert len(message) < 700


@pytest.fixture
def keras_folder(tmp_path):
    """A KerasHub preset of a backbone."""
    tiny_models.our_backbone().save_to_preset(tmp_path)
    return tmp_path


@pytest.fixture
def transformers_folder(tmp_path):
    """A sharded Transformers checkpoint of a backbone."""
    backbone = tiny_models.our_backbone()
    model = export.of_backbone(backbone)
    export.transformers.update(model, tmp_path, max_shard_size=5e-5)
    return tmp_path


def edit(path, **changes):
    """Change top-level entries of a JSON file; None removes one."""
    value = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in value.items() if v is not None}))


# Names and handles


def test_unknown_name():
    known = tuple(presets.PRESETS)
    fails(ValueError, "'codegemma_2b'", *known, preset="codegemma_2b")
    fails(ValueError, "Did you mean 'code_gemma_2b_en'?", preset="code_gema_2b_en")
    fails(ValueError, "a name, a handle or a path", preset=None)


@pytest.mark.parametrize("preset", ["kaggle://keras/codegemma", "kaggle://x"])
def test_malformed_kaggle_handle(preset):
    fails(ValueError, "kaggle://owner/model/keras/variant", preset=preset)


def test_malformed_hugging_face_handle():
    fails(ValueError, "hf://owner/model", preset="hf://google codegemma")


# Hubs


def response_of(status):
    """As much of a response as the hubs' exceptions look at."""
    return types.SimpleNamespace(status_code=status, headers={}, request=None)


def raising(error):
    """A download function that raises."""

    def download(*args, **kwargs):
        raise error

    return download


def kaggle_http(status):
    return kaggle_errors.KaggleApiHTTPError(
        f"{status} Client Error.", response=response_of(status)
    )


def colab_http(status):
    return kaggle_errors.ColabHTTPError(
        f"{status} Client Error.", response=response_of(status)
    )


@pytest.mark.parametrize(
    ("error", "kind", "texts"),
    [
        (kaggle_http(403), PermissionError, ("accept it at", "KAGGLE_KEY")),
        (kaggle_http(401), PermissionError, ("accept it at", "kaggle.json")),
        (colab_http(403), PermissionError, ("accept it at",)),
        (kaggle_errors.UnauthenticatedError(), PermissionError, ("kagglehub.login",)),
        (kaggle_errors.CredentialError("x"), PermissionError, ("KAGGLE_USERNAME",)),
        (kaggle_http(404), FileNotFoundError, ("no model", "version")),
        (kaggle_errors.NotFoundError(), FileNotFoundError, ("no model",)),
        (requests.ConnectionError("x"), ConnectionError, ("reached", "tiny_py")),
        (requests.Timeout("x"), ConnectionError, ("Kaggle cannot be reached",)),
        (kaggle_http(500), OSError, ("could not be downloaded", "500")),
        (kaggle_errors.DataCorruptionError("bad sum"), OSError, ("bad sum",)),
        (ValueError("Invalid model handle: x"), OSError, ("Invalid model handle",)),
    ],
)
def test_kaggle(monkeypatch, error, kind, texts):
    monkeypatch.setattr(kagglehub, "model_download", raising(error))
    fails(
        kind, *texts, "code_gemma_2b", preset="code_gemma_2b_en", cls=CodeGemmaCausalLM
    )
    licence = presets.PRESETS["code_gemma_2b_en"].licence
    if kind is PermissionError:
        fails(kind, licence, preset="code_gemma_2b_en")
        fails(kind, "https://www.kaggle.com/models/a/b", preset="kaggle://a/b/keras/c")


def hf_http(cls, status):
    return cls(f"{status} error", response=response_of(status))


@pytest.mark.parametrize(
    ("error", "kind", "texts"),
    [
        (
            hf_http(hf_errors.GatedRepoError, 403),
            PermissionError,
            ("https://huggingface.co/google/codegemma-2b", "HF_TOKEN"),
        ),
        (
            hf_http(hf_errors.HfHubHTTPError, 401),
            PermissionError,
            ("hf auth login",),
        ),
        (
            hf_http(hf_errors.RepositoryNotFoundError, 404),
            FileNotFoundError,
            ("no model google/codegemma-2b", "private"),
        ),
        (
            hf_errors.LocalEntryNotFoundError("offline"),
            ConnectionError,
            ("Hugging Face cannot be reached",),
        ),
        (
            hf_errors.OfflineModeIsEnabled("offline"),
            ConnectionError,
            ("not in the cache",),
        ),
        (ConnectionError("x"), ConnectionError, ("cannot be reached",)),
        (hf_http(hf_errors.HfHubHTTPError, 503), OSError, ("503 error",)),
        (OSError("cut"), OSError, ("config.json", "cut", "Try again")),
        (
            hf_errors.EntryNotFoundError("x"),
            FileNotFoundError,
            ("no config.json", "A preset is"),
        ),
    ],
)
def test_hugging_face(monkeypatch, error, kind, texts):
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", raising(error))
    fails(kind, *texts, preset="hf://google/codegemma-2b", cls=CodeGemmaCausalLM)


# Folders of something else


def test_empty_folder(tmp_path):
    fails(FileNotFoundError, "no config.json", "A preset is", preset=tmp_path)


def test_tokenizer_alone_is_no_model(tmp_path):
    CodeGemmaTokenizer(proto=small_vocabulary()).save_to_preset(tmp_path)
    for cls in (CodeGemmaBackbone, CodeGemmaCausalLM):
        kwargs = {} if cls is CodeGemmaBackbone else {"preprocessor": None}
        mend = "CodeGemmaTokenizer.from_preset"
        fails(FileNotFoundError, mend, cls=cls, preset=tmp_path, **kwargs)


def test_backbone_alone_has_no_tokenizer(keras_folder):
    for cls in (CodeGemmaTokenizer, CodeGemmaCausalLMPreprocessor, CodeGemmaCausalLM):
        mend = "pass `preprocessor=None`"
        fails(FileNotFoundError, "tokenizer.json", mend, cls=cls, preset=keras_folder)


def test_adapter_is_no_model(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    fails(FileNotFoundError, "merge_and_unload", preset=tmp_path)


def test_tokenizer_of_another_class(keras_folder):
    tokenizer = keras_hub.models.BertTokenizer(
        vocabulary=["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    )
    tokenizer.save_to_preset(str(keras_folder))
    fails(ValueError, "BertTokenizer", cls=CodeGemmaTokenizer, preset=keras_folder)


def test_keras_preset_of_another_architecture(tmp_path):
    bert = keras_hub.models.BertBackbone(53, 1, 2, 8, 16)
    bert.save_to_preset(str(tmp_path))
    fails(ValueError, "BertBackbone", "Supported are CodeGemma", preset=tmp_path)


def test_gemma_2_in_keras_format(tmp_path):
    sizes = tiny_models.SIZES
    gemma2 = keras_hub.models.GemmaBackbone(
        **sizes, use_post_ffw_norm=True, final_logit_soft_cap=30.0
    )
    gemma2.save_to_preset(str(tmp_path))
    fails(ValueError, "Gemma 2", "final_logit_soft_cap", preset=tmp_path)


@pytest.mark.parametrize("model_type", ["gemma2", "llama", "recurrent_gemma", "bert"])
def test_transformers_model_of_another_architecture(transformers_folder, model_type):
    edit(transformers_folder / "config.json", model_type=model_type)
    fails(ValueError, repr(model_type), "Supported are", preset=transformers_folder)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("rope_scaling", {"type": "linear", "factor": 2.0}),
        ("rope_scaling", {"rope_type": "yarn", "factor": 2.0}),
        ("rope_parameters", {"rope_type": "linear", "factor": 2.0}),
        ("hidden_activation", "relu"),
        ("attention_bias", True),
        ("use_bidirectional_attention", True),
        ("quantization_config", {"quant_method": "bitsandbytes"}),
    ],
)
def test_unsupported_option(transformers_folder, option, value):
    edit(transformers_folder / "config.json", **{option: value})
    name = "rope_scaling" if option == "rope_parameters" else option
    fails(ValueError, name, "wrong results", preset=transformers_folder)


def test_early_activation_names_are_the_same_function(transformers_folder):
    config = transformers_folder / "config.json"
    edit(config, hidden_activation=None, hidden_act="gelu", rope_scaling=None)
    CodeGemmaBackbone.from_preset(transformers_folder)


def test_quantized_dtype_for_float_weights(keras_folder):
    mend = "call `quantize('int8')`"
    dtype = "int8_from_float32"
    fails(ValueError, dtype, mend, preset=keras_folder, dtype=dtype)


# Damaged folders


@pytest.mark.parametrize("text", ["{", "", "[1]", '"gemma"', "\ufeffx"])
def test_config_is_not_json(keras_folder, text):
    (keras_folder / "config.json").write_text(text)
    fails(ValueError, "config.json of", "JSON", preset=keras_folder)


def test_config_of_neither_format(keras_folder):
    (keras_folder / "config.json").write_text('{"a": 1}')
    fails(ValueError, "neither", "'model_type'", preset=keras_folder)


def test_config_lacks_a_size(transformers_folder):
    edit(transformers_folder / "config.json", head_dim=None)
    fails(ValueError, "lacks head_dim", preset=transformers_folder)


def test_no_weights(keras_folder):
    (keras_folder / "model.weights.h5").unlink()
    fails(FileNotFoundError, "load_weights=False", preset=keras_folder)


def test_only_pickled_weights(transformers_folder):
    for path in transformers_folder.glob("model*"):
        path.unlink()
    (transformers_folder / "pytorch_model.bin").write_bytes(b"not read")
    fails(FileNotFoundError, "safetensors", "run code", preset=transformers_folder)


def test_missing_shard(transformers_folder):
    next(iter(transformers_folder.glob("model-00002*"))).unlink()
    fails(FileNotFoundError, "model-00002-of-", "lists it", preset=transformers_folder)


def test_shard_outside_the_folder(transformers_folder):
    index = transformers_folder / "model.safetensors.index.json"
    edit(index, weight_map={"model.norm.weight": "../../secret.safetensors"})
    fails(ValueError, "points outside", preset=transformers_folder)


@pytest.mark.parametrize("keep", [0.9, 0.01, 0.0])
def test_truncated_safetensors(transformers_folder, keep):
    path = next(iter(transformers_folder.glob("model-00001*")))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    fails(ValueError, path.name, "cut short or damaged", preset=transformers_folder)


@pytest.mark.parametrize("keep", [0.9, 0.01, 0.0])
def test_truncated_h5(keras_folder, keep):
    path = keras_folder / "model.weights.h5"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    fails(ValueError, path.name, "cut short or damaged", preset=keras_folder)


def change_safetensors(folder, change):
    """Apply a function to the dictionary of all tensors; write them as one file."""
    tensors = {}
    for path in folder.glob("*.safetensors"):
        tensors.update(safetensors.numpy.load_file(path))
        path.unlink()
    (folder / "model.safetensors.index.json").unlink()
    change(tensors)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")


def test_tensor_of_wrong_shape(transformers_folder):
    name = "model.layers.1.self_attn.q_proj.weight"

    def change(tensors):
        tensors[name] = np.zeros((32, 23), "float32")

    change_safetensors(transformers_folder, change)
    fails(ValueError, name, "(32, 23)", "(32, 24)", preset=transformers_folder)


def test_missing_and_unexpected_tensors(transformers_folder):
    def change(tensors):
        tensors["model.layers.0.post_feedforward_layernorm.weight"] = np.zeros(24)
        del tensors["model.norm.weight"]

    change_safetensors(transformers_folder, change)
    fails(
        ValueError,
        "Missing 1 tensor: model.norm.weight",
        "Not part of this network: 1 tensor: model.layers.0.post_feedforward",
        preset=transformers_folder,
    )


def test_what_repeats_other_tensors_is_no_error(transformers_folder):
    def change(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(4)

    change_safetensors(transformers_folder, change)
    CodeGemmaBackbone.from_preset(transformers_folder)


def test_h5_of_wrong_shape_and_layers(keras_folder):
    config = keras_folder / "config.json"
    saved = json.loads(config.read_text())
    for changes, texts in (
        ({"intermediate_dim": 64}, ("has shape (24, 40)", "(24, 32)", "gating_ffw")),
        ({"num_layers": 4}, ("Missing 9 tensors", "gemma_decoder_block_3/attention")),
        ({"num_layers": 2}, ("Not part of this network: 9 tensors",)),
    ):
        edit(config, config={**saved["config"], **changes})
        fails(ValueError, "model.weights.h5", *texts, preset=keras_folder)


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_quantized_weights_that_do_not_fit(keras_folder):
    backbone = tiny_models.our_backbone()
    backbone.quantize("int8")
    backbone.save_to_preset(keras_folder)
    with h5py.File(keras_folder / "model.weights.h5", "a") as h5:
        del h5["layers/reversible_embedding/vars/1"]
    fails(ValueError, "token_embedding", "int8", preset=keras_folder)


def test_missing_vocabulary(tmp_path, transformers_folder):
    mend = ("tokenizer.model", "SentencePiece")
    kwargs = {"cls": CodeGemmaTokenizer, "preset": transformers_folder}
    fails(FileNotFoundError, *mend, **kwargs)
    fails(FileNotFoundError, *mend, cls=CodeGemmaCausalLM, preset=transformers_folder)


@pytest.mark.parametrize(
    "content", [b"", b"not a vocabulary", small_vocabulary()[:-90]]
)
def test_damaged_vocabulary(transformers_folder, content):
    (transformers_folder / "tokenizer.model").write_bytes(content)
    kwargs = {"cls": CodeGemmaTokenizer, "preset": transformers_folder}
    fails(ValueError, "Vocabulary of", str(transformers_folder), **kwargs)


def test_messages_name_the_preset_first():
    """Spot check: the reader knows which preset a message is about."""
    with pytest.raises(ValueError, match=re.escape("Unknown preset 'x'")):
        CodeGemmaBackbone.from_preset("x")
