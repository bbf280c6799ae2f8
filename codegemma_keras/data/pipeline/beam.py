"""The same steps as Apache Beam transforms: documents in, rows out, at any scale.

    documents | Examples(settings, make_codec)  ->  rows, as from `storage.stored_row`

The functions are those of the local build; Beam moves the data. Pairs that may be near
duplicates are found by grouping on LSH bands and verified by their shingles, and one is
kept of each by the local rule, so a Beam run gives the rows of `pipeline.build`
(tests/optional/beam_equals_local.py compares them). `beam_runner` builds a folder of shards.

What does not scale without end, by design: the pairs of near duplicates, and the lengths,
repositories and paths of all segments are each decided or listed on one worker; a
repository is ordered on one.

apache-beam wants another protobuf than TensorFlow's newest: give it an environment of its
own.
"""

import numpy as np

from codegemma_keras.batches import plan_rows
from codegemma_keras.data.clean import dedup
from codegemma_keras.data.clean.headers import recurring
from codegemma_keras.data.document import Report, require
from codegemma_keras.data.pipeline import shards, stages
from codegemma_keras.data.rows import storage

beam = require("apache_beam", "beam")

# Tag of the outputs that hold `(source, counts)`.
REPORT = "report"


def _rank(document):
    return document.repo, document.path, dedup.exact_key(document.text)


def _source(document):
    return document.metadata.get("source", "")


def _repository(document):
    """Repositories of one name in two sources are two."""
    return _source(document), document.repo


def _counts(source, report):
    return beam.pvalue.TaggedOutput(REPORT, (source, report.to_json()))


def merge_reports(reports) -> list[dict]:
    """Counts of several `Report.to_json`, as one."""
    merged = Report()
    for rows in reports:
        merged.merge(Report.from_json(rows))
    return merged.to_json()


class Clean(beam.PTransform):
    """Filter, decontaminate and clean: documents to `(document, whether it is kept)`.

    Args:
        settings: a `Settings`.
        index: `decontaminate.Index`, or None.
    """

    def __init__(self, settings, index=None):
        super().__init__()
        self._settings, self._index = settings, index

    def expand(self, documents):
        return documents | beam.FlatMap(
            _clean_one, self._settings, self._index
        ).with_outputs(REPORT, main="documents")


def _clean_one(document, settings, index):
    report = Report()
    yield from stages.clean([document], settings, report, index)
    yield _counts(_source(document), report)


class Deduplicate(beam.PTransform):
    """Documents without exact and near duplicates, by the rule of `dedup.decide`."""

    def __init__(self, threshold: float = dedup.THRESHOLD):
        super().__init__()
        self._threshold = threshold

    def expand(self, documents):
        exact = (
            documents
            | "exact key" >> beam.Map(lambda d: (dedup.exact_key(d.text), d))
            | "same text" >> beam.GroupByKey()
            | "keep first"
            >> beam.FlatMap(_keep_first).with_outputs(REPORT, main="documents")
        )
        if not self._threshold:
            return exact
        dropped = self._near(documents, exact.documents)
        keyed = exact.documents | "by rank" >> beam.Map(lambda d: (_rank(d), d))
        near = (
            {"documents": keyed, "dropped": dropped}
            | "join" >> beam.CoGroupByKey()
            | "kept" >> beam.FlatMap(_keep).with_outputs(REPORT, main="documents")
        )
        reports = (exact[REPORT], near[REPORT]) | "reports" >> beam.Flatten()
        return {"documents": near.documents, REPORT: reports}

    def _near(self, documents, unique):
        """`(rank, similarity to the one that stays)` of near duplicates."""
        phrases = (
            documents
            | "texts" >> beam.Map(lambda d: (d.repo, (dedup.exact_key(d.text), d.text)))
            | "some of each repository"
            >> beam.combiners.Top.SmallestPerKey(dedup.Verifier.SAMPLE)
            | "what recurs" >> beam.Map(_recurring)
        )
        shingles = unique | "shingles" >> beam.FlatMap(_shingles)
        pairs = (
            shingles
            | "bands" >> beam.FlatMap(_bands, self._threshold)
            | "same band" >> beam.GroupByKey()
            | "pairs" >> beam.FlatMap(_pairs, self._threshold)
            | "each pair once" >> beam.Distinct()
            | "both ends" >> beam.FlatMap(lambda p: ((p[0], p), (p[1], p)))
        )
        return (
            {"pairs": pairs, "shingles": shingles}
            | "with shingles" >> beam.CoGroupByKey()
            | "one side" >> beam.FlatMap(_sides)
            | "two sides" >> beam.GroupByKey()
            | "similarity" >> beam.Map(_similarity, beam.pvalue.AsDict(phrases))
            | "all pairs" >> beam.combiners.ToList()
            | "keep one" >> beam.FlatMap(_keep_one, self._threshold)
        )


