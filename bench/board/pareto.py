"""Pareto fronts: points that no other point beats in both directions, and their chart."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from bench.board.article import BLUE, GREY, ORANGE
from bench.board.charts import plain_layout, whiskers
from bench.stats.intervals import Interval


@dataclass(frozen=True)
class Point:
    """One model of a trade-off."""

    x: float
    robust: Interval  # accuracy, a rate; of a published one the estimate alone is drawn
    name: str
    awp: bool | None  # None: not stated
    place: int  # among the rows of its table; -1: published


def front(points: Sequence[Point], *, more_is_better: bool) -> list[Point]:
    """The points that none beats, by x: no other has an x and a y as good, and one of them better."""
    sign = -1 if more_is_better else 1
    kept: list[Point] = []
    # From the best x on: a point must be higher than all before it.
    for point in sorted(points, key=lambda p: (sign * p.x, -p.robust.estimate)):
        x, y = (kept[-1].x, kept[-1].robust.estimate) if kept else (point.x, -1.0)
        if point.robust.estimate > y or (point.x, point.robust.estimate) == (x, y):
            kept.append(point)
    return sorted(kept, key=lambda p: (p.x, p.robust.estimate))


def trade_off(
    ours: Sequence[Point], theirs: Sequence[Point], axis: str, *, more_is_better: bool
) -> go.Figure:
    """Ours with intervals and their front as steps; published points pale, their front dashed."""
    figure = go.Figure()
    for found, name, published in ((theirs, "published", True), (ours, "measured here", False)):
        if not found:
            continue
        best = front(found, more_is_better=more_is_better)
        figure.add_scatter(
            x=[p.x for p in best],
            y=[100 * p.robust.estimate for p in best],
            mode="lines",
            line={
                "color": GREY,
                "width": 1.5,
                "dash": "dash" if published else "solid",
                "shape": "vh" if more_is_better else "hv",  # what a budget buys lies on the steps
            },
            name="front of the published" if published else "front of ours",
            hoverinfo="skip",
        )
        for awp, symbol, colour, said in (
            (True, "diamond", BLUE, "with AWP"),
            (False, "circle-open", ORANGE, "without AWP"),
            (None, "square", GREY, "AWP not stated"),
        ):
            mine = [point for point in found if point.awp is awp]
            if mine:
                look = {"opacity": 0.45, "size": 7} if published else {"opacity": 1, "size": 11}
                line = {"width": 1.5, "color": colour}
                figure.add_scatter(
                    x=[p.x for p in mine],
                    y=[100 * p.robust.estimate for p in mine],
                    error_y=None if published else whiskers([p.robust for p in mine], colour, 1),
                    mode="markers",
                    name=f"{name}, {said}",
                    customdata=[p.place for p in mine],
                    text=[html.escape(p.name) for p in mine],
                    marker={"symbol": symbol, "color": colour, "line": line, **look},
                    hovertemplate="%{text}<br>%{y:.2f} % at %{x:,.4~g}<extra></extra>",
                )
    x = {"title": axis, "type": "linear" if more_is_better else "log"}
    y = {"title": "robust accuracy, %", "fixedrange": True}
    return plain_layout(figure, 520, x=x, y=y).update_layout(clickmode="event+select")
