"""Rows on disk: ArrayRecord shards that are a TFDS dataset, and how they are loaded.

Shards hold `tf.train.Example` records, written with TFDS's own serialiser and array_record,
and its metadata beside them, so `tfds.builder_from_directory` opens the folder. They are
written here and not by `download_and_prepare`, because a build must go on after a kill
with the same bytes. Neither writing nor loading needs TensorFlow.

A stored row is the segments that `batches.pack` puts into one row, one after the other:
`tokens`, and `segment_lengths`.

Left out: padding, targets, weights, positions and segment ids on disk, because they follow
from the segments.
"""

import functools
import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from codegemma_keras.batches import PackedBatch, pack
from codegemma_keras.data.document import require
from codegemma_keras.data.rows.fim_split import target_weights
from codegemma_keras.tokenizer.codec import PlainCodec

NAME = "codegemma_data"
SPLIT = "train"


def _features():
    tfds = require("tensorflow_datasets")
    return tfds.features.FeaturesDict(
        {
            "tokens": tfds.features.Tensor(shape=(None,), dtype=np.int32),
            "segment_lengths": tfds.features.Tensor(shape=(None,), dtype=np.int32),
        }
    )


def shard_name(shard: int, shards: int) -> str:
    return f"{NAME}-{SPLIT}.array_record-{shard:05d}-of-{shards:05d}"


def stored_row(segments: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
    """The segments of one row as they are stored."""
    arrays = [np.asarray(segment, np.int32) for segment in segments]
    lengths = np.array([len(array) for array in arrays], np.int32)
    return {"tokens": np.concatenate(arrays), "segment_lengths": lengths}


def write_shard(path, rows: Iterable[dict]):
    """Write rows to one ArrayRecord file; the same rows give the same bytes.

    Args:
        path: of the file.
        rows: as from `stored_row`.

    Returns:
        `(rows, bytes of all records)`.
    """
    module = require("array_record.python.array_record_module")
    messages = require("tensorflow_datasets.proto").tf_example_pb2
    serialise = _features().serialize_example
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


def write_metadata(folder, shard_rows: list[int], size: int):
    """Make a folder of shards a TFDS dataset: `dataset_info.json`, `features.json`."""
    tfds = require("tensorflow_datasets")
    info = tfds.core.SplitInfo(
        name=SPLIT, shard_lengths=list(shard_rows), num_bytes=size
    )
    tfds.folder_dataset.write_metadata(
        data_dir=os.fspath(folder),
        features=_features(),
        split_infos=[info],
        filename_template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        description="Packed training rows; see data.json.",
        check_data=False,  # It would read the rows with TensorFlow.
    )


class Rows:
    """Random access to the rows of a dataset folder; what `grain` reads from.

    `rows[i]` is the list of the segments of row i, int32 arrays of token ids.

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
        ends = np.cumsum(row["segment_lengths"])
        # Folders of earlier versions have padding behind the last segment.
        return np.split(np.asarray(row["tokens"]), ends)[:-1]

    @functools.cached_property
    def control_ids(self):
        """The ids of the control tokens in this folder's tokenizer."""
        return PlainCodec((self._folder / "tokenizer.model").read_bytes()).control_ids

    def pack(
        self, rows: Sequence[Sequence[np.ndarray]], middle_weight: float = 1.0
    ) -> PackedBatch:
        """Rows of this folder, as `rows[i]` gives them, as a batch.

        Args:
            rows: lists of segments.
            middle_weight: see `load`.
        """
        segments = [segment for row in rows for segment in row]
        ends = np.cumsum([len(row) for row in rows])
        members = np.split(np.arange(len(segments)), ends[:-1])
        weights = None
        if middle_weight != 1.0:
            weights = [
                target_weights(ids, self.control_ids, middle_weight) for ids in segments
            ]
        return pack(segments, self.about["length"], weights=weights, rows=members)

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
    middle_weight: float = 1.0,
):
    r"""A grain dataset of batches that `fit()` takes on both backends.

        model.fit(data.load("out", 8), steps_per_epoch=100)

    Position: batch `n` of a dataset is always the same, so the number of batches trained
    is the position, and `start=n` goes on from there. A model that was saved with its
    optimizer knows that number:

        model = keras.saving.load_model("run/model.keras")
        dataset = data.load("out", 8, start=int(model.optimizer.iterations))

    The recipes do the same with their checkpoints. An iterator's own `get_state()` and
    `set_state()` mean the same position.

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
        middle_weight: of the targets in a FIM middle and of the token that ends it; all
            other targets have 1. A middle is a third of a file or one line of it, so 1
            spends most of the loss on left-to-right text; more than 1 spends it on what
            is asked for in an editor. The loss is a mean over the weights, so the rate
            of learning stays what it was.

    Returns:
        A `grain.IterDataset` of `PackedBatch`, which `fit` takes as
        `(x, y, sample_weight)`.

    Raises:
        ValueError: there are fewer rows than `batch_size`; lengths of a mix differ; a
            weight that is negative or not finite.

    Examples:
        >>> import pathlib
        >>> pathlib.Path("project").mkdir()
        >>> _ = pathlib.Path("project/a.py").write_text("x = 1\n" * 200)
        >>> settings = data.Settings(length=256, licences=None)
        >>> _ = data.build(["project"], "rows", "code_gemma_tiny_py", settings)

        >>> batch = next(iter(data.load("rows", batch_size=1)))
        >>> batch.inputs["token_ids"].shape
        (1, 256)
    """
    if not 0 <= middle_weight < float("inf"):
        raise ValueError(
            f"middle_weight={middle_weight} must be 0 or more, and finite."
        )
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
    rows = rows[shard[0] :: shard[1]]
    make = functools.partial(sources[0].pack, middle_weight=middle_weight)
    batches = rows.batch(batch_size, drop_remainder=True, batch_fn=make)
    if start:
        batches = batches[start:]
    dataset = batches.to_iter_dataset(
        grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)
    )
    if workers:
        options = grain.multiprocessing.MultiprocessingOptions(num_workers=workers)
        dataset = dataset.mp_prefetch(options)
    return dataset
