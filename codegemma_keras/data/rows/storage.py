"""Rows on disk: ArrayRecord shards that are a TFDS dataset, and how they are loaded.

Shards hold `tf.train.Example` records, written with TFDS's own serialiser and array_record,
and its metadata beside them, so `tfds.builder_from_directory` opens the folder. They are
written here and not by `download_and_prepare`, because a build must go on after a kill
with the same bytes. Neither writing nor loading needs TensorFlow, except `load_tf`.

Left out: positions and segment ids on disk: they follow from the segments' lengths.
"""

import json
import os
import pathlib
from collections.abc import Iterable, Mapping

import numpy as np

from codegemma_keras.data.document import require
from codegemma_keras.data.rows.packing import model_inputs

NAME = "codegemma_data"
VERSION = "1.0.0"
SPLIT = "train"


def _features(length):
    tfds = require("tensorflow_datasets")
    return tfds.features.FeaturesDict(
        {
            "tokens": tfds.features.Tensor(shape=(length,), dtype=np.int32),
            "segment_lengths": tfds.features.Tensor(shape=(None,), dtype=np.int32),
        }
    )


def shard_name(shard: int, shards: int) -> str:
    return f"{NAME}-{SPLIT}.array_record-{shard:05d}-of-{shards:05d}"


def write_shard(path, rows: Iterable[dict], length: int):
    """Write rows to one ArrayRecord file; the same rows give the same bytes.

    Args:
        path: of the file.
        rows: as from `packing.fill_row`.
        length: tokens of a row.

    Returns:
        `(rows, bytes of all records)`.
    """
    module = require("array_record.python.array_record_module")
    messages = require("tensorflow_datasets.proto").tf_example_pb2
    serialise = _features(length).serialize_example
    writer = module.ArrayRecordWriter(os.fspath(path), "group_size:1")
    count = size = 0
    try:
        for row in rows:
            # An example is a map from names, and protobuf writes a map in an order that
            # changes from process to process unless it is asked not to.
            example = messages.Example.FromString(serialise(row))
            record = example.SerializeToString(deterministic=True)
            writer.write(record)
            count, size = count + 1, size + len(record)
    finally:
        writer.close()
    return count, size


def write_metadata(folder, shard_rows: list[int], size: int, length: int):
    """Make a folder of shards a TFDS dataset: `dataset_info.json`, `features.json`."""
    tfds = require("tensorflow_datasets")
    info = tfds.core.SplitInfo(
        name=SPLIT, shard_lengths=list(shard_rows), num_bytes=size
    )
    tfds.folder_dataset.write_metadata(
        data_dir=os.fspath(folder),
        features=_features(length),
        split_infos=[info],
        filename_template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        description="Packed training rows; see data.json.",
        check_data=False,  # It would read the rows with TensorFlow.
    )


class Rows:
    """Random access to the rows of a dataset folder; what `grain` reads from.

    Args:
        folder: a folder that `data build` wrote.

    Raises:
        FileNotFoundError: it is none.
    """

    def __init__(self, folder):
        self._folder = pathlib.Path(folder)
        if not (self._folder / "data.json").exists():
            raise FileNotFoundError(
                f"{self._folder} holds no data.json: it is no finished output of "
                "`codegemma data build`. Run that again; it goes on where it stopped."
            )
        self.about = json.loads((self._folder / "data.json").read_text())
        self._open()

    def _open(self):
        tfds = require("tensorflow_datasets")
        builder = tfds.builder_from_directory(os.fspath(self._folder))
        self._source = builder.as_data_source(split=SPLIT)

    def __len__(self):
        return len(self._source)

    def __getitem__(self, index):
        row = self._source[int(index)]
        return {key: np.asarray(row[key]) for key in ("tokens", "segment_lengths")}

    def __repr__(self):
        return f"Rows({str(self._folder)!r})"

    # Worker processes of grain open the files themselves.
    def __getstate__(self):
        return {"_folder": self._folder, "about": self.about}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._open()


def load(
    folder,
    batch_size: int,
    *,
    seed: int | None = 0,
    repeat: bool = True,
    start: int = 0,
    shard: tuple[int, int] = (0, 1),
    workers: int = 0,
):
    """A grain dataset of batches that `fit()` takes on both backends.

        model.fit(data.load("out", 8), steps_per_epoch=100)

    Position: batch `n` of a dataset is always the same, so the number of batches trained
    is the position; `start=n` goes on from there (`SavePosition` keeps it beside a
    model's checkpoints). An iterator's own `get_state()`/`set_state()` does the same.

    Args:
        folder: what `codegemma data build` wrote; or a mix, as `{folder: weight}`: rows are
            drawn in proportion, for example 80 % code and 20 % natural language.
        batch_size: B.
        seed: of the order of rows, another in every pass; None leaves the stored order.
        repeat: go on for ever; else one pass (a mix ends with the first that ends), and
            the last rows that fill no batch are left out.
        start: batches to skip, at no cost.
        shard: `(index, number)` of this process among several that share the rows.
        workers: processes that decode; 0 decodes in this one.

    Returns:
        A `grain.IterDataset` of `(x, y, sample_weight)`: `x` holds `token_ids`,
        `padding_mask`, `positions`, `segment_ids`, all `[B, T]`.

    Raises:
        ValueError: there are fewer rows than `batch_size`; lengths of a mix differ.
    """
    grain = require("grain")
    folders = dict(folder) if isinstance(folder, Mapping) else {folder: 1.0}
    sources = [Rows(name) for name in folders]
    lengths = {source.about["length"] for source in sources}
    if len(lengths) > 1:
        raise ValueError(f"Rows of a mix must have one length, not {sorted(lengths)}.")
    parts = []
    for source in sources:
        if len(source) // shard[1] < batch_size and not repeat:
            raise ValueError(
                f"{source} holds {len(source)} rows, fewer than batch_size={batch_size}."
            )
        rows = grain.MapDataset.source(source)
        if seed is not None:
            rows = rows.seed(seed).shuffle()
        parts.append(rows.repeat() if repeat else rows)
    rows = parts[0]
    if len(parts) > 1:
        rows = grain.MapDataset.mix(parts, weights=[float(w) for w in folders.values()])
    rows = rows[shard[0] :: shard[1]].map(_inputs)
    batches = rows.batch(batch_size, drop_remainder=True)
    if start:
        batches = batches[start:]
    dataset = batches.to_iter_dataset(
        grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)
    )
    if workers:
        options = grain.multiprocessing.MultiprocessingOptions(num_workers=workers)
        dataset = dataset.mp_prefetch(options)
    return dataset


def _inputs(row):
    return model_inputs(row["tokens"], row["segment_lengths"])


def load_tf(folder, batch_size: int, **options):
    """The same batches as `load`, as a `tf.data.Dataset`.

    Needs TensorFlow. The order and the position are grain's: tf.data reads them.
    """
    tf = require("tensorflow", "tensorflow")
    dataset = load(folder, batch_size, **options)
    first = Rows(next(iter(folder)) if isinstance(folder, Mapping) else folder)
    shape = (batch_size, first.about["length"])
    ids = tf.TensorSpec(shape, tf.int32)
    names = ("token_ids", "padding_mask", "positions", "segment_ids")
    signature = (dict.fromkeys(names, ids), ids, tf.TensorSpec(shape, tf.float32))
    return tf.data.Dataset.from_generator(
        lambda: iter(dataset), output_signature=signature
    ).prefetch(2)
