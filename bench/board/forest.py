"""Differences with their intervals on one axis, a line of HTML each: read in a table, drawn by CSS."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from markupsafe import Markup

from bench.board.article import each, link_to_table, verdict_class
from bench.notation import points_interval
from bench.stats.comparisons import Comparison
from bench.stats.intervals import Interval
from bench.stats.verdicts import Verdict
from bench.table import WORST_CASE

PAGE = "did-awp-help"
HEADS = ("comparison", "difference, points", "verdict", "seeds")
_MARKS = 6  # numbers on the axis, about
_SPAN = 3  # times the usual reach: an interval beyond it is cut off


@dataclass(frozen=True)
class Line:
    """A difference as the table has it; the link is part of the label."""

    label: str | Markup
    difference: Interval  # as rates; infinite ends where there is no interval
    verdict: Verdict
    remark: str  # `6 seeds, n = 1,000`


def line_of(one: Comparison) -> Line:
    """A comparison, whose label leads to its table on the page about AWP."""
    method, group = one.method, one.group
    label = link_to_table(group, one.label, PAGE)
    seeds = f"{method.seeds} seed{'' if method.seeds == 1 else 's'}"
    remark = f"{seeds}, n = {group.n:,}{', gradients alone' if group.gradients_alone else ''}"
    return Line(label, method.differences[WORST_CASE], one.verdict, remark)


def forest(
    lines: Sequence[Line | str],
    *,
    heads: Sequence[str] = HEADS,
    folded: Mapping[str, Sequence[Line]] | None = None,
) -> Markup:
    """The lines in their order under an axis in percentage points; text between them is a heading.

    folded: what is said where it is opened -> more lines, on the same axis.
    """
    more = {said: some for said, some in (folded or {}).items() if some}
    shown = [line for line in chain(lines, *more.values()) if isinstance(line, Line)]
    if not shown:
        return Markup("")
    axis = _Axis.of([line.difference for line in shown])
    head = _head(axis, heads)
    form = "<details><summary>{}</summary>{}</details>"
    parts = each(form, ((said, _table(axis, head, some)) for said, some in more.items()))
    return (_table(axis, head, lines) if lines else Markup("")) + parts


def _table(axis: _Axis, head: Markup, lines: Sequence[Line | str]) -> Markup:
    said = "Differences in percentage points with 95 % intervals; above zero is better"
    rows = Markup("").join(_row(axis, line) for line in lines)
    form = '<div class="board-forest" role="table" aria-label="{}" style="--zero:{}%">{}{}</div>'
    return Markup(form).format(said, axis.place(0), head, rows)


# ---------------------------------------------------------------- the axis


@dataclass(frozen=True)
class _Axis:
    """From low to high, in points, a step between the numbers; zero is always inside."""

    low: int
    high: int
    step: int

    @classmethod
    def of(cls, found: Sequence[Interval]) -> _Axis:
        """Wide enough for all but those far beyond the others."""
        reach = sorted(max(map(abs, _ends(one))) for one in found)
        most = max(_SPAN * reach[len(reach) // 2], 0.01)
        low = 100 * max(-most, min(0.0, *(_ends(one)[0] for one in found)))
        high = 100 * min(most, max(0.0, *(_ends(one)[1] for one in found)))
        ends = min(-1, math.floor(low)), max(1, math.ceil(high))
        step = next((s for s in (1, 2, 5, 10, 20) if s * _MARKS >= ends[1] - ends[0]), 50)
        return cls(*ends, step)

    def place(self, rate: float) -> float:
        """Where a difference lies, in percent of the width; at an end where it is beyond."""
        share = (100 * rate - self.low) / (self.high - self.low)
        return round(100 * max(0.0, min(1.0, share)), 1)

    def beyond(self, rate: float) -> bool:
        return math.isfinite(rate) and not self.low <= 100 * rate <= self.high


def _ends(one: Interval) -> tuple[float, float]:
    """Its ends, or the estimate alone where it has none."""
    return (one.estimate, one.estimate) if math.isinf(one.low) else (one.low, one.high)


def _head(axis: _Axis, heads: Sequence[str]) -> Markup:
    first = axis.step * math.ceil(axis.low / axis.step)
    marks = range(first, axis.high + 1, axis.step)
    numbers = each(
        '<i style="left:{}%">{}</i>',
        ((axis.place(mark / 100), f"{mark:+d}" if mark else "0") for mark in marks),
    )
    label, difference, *others = (
        Markup('<span role="columnheader">{}</span>').format(head) for head in heads
    )
    return Markup(
        '<div class="board-forest-head" role="row">{}'
        '<span class="board-axis" aria-hidden="true">{}</span>{}</div>'
    ).format(label, numbers, Markup("").join((difference, *others)))


# ---------------------------------------------------------------- a line


def _row(axis: _Axis, line: Line | str) -> Markup:
    if not isinstance(line, Line):
        form = '<div role="row"><strong role="cell" aria-colspan="4">{}</strong></div>'
        return Markup(form).format(line)
    return Markup(
        '<div role="row"><span role="rowheader">{}</span>{}<span role="cell">{}</span>'
        '<span role="cell" class="board-said {}">{}</span><span role="cell">{}</span></div>'
    ).format(
        line.label,
        _drawn(axis, line),
        points_interval(line.difference, ""),
        verdict_class(line.verdict),
        line.verdict.standing,
        line.remark,
    )


def _drawn(axis: _Axis, line: Line) -> Markup:
    """The interval around zero; the figure beside it says the same to a screen reader."""
    one = line.difference
    low, high = _ends(one)
    cut = " ".join(name for name, end in (("cut-low", low), ("cut-high", high)) if axis.beyond(end))
    return Markup(
        '<span class="board-interval {} {}" aria-hidden="true" '
        'style="--at:{}%;--low:{}%;--high:{}%"><i></i><b></b></span>'
    ).format(
        verdict_class(line.verdict),
        cut,
        axis.place(one.estimate),
        axis.place(low),
        axis.place(high),
    )
