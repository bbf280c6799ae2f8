"""The report of a build for a person: Markdown, and one HTML page with pictures.

What went wrong comes first: what could not be read, and sources of which nothing is left.
Then how much was kept and why the rest was not, in all and by source, the near duplicates
that a reader would doubt, the order of one repository, a piece of a training row, and what
the build was made from.
"""

import collections
import html
import json
from collections.abc import Iterable

from codegemma_keras import fim
from codegemma_keras.data.document import printable
from codegemma_keras.data.pipeline import pictures

# Counts of what goes on, not of what is dropped.
KEPT_STEPS = frozenset(
    ("read", "language", "length", "licence", "fim", "tokens", "rows", "note")
)
_ORDER = ("source", "filter", "decontaminate", "secrets", "dedup")
# What reading leaves out on purpose; all else it leaves out was lost.
_EXPECTED = frozenset(
    (
        "file too large",
        "Git LFS pointer",
        "ignored by .gitignore",
        "link",
        "link or device",
        "no regular file",
        "output of a data build",
        "path twice",
    )
)
# Of each part of the sample, so that its middle is seen, too.
SAMPLE_CHARACTERS = 1_500
SAMPLE_PARTS = 24


def choose_graph(paths: Iterable) -> dict | None:
    """The repository to draw: the one with the most imports."""
    best = None
    for path in paths:
        with open(path, encoding="utf-8") as file:
            for line in file:
                graph = json.loads(line)
                rank = len(graph["kept"]), len(graph["paths"]), graph["repo"]
                if graph["kept"] and (best is None or rank > best[0]):
                    best = rank, graph
    return best[1] if best else None


# What the counts say


def _dropped(rows):
    """The rows of a report that count dropped documents."""
    return [
        row
        for row in rows
        if row["step"] not in KEPT_STEPS
        and row["reason"] != "in"
        and not row["reason"].endswith(" replaced")
    ]


def _table(rows, step):
    found = {
        row["reason"]: (row["documents"], row["bytes"])
        for row in rows
        if row["step"] == step
    }
    return dict(sorted(found.items(), key=lambda item: (-item[1][0], item[0])))


def problems(about: dict) -> list[str]:
    """What went wrong, a sentence each; empty if nothing did."""
    said = []
    for row in about["report"]:
        lost = row["step"] == "source" and row["reason"] not in _EXPECTED
        if lost or row["step"] == "note":
            names = ", ".join(row["examples"][:3])
            size = f" of {row['bytes']:,} bytes" if row["bytes"] else ""
            said.append(f"{row['reason']}: {row['documents']:,}{size} ({names})")
    for name, rows in about["by_source"].items():
        line = source_line(rows)
        if line["kept"]:
            continue
        why = ", ".join(f"{reason} {n:,}" for reason, n in line["reasons"][:3])
        hint = ""
        if any(reason == "licence unknown" for reason, _ in line["reasons"]):
            hint = " Its licence is not known; --any-licence keeps it all the same."
        said.append(f"Nothing is left of the source {name}: {why}.{hint}")
    return said


def source_line(rows: list[dict]) -> dict:
    """What the table of sources says of one: files, kept, reasons, and so on.

    Args:
        rows: of its own report.
    """
    reasons = collections.Counter()
    for row in _dropped(rows):
        reasons[row["reason"]] += row["documents"]
    languages = _table(rows, "language")
    kept = sum(number for number, _ in languages.values())
    return {
        "files": kept + reasons.total(),
        "kept": kept,
        "bytes": sum(size for _, size in languages.values()),
        "reasons": sorted(reasons.items(), key=lambda item: (-item[1], item[0])),
        "licences": list(_table(rows, "licence")),
        "languages": list(languages),
        "tokens": _table(rows, "tokens").get("segments", (0, 0))[1],
    }


