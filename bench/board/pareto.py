"""Pareto fronts: points that no other point beats in both directions, and their chart."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from bench.board.charts import BLUE, GREY, ORANGE, plain_layout


@dataclass(frozen=True)
class Point:
    """One model: y is its robust accuracy in percent."""

    x: float
    y: float
    name: str
    awp: bool | None  # None: not stated
    place: int  # among the rows of its table; -1: published
    interval: tuple[float, float] | None  # of y


def front(points: Sequence[Point], *, more_is_better: bool) -> list[Point]:
    """The points that none beats, by x: no other has an x and a y as good, and one of them better."""
    sign = -1 if more_is_better else 1
    ordered = sorted(points, key=lambda p: (sign * p.x, -p.y))
    kept: list[Point] = []
    for point in ordered:  # from the best x on: a point must be higher than all before it
        if not kept or point.y > kept[-1].y or (point.x, point.y) == (kept[-1].x, kept[-1].y):
            kept.append(point)
    return sorted(kept, key=lambda p: (p.x, p.y))


def figure(
    ours: Sequence[Point], theirs: Sequence[Point], axis: str, *, more_is_better: bool
) -> go.Figure:
    """Ours with intervals and their front as steps; published points pale, their front dashed."""
    chart = go.Figure()
    for points, name, published in ((theirs, "published", True), (ours, "measured here", False)):
        if not points:
            continue
        shape = "vh" if more_is_better else "hv"  # what a budget buys lies on the steps
        _draw_front(chart, front(points, more_is_better=more_is_better), published, shape)
        for awp, symbol, colour, said in (
            (True, "diamond", BLUE, "with AWP"),
            (False, "circle-open", ORANGE, "without AWP"),
            (None, "square", GREY, "AWP not stated"),
        ):
            mine = [point for point in points if point.awp is awp]
            if mine:
                _draw(chart, mine, symbol, colour, f"{name}, {said}", published)
    chart.update_xaxes(title=axis, type="linear" if more_is_better else "log")
    chart.update_yaxes(title="robust accuracy, %", fixedrange=True)
    chart.update_layout(clickmode="event+select")
    return plain_layout(chart, height=520)


def _draw(
    chart: go.Figure, points: Sequence[Point], symbol: str, colour: str, name: str, published: bool
) -> None:
    ends = [p.interval or (p.y, p.y) for p in points]
    chart.add_scatter(
        x=[p.x for p in points],
        y=[p.y for p in points],
        error_y=None
        if published
        else {
            "type": "data",
            "symmetric": False,
            "array": [high - p.y for p, (_, high) in zip(points, ends, strict=True)],
            "arrayminus": [p.y - low for p, (low, _) in zip(points, ends, strict=True)],
            "color": colour,
            "thickness": 1,
            "width": 0,
        },
        mode="markers",
        name=name,
        customdata=[p.place for p in points],
        text=[html.escape(p.name) for p in points],
        marker={
            "symbol": symbol,
            "color": colour,
            "size": 7 if published else 11,
            "opacity": 0.45 if published else 1,
            "line": {"width": 1.5, "color": colour},
        },
        hovertemplate="%{text}<br>%{y:.2f} % at %{x:,.4~g}<extra></extra>",
    )


def _draw_front(chart: go.Figure, points: Sequence[Point], published: bool, shape: str) -> None:
    chart.add_scatter(
        x=[p.x for p in points],
        y=[p.y for p in points],
        mode="lines",
        line={
            "color": GREY,
            "width": 1.5,
            "dash": "dash" if published else "solid",
            "shape": shape,
        },
        name="front of the published" if published else "front of ours",
        hoverinfo="skip",
    )
