"""The report of a build: Markdown, and one HTML page with pictures, from the counts.

Pictures are SVG written here: a few bars and one graph need no plotting library, and
the page is one file that opens anywhere. The same counts give the same bytes.
"""

import collections
import html
import json
import posixpath
from collections.abc import Iterable

# A graph with more files is a hairball.
MAX_FILES_DRAWN = 48
_KEPT_STEPS = ("language", "length", "fim", "tokens", "rows")
_COLOURS = {
    "kept": "#2a9d63",
    "dropped": "#c8553d",
    "bar": "#3a6ea5",
    "faint": "#b9b9b9",
    "test": "#8a63b8",
}


def choose_graph(paths: Iterable) -> dict | None:
    """The repository to draw: the most edges among those with few enough files."""
    best = None
    for path in paths:
        with open(path, encoding="utf-8") as file:
            for line in file:
                graph = json.loads(line)
                if 3 <= len(graph["paths"]) <= MAX_FILES_DRAWN:
                    rank = (len(graph["kept"]), graph["repo"])
                    if best is None or rank > best[0]:
                        best = rank, graph
    return best[1] if best else None


def funnel(about: dict) -> list[tuple[str, int, int, list]]:
    """`(step, documents, bytes, [(reason, documents)])` of what each step dropped."""
    steps = collections.defaultdict(lambda: [0, 0, []])
    for row in about["report"]:
        if row["step"] in _KEPT_STEPS or row["reason"] == "in":
            continue
        if row["reason"].endswith(" replaced"):
            continue
        entry = steps[row["step"]]
        entry[0] += row["documents"]
        entry[1] += row["bytes"]
        entry[2].append((row["reason"], row["documents"]))
    order = ["source", "filter", "decontaminate", "secrets", "dedup"]
    names = [n for n in order if n in steps] + sorted(set(steps) - set(order))
    return [
        (n, steps[n][0], steps[n][1], sorted(steps[n][2], key=lambda r: (-r[1], r[0])))
        for n in names
    ]


def _table(about, step):
    return {
        row["reason"]: (row["documents"], row["bytes"])
        for row in about["report"]
        if row["step"] == step
    }


def markdown(about: dict, graph: dict | None) -> str:
    """The report as Markdown.

    Args:
        about: what `data.json` holds.
        graph: of one repository, from `choose_graph`.
    """
    lines = ["# Data report", ""]
    lines += [f"* {key}: {value}" for key, value in _totals(about)]
    lines += ["", "## What was dropped, and why", ""]
    lines += [
        "| step | reason | documents | bytes | for example |",
        "|---|---|---:|---:|---|",
    ]
    for row in about["report"]:
        if row["step"] in _KEPT_STEPS or row["reason"] == "in":
            continue
        example = _cell(row["examples"][0]) if row["examples"] else ""
        lines.append(
            f"| {row['step']} | {_cell(row['reason'])} | {row['documents']:,} "
            f"| {row['bytes']:,} | {example} |"
        )
    lines += ["", "Every dropped file is named in `dropped.jsonl`.", ""]
    for title, step in (("Languages", "language"), ("FIM, by piece", "fim")):
        lines += [f"## {title}", "", "| | number | bytes |", "|---|---:|---:|"]
        found = sorted(
            _table(about, step).items(), key=lambda item: (-item[1][0], item[0])
        )
        lines += [f"| {name} | {n:,} | {size:,} |" for name, (n, size) in found]
        lines.append("")
    lines += ["## Lengths", "", "| up to bytes | documents |", "|---:|---:|"]
    lines += [
        f"| {int(k):,} | {n:,} |"
        for k, (n, _) in sorted(_table(about, "length").items())
    ]
    if graph:
        lines += ["", f"## The order of {_cell(graph['repo'])}", ""]
        lines += [f"{i}. `{path}`" for i, path in enumerate(graph["paths"], 1)]
    return "\n".join(lines) + "\n"


def _cell(text):
    return str(text).replace("|", "\\|").replace("\n", " ")


def _totals(about):
    read = _table(about, "read").get("in", (0, 0))
    kept = sum(n for n, _ in _table(about, "language").values())
    size = sum(s for _, s in _table(about, "language").values())
    pieces = _table(about, "fim")
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


