"""The same steps as Apache Beam transforms: documents in, rows out, at any scale.

    documents | Examples(settings, proto)  ->  rows, as from `storage.stored_row`

The functions are those of the local build; Beam moves the data. Near duplicates are
found by grouping on LSH bands, and one is kept of each by the local rule, so a Beam run
gives the rows of `pipeline.build` (tests/optional/beam_equals_local.py compares them).

What does not scale without end, by design: the pairs of near duplicates and the lengths
of all segments (20 bytes each) are each decided on one worker; a repository is ordered on one.

Left out: reading. Use Beam's own sources, and `stages.read_unit` for archives. apache-beam
wants another protobuf than TensorFlow's newest: give it an environment of its own.
"""

import hashlib

import numpy as np

from codegemma_keras.batches import plan_rows
from codegemma_keras.data.clean import dedup
from codegemma_keras.data.document import Report, require
from codegemma_keras.data.pipeline import stages
from codegemma_keras.data.rows import examples, storage

beam = require("apache_beam", "beam")


def _rank(document):
    return document.repo, document.path, dedup.exact_key(document.text)


class Clean(beam.PTransform):
    """Filter, decontaminate and clean: documents to documents.

    Drops are counted as Beam metrics under (step, reason).

    Args:
        settings: `stages.Settings`.
        index: `decontaminate.Index`, or None.
    """

    def __init__(self, settings, index=None):
        super().__init__()
        self._settings, self._index = settings, index

    def expand(self, documents):
        return documents | beam.FlatMap(_clean_one, self._settings, self._index)


def _clean_one(document, settings, index):
    report = Report()
    for cleaned, kept in stages.clean([document], settings, report, index):
        if kept:
            yield cleaned
    for (step, reason), (number, _) in report.counts.items():
        beam.metrics.Metrics.counter(step, reason).inc(number)


class Deduplicate(beam.PTransform):
    """Documents without exact and near duplicates, by the rule of `dedup.decide`."""

    def __init__(self, threshold: float = dedup.THRESHOLD):
        super().__init__()
        self._threshold = threshold

    def expand(self, documents):
        unique = (
            documents
            | "exact key" >> beam.Map(lambda d: (dedup.exact_key(d.text), d))
            | "same text" >> beam.GroupByKey()
            | "keep first" >> beam.Map(lambda group: min(group[1], key=_rank))
        )
        if not self._threshold:
            return unique
        dropped = (
            unique
            | "sketch" >> beam.FlatMap(_sketch)
            | "bands" >> beam.FlatMap(_bands, self._threshold)
            | "same band" >> beam.GroupByKey()
            | "pairs" >> beam.FlatMap(_pairs, self._threshold)
            | "each pair once" >> beam.Distinct()
            | "all pairs" >> beam.combiners.ToList()
            | "keep one" >> beam.FlatMap(lambda pairs: list(dedup.keep_one(pairs)))
            | "dropped" >> beam.Map(lambda rank: (rank, True))
        )
        keyed = unique | "by rank" >> beam.Map(lambda d: (_rank(d), d))
        return (
            {"documents": keyed, "dropped": dropped}
            | "join" >> beam.CoGroupByKey()
            | "kept"
            >> beam.FlatMap(
                lambda item: () if list(item[1]["dropped"]) else item[1]["documents"]
            )
        )


def _sketch(document):
    found = dedup.signature(document.text)
    if found is not None:
        yield _rank(document), found.tobytes()


def _bands(item, threshold):
    rank, data = item
    sketch = np.frombuffer(data, np.uint32)[None]
    number, rows = dedup.bands(threshold, sketch.shape[1])
    for band in range(number):
        yield (band, dedup.band_key(sketch, band, rows)[0].tobytes()), (rank, data)