def funnel(about: dict) -> tuple[list[tuple[str, int]], int]:
    """`([(step, dropped)], kept)`."""
    steps = collections.Counter()
    for row in _dropped(about["report"]):
        steps[row["step"]] += row["documents"]
    names = [n for n in _ORDER if n in steps] + sorted(set(steps) - set(_ORDER))
    kept = sum(n for n, _ in _table(about["report"], "language").values())
    return [(name, steps[name]) for name in names], kept


def totals(about: dict) -> list[tuple[str, str]]:
    """The figures at the top, as `(name, figure)`."""
    rows = about["report"]
    read = _table(rows, "read").get("in", (0, 0))
    languages = _table(rows, "language")
    kept = sum(n for n, _ in languages.values())
    size = sum(s for _, s in languages.values())
    pieces = _table(rows, "fim")
    fim = sum(n for kind, (n, _) in pieces.items() if kind != "plain")
    total = sum(n for n, _ in pieces.values())
    return [
        ("sources", len(about["sources"])),
        ("documents read", f"{read[0]:,} ({read[1]:,} bytes)"),
        ("documents kept", f"{kept:,} ({size:,} bytes)"),
        ("rows", f"{about['rows']:,} of {about['length']:,} tokens"),
        (
            "tokens",
            f"{about['tokens']:,}, {size / max(1, about['tokens']):.2f} bytes each",
        ),
        ("padding", f"{about['padding']:.2%}"),
        ("FIM pieces", f"{fim:,} of {total:,} ({fim / max(1, total):.1%})"),
    ]


# Markdown


def markdown(about: dict, graph: dict | None) -> str:
    """The report as Markdown.

    Args:
        about: what `data.json` holds.
        graph: of one repository, from `choose_graph`.
    """
    lines = ["# Data report", ""]
    if wrong := problems(about):
        lines += ["**What went wrong**", "", *(f"* {_cell(w)}" for w in wrong), ""]
    lines += [f"* {key}: {value}" for key, value in totals(about)]
    lines += ["", "## Sources", ""]
    lines += _markdown_table(*_sources_table(about))
    lines += ["", "## What was dropped, and why", ""]
    lines += _markdown_table(*_dropped_table(about))
    lines += ["", "Every dropped file is named in `dropped.jsonl`.", ""]
    for title, step in (("Languages", "language"), ("FIM, by piece", "fim")):
        found = _table(about["report"], step).items()
        body = [(name, f"{n:,}", f"{size:,}") for name, (n, size) in found]
        lines += [f"## {title}", "", *_markdown_table(("", "number", "bytes"), body)]
        lines.append("")
    lengths = sorted(_table(about["report"], "length").items())
    body = [(f"{int(k):,}", f"{n:,}") for k, (n, _) in lengths]
    lines += ["## Lengths", "", *_markdown_table(("up to bytes", "documents"), body)]
    if graph:
        lines += ["", f"## The order of {_cell(graph['repo'])}", ""]
        lines += [f"{i}. `{path}`" for i, path in enumerate(graph["paths"], 1)]
    return "\n".join(lines) + "\n"


def _markdown_table(head, body):
    yield "| " + " | ".join(head) + " |"
    yield "|---" * len(head) + "|"
    for row in body:
        yield "| " + " | ".join(map(_cell, row)) + " |"


def _cell(text):
    return printable(str(text)).replace("|", "\\|")


def _sources_table(about):
    head = ("source", "files", "kept", "tokens", "languages", "licences", "dropped")
    body = []
    for name, rows in about["by_source"].items():
        line = source_line(rows)
        reasons = [f"{reason} {n:,}" for reason, n in line["reasons"]]
        body.append(
            (
                name,
                f"{line['files']:,}",
                f"{line['kept']:,}",
                f"{line['tokens']:,}",
                _few(line["languages"]),
                _few(line["licences"]),
                _few(reasons, 6),
            )
        )
    return head, body


