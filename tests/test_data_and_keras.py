"""Where the data room meets Keras: tokenizers of presets, and `fit` on rows from disk.

Everything else of the data room is tested without Keras: `make test-plain`.
"""

import itertools
import json
import pathlib

import keras
import pytest

from codegemma_keras.data.pipeline import build as pipeline
from codegemma_keras.data.pipeline import question
from codegemma_keras.data.rows import storage
from codegemma_keras.formats import keras_hub
from codegemma_keras.tokenizer.tokenizer import CodeGemmaTokenizer


def make_rows(folder, rows=10, length=8):
    """One shard of rows that can be told apart by their second id, from 100 on."""
    made = [storage.stored_row([[2, 100 + i, 1], [2, 1]]) for i in range(rows)]
    storage.write_shard(folder / storage.shard_name(0, 1), made)
    storage.write_metadata(folder, [rows], 1000)
    (folder / "data.json").write_text(json.dumps({"length": length}))


def first_ids(batches):
    """The second id of each row of the first batch."""
    inputs, _, _ = next(iter(batches))
    return inputs["token_ids"][:, 1].tolist()


def test_a_build_takes_every_kind_of_tokenizer(tmp_path):
    assert question.VOCABULARY == keras_hub.VOCABULARY
    embedded = CodeGemmaTokenizer.from_preset("code_gemma_tiny_py")
    embedded.save_to_preset(tmp_path)
    for kind in (embedded, tmp_path, str(tmp_path / keras_hub.VOCABULARY)):
        assert question.read_proto(kind) == embedded.proto
    with pytest.raises(ValueError, match="Unknown preset 'no_such_preset'"):
        question.read_proto("no_such_preset")
    repository = pathlib.Path(json.__file__).parent
    (tmp_path / "broken.model").write_bytes(embedded.proto[:-100])
    with pytest.raises(ValueError, match="truncated"):
        pipeline.build([repository], tmp_path / "out", tmp_path / "broken.model")


def test_fit_takes_rows_from_disk_and_its_position_is_kept(tmp_path):
    (tmp_path / "d").mkdir()
    make_rows(tmp_path / "d")

    def model():
        inputs = {
            name: keras.Input((8,), dtype="int32", name=name)
            for name in ("token_ids", "padding_mask", "positions", "segment_ids")
        }
        hidden = keras.layers.Embedding(200, 4)(inputs["token_ids"])
        made = keras.Model(inputs, keras.layers.Dense(200)(hidden))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        made.compile("adam", loss)
        return made

    dataset = storage.load(tmp_path / "d", 2)
    plan = {"steps_per_epoch": 3, "verbose": 0, "shuffle": False}
    trained = model()
    trained.fit(dataset, **plan)
    trained.save(tmp_path / "m.keras")
    # A model that was saved with its optimizer knows where it stood.
    again = keras.saving.load_model(tmp_path / "m.keras")
    start = int(again.optimizer.iterations)
    assert start == 3
    whole = storage.load(tmp_path / "d", 2)
    rest = storage.load(tmp_path / "d", 2, start=start)
    assert first_ids(rest) == first_ids(itertools.islice(whole, 3, None))
    again.fit(rest, **plan)
