"""Where the rows of a benchmark come from.

In this order: a file or folder that was named; what is shipped with this package; the Hub
or TFDS, each only if it was named. Nothing is downloaded unasked. What is missing is said
in one message, with where to get it.
"""

import csv
import dataclasses
import gzip
import hashlib
import importlib.util
import json
import os
import pathlib
import zlib
from collections.abc import Mapping, Sequence

SHIPPED = pathlib.Path(__file__).parent / "benchmarks"
ENDS = (".jsonl.gz", ".jsonl", ".json", ".parquet", ".csv")
DOWNLOADS = ("hub", "tfds")


@dataclasses.dataclass(frozen=True)
class Source:
    """One set of rows.

    Attributes:
        name: str; its file is `NAME.jsonl.gz`, `.jsonl`, `.json`, `.parquet` or `.csv`.
        keys: fields that each row must have.
        page: str, where people get it.
        hub: `(repository, configuration, split)` on the Hugging Face Hub.
        tfds: `(builder, split)` in TensorFlow Datasets.
        columns: for CSV files without a header.
        rename: `{key of another copy: key}`, for copies whose fields have other names.
    """

    name: str
    keys: tuple[str, ...]
    page: str
    hub: tuple[str, str, str] | None = None
    tfds: tuple[str, str] | None = None
    columns: tuple[str, ...] | None = None
    rename: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Data:
    """Rows of benchmarks.

    Args:
        places: folders that hold files named as `Source.name`; `NAME=FILE` for a file of
            another name; `"hub"` and `"tfds"` to download what is not at hand.

    Attributes:
        digests: `{name of a source: hash of its rows}` of all that was read.

    Raises:
        ValueError, OSError: a place is none of these.

    Examples:
        >>> from codegemma_keras.evals import gsm8k
        >>> len(Data().rows(gsm8k.SOURCE))
        1319
        >>> Data(["mine"])
        Traceback (most recent call last):
        FileNotFoundError: mine is no folder with benchmark files. Give a folder,
        NAME=FILE, or one of 'hub' and 'tfds'.
    """

    def __init__(self, places: Sequence[str] = ()):
        self._folders, self._named, self._downloads = [], {}, []
        self._read, self._used = set(), set()
        self.digests = {}
        for place in map(os.fspath, places):
            name, equals, file = place.partition("=")
            if place in DOWNLOADS:
                self._downloads.append(place)
            elif pathlib.Path(place).is_dir():
                self._folders.append(pathlib.Path(place))
            elif equals and pathlib.Path(file).is_file():
                self._named[name] = pathlib.Path(file)
            else:
                raise FileNotFoundError(
                    f"{place} is no folder with benchmark files. Give a folder, "
                    "NAME=FILE, or one of 'hub' and 'tfds'."
                )

    def rows(self, source: Source) -> list[dict]:
        """The rows of a source.

        Raises:
            FileNotFoundError: it is nowhere; says where to get it.
            ValueError: the rows are not what the source has.
        """
        file = self._file(source)
        self._read.add(source.name)
        if file is not None:
            self._used |= {file, file.parent}
            rows, origin = read_rows(file, source.columns), str(file)
        elif "hub" in self._downloads and source.hub:
            rows, origin = _from_hub(source), f"hf://datasets/{source.hub[0]}"
        elif "tfds" in self._downloads and source.tfds:
            rows, origin = _from_tfds(source), f"TFDS's {source.tfds[0]}"
        else:
            raise FileNotFoundError(self._missing(source))
        rows = [{source.rename.get(k, k): v for k, v in row.items()} for row in rows]
        _check(rows, source, origin)
        text = json.dumps(rows, sort_keys=True).encode()
        self.digests[source.name] = hashlib.blake2b(text, digest_size=8).hexdigest()
        return rows

    def check_used(self) -> None:
        """Refuse places of which nothing was read.

        Raises:
            ValueError: a name that no source has, or a folder without a file of one.
        """
        names = ", ".join(sorted(self._read))
        for name, file in self._named.items():
            if name not in self._read:
                raise ValueError(
                    f"--data {name}={file}: no task that was asked for reads {name!r}. "
                    f"They read {names}: give the file one of these names, or leave it out."
                )
        for folder in self._folders:
            if folder not in self._used:
                raise ValueError(
                    f"--data {folder}: nothing in this folder was read. The tasks that "
                    f"were asked for read {names}: a file is called one of these, with "
                    f"one of the endings {', '.join(ENDS)}. Rename it, or leave the folder "
                    "out."
                )

    def _file(self, source):
        if source.name in self._named:
            return self._named[source.name]
        for folder in (*self._folders, SHIPPED):
            for end in ENDS:
                if (folder / (source.name + end)).is_file():
                    return folder / (source.name + end)
        return None

    def _missing(self, source):
        ways = [
            f"get it from {source.page} and name its folder or file: --data FOLDER, where "
            f"the file is {source.name}.jsonl (or {', '.join(ENDS)}), or "
            f"--data {source.name}=FILE"
        ]
        if source.hub:
            ways.append(f"--data hub downloads it from hf://datasets/{source.hub[0]}")
        if source.tfds:
            ways.append(f"--data tfds downloads it as {source.tfds[0]}")
        return f"The data {source.name!r} are not shipped with this package: " + (
            "; or ".join(ways) + "."
        )


