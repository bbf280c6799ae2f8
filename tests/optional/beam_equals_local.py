"""Beam's DirectRunner gives the rows of the local stages.

Needs an environment of its own, for apache-beam wants an older protobuf than what the
other tests need; `make test-beam` makes it. Then:

    python -m pytest tests/optional/beam_equals_local.py -p no:cacheprovider --noconftest
"""

import hashlib
import json
import os
import pathlib

import apache_beam
import numpy as np
from apache_beam.testing.util import assert_that

from codegemma_keras import fim
from codegemma_keras.batches import plan_rows
from codegemma_keras.data.clean import dedup
from codegemma_keras.data.document import Report
from codegemma_keras.data.pipeline import beam, stages
from codegemma_keras.data.read import sources
from codegemma_keras.data.rows import examples, storage

SETTINGS = stages.Settings(length=512, licences=None, languages=("python",))


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
        found += sources.read_folder(library / package, Report(), languages=("python",))
    # Duplicates, exact and near.
    for document in found[::5]:
        found.append(document.replace(repo="zcopy"))
        text = document.text.replace("self", "this") + "\n# changed\n"
        found.append(document.replace(repo="znear", text=text))
    return found


def local_rows(texts):
    kept = stages.steps(texts, SETTINGS, Report())
    kept = sorted(dedup.deduplicate(kept, Report()), key=lambda d: d.key)
    chunks = []
    for repo in sorted({d.repo for d in kept}):
        mine = {d.path: d for d in kept if d.repo == repo}
        ordered = stages.order_repository(mine.values(), SETTINGS).paths
        chunks += examples.chunk_repository(
            [mine[p] for p in ordered], ByteCodec(), SETTINGS.fim, SETTINGS.length
        )
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
        assert as_set(row for _, row in found) == expected

    options = apache_beam.options.pipeline_options.PipelineOptions(
        ["--runner=BundleBasedDirectRunner"]
    )
    with apache_beam.Pipeline(options=options) as pipeline:
        rows = (
            pipeline
            | apache_beam.Create(texts[::-1])
            | beam.Examples(SETTINGS, ByteCodec)
        )
        assert_that(rows, check)
