"""What used to load wrong models in silence, to hang, or to take all memory."""

import json
import pathlib

import h5py
import keras
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers

from codegemma_keras import (
    CodeGemmaBackbone,
    CodeGemmaCausalLM,
    CodeGemmaCausalLMPreprocessor,
    CodeGemmaTokenizer,
    presets,
)
from codegemma_keras.formats import sentencepiece_model
from tests import tiny_models
from tests.small_vocabulary import small_vocabulary


@pytest.fixture
def folder(tmp_path):
    """A task in Transformers' format: `folder / "transformers"`; and in Keras's."""
    task = tiny_models.our_task()
    task.export_to_transformers(tmp_path / "transformers")
    task.save_to_preset(tmp_path / "keras")
    return tmp_path


def edit(path, **changes):
    """Change entries of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_tensors(folder, change):
    """Apply a function to the dictionary of tensors of a Transformers folder."""
    path = folder / "transformers" / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    change(tensors)
    safetensors.numpy.save_file(tensors, path, metadata={"format": "pt"})


def test_a_head_of_its_own_is_refused(folder):
    def change(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1

    change_tensors(folder, change)
    with pytest.raises(ValueError, match=r"lm_head\.weight differs from model\.embed"):
        CodeGemmaBackbone.from_preset(folder / "transformers")


def test_an_untied_head_with_the_same_numbers_loads(folder):
    def change(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()

    edit(folder / "transformers" / "config.json", tie_word_embeddings=False)
    with pytest.raises(ValueError, match=r"tie_word_embeddings=false.*no lm_head"):
        CodeGemmaBackbone.from_preset(folder / "transformers")
    change_tensors(folder, change)
    loaded = CodeGemmaBackbone.from_preset(folder / "transformers")
    other = CodeGemmaBackbone.from_preset(folder / "keras")
    tiny_models.assert_same_weights(loaded, other)


def test_partial_rotation_is_refused(folder):
    rope = {"rope_type": "default", "partial_rotary_factor": 0.5}
    edit(folder / "transformers" / "config.json", rope_parameters=rope)
    with pytest.raises(ValueError, match="partial_rotary_factor"):
        CodeGemmaBackbone.from_preset(folder / "transformers")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtype_auto_is_what_is_stored(tmp_path, dtype):
    tiny_models.our_backbone(dtype).save_to_preset(tmp_path / "keras")
    tiny_models.our_backbone(dtype).export_to_transformers(tmp_path / "transformers")
    for kind in ("keras", "transformers"):
        loaded = CodeGemmaBackbone.from_preset(tmp_path / kind, dtype="auto")
        assert {v.dtype for v in loaded.weights} == {dtype}
        # As in KerasHub: the default is Keras's, whatever is stored.
        loaded = CodeGemmaBackbone.from_preset(tmp_path / kind)
        assert {v.dtype for v in loaded.weights} == {"float32"}


def with_sentencepiece_alone(folder):
    """The Transformers folder without the two files that say its tokenizer once more."""
    where = folder / "transformers"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (where / name).unlink()
    return where


def test_added_tokens_are_control_tokens(folder):
    where = with_sentencepiece_alone(folder)
    (where / "added_tokens.json").write_text(json.dumps({"<|new|>": 700}))
    tokenizer = CodeGemmaTokenizer.from_preset(where)
    assert tokenizer.vocabulary_size() == 701
    assert tokenizer.id_to_token(700) == "<|new|>"
    ids = tokenizer.encode("a <|new|>")
    assert 700 not in ids
    assert tokenizer.decode(ids) == "a <|new|>"
    with pytest.raises(ValueError, match="701 pieces, and the embedding 700 rows"):
        CodeGemmaCausalLM.from_preset(where)


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ({"<|new|>": 702}, "none of id 700"),
        ({"<|new|>": 300}, "They are of two vocabularies"),
        ({"<|new|>": "x"}, "added_tokens.json"),
    ],
)
def test_added_tokens_that_cannot_be(folder, added, message):
    where = folder / "transformers"
    (where / "added_tokens.json").write_text(json.dumps(added))
    with pytest.raises(ValueError, match=message):
        CodeGemmaTokenizer.from_preset(where)


def test_a_placeholder_takes_its_listed_name(folder):
    where = with_sentencepiece_alone(folder)
    (where / "added_tokens.json").write_text(json.dumps({"<|new|>": 8}))
    assert CodeGemmaTokenizer.from_preset(where).id_to_token(8) == "<|new|>"


def test_more_rows_than_pieces(tmp_path):
    """Their ids have no text, and `generate` does not raise when one is drawn."""
    task = tiny_models.our_task()
    padded = CodeGemmaCausalLM(
        tiny_models.our_backbone(vocabulary_size=704), task.preprocessor
    )
    padded.save_to_preset(tmp_path)
    with pytest.warns(UserWarning, match="704 rows, and the vocabulary 700 pieces"):
        loaded = CodeGemmaCausalLM.from_preset(tmp_path)
    assert loaded.tokenizer.decode([300, 703]) == loaded.tokenizer.decode([300])
    embedding = loaded.backbone.token_embedding.embeddings
    embedding.assign(np.eye(704, embedding.shape[1], dtype="float32") * 0)
    values = keras.ops.convert_to_numpy(embedding).copy()
    values[703] = 5.0  # drawn, unless the last hidden state is against it
    values[702] = -5.0
    embedding.assign(values)
    assert loaded.generate("a", max_new_tokens=2, strip_prompt=True) == ""


def test_a_piece_that_is_missing(folder):
    pieces = list(sentencepiece_model.pieces(small_vocabulary()))
    proto = sentencepiece_model.replace(
        small_vocabulary(), [*pieces[:500], *pieces[501:]]
    )
    (folder / "keras/assets/tokenizer/vocabulary.spm").write_bytes(proto)
    (with_sentencepiece_alone(folder) / "tokenizer.model").write_bytes(proto)
    for kind in ("keras", "transformers"):
        with pytest.raises(ValueError, match=r"a piece is missing"):
            CodeGemmaCausalLM.from_preset(folder / kind)


def test_control_tokens_of_another_model(folder):
    edit(folder / "transformers" / "config.json", bos_token_id=5)
    with pytest.raises(ValueError, match="start_token_id=5, and the vocabulary has it"):
        CodeGemmaCausalLM.from_preset(folder / "transformers")


# Sizes are checked against the headers before anything is made


# Large, but a network that could be meant: only the weights are against it.
LARGE = [
    ("num_hidden_layers", "num_layers", 10**6),
    ("hidden_size", "hidden_dim", 10**7),
    ("vocab_size", "vocabulary_size", 10**7),
]
IMPOSSIBLE = [
    ("head_dim", "head_dim", 4 * 10**8),
    ("num_hidden_layers", "num_layers", 10**30),
    ("head_dim", "head_dim", -8),
    ("head_dim", "head_dim", True),
    ("head_dim", "head_dim", "8"),
]


@pytest.mark.parametrize(
    ("name", "keras_name", "value", "load_weights"),
    [
        *((*case, True) for case in LARGE + IMPOSSIBLE),
        *((*case, False) for case in IMPOSSIBLE),
    ],
)
def test_sizes_are_not_believed(
    folder, monkeypatch, name, keras_name, value, load_weights
):
    edit(folder / "transformers" / "config.json", **{name: value})
    path = folder / "keras" / "config.json"
    config = json.loads(path.read_text())
    config["config"][keras_name] = value
    path.write_text(json.dumps(config))
    if load_weights:
        monkeypatch.setattr(CodeGemmaBackbone, "__init__", pytest.fail)
    for kind in ("keras", "transformers"):
        with pytest.raises(ValueError, match="config"):
            CodeGemmaBackbone.from_preset(folder / kind, load_weights=load_weights)


def test_a_vocabulary_of_one_endless_number(folder):
    path = folder / "transformers" / "tokenizer.model"
    path.write_bytes(b"\xff" * 3_000_000)
    with pytest.raises(ValueError, match="no valid SentencePiece model"):
        CodeGemmaTokenizer.from_preset(folder / "transformers")  # It took minutes.


def test_only_dtype_policies_are_made(folder):
    made = []

    @keras.saving.register_keras_serializable("somewhere")
    class Other(keras.layers.Layer):
        def __init__(self, **kwargs):
            made.append(kwargs)
            super().__init__()

    path = folder / "keras" / "config.json"
    config = json.loads(path.read_text())
    config["config"]["dtype"] = {
        "module": "somewhere",
        "class_name": "Other",
        "config": {},
        "registered_name": "somewhere>Other",
    }
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="dtype in config"):
        CodeGemmaBackbone.from_preset(folder / "keras")
    assert not made


@pytest.mark.parametrize("dtype", ["int32", "bool", "complex64"])
def test_tensors_that_are_no_floats(folder, dtype):
    name = "model.layers.1.mlp.up_proj.weight"

    def change(tensors):
        tensors[name] = tensors[name].astype(dtype)

    change_tensors(folder, change)
    with h5py.File(folder / "keras" / "model.weights.h5", "a") as h5:
        group = h5["layers/gemma_decoder_block_1/gating_ffw_2/vars"]
        value = group["0"][()].astype(dtype)
        del group["0"]
        group["0"] = value
    for kind in ("keras", "transformers"):
        with pytest.raises(ValueError, match="weights are one of float16"):
            CodeGemmaBackbone.from_preset(folder / kind)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_numbers_that_are_none(folder, value, dtype):
    name = "model.norm.weight"

    def change(tensors):
        tensors[name] = tensors[name].astype(
            ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
        )
        tensors[name][5] = value

    change_tensors(folder, change)
    with pytest.raises(ValueError, match=r"model.norm.weight' holds NaN or infinity"):
        CodeGemmaBackbone.from_preset(folder / "transformers")


@pytest.mark.parametrize("epsilon", [float("nan"), float("inf"), 0, -1e-6, "1e-6"])
def test_epsilon_that_is_none(folder, epsilon):
    edit(folder / "transformers" / "config.json", rms_norm_eps=epsilon)
    with pytest.raises(ValueError, match=r"layer_norm_epsilon in config\.json"):
        CodeGemmaBackbone.from_preset(folder / "transformers")


# Saving


def test_a_save_that_fails_leaves_the_old_folder(folder, monkeypatch):
    where = folder / "keras"
    (where / "notes.txt").write_text("the user's own")
    before = {p: p.read_bytes() for p in where.rglob("*") if p.is_file()}
    task = tiny_models.our_task(seed=9)

    def full(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(CodeGemmaTokenizer, "save_assets", full)
    with pytest.raises(OSError, match="No space left"):
        task.save_to_preset(where)
    after = {p: p.read_bytes() for p in where.rglob("*") if p.is_file()}
    assert after == before
    assert {p.name for p in folder.iterdir()} == {"keras", "transformers"}
    monkeypatch.undo()
    task.save_to_preset(where)
    assert (where / "notes.txt").read_text() == "the user's own"
    loaded = CodeGemmaBackbone.from_preset(where)
    tiny_models.assert_same_weights(loaded, task.backbone)


def test_home(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder / "home"))
    monkeypatch.chdir(folder)
    task = tiny_models.our_task()
    task.save_to_preset("~/a")
    task.export_to_transformers("~/b")
    assert not pathlib.Path("~").exists()
    assert sorted(p.name for p in (folder / "home").iterdir()) == ["a", "b"]
    for name in ("~/a", "~/b"):
        CodeGemmaTokenizer.from_preset(name)


# What KerasHub's users look for


def test_presets_are_listed():
    for cls in (
        CodeGemmaBackbone,
        CodeGemmaCausalLM,
        CodeGemmaCausalLMPreprocessor,
        CodeGemmaTokenizer,
    ):
        assert list(cls.presets) == list(presets.PRESETS)
        assert cls.presets["code_gemma_2b_en"]["metadata"]["params"] == 2_506_172_416


def test_everything_exports_to_transformers(tmp_path):
    task = tiny_models.our_task()
    task.export_to_transformers(tmp_path / "task")
    task.backbone.export_to_transformers(tmp_path / "parts")
    task.tokenizer.export_to_transformers(tmp_path / "parts")
    for name in ("task", "parts"):
        model = transformers.GemmaForCausalLM.from_pretrained(tmp_path / name).eval()
        with torch.no_grad():
            theirs = model(torch.tensor(tiny_models.TOKEN_IDS)).logits.numpy()
        ids = {"token_ids": tiny_models.TOKEN_IDS}
        ours = keras.ops.convert_to_numpy(task(ids))
        assert tiny_models.relative_difference(ours, theirs) <= 1e-5
        again = CodeGemmaCausalLM.from_preset(tmp_path / name)
        assert again.tokenizer.proto == task.tokenizer.proto
    config = json.loads((tmp_path / "task" / "config.json").read_text())
    assert config["max_position_embeddings"] == 96


def test_a_preset_is_read_once(folder, monkeypatch):
    from codegemma_keras.formats import checks, hub

    read, found = [], []
    read_json, look_for = checks.read_json, hub.Files._look_for
    monkeypatch.setattr(
        checks, "read_json", lambda *args: read.append(args[0]) or read_json(*args)
    )
    monkeypatch.setattr(
        hub.Files,
        "_look_for",
        lambda self, path: found.append(path) or look_for(self, path),
    )
    CodeGemmaCausalLM.from_preset(folder / "keras")
    assert sum(path.endswith("config.json") for path in read) == 1
    assert len(found) == len(set(found))