def read_rows(path, columns: Sequence[str] | None = None) -> list[dict]:
    """The rows of a `.jsonl`, `.jsonl.gz`, `.json`, `.parquet` or `.csv` file.

    Args:
        path: of the file.
        columns: names of the columns of a CSV file without a header.

    Raises:
        ValueError: it holds something else; names the line.
    """
    path = pathlib.Path(path)
    if path.suffix == ".parquet":
        return _parquet(path)
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8", newline="") as file:
            text = file.read()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8: {error}.") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is no whole gzip file: {error}.") from None
    if path.suffix == ".csv":
        return list(csv.DictReader(text.splitlines(keepends=True), columns))
    if path.suffix == ".json":
        return _objects(parsed(text, path), path)
    lines = enumerate(text.split("\n"), 1)
    rows = [parsed(line, f"{path}, line {n}") for n, line in lines if line.strip()]
    return _objects(rows, path)


def parsed(text: str | bytes, place):
    """The value of a text in JSON.

    Raises:
        ValueError: it is none; names `place`.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # binary ones, too
        raise ValueError(f"{place} is no JSON: {error}.") from None


def _objects(rows, path):
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path} must hold one JSON object for each problem.")
    return rows


def _parquet(path):
    if importlib.util.find_spec("pyarrow") is None:
        raise ImportError(
            f"{path} is a Parquet file, which needs pyarrow: pip install pyarrow."
        )
    import pyarrow.parquet

    return pyarrow.parquet.read_table(path).to_pylist()


def _from_hub(source):
    """From the copy in Parquet that the Hub makes of every data set."""
    import huggingface_hub

    repository, configuration, split = source.hub
    path = huggingface_hub.hf_hub_download(
        repository,
        f"{configuration}/{split}/0000.parquet",
        repo_type="dataset",
        revision="refs/convert/parquet",
    )
    return _parquet(pathlib.Path(path))


def _from_tfds(source):
    if importlib.util.find_spec("tensorflow_datasets") is None:
        raise ImportError(
            '--data tfds needs the extra: pip install "codegemma-keras[data]".'
        )
    import tensorflow_datasets

    name, split = source.tfds
    rows = tensorflow_datasets.data_source(name, split=split)
    return [{k: _plain(v) for k, v in row.items()} for row in rows]


def _plain(value):
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _check(rows, source, origin):
    if not rows:
        raise ValueError(f"{origin} holds no rows.")
    for number, row in enumerate(rows, 1):
        lacking = [key for key in source.keys if key not in row]
        if lacking:
            raise ValueError(
                f"{origin}, row {number} has no {', '.join(lacking)} (it has "
                f"{', '.join(map(str, row))}): it is not the data of {source.name}. Get "
                f"them from {source.page}."
            )
