"""What a build says of itself at its end: counts in all and by source, and its reports."""

import functools
import itertools

from codegemma_keras import fim
from codegemma_keras.data.document import Report
from codegemma_keras.data.pipeline import report, shards, stages
from codegemma_keras.tokenizer.codec import PlainCodec

# Pairs of near duplicates that the report shows; all are in dropped.jsonl.
PAIRS_SHOWN = 40
# Rows that are looked at for one that shows a middle.
_ROWS_TRIED = 50


def about(job, by_source: dict[str, Report]) -> dict:
    """What `data.json` holds, but for the sizes of files.

    Args:
        job: a build whose stages are done.
        by_source: what they counted of each source.
    """
    merged = functools.reduce(Report.merge, by_source.values(), Report())
    plan, settings = job.plan, job.settings
    used = int(plan.lengths.sum())
    merged.count("rows", "rows", len(plan.rows), size=used)
    manifest = job.folder.manifest()
    return {
        "length": settings.length,
        "rows": len(plan.rows),
        "tokens": used,
        # The last token of a segment takes no place in a row.
        "padding": round(
            1 - (used - len(plan.lengths)) / (len(plan.rows) * settings.length), 6
        ),
        "settings": manifest["settings"],
        "sources": [unit.name for unit in job.units],
        "by_source": {name: r.to_json() for name, r in by_source.items()},
        "report": merged.to_json(),
    }


def write(job, about: dict):
    """Write `report.md` and `report.html` into the results."""
    graphs = (job.tokens / key / "graphs.jsonl" for key in job.keys)
    graph = report.choose_graph(graphs)
    (job.results / "report.md").write_text(report.markdown(about, graph), "utf-8")
    page = report.html_page(
        about,
        graph,
        manifest=job.folder.manifest(),
        pairs=_pairs(job),
        sample=_sample(job),
    )
    (job.results / "report.html").write_text(page, "utf-8")


def _pairs(job):
    """The near duplicates that are least alike: a reader doubts those first."""
    entries = stages.read_lines(job.dedup / "dropped.jsonl")
    near = (entry for entry in entries if entry["reason"] == "near duplicate")
    return sorted(near, key=lambda e: (e["similarity"], e["name"]))[:PAIRS_SHOWN]


def _sample(job):
    """Parts of a segment of a row, with a middle where one of the first rows has any."""
    codec = PlainCodec((job.results / "tokenizer.model").read_bytes())
    plan = shards.shard_plan(job.plan, job.settings, 0)[:_ROWS_TRIED]
    first = None
    rows = shards.read_rows(job.tokens, job.keys, plan)
    for row in itertools.islice(rows, _ROWS_TRIED):
        for segment in row:
            parts = codec.decode_parts(segment)
            first = first or parts
            if fim.MIDDLE in parts:
                return parts
    return first


def nothing_left(reports) -> ValueError:
    """The error of a build that has nothing to train on, from the reports of its sources."""
    merged = functools.reduce(Report.merge, reports, Report())
    counts = sorted(merged.counts.items(), key=lambda item: -item[1][0])
    dropped = [
        (reason, n)
        for (step, reason), (n, _) in counts
        if reason != "in" and step not in report.KEPT_STEPS
    ]
    said = ", ".join(f"{reason} ({number})" for reason, number in dropped[:6])
    hint = ""
    if dropped and dropped[0][0] == "licence unknown":
        hint = " `--any-licence` keeps sources whose licence is not known."
    return ValueError(f"No document was left to train on. Dropped: {said}.{hint}")