def _keep_first(group):
    first, *others = sorted(group[1], key=_rank)
    yield first
    for document in others:
        report = Report()
        verdict = dedup.Verdict("exact duplicate", 0)
        dedup.report_drop(report, verdict, document, ":".join(first.key))
        yield _counts(_source(document), report)


def _recurring(item):
    repo, found = item
    texts = [text for _, text in sorted(found, key=lambda pair: pair[0])]
    return repo, recurring(texts, dedup.shingles)


def _shingles(document):
    found = dedup.shingles(document.text)
    if len(found) >= dedup.MIN_SHINGLES:
        yield _rank(document), found.tobytes()


def _bands(item, threshold):
    rank, data = item
    sketch = dedup.sketch(np.frombuffer(data, np.uint32))
    number, rows = dedup.bands(threshold, len(sketch))
    for band in range(number):
        key = dedup.band_key(sketch[None], band, rows)[0]
        yield (band, key.tobytes()), (rank, sketch.tobytes())


def _pairs(group, threshold):
    members = sorted(group[1])
    sketches = [np.frombuffer(data, np.uint32) for _, data in members]
    for i, j in dedup.group_pairs(range(len(members))):
        alike = dedup.similarity(sketches[i], sketches[j])
        if alike >= threshold - dedup.MARGIN:
            yield members[i][0], members[j][0]


def _sides(item):
    rank, found = item
    for pair in found["pairs"]:
        for data in found["shingles"]:
            yield pair, (rank, data)


def _similarity(item, phrases):
    (i, j), sides = item
    data = dict(sides)
    ignored = np.concatenate([phrases[repo] for repo in sorted({i[0], j[0]})])
    a, b = (np.frombuffer(data[rank], np.uint32) for rank in (i, j))
    return i, j, dedup.jaccard(a, b, ignored)


def _keep_one(pairs, threshold):
    known = {(i, j): similarity for i, j, similarity in pairs}
    found = dedup.keep_one(known, lambda i, j: known[i, j], threshold)
    for rank, (kept, similarity) in found.items():
        yield rank, (":".join(kept[:2]), similarity)


def _keep(item):
    (document,) = item[1]["documents"] or (None,)
    for kept, similarity in item[1]["dropped"]:
        report = Report()
        verdict = dedup.Verdict("near duplicate", 0, similarity)
        dedup.report_drop(report, verdict, document, kept)
        yield _counts(_source(document), report)
        return
    yield document


class Segments(beam.PTransform):
    """Documents to segments `(hash, token ids, {"repo", "paths"})`, a repository at a time.

    Applied to `{"tree": as Clean, "kept": documents}`: the first decide what imports
    mean, the second are trained on.

    Args:
        settings: a `Settings`.
        make_codec: called on the worker; gives something with `encode(parts)`.
    """

    def __init__(self, settings, make_codec):
        super().__init__()
        self._settings, self._make_codec = settings, make_codec

    def expand(self, documents):
        tree = documents["tree"] | "tree" >> beam.FlatMap(_facts, self._settings)
        kept = documents["kept"] | "kept" >> beam.Map(lambda d: (_repository(d), d))
        tokenize = _Tokenize(self._settings, self._make_codec)
        return (
            {"tree": tree, "kept": kept}
            | "repositories" >> beam.CoGroupByKey()
            | "segments" >> beam.ParDo(tokenize).with_outputs(REPORT, main="segments")
        )


