"""Robust accuracy against what it costs, drawn by plotly: twins joined by arrows, the front named.

Axes hold the data and a margin. Many points are small and open, so that none hides another.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

import plotly.graph_objects as go

from bench.board import palette
from bench.board.charts import plain_layout, whiskers
from bench.board.points import FEW, LIKELY, WORDS, Joined, Named, Point, View, along, front, named
from bench.notation import plain

_CROWD = 40  # points from which marks are small


def trade_off(
    ours: Sequence[Point],
    theirs: Sequence[Point],
    axis: str,
    *,
    more_is_better: bool,
    joined: Sequence[Joined] = (),
) -> go.Figure:
    """Ours and the published, each with its front; arrows lead from a twin to the one with AWP."""
    figure = go.Figure()
    for found, name in ((theirs, "published"), (ours, "measured here")):
        best = front(found, more_is_better=more_is_better)
        _draw_front(figure, best, published=found is theirs, more_is_better=more_is_better)
        for trained in WORDS:
            mine = [point for point in found if point.trained == trained]
            if mine:
                _draw_marks(figure, mine, name, trained, crowd=len(ours) + len(theirs))
    log = not more_is_better
    view = View.of([*ours, *theirs], log=log)
    for start, end in joined:
        _draw_arrow(figure, ours[start], ours[end], log=log)
    best = front(ours or theirs, more_is_better=more_is_better)
    for one in named(best, view, [*ours, *theirs]):
        _draw_name(figure, one, log=log)
    x = {"title": axis, "type": "log" if log else "linear", "range": view.x, "showgrid": True}
    y = {"title": "robust accuracy, %", "fixedrange": True, "range": view.y}
    return plain_layout(figure, 520, x=x, y=y).update_layout(clickmode="event+select")


# ---------------------------------------------------------------- what is drawn


def _draw_front(
    figure: go.Figure, best: Sequence[Point], *, published: bool, more_is_better: bool
) -> None:
    if not best:
        return
    figure.add_scatter(
        x=[p.x for p in best],
        y=[100 * p.robust.estimate for p in best],
        mode="lines",
        line={
            "color": palette.LINE,
            "width": 1.5,
            "dash": "dash" if published else "solid",
            "shape": "vh" if more_is_better else "hv",  # what a budget buys lies on the steps
        },
        name="front of the published" if published else "front of ours",
        hoverinfo="skip",
    )


def _draw_marks(
    figure: go.Figure, mine: Sequence[Point], name: str, trained: str, *, crowd: int
) -> None:
    meaning, _ = palette.TRAINED["unknown" if trained == LIKELY else trained]
    colour = palette.MEANINGS[meaning]
    symbol = "square-x-open" if trained == LIKELY else palette.SHAPES[colour]
    published = name == "published"
    small = published or crowd > _CROWD
    if small and not symbol.endswith("-open"):
        symbol += "-open"
    whole = not published and crowd <= FEW
    figure.add_scatter(
        x=[p.x for p in mine],
        y=[100 * p.robust.estimate for p in mine],
        error_y=whiskers([p.robust for p in mine], colour, 1) if whole else None,
        mode="markers",
        name=f"{name}, {WORDS[trained]}",
        customdata=[p.place for p in mine],
        text=[html.escape(plain(p.name, 80)) for p in mine],
        marker={
            "symbol": symbol,
            "color": colour,
            "size": 7 if small else 11,
            "line": {"width": 1.5, "color": colour},
        },
        hovertemplate="%{text}<br>%{y:.2f} % at %{x:,.4~g}<extra></extra>",
    )


def _draw_arrow(figure: go.Figure, start: Point, end: Point, *, log: bool) -> None:
    """From one point to another, short of both marks."""
    x, ax = (along(p.x, log=log) for p in (end, start))
    figure.add_annotation(
        x=x,
        y=100 * end.robust.estimate,
        ax=ax,
        ay=100 * start.robust.estimate,
        xref="x", yref="y", axref="x", ayref="y",
        text="", showarrow=True, arrowhead=2, arrowsize=1, arrowwidth=1.2,
        arrowcolor=palette.LINE, standoff=7, startstandoff=7,
    )  # fmt: skip


def _draw_name(figure: go.Figure, one: Named, *, log: bool) -> None:
    tied: dict[str, object] = {"showarrow": False, "xshift": one.x, "yshift": one.y}
    if one.far:
        line = {"arrowhead": 0, "arrowwidth": 1, "arrowcolor": palette.LINE, "standoff": 5}
        tied = {"showarrow": True, "ax": one.x, "ay": -one.y, **line}
    figure.add_annotation(
        x=along(one.point.x, log=log),
        y=100 * one.point.robust.estimate,
        text=html.escape(one.text),
        font={"size": 12},
        xanchor="left" if one.x > 0 else "right",
        **tied,
    )
