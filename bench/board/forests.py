"""Forest plots: differences with their intervals on one axis, zero marked."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from bench.board.charts import BLUE, GREY, ORANGE, plain_layout
from bench.intervals import Interval
from bench.notation import plain, points, points_interval, short_label
from bench.pairs import Method
from bench.table import WORST_CASE


@dataclass(frozen=True)
class Line:
    """One line of a forest plot."""

    label: str
    difference: Interval  # of rates
    remark: str = ""


def overview(lines: Sequence[Line]) -> go.Figure:
    """A line a comparison: filled where the interval leaves zero out, open where it does not."""
    figure = go.Figure()
    for line in lines:
        _draw(figure, line)
    return _finished(figure, len(lines), "worst case, points")


def by_attack(method: Method) -> go.Figure:
    """A line a measure, worst case first: the mean with its interval, every seed as a dot."""
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
        _draw(figure, Line(name, method.differences[measure]))
    return _finished(figure, len(labels), f"{method.name} minus {method.baseline}, points")


def _draw(figure: go.Figure, line: Line) -> None:
    found = line.difference
    sure = math.isfinite(found.low) and (found.low > 0 or found.high < 0)
    colour = GREY if not sure else BLUE if found.low > 0 else ORANGE
    bounded = math.isfinite(found.low)
    said = f"{points_interval(found)} {plain(line.remark, 100)}".strip()
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
            "symbol": "diamond" if sure else "circle-open",
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