def _pairs(group, threshold):
    members = sorted(group[1])
    sketches = [np.frombuffer(data, np.uint32) for _, data in members]
    for i, j in dedup.group_pairs(range(len(members))):
        if dedup.similarity(sketches[i], sketches[j]) >= threshold:
            yield members[i][0], members[j][0]


class Segments(beam.PTransform):
    """Documents to segments `(hash, token ids)`, one repository at a time.

    Args:
        settings: `stages.Settings`.
        make_codec: called on the worker; gives something with `encode(parts)`.
    """

    def __init__(self, settings, make_codec):
        super().__init__()
        self._settings, self._make_codec = settings, make_codec

    def expand(self, documents):
        return (
            documents
            | "by repository" >> beam.Map(lambda d: (d.repo, d))
            | "repositories" >> beam.GroupByKey()
            | "segments" >> beam.ParDo(_Tokenize(self._settings, self._make_codec))
        )


class _Tokenize(beam.DoFn):
    def __init__(self, settings, make_codec):
        self._settings, self._make_codec = settings, make_codec

    def setup(self):
        self._codec = self._make_codec()

    def process(self, item):
        by_path = {d.path: d for d in sorted(item[1], key=_rank, reverse=True)}
        found = stages.order_repository(by_path.values(), set(by_path), self._settings)
        ordered = [by_path[path] for path in found.paths]
        for chunk in examples.chunk_repository(
            ordered, self._codec, self._settings.fim, self._settings.length
        ):
            data = np.array(chunk.token_ids, "<i4").tobytes()
            yield hashlib.blake2b(data, digest_size=12).digest(), data


class Pack(beam.PTransform):
    """Segments to rows: `(place in the dataset, storage.stored_row(...))`."""

    def __init__(self, settings):
        super().__init__()
        self._settings = settings

    def expand(self, segments):
        plan = (
            segments
            | "lengths" >> beam.Map(lambda s: (s[0], len(s[1]) // 4))
            | "all lengths" >> beam.combiners.ToList()
            | "plan"
            >> beam.FlatMap(_plan, self._settings.length, self._settings.fim.seed)
        )
        return (
            {"tokens": segments, "places": plan}
            | "to places" >> beam.CoGroupByKey()
            | "placed" >> beam.FlatMap(_place)
            | "rows" >> beam.GroupByKey()
            | "fill"
            >> beam.Map(
                lambda item: (
                    item[0],
                    storage.stored_row(
                        [np.frombuffer(data, "<i4") for _, data in sorted(item[1])]
                    ),
                )
            )
        )


def _plan(lengths, length, seed):
    """`(hash, (row, place in the row))` of every segment, as `stages.plan_rows`."""
    ranked = sorted(lengths)
    rows = plan_rows([size - 1 for _, size in ranked], length)
    made = []
    for row in rows:
        hashes = [ranked[i][0] for i in row]
        digest = hashlib.blake2b(str(seed).encode(), digest_size=12)
        for value in hashes:
            digest.update(value)
        made.append((digest.digest(), hashes))
    for number, (_, hashes) in enumerate(sorted(made)):
        for place, value in enumerate(hashes):
            yield value, (number, place)


def _place(item):
    # Equal segments have equal tokens: any of them may take any of the places.
    tokens = list(item[1]["tokens"])
    for (row, place), data in zip(item[1]["places"], tokens, strict=True):
        yield row, (place, data)


class Examples(beam.PTransform):
    """All of it: documents to rows.

    Args:
        settings: `stages.Settings`.
        make_codec: see `Segments`.
        index: `decontaminate.Index`, or None.
    """

    def __init__(self, settings, make_codec, index=None):
        super().__init__()
        self._settings, self._make_codec, self._index = settings, make_codec, index

    def expand(self, documents):
        return (
            documents
            | "clean" >> Clean(self._settings, self._index)
            | "deduplicate" >> Deduplicate(self._settings.threshold)
            | "tokenize" >> Segments(self._settings, self._make_codec)
            | "pack" >> Pack(self._settings)
        )
