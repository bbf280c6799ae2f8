"""The pictures of a report, as SVG from matplotlib; the same scores give the same bytes."""

import io
import math
from collections.abc import Sequence

import numpy as np

from codegemma_keras.data.document import require

SOLVED, FAILED, BAR = "#2a9d63", "#e3b7ae", "#3a6ea5"
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "codegemma",
    "font.size": 9,
    "text.parse_math": False,
}


def _draw(width, height, fill):
    """SVG of a figure of so many inches; `fill(axes)` draws."""
    matplotlib = require("matplotlib", "evals")
    figures = require("matplotlib.figure", "evals")
    with matplotlib.rc_context(_STYLE):
        figure = figures.Figure((width, height))
        axes = figure.subplots()
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        fill(axes)
        made = io.StringIO()
        figure.savefig(made, format="svg", bbox_inches="tight", metadata={"Date": None})
    _, tag, rest = made.getvalue().partition("<svg")
    return tag + rest


def score_bars(rows: Sequence[tuple[str, float, tuple[float, float], float | None]]):
    """A bar for each score, with its interval.

    Args:
        rows: `(name, percent, (low, high), percent of CodeGemma's report or None)`.
    """

    def fill(axes):
        places = range(len(rows))
        shares = [row[1] for row in rows]
        # Rounded percentages may lie outside their interval by a hair.
        below = [max(0.0, row[1] - row[2][0]) for row in rows]
        above = [max(0.0, row[2][1] - row[1]) for row in rows]
        axes.barh(places, shares, color=BAR, xerr=(below, above), ecolor="#222222")
        for place, (_, _, _, paper) in zip(places, rows, strict=True):
            if paper is not None:
                axes.plot([paper], [place], "d", color="#c8553d")
        axes.set_yticks(places, [row[0] for row in rows])
        axes.set_xlim(0, 100)
        axes.set_xlabel(
            "percent solved; line: 95 % interval; diamond: CodeGemma's report"
        )
        axes.invert_yaxis()

    return _draw(5, 0.3 * len(rows) + 0.7, fill)


def grid(shares: Sequence[float]) -> str:
    """A small square for each problem, row by row; green: solved."""
    columns = max(24, min(60, math.ceil(math.sqrt(len(shares) * 4))))

    def fill(axes):
        rows = math.ceil(len(shares) / columns)
        values = np.full(rows * columns, np.nan)
        values[: len(shares)] = shares
        colours = require("matplotlib.colors", "evals")
        shades = colours.LinearSegmentedColormap.from_list("", [FAILED, SOLVED])
        axes.pcolormesh(
            values.reshape(rows, columns)[::-1],
            cmap=shades,
            vmin=0,
            vmax=1,
            edgecolors="white",
            linewidth=0.5,
        )
        axes.set_aspect("equal")
        axes.axis("off")

    return _draw(6, 6 * math.ceil(len(shares) / columns) / columns + 0.1, fill)


def success_by_length(
    lengths: Sequence[int], passed: Sequence[bool], label: str
) -> str:
    """The share of right samples among those of like length, in up to eight groups."""
    order = np.argsort(np.asarray(lengths), kind="stable")
    groups = [g for g in np.array_split(order, min(8, len(order))) if len(g)]
    names = [f"{lengths[g[0]]:,} to {lengths[g[-1]]:,}" for g in groups]
    shares = [100 * float(np.mean([passed[i] for i in g])) for g in groups]

    def fill(axes):
        drawn = axes.barh(range(len(groups)), shares, color=BAR)
        axes.set_yticks(range(len(groups)), names)
        axes.bar_label(drawn, [f" {share:.0f} %" for share in shares])
        axes.set_xlim(0, 110)
        axes.set_xlabel(f"percent right, by {label}")
        axes.invert_yaxis()

    return _draw(4, 0.26 * len(groups) + 0.6, fill)
