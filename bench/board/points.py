"""Points of a trade-off: which none beats, what the axes hold, and which names have room beside them.

Nothing here draws: `scatter` does with plotly, `dots` with HTML.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from bench.notation import plain
from bench.records.card_text import awp_text
from bench.stats.intervals import Interval
from bench.stats.method_rows import MethodRow
from bench.stats.versus import twins
from bench.table import CLEAN, Row

CLEAN_AXIS = "clean accuracy, %"  # where more is better, and the only one of published numbers
LIKELY = "likely"  # what nobody says of a published network, but its code defaults to
Joined = tuple[int, int]  # places of two points: without AWP, then with it

WORDS = {
    "yes": "with AWP",
    "no": "without AWP",
    "random": "random perturbation",
    LIKELY: "AWP likely: its code's default",
    "unknown": "AWP not stated",
}
FEW = 15  # points up to which there is room for intervals
_LABELS, _LETTERS = 8, 26  # names on a front, and how long one may be
_PLOTS = ((320, 380), (1000, 380))  # pixels of a plot on a phone, and on a wide screen
_MARGIN, _ROOM = 0.06, 0.2  # of the span of the data: on either side, and above it for names


@dataclass(frozen=True)
class Point:
    """One model of a trade-off, or a method over its seeds."""

    x: float
    robust: Interval  # accuracy, a rate; of a published one the estimate alone is drawn
    name: str
    trained: str  # yes, no, random, unknown or likely: whether with AWP
    place: int  # among the rows that are shown; -1: published


def clean(row: Row) -> float | None:
    """Clean accuracy in percent."""
    return 100 * row.rates[CLEAN].estimate


def of_methods(
    rows: Sequence[MethodRow], x: Callable[[Row], float | None] = clean
) -> tuple[list[Point], list[Joined]]:
    """A point a row that has the number, the mean over its seeds; and which of them are twins."""
    points: list[Point] = []
    at: dict[int, int] = {}  # place of a row -> of its point
    for place, row in enumerate(rows):
        each = [found for found in map(x, row.rows) if found is not None]
        if len(each) == row.seeds:
            at[place] = len(points)
            mean = sum(each) / len(each)
            points.append(Point(mean, row.rate(), row.name, awp_text(row.card), place))
    joined = [(at[a], at[b]) for a, b in twins(rows) if a in at and b in at]
    return points, joined


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


# ---------------------------------------------------------------- the view, and names in it


def along(x: float, *, log: bool) -> float:
    """Where a number lies on the axis, as ranges and annotations say it."""
    return math.log10(x) if log else x


@dataclass(frozen=True)
class View:
    """What the axes span."""

    x: tuple[float, float]
    y: tuple[float, float]  # percent
    log: bool

    @classmethod
    def of(cls, points: Sequence[Point], *, log: bool) -> View:
        xs = [along(p.x, log=log) for p in points]
        ys = [100 * p.robust.estimate for p in points]
        if len(points) <= FEW:  # their intervals are drawn
            ys += [100 * end for p in points for end in (p.robust.low, p.robust.high)]
        low, high = _padded(filter(math.isfinite, ys), 1.0)
        room = _ROOM * (high - low)  # above the highest, for the names of the front
        return cls(_padded(xs, 0.2 if log else 0.5), (low, high + room), log)

    def pixels(self, point: Point, plot: tuple[int, int]) -> tuple[float, float]:
        """Where a point lies in a plot of so many pixels, from its lower left corner."""
        x, y = along(point.x, log=self.log), 100 * point.robust.estimate
        (left, right), (low, high) = self.x, self.y
        return plot[0] * (x - left) / (right - left), plot[1] * (y - low) / (high - low)


def _padded(values: Iterable[float], least: float) -> tuple[float, float]:
    """The span of the data with a margin, which is `least` at least."""
    found = list(values)
    low, high = min(found, default=0.0), max(found, default=1.0)
    margin = max(least, _MARGIN * (high - low))
    return low - margin, high + margin


# Where a name may stand, in pixels from its point: at its side, then farther away at a line's end.
_NEAR = ((9, 11), (-9, 11), (9, 0), (-9, 0), (9, -11), (-9, -11))
_FAR = tuple((x, y) for x in (-20, -60, 20, -110) for y in (24, 40, 56, 72, 8, -8, 88, -24))
_Box = tuple[float, float, float, float]  # left, low, right, high


@dataclass(frozen=True)
class Named:
    """A name beside its point, so many pixels from it; tied by a line where that is far."""

    point: Point
    text: str
    x: int  # to the right
    y: int  # up

    @property
    def far(self) -> bool:
        return (self.x, self.y) not in _NEAR


def named(best: Sequence[Point], view: View, points: Sequence[Point]) -> list[Named]:
    """Names of a front where they hide neither a mark nor each other; the most robust first."""
    found: list[Named] = []
    taken: list[list[_Box]] = []  # in a plot of every size
    for plot in _PLOTS:
        marks = (view.pixels(point, plot) for point in points)
        taken.append([(x - 5, y - 5, x + 5, y + 5) for x, y in marks])
    for point in sorted(best, key=lambda p: -p.robust.estimate)[:_LABELS]:
        text = plain(point.name, _LETTERS)
        for x, y in (*_NEAR, *_FAR):
            boxes = [_box(view.pixels(point, plot), len(text), x, y) for plot in _PLOTS]
            if all(map(_is_free, boxes, _PLOTS, taken)):
                for box, others in zip(boxes, taken, strict=True):
                    others.append(box)
                found.append(Named(point, text, x, y))
                break
    return found


def _is_free(box: _Box, plot: tuple[int, int], taken: Iterable[_Box]) -> bool:
    inside = box[0] >= 0 and box[2] <= plot[0] and box[1] >= 0 and box[3] <= plot[1]
    return inside and not any(_overlap(box, other) for other in taken)


def _box(at: tuple[float, float], letters: int, x: int, y: int) -> _Box:
    """The room that a name takes, in pixels of a small plot."""
    width = 6.5 * letters
    left = at[0] + x if x > 0 else at[0] + x - width
    return left, at[1] + y - 8, left + width, at[1] + y + 8


def _overlap(a: _Box, b: _Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
