"""`build_on`: a dataset folder made by a Beam runner: Flink, Spark, Dataflow, this machine.

The result has the shards of the local build. Sources and the output folder are paths that
every worker can open: of a shared file system, or for the output of any that Beam knows
(`gs://`, `hdfs://`, `s3://`). A failed run is started anew: what resumes is the runner's
own business.

Left out: near duplicates and the graph in report.html, which only the local build lists.
"""

import functools
import json
import os
import pathlib
import tempfile

from codegemma_keras.data.document import Report, require
from codegemma_keras.data.pipeline import question, report, stages, summary
from codegemma_keras.data.pipeline.beam import REPORT, Examples, beam, merge_reports
from codegemma_keras.data.pipeline.folder import BUILD, DATA, MADE_BY
from codegemma_keras.data.rows import storage
from codegemma_keras.tokenizer.codec import PlainCodec

# What people call the runners -> Beam's options.
RUNNERS = {
    "dataflow": ("--runner=DataflowRunner",),
    "direct": ("--runner=FnApiRunner",),
    "flink": ("--runner=FlinkRunner",),
    "prism": ("--runner=PrismRunner",),
    "spark": ("--runner=SparkRunner",),
}
_PARTS = ".codegemma-build"


def build_on(
    runner: str, sources, out, tokenizer, settings, options=(), workers: int = 1
) -> str:
    """Build a dataset folder by a Beam runner.

    Args:
        runner: one of `RUNNERS`.
        sources, out, tokenizer, settings: as for `build`; `out` must be empty.
        options: Beam's own, such as `"--flink_master=localhost:8081"`.
        workers: processes of the `direct` runner; others have options for that.

    Returns:
        The report in Markdown.

    Raises:
        ValueError: there is no such runner, `out` is not empty, or nothing is left to
            train on.
    """
    if runner not in RUNNERS:
        raise ValueError(f"Unknown runner {runner!r}; known are {sorted(RUNNERS)}.")
    files = require("apache_beam.io.filesystems", "beam").FileSystems
    out = os.fspath(out).rstrip("/")
    taken = [m.path for match in files.match([f"{out}/*"]) for m in match.metadata_list]
    if taken:
        raise ValueError(
            f"{out} holds {len(taken)} files ({taken[0]}, ...). A runner builds in a "
            "folder that is new or empty. Name another one."
        )
    units = question.find_units(sources)
    proto = question.read_proto(tokenizer)
    PlainCodec(proto)
    manifest = question.ask(units, settings, proto)
    arguments = [*RUNNERS[runner], *options]
    if runner == "direct" and workers > 1:
        arguments += [f"--direct_num_workers={workers}"]
        arguments += ["--direct_running_mode=multi_processing"]
    with beam.Pipeline(argv=arguments) as pipeline:
        _describe(pipeline, units, out, proto, settings)
    return _finish(files, out, manifest, settings, proto)


def _describe(pipeline, units, out, proto, settings):
    index = stages.benchmark_index(settings)
    read = (
        pipeline
        | "sources" >> beam.Create([(unit.path, unit.name) for unit in units])
        | "spread" >> beam.Reshuffle()
        | "read" >> beam.FlatMap(_read, settings).with_outputs(REPORT, main="documents")
    )
    made = read.documents | Examples(
        settings, functools.partial(PlainCodec, proto), index
    )
    number = made["rows"] | "count rows" >> beam.combiners.Count.Globally()
    per_shard = settings.rows_per_shard()
    counts = (
        made["rows"]
        | "to shards" >> beam.Map(lambda item: (item[0] // per_shard, item))
        | "shards" >> beam.GroupByKey()
        | "write"
        >> beam.Map(
            _write_shard,
            out,
            per_shard,
            beam.pvalue.AsSingleton(number),
        )
        | "all shards" >> beam.combiners.ToList()
    )
    reports = (
        (read[REPORT], made[REPORT])
        | "reports" >> beam.Flatten()
        | "by source" >> beam.GroupByKey()
        | "merge" >> beam.MapTuple(lambda source, found: (source, merge_reports(found)))
        | "all reports" >> beam.combiners.ToList()
    )
    contents = (
        made["rows"]
        | "contents" >> beam.Map(lambda item: (item[0], item[1][1]))
        | "all contents" >> beam.combiners.ToList()
    )
    for name, values in (("counts", counts), ("reports", reports), ("rows", contents)):
        values | f"write {name}" >> beam.Map(_write_part, f"{out}/{_PARTS}-{name}.json")


def _read(unit, settings):
    path, name = unit
    counts = Report()
    yield from stages.read_documents(path, name, settings, counts)
    yield beam.pvalue.TaggedOutput(REPORT, (name, counts.to_json()))


def _write_shard(item, out, per_shard, number):
    shard, rows = item
    name = storage.shard_name(shard, -(-number // per_shard))
    ordered = sorted(rows, key=lambda entry: entry[0])
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / name
        count = storage.write_shard(path, (row for _, (row, _) in ordered))
        _put(f"{out}/{name}", path.read_bytes())
    return name, count


def _write_part(values, path):
    _put(path, json.dumps(sorted(values)).encode())


def _put(path, data):
    files = require("apache_beam.io.filesystems", "beam").FileSystems
    if "://" not in path:
        os.makedirs(os.path.dirname(path), exist_ok=True)
    with files.create(path, "application/octet-stream") as file:
        file.write(data)


def _finish(files, out, manifest, settings, proto):
    """The metadata and the reports; `data.json` last."""
    parts = {}
    for name in ("counts", "reports", "rows"):
        with files.open(f"{out}/{_PARTS}-{name}.json") as file:
            parts[name] = json.loads(file.read())
    by_source = dict(parts["reports"])
    merged = Report.from_json(merge_reports(by_source.values()))
    if not parts["rows"]:
        raise summary.nothing_left([merged])
    about = _about(parts, by_source, merged, manifest, settings)
    text = report.markdown(about, None)
    made = {
        "tokenizer.model": proto,
        "rows.jsonl": b"".join(
            json.dumps(row).encode() + b"\n" for _, row in parts["rows"]
        ),
        **_metadata(parts["counts"]),
        "report.md": text.encode(),
        "report.html": report.html_page(about, None, manifest=manifest).encode(),
        BUILD: json.dumps(MADE_BY | manifest, indent=1, sort_keys=True).encode(),
        DATA: json.dumps(about, indent=1, sort_keys=True).encode(),
    }
    for name, data in made.items():
        _put(f"{out}/{name}", data)
    files.delete([f"{out}/{_PARTS}-{name}.json" for name in parts])
    return text


def _about(parts, by_source, merged, manifest, settings):
    rows = len(parts["rows"])
    segments, used = merged.counts["tokens", "segments"]
    merged.count("rows", "rows", rows, size=used)
    return {
        "length": settings.length,
        "rows": rows,
        "tokens": used,
        "padding": round(1 - (used - segments) / (rows * settings.length), 6),
        "settings": manifest["settings"],
        "sources": sorted(manifest["sources"]),
        "by_source": by_source,
        "report": merged.to_json(),
        "files": {},
    }


def _metadata(counts):
    """`{name: bytes}` of the files that make the folder a TFDS dataset."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for name, _ in counts:
            (folder / name).touch()
        rows, size = [c[0] for _, c in counts], sum(c[1] for _, c in counts)
        storage.write_metadata(folder, rows, size)
        names = {name for name, _ in counts}
        return {p.name: p.read_bytes() for p in folder.iterdir() if p.name not in names}
