"""Clean against robust accuracy as HTML that CSS draws: on the screen at once, without a library.

Every point is a link to its model, under its own name; places are shares of the plot.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from markupsafe import Markup

from bench.board import palette
from bench.board.article import each
from bench.board.points import CLEAN_AXIS, FEW, WORDS, Joined, Named, Point, View, front, named
from bench.notation import plain

_MARKS = 6  # numbers on an axis, about
_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)  # percentage points between them
_Pair = tuple[float, float]


def dots(
    points: Sequence[Point], joined: Sequence[Joined], address: Callable[[Point], str]
) -> Markup:
    """A point a method, twins joined by arrows, the front drawn and named.

    joined: places of two points; address leads from a point to its page.
    """
    view = View.of(points, log=False)
    best = front(points, more_is_better=True)
    arrows = (_arrow(view, points[a], points[b]) for a, b in joined)
    ranges = (_range(view, point) for point in points) if len(points) <= FEW else ()
    parts = (
        _grid(view),
        _steps(view, best),
        *arrows,
        *ranges,
        *(_dot(view, point, address(point)) for point in points),
        *(_name(view, one) for one in named(best, view, points)),
    )
    form = (
        '<figure class="board-dots"><div class="y">robust accuracy, %</div>'
        '<div class="plot" role="group" aria-label="{}">{}</div><div class="x">{}</div>'
        "<figcaption>{}</figcaption></figure>"
    )
    said = "Clean and robust accuracy of the methods, each a link"
    return Markup(form).format(said, Markup("").join(parts), CLEAN_AXIS, _legend(points))


def _legend(points: Iterable[Point]) -> Markup:
    met = {point.trained for point in points}
    entries = [
        (meaning, sign, WORDS[trained])
        for trained, (meaning, sign) in palette.TRAINED.items() if trained in met
    ]  # fmt: skip
    form = '<span><i class="board-mark {}">{}</i> {}</span> '
    return each(form, entries) + Markup('<span><i class="step"></i> front</span>')


# ---------------------------------------------------------------- places


def _at(view: View, x: float, rate: float) -> _Pair:
    """Where a point lies, in shares of the plot, from its lower left corner."""
    (left, right), (low, high) = view.x, view.y
    return (x - left) / (right - left), (100 * rate - low) / (high - low)


def _place(at: _Pair) -> str:
    return f"left:{100 * at[0]:.2f}%;bottom:{100 * at[1]:.2f}%"


def _numbers(low: float, high: float) -> list[float]:
    step = next((s for s in _STEPS if s * _MARKS >= high - low), 100)
    first = math.ceil(low / step)
    return [step * k for k in range(first, math.floor(high / step) + 1) if 0 <= step * k <= 100]


# ---------------------------------------------------------------- what is drawn


def _grid(view: View) -> Markup:
    (left, right), (low, high) = view.x, view.y
    down = [(100 * (v - left) / (right - left), f"{v:g}") for v in _numbers(*view.x)]
    across = [(100 * (v - low) / (high - low), f"{v:g}") for v in _numbers(*view.y)]
    upright = each('<i class="down" style="left:{:.2f}%"><s>{}</s></i>', down)
    return upright + each('<i class="across" style="bottom:{:.2f}%"><s>{}</s></i>', across)


def _steps(view: View, best: Sequence[Point]) -> Markup:
    """What accuracy is to be had: the line of the front, from its left end down to its right."""
    at = [_at(view, point.x, point.robust.estimate) for point in best]
    drawn = []
    for (x, y), (right, down) in zip(at, at[1:], strict=False):
        drawn.append((100 * x, 100 * down, 0.0, 100 * (y - down)))
        drawn.append((100 * x, 100 * down, 100 * (right - x), 0.0))
    form = '<i class="step" style="left:{:.2f}%;bottom:{:.2f}%;width:{:.2f}%;height:{:.2f}%"></i>'
    return each(form, drawn)


def _arrow(view: View, start: Point, end: Point) -> Markup:
    a, b = (_at(view, point.x, point.robust.estimate) for point in (start, end))
    form = '<i class="arrow" style="{};--dx:{:.4f};--dy:{:.4f}"></i>'
    return Markup(form).format(_place(a), b[0] - a[0], b[1] - a[1])


def _range(view: View, point: Point) -> Markup:
    low, high = (_at(view, point.x, end) for end in (point.robust.low, point.robust.high))
    if not all(map(math.isfinite, (*low, *high))):
        return Markup("")
    form = '<i class="range {}" style="{};height:{:.2f}%"></i>'
    return Markup(form).format(_class(point), _place(low), 100 * (high[1] - low[1]))


def _dot(view: View, point: Point, address: str) -> Markup:
    said = (
        f"{plain(point.name, 80)}, {WORDS[point.trained]}: robust {100 * point.robust.estimate:.1f} %, "
        f"clean {point.x:.1f} %"
    )
    form = (
        '<a class="dot {}" style="{}" href="{}" target="_self" title="{}" aria-label="{}">'
        "<b></b></a>"
    )
    place = _place(_at(view, point.x, point.robust.estimate))
    return Markup(form).format(_class(point), place, address, said, said)


def _class(point: Point) -> str:
    return palette.TRAINED.get(point.trained, palette.TRAINED["unknown"])[0]


def _name(view: View, one: Named) -> Markup:
    """Beside its point, so many pixels away; hidden from who reads the links, where it stands again."""
    place = _place(_at(view, one.point.x, one.point.robust.estimate))
    line = Markup("")
    if one.far:
        form = '<i class="tie" style="{};--x:{}px;--y:{}px"></i>'
        line = Markup(form).format(place, one.x, one.y)
    form = '<span class="name {}" style="{};--x:{}px;--y:{}px" aria-hidden="true">{}</span>'
    side = "right" if one.x > 0 else "left"
    return line + Markup(form).format(side, place, one.x, one.y, one.text)