def _dropped_table(about):
    head = ("step", "reason", "documents", "bytes", "for example")
    body = [
        (
            row["step"],
            row["reason"],
            f"{row['documents']:,}",
            f"{row['bytes']:,}",
            *(row["examples"][:1] or [""]),
        )
        for row in about["report"]
        if row["step"] not in KEPT_STEPS and row["reason"] != "in"
    ]
    return head, body


def _few(names, limit=3):
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


# HTML

_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Data report</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>
body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:1rem auto;padding:0 1rem;
color:#222;overflow-wrap:anywhere}
h1,h2{font-weight:600}
.wide{overflow-x:auto}
table{border-collapse:collapse;overflow-wrap:normal}
td,th{padding:.2rem .9rem .2rem 0;text-align:left;vertical-align:top}
tr+tr{border-top:1px solid #ddd}
td:last-child{min-width:14rem;overflow-wrap:anywhere}
td.n{text-align:right;font-variant-numeric:tabular-nums}
svg{max-width:100%;height:auto}
.wrong{border-left:4px solid #c8553d;background:#fbeeea;padding:.5rem 1rem}
.well{border-left:4px solid #2a9d63;background:#eaf6ef;padding:.5rem 1rem}
pre{background:#f6f6f6;padding:.8rem;overflow-x:auto;font-size:13px}
.control{color:#888}.prefix{color:#00707a}.suffix{color:#8a3a9e}
.middle{color:#1b7a3d;font-weight:700}.path{font-weight:700}
@media (max-width:45rem){
.rows tr{display:block;padding:.4rem 0}
.rows tr:first-child{display:none}
.rows td,.rows td.n{display:block;text-align:left;min-width:0;padding:0;
overflow-wrap:anywhere}
.rows td[data-name]::before{content:attr(data-name) ": ";color:#777}
}
</style></head><body><h1>Data report</h1>
"""


def html_page(about: dict, graph: dict | None, *, manifest, pairs=(), sample=()) -> str:
    """The report as one HTML page with pictures.

    Args:
        about, graph: as for `markdown`.
        manifest: what the build was made from, see `question.ask`.
        pairs: entries of `dropped.jsonl`, near duplicates.
        sample: parts of a segment, as `decode_parts` gives them.
    """
    parts = [_HEAD, *_wrong(about), "<table>"]
    parts += [f"<tr><th>{_text(k)}<td>{_text(v)}" for k, v in totals(about)]
    parts += ["</table><h2>From files to training data</h2>"]
    parts += [_picture(pictures.funnel(*funnel(about)))]
    parts += ["<h2>Sources</h2>", *_html_table(*_sources_table(about))]
    parts += ["<h2>What was dropped, and why</h2>"]
    parts += [*_html_table(*_dropped_table(about))]
    parts += ["<p>Every dropped file is named in <code>dropped.jsonl</code>.</p>"]
    for title, step in (
        ("Languages (documents)", "language"),
        ("Pieces by kind", "fim"),
    ):
        found = list(_table(about["report"], step).items())[:20]
        if found:
            drawn = pictures.bars([(name, n) for name, (n, _) in found])
            parts += [f"<h2>{title}</h2>", _picture(drawn)]
    found = sorted(_table(about["report"], "length").items())
    drawn = pictures.bars([(f"{int(k):,}", n) for k, (n, _) in found])
    parts += ["<h2>Length of documents (up to so many bytes)</h2>", _picture(drawn)]
    parts += [*_html_pairs(pairs), *_html_graph(graph), *_html_sample(sample)]
    parts += [*_html_manifest(manifest), "</body></html>", ""]
    return "\n".join(parts)


def _text(value):
    return html.escape(printable(str(value)))


def _picture(svg):
    return f"<div class='wide'>{svg}</div>"


def _wrong(about):
    wrong = problems(about)
    if not wrong:
        yield "<p class='well'>Every source was read whole.</p>"
        return
    yield "<div class='wrong'><b>What went wrong</b><ul>"
    yield from (f"<li>{_text(entry)}" for entry in wrong)
    yield "</ul></div>"


def _html_table(head, body):
    """A table; on a phone each row is a block of named lines."""
    yield "<div class='wide'><table class='rows'><tr>"
    yield from (f"<th>{_text(name)}" for name in head)
    for row in body:
        yield "<tr>"
        for name, cell in zip(head, row, strict=True):
            lines = [cell] if isinstance(cell, str) else cell
            number = len(lines) == 1 and lines[0].translate(_NO_MARKS).isdigit()
            kind = " class=n" * number
            text = "<br>".join(map(_text, lines))
            kind += f" data-name='{_text(name)}'" if text else ""
            yield f"<td{kind}>{text}"
    yield "</table></div>"


_NO_MARKS = str.maketrans("", "", ",.")


def _html_pairs(pairs):
    if not pairs:
        return
    yield "<h2>Near duplicates, the least alike first</h2>"
    body = [(f"{e['similarity']:.3f}", (e["name"], e["kept"])) for e in pairs]
    yield from _html_table(("similarity", "the dropped file, and what stays"), body)


def _html_graph(graph):
    if not graph:
        return
    drawn, unit = pictures.graph(graph)
    yield f"<h2>The order of {_text(graph['repo'])}</h2>"
    yield (
        f"<p>{len(graph['paths']):,} files, {len(graph['kept']):,} imports; shown are its "
        f"{unit}. Top to bottom is the order of training. An arc joins what imports to "
        "what is imported, above it; dotted arcs were dropped to break cycles; tests are "
        "violet and stand beside what they test.</p>"
    )
    yield _picture(drawn)


def _html_sample(sample):
    if not sample:
        return
    yield "<h2>A piece of a training row</h2><pre>"
    kinds = {fim.PREFIX: "prefix", fim.SUFFIX: "suffix", fim.MIDDLE: "middle"}
    kind = "path"
    for part in sample[:SAMPLE_PARTS]:
        text = _shortened(str(part))
        if isinstance(part, fim.Control):
            kind = kinds.get(part, "path")
            yield f"<span class='control'>{html.escape(text)}</span>"
            continue
        if kind == "path":
            path, newline, text = text.partition("\n")
            yield f"<span class='path'>{_text(path)}</span>{newline}"
        lines = (printable(line, SAMPLE_CHARACTERS) for line in text.split("\n"))
        yield f"<span class='{kind}'>{html.escape(chr(10).join(lines))}</span>"
    yield "</pre>"


def _shortened(text):
    """A text without its middle, if it is long."""
    lost = len(text) - SAMPLE_CHARACTERS
    if lost <= 0:
        return text
    half = SAMPLE_CHARACTERS // 2
    return f"{text[:half]}\n[... {lost:,} characters ...]\n{text[-half:]}"


def _html_manifest(manifest):
    yield "<h2>How it was made</h2><table>"
    for key in ("date", "version", "tokenizer"):
        yield f"<tr><th>{key}<td>{_text(manifest[key])}"
    yield f"<tr><th>command<td><code>{_text(' '.join(manifest['command']))}</code>"
    for name, source in manifest["sources"].items():
        size = f"{source['files']:,} files, {source['bytes']:,} bytes"
        yield f"<tr><th>source {_text(name)}<td>{_text(source['path'])} ({size})"
    for name, value in manifest["settings"].items():
        yield f"<tr><th>{_text(name)}<td>{_setting(value)}"
    yield "</table>"


def _setting(value):
    """A setting as a person reads it; Python's own form of a dict is none."""
    if isinstance(value, dict):
        return (
            "<br>".join(f"{_text(k)}: {_setting(v)}" for k, v in value.items())
            or "none"
        )
    if isinstance(value, list | tuple):
        return ", ".join(map(_setting, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return _text("not set" if value is None else value)