def _facts(pair, settings):
    document, kept = pair
    found = stages.graph_facts(document, kept, settings)
    if found is not None:
        yield _repository(document), found


class _Tokenize(beam.DoFn):
    def __init__(self, settings, make_codec):
        self._settings, self._make_codec = settings, make_codec

    def setup(self):
        self._codec = self._make_codec()

    def process(self, item):
        (source, repo), found = item
        kept, report = {d.path: d for d in found["kept"]}, Report()
        if not kept:
            return
        ordered = stages.order_repository(found["tree"], kept)
        for chunk in stages.chunk_documents(
            (kept[path] for path in ordered.paths),
            self._codec,
            self._settings,
            report,
        ):
            about = stages.chunk_json(chunk, report)
            data = np.array(chunk.token_ids, "<i4").tobytes()
            contents = {"repo": repo, "paths": about["paths"]}
            yield bytes.fromhex(about["hash"]), (data, contents)
        yield _counts(source, report)


class Pack(beam.PTransform):
    """Segments to `(place in the dataset, (row, contents of its segments))`."""

    def __init__(self, settings):
        super().__init__()
        self._settings = settings

    def expand(self, segments):
        length = self._settings.length
        plan = (
            segments
            | "lengths" >> beam.Map(lambda s: (s[0], len(s[1][0]) // 4))
            | "all lengths" >> beam.combiners.ToList()
            | "plan" >> beam.FlatMap(_plan, length, self._settings.fim.seed)
        )
        return (
            {"tokens": segments, "places": plan}
            | "to places" >> beam.CoGroupByKey()
            | "placed" >> beam.FlatMap(_place)
            | "rows" >> beam.GroupByKey()
            | "fill" >> beam.Map(_fill)
        )


def _plan(lengths, length, seed):
    """`(hash, (row, place in the row))` of every segment, as `shards.plan_rows`."""
    ranked = sorted(lengths)
    rows = plan_rows([size - 1 for _, size in ranked], length)
    hashes = [[ranked[i][0] for i in row] for row in rows]
    hashes.sort(key=lambda row: shards.row_key(row, seed))
    for number, row in enumerate(hashes):
        for place, value in enumerate(row):
            yield value, (number, place)


def _place(item):
    # Equal segments have equal tokens: any of them may take any of the places.
    for (row, place), segment in zip(
        sorted(item[1]["places"]), list(item[1]["tokens"]), strict=True
    ):
        yield row, (place, *segment)


def _fill(item):
    number, segments = item
    segments = sorted(segments, key=lambda segment: segment[0])
    tokens = [np.frombuffer(data, "<i4") for _, data, _ in segments]
    contents = [contents for _, _, contents in segments]
    return number, (storage.stored_row(tokens), contents)


class Examples(beam.PTransform):
    """All of it: documents to rows, and to counts of what was dropped and why.

    Gives `{"rows": as Pack, "report": (source, counts)}`.

    Args:
        settings: a `Settings`.
        make_codec: see `Segments`.
        index: `decontaminate.Index`, or None.
    """

    def __init__(self, settings, make_codec, index=None):
        super().__init__()
        self._settings, self._make_codec, self._index = settings, make_codec, index

    def expand(self, documents):
        clean = documents | "clean" >> Clean(self._settings, self._index)
        kept = (
            clean.documents
            | "kept by filters" >> beam.Filter(lambda pair: pair[1])
            | "kept documents" >> beam.Map(lambda pair: pair[0])
        )
        unique = kept | "deduplicate" >> Deduplicate(self._settings.threshold)
        segments = {
            "tree": clean.documents,
            "kept": unique["documents"],
        } | "tokenize" >> Segments(self._settings, self._make_codec)
        reports = (clean[REPORT], unique[REPORT], segments[REPORT])
        return {
            "rows": segments.segments | "pack" >> Pack(self._settings),
            REPORT: reports | "all reports" >> beam.Flatten(),
        }
