"""Intervals as small pictures in the cells of a table: one axis for all rows, one bar a row.

A filled diamond is a network trained with AWP, an open circle one without (or in a random direction), a
square one of which it is not known, so that colour says nothing that shape does not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from urllib.parse import quote

from bench.stats.intervals import Interval

_WIDTH, _HEIGHT, _MARGIN = 130, 22, 7
_BLUE, _ORANGE, _GREY = "#3d8bcb", "#dd8520", "#8a8f98"


def axis(intervals: Iterable[Interval]) -> tuple[float, float]:
    """Where the bars of a table start and end, as rates: multiples of 5 % around most of them.

    Rows far below, less than half the best, would squeeze the others: they are drawn at its start.
    """
    found = list(intervals)
    best = max((interval.estimate for interval in found), default=1.0)
    near = [interval for interval in found if 2 * interval.estimate >= best]
    low = math.floor(20 * min((interval.low for interval in near), default=0.0)) / 20
    high = math.ceil(20 * max((interval.high for interval in near), default=1.0)) / 20
    return max(low, 0.0), min(max(high, low + 0.05), 1.0)


def heading(ends: tuple[float, float]) -> str:
    """`20 – 75 %`: what the bars of a column span."""
    return f"{100 * ends[0]:.0f} – {100 * ends[1]:.0f} %"


def bar(interval: Interval, ends: tuple[float, float], *, perturbed: bool | None) -> str:
    """One interval on the axis as an SVG picture in a data address."""
    span = _WIDTH - 2 * _MARGIN

    def x(rate: float) -> float:
        share = (rate - ends[0]) / (ends[1] - ends[0])
        return round(_MARGIN + span * min(max(share, 0.0), 1.0), 1)

    at, middle = x(interval.estimate), _HEIGHT / 2
    if interval.estimate < ends[0]:  # off the axis: an arrow says where to
        colour = _GREY
        mark = f"<path d='M{_MARGIN - 5} {middle}l8-5v10z' fill='{colour}'/>"
    elif perturbed is None:
        colour = _GREY
        mark = f"<path d='M{at - 4} {middle - 4}h8v8h-8z' fill='{colour}'/>"
    elif perturbed:
        colour = _BLUE
        mark = f"<path d='M{at} {middle - 5}l5 5-5 5-5-5z' fill='{colour}'/>"
    else:
        colour = _ORANGE
        ring = f"stroke='{colour}' stroke-width='2'"
        mark = f"<circle cx='{at}' cy='{middle}' r='4' fill='white' {ring}/>"
    svg = (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{_WIDTH}' height='{_HEIGHT}'>"
        f"<path d='M{_MARGIN} {middle}H{_WIDTH - _MARGIN}' stroke='{_GREY}' stroke-opacity='.35'/>"
        f"<path d='M{x(interval.low)} {middle}H{x(interval.high)}' stroke='{colour}' "
        f"stroke-width='3'/>{mark}</svg>"
    )
    return f"data:image/svg+xml,{quote(svg)}"