def html_page(about: dict, graph: dict | None) -> str:
    """The report as one HTML page with pictures; arguments as for `markdown`."""
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Data report</title>",
        "<meta name='viewport' content='width=device-width'><style>",
        "body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;"
        "padding:0 1rem;color:#222}h1,h2{font-weight:600}table{border-collapse:collapse}"
        "td,th{padding:.15rem .8rem .15rem 0;text-align:left}td.n{text-align:right;"
        "font-variant-numeric:tabular-nums}svg{max-width:100%;height:auto}"
        "svg text{font:12px system-ui,sans-serif;fill:#222}</style><h1>Data report</h1>",
        "<table>",
    ]
    parts += [
        f"<tr><th>{html.escape(k)}<td>{html.escape(str(v))}" for k, v in _totals(about)
    ]
    parts += ["</table><h2>From files to training data</h2>", _funnel_picture(about)]
    for title, step in (
        ("Languages (documents)", "language"),
        ("Pieces by kind", "fim"),
    ):
        rows = sorted(
            _table(about, step).items(), key=lambda item: (-item[1][0], item[0])
        )
        parts += [f"<h2>{title}</h2>", bars([(k, n) for k, (n, _) in rows[:20]])]
    rows = sorted(_table(about, "length").items())
    parts += [
        "<h2>Length of documents (up to so many bytes)</h2>",
        bars([(f"{int(k):,}", n) for k, (n, _) in rows]),
    ]
    if graph:
        parts += [
            f"<h2>The order of {html.escape(graph['repo'])}</h2>",
            "<p>Top to bottom is the order of training. An arc joins a file to one it "
            "imports, above it; dashed arcs were dropped to break cycles; tests are "
            "violet and stand beside what they test.</p>",
            graph_picture(graph),
        ]
    parts += ["<h2>All counts</h2><table>"]
    for row in about["report"]:
        if row["reason"] != "in" and row["step"] not in _KEPT_STEPS:
            example = html.escape(row["examples"][0]) if row["examples"] else ""
            parts.append(
                f"<tr><td>{row['step']}<td>{html.escape(row['reason'])}"
                f"<td class='n'>{row['documents']:,}<td>{example}"
            )
    return "\n".join([*parts, "</table></html>", ""])


def bars(rows: list[tuple[str, int]], colour: str = _COLOURS["bar"]) -> str:
    """Horizontal bars, one per `(label, number)`."""
    most = max((n for _, n in rows), default=1) or 1
    lines = [f"<svg viewBox='0 0 760 {22 * len(rows) + 4}' width='760' role='img'>"]
    for i, (label, number) in enumerate(rows):
        y, width = 22 * i + 2, 440 * number / most
        lines.append(
            f"<text x='190' y='{y + 14}' text-anchor='end'>{html.escape(label)}</text>"
            f"<rect x='200' y='{y}' width='{max(width, 1):.1f}' height='18' rx='2' "
            f"fill='{colour}'/><text x='{206 + width:.1f}' y='{y + 14}'>{number:,}</text>"
        )
    return "\n".join([*lines, "</svg>"])


def _funnel_picture(about):
    found = funnel(about)
    kept = sum(n for n, _ in _table(about, "language").values())
    left = kept + sum(n for _, n, _, _ in found)
    total = max(1, left)
    lines = [f"<svg viewBox='0 0 760 {44 * len(found) + 36}' width='760' role='img'>"]
    for i, (step, number, _, reasons) in enumerate(found):
        y = 44 * i + 2
        lines += _funnel_row(y, step, left / total, (left - number) / total)
        said = ", ".join(f"{reason} {n:,}" for reason, n in reasons[:4])
        said += ", ..." if len(reasons) > 4 else ""
        lines.append(
            f"<text x='100' y='{y + 34}' style='font-size:11px;fill:#777'>"
            f"&#8722;{number:,}: {html.escape(said)}</text>"
        )
        left -= number
    y = 44 * len(found) + 2
    lines += _funnel_row(y, "kept", left / total, left / total)
    lines.append(
        f"<text x='{106 + 560 * left / total:.1f}' y='{y + 15}'>{kept:,}</text>"
    )
    return "\n".join([*lines, "</svg>"])


def _funnel_row(y, name, before, after):
    yield f"<text x='90' y='{y + 15}' text-anchor='end'>{html.escape(name)}</text>"
    for start, end, colour in ((0, after, "kept"), (after, before, "dropped")):
        width = 560 * (end - start)
        if width > 0:
            yield (
                f"<rect x='{100 + 560 * start:.1f}' y='{y}' width='{width:.1f}' "
                f"height='20' fill='{_COLOURS[colour]}'/>"
            )


def graph_picture(graph: dict) -> str:
    """A repository's files in order, with an arc for each import."""
    paths = graph["paths"]
    common = posixpath.commonpath([posixpath.dirname(p) or "." for p in paths] or ["."])
    common = "" if common == "." else common + "/"
    place = {path: i for i, path in enumerate(paths)}
    step, left = 20, 300
    height = step * len(paths) + 8
    lines = [f"<svg viewBox='0 0 960 {height}' width='960' role='img'>"]
    for kind, style in (("removed", " stroke-dasharray='3 3'"), ("kept", "")):
        colour = _COLOURS["dropped" if kind == "removed" else "bar"]
        for importer, imported in graph[kind]:
            a, b = place[imported], place[importer]
            y1, y2 = step * a + 12, step * b + 12
            reach = left + 24 + 600 * abs(b - a) / max(8, len(paths))
            lines.append(
                f"<path d='M{left} {y1} C{reach:.0f} {y1} {reach:.0f} {y2} {left} {y2}' "
                f"fill='none' stroke='{colour}' stroke-opacity='.55'{style}/>"
            )
    for i, path in enumerate(paths):
        test = path in graph["tests"]
        fill = _COLOURS["test"] if test else "#222"
        weak = "" if i < graph["covered"] else " opacity='.55'"
        name = html.escape(path.removeprefix(common))
        lines.append(
            f"<text x='{left - 8}' y='{step * i + 16}' text-anchor='end' "
            f"style='fill:{fill}'{weak}>{name}</text>"
            f"<circle cx='{left}' cy='{step * i + 12}' r='3' fill='{fill}'{weak}/>"
        )
    return "\n".join([*lines, "</svg>"])
