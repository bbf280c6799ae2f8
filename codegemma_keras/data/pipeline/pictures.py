"""The pictures of a build's report, as SVG from matplotlib.

The same counts give the same bytes on one machine: the salt of matplotlib's names is fixed
and no date is written. Pictures are narrow, so that a phone shows them without shrinking
their text much.
"""

import collections
import io
import posixpath

from codegemma_keras.data.document import require

# A graph with more nodes is a hairball: files are then drawn by folder.
MAX_NODES = 40
COLOURS = {
    "kept": "#2a9d63",
    "dropped": "#c8553d",
    "bar": "#3a6ea5",
    "test": "#8a63b8",
    "text": "#222222",
}
_WIDTH = 3.0  # inches, of the drawing without its labels
_ROW = 0.26  # inches of height for each bar or name
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "codegemma",
    "font.size": 9,
    "font.family": "sans-serif",
    "text.parse_math": False,
}


def _draw(rows, fill):
    """SVG of a figure with room for `rows` rows; `fill(axes)` draws."""
    matplotlib = require("matplotlib")
    figures = require("matplotlib.figure")
    with matplotlib.rc_context(_STYLE):
        figure = figures.Figure((_WIDTH, _ROW * rows + 0.2))
        axes = figure.subplots()
        for side in axes.spines.values():
            side.set_visible(False)
        axes.xaxis.set_visible(False)
        axes.tick_params(left=False)
        fill(axes)
        made = io.StringIO()
        figure.savefig(made, format="svg", bbox_inches="tight", metadata={"Date": None})
    return (
        made.getvalue().partition("<svg")[1:][0] + made.getvalue().partition("<svg")[2]
    )


def bars(rows: list[tuple[str, int]]) -> str:
    """Horizontal bars with their numbers, one per `(label, number)`."""

    def fill(axes):
        names = [_short(name, 28) for name, _ in rows]
        drawn = axes.barh(range(len(rows)), [n for _, n in rows], color=COLOURS["bar"])
        axes.set_yticks(range(len(rows)), names)
        axes.bar_label(drawn, [f" {n:,}" for _, n in rows])
        axes.invert_yaxis()
        axes.margins(x=0.18)

    return _draw(len(rows), fill)


def funnel(steps: list[tuple[str, int]], kept: int) -> str:
    """What each step dropped and what was left after it, with both numbers.

    Args:
        steps: `(name, dropped)` in order.
        kept: what is left at the end.
    """
    left = kept + sum(dropped for _, dropped in steps)
    after, gone, labels = [left], [0], [f" {left:,} files"]
    for _, dropped in steps:
        left -= dropped
        after.append(left)
        gone.append(dropped)
        labels.append(f" {left:,}" + (f"  (−{dropped:,})" if dropped else ""))
    names = ["found", *(name for name, _ in steps)]

    def fill(axes):
        places = range(len(names))
        axes.barh(places, after, color=COLOURS["kept"])
        lost = axes.barh(places, gone, left=after, color=COLOURS["dropped"])
        axes.bar_label(lost, labels)
        axes.set_yticks(places, names)
        axes.invert_yaxis()
        axes.margins(x=0.25)

    return _draw(len(names), fill)


def graph(found: dict) -> tuple[str, str]:
    """A repository's files in order, with an arc for each import.

    Args:
        found: a line of `graphs.jsonl`.

    Returns:
        `(svg, what its names are: "files" or "folders")`.
    """
    nodes, kept, removed, tests, unit = _nodes(found)
    place = {name: i for i, name in enumerate(nodes)}

    def fill(axes):
        paths = require("matplotlib.path")
        patches = require("matplotlib.patches")
        for edges, style, colour in (
            (kept, "-", COLOURS["bar"]),
            (removed, ":", COLOURS["dropped"]),
        ):
            most = max(edges.values(), default=1)
            for (importer, imported), number in sorted(edges.items()):
                a, b = place[imported], place[importer]
                reach = 0.15 + 0.85 * abs(b - a) / max(4, len(nodes))
                arc = paths.Path(
                    [(0, a), (reach, a), (reach, b), (0, b)],
                    [paths.Path.MOVETO] + 3 * [paths.Path.CURVE4],
                )
                axes.add_patch(
                    patches.PathPatch(
                        arc,
                        fill=False,
                        edgecolor=colour,
                        linestyle=style,
                        alpha=0.6,
                        linewidth=0.6 + 1.8 * number / most,
                    )
                )
        axes.scatter([0] * len(nodes), range(len(nodes)), s=9, color=COLOURS["text"])
        axes.set_xlim(-0.02, 0.8)
        axes.set_ylim(len(nodes) - 0.5, -0.5)
        axes.set_yticks(
            range(len(nodes)), [_short(name, 40, end=True) for name in nodes]
        )
        for name, label in zip(nodes, axes.get_yticklabels(), strict=True):
            if name in tests:
                label.set_color(COLOURS["test"])

    return _draw(len(nodes), fill), unit


def _nodes(found):
    """`(names in order, kept, removed, tests, unit)`; edges as `{(from, to): number}`."""
    paths = found["paths"]
    if len(paths) <= MAX_NODES:
        kept, removed = (
            collections.Counter(map(tuple, found[key])) for key in ("kept", "removed")
        )
        return paths, kept, removed, set(found["tests"]), "files"
    # The deepest folders that are few enough, but not just one that holds all.
    deepest = max(path.count("/") for path in paths)
    for depth in range(deepest, 0, -1):
        sizes = collections.Counter(_folder(path, depth) for path in paths)
        above = len({_folder(path, depth - 1) for path in paths}) if depth > 1 else 0
        if len(sizes) <= MAX_NODES or above < 3:
            break
    large = {name for name, _ in sizes.most_common(MAX_NODES)}
    names = dict.fromkeys(_folder(path, depth) for path in paths)
    names = [name for name in names if name in large]
    edges = []
    for key in ("kept", "removed"):
        pairs = ((_folder(a, depth), _folder(b, depth)) for a, b in found[key])
        known = ((a, b) for a, b in pairs if a != b and {a, b} <= set(names))
        edges.append(collections.Counter(known))
    return names, *edges, set(), "folders"


def _folder(path, depth):
    parts = posixpath.dirname(path).split("/")
    return "/".join(parts[:depth]) + "/" if parts != [""] else "./"


def _short(text, limit, end=False):
    if len(text) <= limit:
        return text
    return "…" + text[1 - limit :] if end else text[: limit - 1] + "…"
