"""Forest plots: differences with their intervals on one axis, zero marked."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from bench.board.charts import GREY, colour_of, plain_layout
from bench.notation import plain, points, points_interval, short_label
from bench.stats.contrasts import Method
from bench.stats.intervals import Interval
from bench.stats.verdicts import Verdict
from bench.table import WORST_CASE


@dataclass(frozen=True)
class Line:
    """One line of a forest plot."""

    label: str
    difference: Interval  # of rates
    verdict: Verdict | None = None  # None: it has none, and only describes
    remark: str = ""


def overview(lines: Sequence[Line]) -> go.Figure:
    """A line a comparison in the colour of its verdict: filled where it is a headline."""
    figure = go.Figure()
    for line in lines:
        _draw(figure, line)
    return _finished(figure, len(lines), "worst case, points")


def by_attack(method: Method, verdict: Verdict) -> go.Figure:
    """A line a measure, worst case first: the mean with its interval, every seed as a dot.

    The verdict is on the worst case; the other lines only describe.
    """
    labels = {WORST_CASE: "worst case", **method.group.labels}
    figure = go.Figure()
    for measure, label in labels.items():
        name = short_label(label)
        each = [100 * pair.comparisons[measure].difference.estimate for pair in method.pairs]
        figure.add_scatter(
            x=each,
            y=[html.escape(name)] * len(each),
            mode="markers",
            marker={"symbol": "line-ns-open", "size": 12, "color": GREY},
            customdata=[str(pair.awp.texts["seed"]) for pair in method.pairs],
            hovertemplate="%{x:+.1f} points<extra>seed %{customdata}</extra>",
            showlegend=False,
        )
        of_worst = verdict if measure == WORST_CASE else None
        _draw(figure, Line(name, method.differences[measure], of_worst))
    return _finished(figure, len(labels), f"{method.name} minus {method.baseline}, points")


def mark(verdict: Verdict | None) -> tuple[str, str]:
    """Colour and symbol of a verdict: a diamond, filled for a headline, open for an indication."""
    if verdict is None or not verdict.sign:
        return GREY, "circle-open"
    return colour_of(verdict), "diamond" if verdict.headline else "diamond-open"


def _draw(figure: go.Figure, line: Line) -> None:
    found = line.difference
    colour, symbol = mark(line.verdict)
    bounded = math.isfinite(found.low)
    standing = line.verdict.standing if line.verdict else ""
    told = (points_interval(found), plain(line.remark, 100), standing)
    said = ", ".join(filter(None, told))
    figure.add_scatter(
        x=[100 * found.estimate],
        y=[html.escape(plain(line.label, 80))],
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [100 * (found.high - found.estimate) if bounded else 0],
            "arrayminus": [100 * (found.estimate - found.low) if bounded else 0],
            "color": colour,
            "thickness": 2.5,
            "width": 0,
        },
        mode="markers+text",
        marker={
            "color": colour,
            "symbol": symbol,
            "size": 11,
            "line": {"width": 2, "color": colour},
        },
        text=points(found.estimate),
        textposition="top center",
        cliponaxis=False,
        hovertemplate=html.escape(said) + "<extra>%{y}</extra>",
        showlegend=False,
    )


def _finished(figure: go.Figure, lines: int, title: str) -> go.Figure:
    figure.add_vline(x=0, line={"color": GREY, "width": 1.5, "dash": "dot"})
    figure.update_yaxes(
        autorange="reversed", type="category", showgrid=True, ticks="", fixedrange=True,
        automargin=True,
    )  # fmt: skip
    figure.update_xaxes(title=title)
    return plain_layout(figure, height=90 + 44 * lines)
