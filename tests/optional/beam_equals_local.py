"""Beam's DirectRunner gives the rows of the local stages.

Needs an environment of its own, for apache-beam wants an older protobuf than what the
other tests need; `make test-beam` makes it. Then:

    python -m pytest tests/optional/beam_equals_local.py -p no:cacheprovider --noconftest
"""

import hashlib
import json
import os
import pathlib
import shutil

import apache_beam
import numpy as np
import pytest
from apache_beam.testing.util import assert_that

from codegemma_keras import fim
from codegemma_keras.batches import plan_rows
from codegemma_keras.data.clean import dedup
from codegemma_keras.data.document import Report
from codegemma_keras.data.pipeline import beam, beam_runner, stages
from codegemma_keras.data.pipeline.build import build
from codegemma_keras.data.pipeline.settings import Settings
from codegemma_keras.data.read import sources
from codegemma_keras.data.rows import storage

SETTINGS = Settings(length=512, licences=None, languages=("python",))


class ByteCodec:
    """One token per byte, so that no vocabulary is needed."""

    controls = (fim.PAD, fim.END, fim.START, fim.PREFIX, fim.MIDDLE, fim.SUFFIX,
                fim.FILE_SEPARATOR)  # fmt: skip

    def encode(self, parts):
        ids = []
        for part in parts:
            if isinstance(part, fim.Control):
                ids.append(self.controls.index(part))
            else:
                ids += [byte + 10 for byte in part.encode("utf-8", "surrogatepass")]
        return ids


def documents():
    library = pathlib.Path(os.__file__).parent
    found = []
    for package in ("json", "email", "asyncio"):
        folder = library / package
        found += sources.read_folder(
            folder, Report(), repo=package, languages=("python",)
        )
    # Duplicates, exact and near.
    for document in found[::5]:
        found.append(document.replace(repo="zcopy"))
        text = document.text.replace("self", "this") + "\n# changed\n"
        found.append(document.replace(repo="znear", text=text))
    return found


def local_rows(texts):
    cleaned = list(stages.clean(texts, SETTINGS, Report()))
    unique = dedup.deduplicate((d for d, kept in cleaned if kept), Report())
    kept = {d.key: d for d in unique}
    chunks = []
    for repo in sorted({repo for repo, _ in kept}):
        tree = (pair for pair in cleaned if pair[0].repo == repo)
        facts = filter(None, (stages.graph_facts(*pair, SETTINGS) for pair in tree))
        mine = {path: d for (name, path), d in kept.items() if name == repo}
        ordered = [mine[path] for path in stages.order_repository(facts, mine).paths]
        chunks += stages.chunk_documents(ordered, ByteCodec(), SETTINGS, Report())
    chunks = [c.token_ids for c in chunks]

    def digest(ids):
        data = np.array(ids, "<i4").tobytes()
        return hashlib.blake2b(data, digest_size=12).digest()

    chunks.sort(key=digest)
    rows = plan_rows([len(c) - 1 for c in chunks], SETTINGS.length)
    return [storage.stored_row([chunks[i] for i in row]) for row in rows]


def as_set(rows):
    return sorted(
        json.dumps([r["tokens"].tolist(), r["segment_lengths"].tolist()]) for r in rows
    )


def test_beam_gives_the_rows_of_the_local_build():
    texts = documents()
    expected = as_set(local_rows(texts))
    assert len(expected) > 300

    def check(found):
        places = sorted(place for place, _ in found)
        assert places == list(range(len(expected)))
        assert as_set(row for _, (row, _) in found) == expected
        assert all(contents for _, (_, contents) in found)

    options = apache_beam.options.pipeline_options.PipelineOptions(
        ["--runner=BundleBasedDirectRunner"]
    )
    with apache_beam.Pipeline(options=options) as pipeline:
        rows = (
            pipeline
            | apache_beam.Create(texts[::-1])
            | beam.Examples(SETTINGS, ByteCodec)
        )
        assert_that(rows["rows"], check)


def test_a_runner_with_several_processes_builds_the_same_folder(tmp_path):
    """Shards, what rows hold, and all counts; the command line passes Beam's options."""
    library = pathlib.Path(os.__file__).parent
    for name in ("json", "email", "asyncio"):
        (tmp_path / name).mkdir()
        for path in (library / name).glob("*.py"):
            shutil.copy(path, tmp_path / name)
    text = (tmp_path / "json/decoder.py").read_text()
    (tmp_path / "email/near.py").write_text(text.replace("self", "this"))
    shutil.copy(tmp_path / "json/decoder.py", tmp_path / "email/same.py")
    sources = [tmp_path / name for name in ("json", "email", "asyncio")]
    settings = Settings(
        length=512, licences=None, languages=("python",), shard_bytes=400_000
    )
    build(sources, tmp_path / "local", "code_gemma_tiny_py", settings)
    options = ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]
    beam_runner.build_on(
        "direct", sources, tmp_path / "beam", "code_gemma_tiny_py", settings, options
    )

    def contents(name):
        folder = tmp_path / name
        left_out = (
            "build.json",
            "report.html",
            "report.md",
            "dropped.jsonl",
            "data.json",
        )
        return {
            p.name: p.read_bytes() for p in folder.iterdir() if p.name not in left_out
        }

    assert contents("beam") == contents("local")
    assert len([name for name in contents("beam") if "array_record" in name]) > 1
    one, other = (
        json.loads((tmp_path / name / "data.json").read_text())
        for name in ("beam", "local")
    )
    assert one["report"] == other["report"]
    assert one["by_source"] == other["by_source"]
    with pytest.raises(ValueError, match="new or empty"):
        beam_runner.build_on(
            "direct", sources, tmp_path / "beam", "code_gemma_tiny_py", settings
        )
